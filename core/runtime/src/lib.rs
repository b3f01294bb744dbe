//! The parts that every ExoDrive process needs to run: telemetry, shutdown,
//! secrets of a data folder, and private services.
//!
//! **May import** no other crate of this workspace. Knows nothing of events,
//! views or HTTP.
//!
//! **Flow.** A program calls [`telemetry::init`], resolves its addresses (given
//! by environment, or those of the system running in its data folder, see
//! [`services`] and [`folder`]), and runs until [`shutdown::requested`]; its
//! background [`tasks`] end it if one of them ends.

pub mod descriptors;
pub mod folder;
pub mod secret;
pub mod services;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;

/// An error with everything that caused it, on one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
