//! Exports in every format: valid ones pass. Every change of one is found, at
//! the right place where that can be known.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod bytes;
mod mutations;
mod sample;
mod valid;
