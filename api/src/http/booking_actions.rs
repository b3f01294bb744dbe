//! Actions on a booking: `POST /v1/bookings/{id}/{action}`.

use super::problem::{ApiError, Problem};
use super::{
    Api, App,
    auth::extract::{Manages, Requester},
    bookings::{
        CustomerRequest, LinkDetail, STAFF_LINK_DAYS, car_id, choices, known_form, shown, viewer,
    },
    command::{Answer, Command, EmptyBody, days},
    given::{self, Day, optional, valid},
    refusals::{rental_problem, validation},
};
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use chrono::TimeDelta;
use exodrive_commands::{
    context::CommandContext,
    digest::sha256_hex,
    rental::{RentalError, customer_by_address},
};
use exodrive_domain::{
    booking::{AccessLink, BookingAction, BookingRejection, Status},
    id::BookingId,
    value::InvalidField,
};
use exodrive_projections::views::bookings::read::BookingDetail;
use serde::Deserialize;
use std::{collections::BTreeSet, sync::Arc};
use utoipa::ToSchema;
use utoipa_axum::{router::UtoipaMethodRouter, routes};

/// Executes the action that `act` makes of the request.
async fn act<T>(
    api: &Api,
    id: &str,
    command: Command<T>,
    make: impl FnOnce(&T, &CommandContext) -> Result<BookingAction, ApiError>,
) -> Result<Response, ApiError> {
    let context = &command.context;
    let booking_id = known_form(id)?;
    let act = make(&command.body, context)?;
    let run = async {
        match api.rental.change_booking(booking_id, act, context).await {
            Ok(done) => shown(&done, context),
            Err(error) => Err(map_action_error(api, booking_id, error, context).await),
        }
    };
    Ok(command.once(api, run).await?.into_response())
}

/// The answer to an error. A stale command gets the present state of the
/// booking with it.
async fn map_action_error(
    api: &Api,
    booking_id: BookingId,
    error: RentalError,
    context: &CommandContext,
) -> ApiError {
    let stale = matches!(error, RentalError::Booking(BookingRejection::Stale(_)));
    let mut problem = rental_problem(error, context.actor.is_staff());
    if stale
        && let Ok(car_id) = api.rental.car_of(booking_id).await
        && let Ok(calendar) = api.rental.calendar(car_id).await
        && let Some(booking) = calendar.bookings.get(&booking_id)
    {
        let now = BookingDetail::of(booking, viewer(&context.actor), api.rental.now());
        problem.more.current = serde_json::to_value(now).ok();
    }
    problem
}

macro_rules! booking_action_routes {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident $path:literal $who:ty, $security:tt $body:ty : |$input:ident, $context:ident| $act:expr;
    )*) => {$(
        $(#[doc = $doc])+
        #[utoipa::path(
            post, path = $path, tag = "bookings", security $security,
            params(
                ("id" = String, Path, description = "The booking's id"),
                ("Idempotency-Key" = Option<String>, Header, description = "A repeat under the same key gets the first answer"),
                ("If-Match" = Option<String>, Header, description = "Only if the booking still has this `ETag`; else 412 with `current`"),
            ),
            request_body = $body,
            responses(
                (status = 200, description = "The booking after the command", body = BookingDetail),
                (status = 409, description = "`action_not_allowed` with `allowed_actions`; `dates_unavailable`; `too_early`; `price_changed`; `request_in_flight`", body = Problem, content_type = "application/problem+json"),
                (status = 412, description = "`stale`, with `current`", body = Problem, content_type = "application/problem+json"),
                Problem,
            ),
        )]
        pub(crate) async fn $name(
            State(api): App,
            _: $who,
            Path(id): Path<String>,
            command: Command<$body>,
        ) -> Result<Response, ApiError> {
            act(&api, &id, command, |$input, $context| {
                let _ = $context;
                Ok($act)
            })
            .await
        }
    )*

        /// The routes of all actions.
        pub(super) fn routes() -> Vec<UtoipaMethodRouter<Arc<Api>>> {
            vec![$(routes!($name),)* routes!(move_booking), routes!(issue_link)]
        }
    };
}

/// An amount.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AmountRequest {
    /// Amount in cents; the open amount if not given.
    #[schema(minimum = 1, maximum = 1_000_000_000_000_i64)]
    amount_cents: Option<i64>,
    /// Reference of the payment provider.
    reference: Option<given::OptionalPaymentReference>,
}

/// An amount given back.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefundRequest {
    /// Amount in cents; all that can be refunded if not given.
    #[schema(minimum = 1, maximum = 1_000_000_000_000_i64)]
    amount_cents: Option<i64>,
    /// Reason of the refund.
    reason: Option<given::OptionalReason>,
}

/// A reason.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReasonRequest {
    /// Reason, for the timeline.
    reason: Option<given::OptionalReason>,
}

/// A contract that is sent.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DocumentRequest {
    /// Id of the document at the signing service.
    document: Option<given::OptionalDocumentReference>,
}

/// A car that came back.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReturnRequest {
    /// Day of the return; today in the car's time zone if not given.
    returned_on: Option<Day>,
}

/// The end of a dispute.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResolveRequest {
    /// `completed` or `cancelled`.
    #[schema(max_length = 9, pattern = "^(completed|cancelled)$")]
    status: String,
    /// Reason of the decision.
    reason: Option<given::OptionalReason>,
}

/// New days for a booking.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RescheduleRequest {
    /// The first day.
    start_date: Day,
    /// The last day.
    end_date: Day,
    /// Ids of optional fees; then `pick_up` and `drop_off` are read too. If not
    /// given, the earlier choice stays.
    #[schema(value_type = Option<BTreeSet<given::ChoiceId>>, max_items = 50)]
    fees: Option<BTreeSet<String>>,
    /// Id of the location where the customer picks the car up, with `fees`.
    pick_up: Option<given::OptionalChoiceId>,
    /// Id of the location where the customer leaves the car, with `fees`.
    drop_off: Option<given::OptionalChoiceId>,
    /// Total that the customer was shown, in cents.
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64)]
    expected_total_cents: Option<i64>,
}

/// A later last day.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtendRequest {
    /// The new last day.
    end_date: Day,
    /// Total that the customer was shown, in cents.
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64)]
    expected_total_cents: Option<i64>,
}

/// A note.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoteRequest {
    /// The text.
    text: given::Note,
}

booking_action_routes! {
    /// Records that the payment provider holds the open amount. Staff.
    authorize_payment "/v1/bookings/{id}/authorize-payment" Manages, (("token" = []), ("service_key" = ["bookings:write"])) AmountRequest: |body, _context|
        BookingAction::AuthorizePayment { amount_cents: body.amount_cents, reference: optional("/reference", body.reference.as_ref())? };
    /// Records that an amount was captured. Staff.
    capture_payment "/v1/bookings/{id}/capture-payment" Manages, (("token" = []), ("service_key" = ["bookings:write"])) AmountRequest: |body, _context|
        BookingAction::CapturePayment { amount_cents: body.amount_cents, reference: optional("/reference", body.reference.as_ref())? };
    /// Records that a payment failed. Staff.
    fail_payment "/v1/bookings/{id}/fail-payment" Manages, (("token" = []), ("service_key" = ["bookings:write"])) ReasonRequest: |body, _context|
        BookingAction::FailPayment { reason: optional("/reason", body.reason.as_ref())? };
    /// Records that a held payment was voided; before the rental that cancels
    /// the booking. Staff.
    void_payment "/v1/bookings/{id}/void-payment" Manages, (("token" = []), ("service_key" = ["bookings:write"])) ReasonRequest: |body, _context|
        BookingAction::VoidPayment { reason: optional("/reason", body.reason.as_ref())? };
    /// Records that an amount was refunded. Staff.
    refund_payment "/v1/bookings/{id}/refund-payment" Manages, (("token" = []), ("service_key" = ["bookings:write"])) RefundRequest: |body, _context|
        BookingAction::RefundPayment { amount_cents: body.amount_cents, reason: optional("/reason", body.reason.as_ref())? };
    /// Records that the contract was sent. Staff.
    send_contract "/v1/bookings/{id}/send-contract" Manages, (("token" = []), ("service_key" = ["bookings:write"])) DocumentRequest: |body, _context|
        BookingAction::SendContract { document: optional("/document", body.document.as_ref())? };
    /// Records that the contract was viewed. Staff.
    view_contract "/v1/bookings/{id}/view-contract" Manages, (("token" = []), ("service_key" = ["bookings:write"])) EmptyBody: |_body, _context| BookingAction::ViewContract;
    /// Records that the contract was signed. Staff.
    sign_contract "/v1/bookings/{id}/sign-contract" Manages, (("token" = []), ("service_key" = ["bookings:write"])) EmptyBody: |_body, _context| BookingAction::SignContract;
    /// Records that the contract was declined. Staff.
    decline_contract "/v1/bookings/{id}/decline-contract" Manages, (("token" = []), ("service_key" = ["bookings:write"])) ReasonRequest: |body, _context|
        BookingAction::DeclineContract { reason: optional("/reason", body.reason.as_ref())? };
    /// Records that the customer picked the car up, from the first day on.
    /// Staff.
    pick_up "/v1/bookings/{id}/pick-up" Manages, (("token" = []), ("service_key" = ["bookings:write"])) EmptyBody: |_body, _context| BookingAction::PickUp;
    /// Records that the car is back; the days after that become free. Staff.
    return_car "/v1/bookings/{id}/return" Manages, (("token" = []), ("service_key" = ["bookings:write"])) ReturnRequest: |body, _context|
        BookingAction::Return { on: body.returned_on.map(|day| day.0) };
    /// Completes the rental. Staff.
    complete "/v1/bookings/{id}/complete" Manages, (("token" = []), ("service_key" = ["bookings:write"])) EmptyBody: |_body, _context| BookingAction::Complete;
    /// Cancels the rental; the days become free. Staff, and the customer.
    cancel "/v1/bookings/{id}/cancel" Requester, ((), ("token" = []), ("service_key" = ["bookings:write"])) ReasonRequest: |body, _context|
        BookingAction::Cancel { reason: optional("/reason", body.reason.as_ref())? };
    /// Records that the customer did not come for the car; the days become
    /// free. Staff, from the first day on.
    no_show "/v1/bookings/{id}/no-show" Manages, (("token" = []), ("service_key" = ["bookings:write"])) ReasonRequest: |body, _context|
        BookingAction::NoShow { reason: optional("/reason", body.reason.as_ref())? };
    /// Records a dispute. Staff.
    dispute "/v1/bookings/{id}/dispute" Manages, (("token" = []), ("service_key" = ["bookings:write"])) ReasonRequest: |body, _context|
        BookingAction::Dispute { reason: optional("/reason", body.reason.as_ref())? };
    /// Records the end of a dispute. Staff.
    resolve_dispute "/v1/bookings/{id}/resolve-dispute" Manages, (("token" = []), ("service_key" = ["bookings:write"])) ResolveRequest: |body, _context| {
        let status: Status = body.status.parse().map_err(|_| {
            validation(vec![InvalidField::new("/status", "must be completed or cancelled")])
        })?;
        BookingAction::ResolveDispute { status, reason: optional("/reason", body.reason.as_ref())? }
    };
    /// Moves the booking to other days, priced as a new booking of them. If
    /// they are taken, the booking does not change. Staff, and the customer.
    reschedule "/v1/bookings/{id}/reschedule" Requester, ((), ("token" = []), ("service_key" = ["bookings:write"])) RescheduleRequest: |body, _context| {
        let days = days(body.start_date, body.end_date)?;
        let choices = body.fees.clone().map(|fees| choices(fees, body.pick_up.as_ref(), body.drop_off.as_ref()));
        let choices = choices.transpose()?;
        BookingAction::Reschedule { days, choices, expected_total_cents: body.expected_total_cents }
    };
    /// Gives the booking a later last day, also while the customer has the car. Staff, and the customer.
    extend "/v1/bookings/{id}/extend" Requester, ((), ("token" = []), ("service_key" = ["bookings:write"])) ExtendRequest: |body, _context| BookingAction::Extend {
        last: body.end_date.0,
        expected_total_cents: body.expected_total_cents,
    };
    /// Adds a note. Staff.
    add_note "/v1/bookings/{id}/notes" Manages, (("token" = []), ("service_key" = ["bookings:write"])) NoteRequest: |body, _context|
        BookingAction::AddNote { text: body.text.read("/text")? };
    /// Revokes every link that was made before: none of them shows the booking any more. Staff.
    revoke_links "/v1/bookings/{id}/revoke-links" Manages, (("token" = []), ("service_key" = ["bookings:write"])) EmptyBody: |_body, _context|
        BookingAction::RevokeLinks;
    /// Changes the customer of the booking. Staff.
    change_customer "/v1/bookings/{id}/customer" Manages, (("token" = []), ("service_key" = ["bookings:write"])) CustomerRequest: |body, context| {
        let customer = valid("", body.customer(&context.actor))?;
        BookingAction::ChangeCustomer { customer_id: customer_by_address(), customer }
    };
}

/// Request to move a booking to another car.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MoveRequest {
    /// Id or slug of the other car.
    #[schema(min_length = 1, max_length = 100)]
    car_id: String,
    /// True to keep the agreed price, whatever the other car costs.
    #[serde(default)]
    keep_price: bool,
    /// Reason of the move.
    reason: Option<given::OptionalReason>,
    /// Total that the customer was shown, in cents.
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64)]
    expected_total_cents: Option<i64>,
}

/// Moves a booking to another car: both calendars change, or neither. Staff.
#[utoipa::path(
    post, path = "/v1/bookings/{id}/move", tag = "bookings", security(("token" = []), ("service_key" = ["bookings:write"])),
    params(
        ("id" = String, Path, description = "The booking's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repeat under the same key gets the first answer"),
        ("If-Match" = Option<String>, Header, description = "Only if the booking still has this `ETag`; else 412 with `current`"),
    ),
    request_body = MoveRequest,
    responses(
        (status = 200, description = "The booking after the command", body = BookingDetail),
        (status = 409, description = "`dates_unavailable`: the other car is taken; `action_not_allowed`; `car_not_bookable`", body = Problem, content_type = "application/problem+json"),
        Problem,
    ),
)]
pub(crate) async fn move_booking(
    State(api): App,
    _: Manages,
    Path(id): Path<String>,
    command: Command<MoveRequest>,
) -> Result<Response, ApiError> {
    let context = &command.context;
    let booking_id = known_form(&id)?;
    let body = &command.body;
    let reason = optional("/reason", body.reason.as_ref())?;
    let run = async {
        let to = car_id(&api, &body.car_id).await?;
        let (reason, expected) = (reason.as_ref(), body.expected_total_cents);
        let moved = api
            .rental
            .move_booking(booking_id, to, body.keep_price, reason, expected, context)
            .await;
        match moved {
            Ok(done) => shown(&done, context),
            Err(error) => Err(map_action_error(&api, booking_id, error, context).await),
        }
    };
    Ok(command.once(&api, run).await?.into_response())
}

/// Makes another link by which the customer sees the booking, valid for 30
/// days. Staff.
#[utoipa::path(
    post, path = "/v1/bookings/{id}/access-link", tag = "bookings", security(("token" = []), ("service_key" = ["bookings:write"])),
    params(("id" = String, Path, description = "The booking's id")),
    request_body = EmptyBody,
    responses(
        (status = 200, description = "The link", body = LinkDetail),
        Problem,
    ),
)]
pub(crate) async fn issue_link(
    State(api): App,
    _: Manages,
    Path(id): Path<String>,
    command: Command<EmptyBody>,
) -> Result<Response, ApiError> {
    let context = &command.context;
    let booking_id = known_form(&id)?;
    // Each command has its own link, the same in every retry.
    let n = usize::try_from(u32::from_str_radix(&context.command_id[..7], 16).unwrap_or(1))
        .unwrap_or(1);
    let token = api.booking_secret.link_token(booking_id, n);
    let expires_at = api.rental.now() + TimeDelta::days(STAFF_LINK_DAYS);
    let link = AccessLink { hash: sha256_hex(token.as_bytes()), expires_at };
    let answer = command
        .once(&api, async {
            let done = api
                .rental
                .change_booking(booking_id, BookingAction::IssueLink { link }, context)
                .await;
            let done = done.map_err(|error| rental_problem(error, true))?;
            let hash = sha256_hex(api.booking_secret.link_token(booking_id, n).as_bytes());
            let link = done.value.links.iter().find(|link| link.hash == hash);
            let expires_at = link.map_or(expires_at, |link| link.expires_at);
            let link = LinkDetail { token: String::new(), expires_at };
            Ok(Answer::of(&link, done.position)?.replayed(done.replayed))
        })
        .await?;
    let mut answer = answer;
    answer.body["token"] = token.into();
    Ok(answer.into_response())
}
