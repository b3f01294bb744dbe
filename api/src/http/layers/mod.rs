//! Layers around every request.

pub mod accept;
pub mod detach;
pub mod erasure_gate;
pub mod head;
pub mod load;
pub mod request;
pub(super) mod safe_headers;
