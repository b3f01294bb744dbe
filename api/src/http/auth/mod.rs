//! Authentication and authorization of callers.

pub mod extract;
mod token_crypto;
pub mod tokens;
