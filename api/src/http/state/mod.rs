//! State of this process between requests.

pub mod blocked_keys;
pub mod limits;
pub mod places;
pub mod view_cache;
