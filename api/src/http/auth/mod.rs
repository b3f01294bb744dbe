//! Who calls, and what they may do.

pub mod extract;
mod token_crypto;
pub mod tokens;
