//! Commands: every change that a caller asks for goes through here, from HTTP,
//! the command line, the import or a worker.
//!
//! **May import** the replays (to find what is about a person), the projections,
//! the log, the runtime and the domain.
//!
//! **Flow.** A command comes with a [`context`]: its actor and its id. The
//! command handler loads the state that it decides on from the log, lets the
//! domain decide, and appends the [`event`]. [`rental`] handles cars and
//! bookings, [`operations`] projections, [`erasure`] a person's data,
//! [`credentials`] service keys and sign-ins, and [`import`] the tables of the
//! present product. [`access_log`] records which
//! staff read which data.
//!
//! **To add an action on a booking**: `docs/recipes.md`, "An event".

pub mod access_log;
pub mod context;
pub mod credentials;
pub mod digest;
pub mod erasure;
pub mod event;
pub mod import;
pub mod operations;
pub mod rental;
