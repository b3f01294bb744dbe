//! The views: each a fold over the log (`mod.rs`), its table (`schema.sql`) and
//! its queries (`read.rs`).

pub mod accesses;
pub mod booking_timeline;
pub mod bookings;
pub mod calendar;
pub mod cars;
mod cursor;
pub mod customers;
pub mod deliveries;
pub mod email_timeline;
pub mod inbox;
pub(crate) mod list;
pub mod payments;
pub(crate) mod query;
pub mod search;
