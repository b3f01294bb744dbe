//! The status of an email, and its order of rank.

use super::ReportKind;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

/// The status of an email. The order of the variants is the order of rank: the
/// status of an email is the greatest ever reported for it, and nothing lowers
/// it, so the order of arrival does not matter.
///
/// The names are those of Resend's `last_event`
/// (<https://resend.com/docs/dashboard/webhooks/event-types>).
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Status {
    /// Inbound mail. Ranks below all: an outbound mail is never "received".
    Received,
    /// Resend answered our send call.
    Queued,
    /// To be sent later.
    Scheduled,
    /// Resend answered our cancel call; no webhook reports it.
    Canceled,
    /// Resend accepted it.
    Sent,
    /// The receiving server rejected it for now; Resend still tries.
    DeliveryDelayed,
    /// A bounce that may pass: `Transient`, `Temporary` or `Undetermined`.
    #[strum(to_string = "bounced")]
    SoftBounced,
    /// The receiving server took it.
    Delivered,
    /// The tracking pixel was loaded.
    Opened,
    /// A tracked link was followed.
    Clicked,
    /// Resend did not send it: the recipient is on the suppression list.
    Suppressed,
    /// Resend could not send it.
    Failed,
    /// Any other bounce.
    Bounced,
    /// The recipient called it spam.
    Complained,
}

impl Status {
    /// Every status, lowest rank first.
    pub const ALL: &'static [Self] = <Self as VariantArray>::VARIANTS;

    /// The name that readers see. Both bounces are `bounced`.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The status that a report states; `None` if its type is unknown.
    pub fn reported(kind: &ReportKind) -> Option<Self> {
        Some(match kind {
            ReportKind::Scheduled => Self::Scheduled,
            ReportKind::Sent => Self::Sent,
            ReportKind::DeliveryDelayed => Self::DeliveryDelayed,
            ReportKind::Delivered => Self::Delivered,
            ReportKind::Opened => Self::Opened,
            ReportKind::Clicked(_) => Self::Clicked,
            ReportKind::Bounced(bounce) => match bounce.kind.as_deref() {
                Some("Transient" | "Temporary" | "Undetermined") => Self::SoftBounced,
                _ => Self::Bounced,
            },
            ReportKind::Suppressed(_) => Self::Suppressed,
            ReportKind::Failed(_) => Self::Failed,
            ReportKind::Complained => Self::Complained,
            ReportKind::Received => Self::Received,
            ReportKind::Unknown => return None,
        })
    }
}
