//! Authentication and authorization of callers.

pub mod extract;
pub mod jwks;
mod keys;
pub mod peer;
mod token_crypto;
pub mod tokens;
