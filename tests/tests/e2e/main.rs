//! The whole system, from a signed webhook to an answer, with real servers and
//! processes. One binary, so that it is linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod duplicates;
mod faults;
mod reads;
mod steps;
mod webhook;
