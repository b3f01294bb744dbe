//! Layers around every request.

pub mod erasure_gate;
pub mod request;
