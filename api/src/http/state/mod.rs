//! State of this process between requests.

pub mod blocked_keys;
pub mod credentials;
pub(crate) mod export_budget;
pub mod limits;
pub mod log_store;
pub mod places;
pub mod rebuild_feeds;
pub mod view_cache;
