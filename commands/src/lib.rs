//! What can be asked for: every command goes through here, whoever gives it
//! (HTTP, the command line, the import, a worker).
//!
//! **May import** the replays (to find what is about a person), the projections,
//! the log and the domain.
//!
//! **Flow.** A command carries a [`context`]: who gives it, under which id. It
//! loads the state it decides on from the log, lets the domain decide, and
//! appends the [`event`]. [`rental`] is about cars and bookings, [`operations`]
//! about projections, [`erasure`] about a person's data, [`import`] about the
//! present product's tables. [`access_log`] records which staff read what.
//!
//! **To add an action on a booking**: `docs/recipes.md`, "An event".

pub mod access_log;
pub mod context;
pub mod erasure;
pub mod event;
pub mod import;
pub mod operations;
pub mod rental;
