//! The whole system, from a signed webhook to an answer, with real servers and
//! processes. One binary, so that it is linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod append;
mod cli;
mod command_path;
mod duplicates;
mod faults;
mod import;
mod limits;
mod parking;
mod reads;
mod replay;
mod row_security;
mod steps;
mod telemetry;
mod topology;
mod webhook;
