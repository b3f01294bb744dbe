//! Layers around every request.

pub mod detach;
pub mod erasure_gate;
pub mod request;
