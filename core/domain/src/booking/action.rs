//! The one state machine of a booking. Everybody reads it from here: `decide`,
//! `allowed_actions` in answers, and the table in the documentation.

use super::{
    state::Booking,
    status::{ContractStatus, Status},
};
use chrono::NaiveDate;
use strum::{IntoStaticStr, VariantArray};

/// An action on a booking. The name is the last part of its path: `POST
/// /v1/bookings/{id}/pick-up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
#[expect(missing_docs, reason = "see Action::effect")]
pub enum Action {
    AuthorizePayment,
    CapturePayment,
    FailPayment,
    VoidPayment,
    RefundPayment,
    SendContract,
    ViewContract,
    SignContract,
    DeclineContract,
    PickUp,
    Return,
    Complete,
    Cancel,
    NoShow,
    Dispute,
    ResolveDispute,
    Reschedule,
    Extend,
    Move,
    Expire,
    #[strum(to_string = "notes")]
    AddNote,
    #[strum(to_string = "customer")]
    ChangeCustomer,
    #[strum(to_string = "access-link")]
    IssueLink,
    RevokeLinks,
}

use Action as A;
use Status as S;

impl Action {
    /// Every action.
    pub const ALL: &'static [Self] = <Self as VariantArray>::VARIANTS;

    /// Its name in paths and in `allowed_actions`.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The statuses in which it can be done.
    pub fn from(self) -> &'static [Status] {
        const NOT_BEGUN: &[Status] = &[S::PendingPayment, S::PendingContract, S::Upcoming];
        match self {
            A::AuthorizePayment => &[S::PendingPayment, S::PendingContract, S::Upcoming, S::Active],
            A::CapturePayment => &[
                S::PendingPayment,
                S::PendingContract,
                S::Upcoming,
                S::Active,
                S::Returned,
                S::Completed,
                S::Cancelled,
                S::Disputed,
            ],
            A::FailPayment | A::Expire => &[S::PendingPayment],
            A::VoidPayment => &[
                S::PendingContract,
                S::Upcoming,
                S::Returned,
                S::Completed,
                S::Cancelled,
                S::Expired,
                S::Disputed,
            ],
            A::RefundPayment => &[
                S::PendingContract,
                S::Upcoming,
                S::Active,
                S::Returned,
                S::Completed,
                S::Cancelled,
                S::Disputed,
            ],
            A::SendContract => NOT_BEGUN,
            A::ViewContract | A::SignContract | A::DeclineContract => {
                &[S::PendingPayment, S::PendingContract]
            }
            A::PickUp => &[S::Upcoming],
            A::Return => &[S::Active, S::Disputed],
            A::Complete => &[S::Returned],
            A::Cancel | A::Reschedule | A::Move => NOT_BEGUN,
            A::NoShow => &[S::PendingContract, S::Upcoming],
            A::Dispute => &[S::Active, S::Returned, S::Completed],
            A::ResolveDispute => &[S::Disputed],
            A::Extend => &[S::PendingPayment, S::PendingContract, S::Upcoming, S::Active],
            A::AddNote | A::ChangeCustomer | A::IssueLink | A::RevokeLinks => S::ALL,
        }
    }

    /// The effect, for people.
    pub fn effect(self) -> &'static str {
        match self {
            A::AuthorizePayment => {
                "pending_contract, or upcoming if the contract is signed. The amount is what is open."
            }
            A::CapturePayment => {
                "As authorizing, when nothing was authorized; else the status stays. At most what is not captured; of a cancelled booking (a fee for cancelling late) at most what is authorized."
            }
            A::FailPayment => {
                "Stays pending_payment; the customer may try again until the hold ends."
            }
            A::VoidPayment => {
                "Before the rental: cancelled, if nothing was captured. Afterwards the status stays."
            }
            A::RefundPayment => {
                "The status stays. While the rental can take place, only what was paid too much."
            }
            A::SendContract => {
                "The contract has to be signed, also if it was before: upcoming becomes pending_contract."
            }
            A::ViewContract => "The status stays.",
            A::SignContract => "upcoming, if the payment is authorized or captured.",
            A::DeclineContract => "The status stays; the contract can be sent again.",
            A::PickUp => "active. From the first day on, in the car's time zone.",
            A::Return => "returned; a disputed booking stays disputed. The days after it are free.",
            A::Complete => "completed.",
            A::Cancel => "cancelled. The days are free.",
            A::NoShow => "cancelled. From the first day on; the days are free.",
            A::Dispute => "disputed.",
            A::ResolveDispute => "completed or cancelled, as it says.",
            A::Reschedule => "The status stays; other days, priced as a new booking of them.",
            A::Extend => "The status stays; a later last day, priced as a new booking of all days.",
            A::Move => "The status stays; another car, at its price or at the price agreed.",
            A::Expire => "expired. Done by the system once the hold has ended. The days are free.",
            A::AddNote => "The status stays.",
            A::ChangeCustomer => "The status stays.",
            A::IssueLink => "The status stays; a link by which the customer sees the booking.",
            A::RevokeLinks => "The status stays; no link that was made before shows the booking.",
        }
    }

    /// True if customers may do it themselves, by link or account.
    pub fn is_customers(self) -> bool {
        matches!(self, A::Cancel | A::Reschedule | A::Extend)
    }

    /// Checks that it can be done with a booking on this day, in the car's time
    /// zone.
    ///
    /// # Errors
    /// The reason why it cannot.
    pub fn check(self, booking: &Booking, today: NaiveDate) -> Result<(), StatusRejection> {
        if !self.from().contains(&booking.status) {
            return Err(StatusRejection::Status);
        }
        let contract = booking.contract.status;
        let payment = &booking.payment;
        let refuse = |reason| Err(StatusRejection::Because(reason));
        match self {
            A::PickUp | A::NoShow if today < booking.days.first() => Err(StatusRejection::TooEarly),
            A::AuthorizePayment if booking.open_cents() <= 0 => {
                refuse("nothing is open to be paid")
            }
            A::CapturePayment if booking.uncaptured_cents() <= 0 => {
                refuse("everything is captured already")
            }
            A::VoidPayment if payment.authorized_cents == 0 => refuse("no payment is authorized"),
            A::RefundPayment if booking.refundable_cents() <= 0 => {
                refuse("there is nothing to be refunded")
            }
            A::ViewContract if contract != ContractStatus::Sent => {
                refuse("the contract is not out, or has been viewed")
            }
            A::SignContract | A::DeclineContract
                if !matches!(contract, ContractStatus::Sent | ContractStatus::Viewed) =>
            {
                refuse("the contract is not out")
            }
            _ => Ok(()),
        }
    }
}

/// Reason why an action cannot be done with a booking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusRejection {
    /// The status does not allow it.
    Status,
    /// It is not allowed before the first day.
    TooEarly,
    /// Another reason.
    Because(&'static str),
}

/// Every action that can be done with a booking on this day, in the car's time
/// zone.
pub fn allowed(booking: &Booking, today: NaiveDate) -> Vec<Action> {
    let possible = |action: &Action| action.check(booking, today).is_ok();
    Action::ALL.iter().copied().filter(|it| *it != A::Expire).filter(possible).collect()
}

/// The state machine as a page in Markdown.
pub fn table() -> String {
    let mut page = String::from("| status | means | can be done |\n| --- | --- | --- |\n");
    for &status in Status::ALL {
        let actions: Vec<_> = Action::ALL
            .iter()
            .filter(|action| action.from().len() < Status::ALL.len())
            .filter(|action| action.from().contains(&status))
            .map(|action| format!("`{}`", action.name()))
            .collect();
        let actions = if actions.is_empty() { "—".to_owned() } else { actions.join(" ") };
        page.push_str(&format!("| `{}` | {} | {actions} |\n", status.name(), status.meaning()));
    }
    page.push_str("\n| action | from | then | by |\n| --- | --- | --- | --- |\n");
    for &action in Action::ALL {
        let from: Vec<_> = action.from().iter().map(|status| status.name()).collect();
        let from = if from.len() == Status::ALL.len() { "any".to_owned() } else { from.join(", ") };
        let by = match action {
            A::Expire => "the system",
            action if action.is_customers() => "staff, customer",
            _ => "staff",
        };
        page.push_str(&format!("| `{}` | {from} | {} | {by} |\n", action.name(), action.effect()));
    }
    page
}
