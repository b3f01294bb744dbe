//! What every ExoDrive process needs to run: configuration, telemetry, and private services.

pub mod services;
