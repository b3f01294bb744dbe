//! Types of the events that no decision makes.

/// A webhook delivery of a provider, its body verbatim.
pub const WEBHOOK_RECEIVED: &str = "exodrive.webhook.received";
/// An email that the present product knew, in the shape of the provider's
/// delivery.
pub const EMAIL_IMPORTED: &str = "exodrive.email.imported";
/// The newest version of [`WEBHOOK_RECEIVED`] that this release appends.
pub const WEBHOOK_RECEIVED_VERSION: u32 = 1;
