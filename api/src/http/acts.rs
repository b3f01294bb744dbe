//! What is done with a booking: `POST /v1/bookings/{id}/{action}`.

use super::{
    Api, App,
    bookings::{CustomerRequest, LinkDetail, STAFF_LINK_DAYS, car_id, known_form, shown, viewer},
    command::{Answer, Command, Nothing, days, refused, validation},
};
use crate::{
    desk::{Circumstances, DeskError, sha256},
    problem::{ApiError, Problem},
};
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use chrono::{NaiveDate, TimeDelta};
use exodrive_domain::{
    booking::{AccessLink, Act, BookingRefusal, Status},
    id::BookingId,
    price::{Choices, Fault},
};
use exodrive_projections::bookings::read::BookingDetail;
use serde::Deserialize;
use std::collections::BTreeSet;
use utoipa::ToSchema;

/// Carries out what `act` makes of the command.
async fn act<T>(
    api: &Api,
    id: &str,
    command: Command<T>,
    make: impl FnOnce(&T, &Circumstances) -> Result<Act, ApiError>,
) -> Result<Response, ApiError> {
    let with = command.circumstances();
    let booking_id = known_form(id)?;
    let act = make(&command.body, &with)?;
    let run = async {
        match api.desk.act(booking_id, act, &with).await {
            Ok(done) => shown(&done, &with),
            Err(error) => Err(told(api, booking_id, error, &with).await),
        }
    };
    Ok(command.once(api, &with, run).await?.into_response())
}

/// A refusal; one for being stale with the booking as it is now.
async fn told(
    api: &Api,
    booking_id: BookingId,
    error: DeskError,
    with: &Circumstances,
) -> ApiError {
    let stale = matches!(error, DeskError::Booking(BookingRefusal::Stale(_)));
    let mut problem = refused(error, with.party.is_staff());
    if stale
        && let Ok(car_id) = api.desk.car_of(booking_id).await
        && let Ok(calendar) = api.desk.calendar(car_id).await
        && let Some(booking) = calendar.bookings.get(&booking_id)
    {
        let now = BookingDetail::of(booking, viewer(&with.party), api.desk.now());
        problem.more.current = serde_json::to_value(now).ok();
    }
    problem
}

macro_rules! acts {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident $path:literal $body:ty : |$input:ident, $api:ident, $with:ident| $act:expr;
    )*) => {$(
        $(#[doc = $doc])+
        #[utoipa::path(
            post, path = $path, tag = "bookings", security((), ("token" = [])),
            params(
                ("id" = String, Path, description = "The booking's id"),
                ("Idempotency-Key" = Option<String>, Header, description = "A repeat under the same key gets the first answer"),
                ("If-Match" = Option<String>, Header, description = "Only if the booking is as this `ETag` says; else 412 with `current`"),
            ),
            request_body = $body,
            responses(
                (status = 200, description = "The booking after it", body = BookingDetail),
                (status = 409, description = "`action_not_allowed` with `allowed_actions`; `dates_unavailable`; `too_early`; `price_changed`; `request_in_flight`", body = Problem, content_type = "application/problem+json"),
                (status = 412, description = "`stale`, with `current`", body = Problem, content_type = "application/problem+json"),
                Problem,
            ),
        )]
        pub(crate) async fn $name(
            State(api): App,
            Path(id): Path<String>,
            command: Command<$body>,
        ) -> Result<Response, ApiError> {
            let $api = &api;
            act(&api, &id, command, |$input, $with| {
                let _ = ($api, $with);
                Ok($act)
            })
            .await
        }
    )*};
}

/// An amount.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AmountRequest {
    /// In cents; what is open if not said.
    amount_cents: Option<i64>,
    /// Of the payment provider.
    reference: Option<String>,
}

/// An amount given back.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefundRequest {
    /// In cents; all that can be refunded if not said.
    amount_cents: Option<i64>,
    /// Why.
    reason: Option<String>,
}

/// Why.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReasonRequest {
    /// For the timeline.
    reason: Option<String>,
}

/// A contract that is sent.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DocumentRequest {
    /// Its id at whoever has it signed.
    document: Option<String>,
}

/// A car that came back.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReturnRequest {
    /// The day; today, where the car is, if not said.
    returned_on: Option<NaiveDate>,
}

/// A dispute that is over.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResolveRequest {
    /// `completed` or `cancelled`.
    status: String,
    /// Why.
    reason: Option<String>,
}

/// Other days.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RescheduleRequest {
    /// The first day.
    start_date: NaiveDate,
    /// The last day.
    end_date: NaiveDate,
    /// Ids of optional fees, and with them where the car is had and left; what
    /// was chosen stays if nothing is said.
    fees: Option<BTreeSet<String>>,
    /// Id of the location where the car is to be had, with `fees`.
    pick_up: Option<String>,
    /// Id of the location where it will be left, with `fees`.
    drop_off: Option<String>,
    /// The total that the customer was shown, in cents.
    expected_total_cents: Option<i64>,
}

/// A later last day.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtendRequest {
    /// The last day.
    end_date: NaiveDate,
    /// The total that the customer was shown, in cents.
    expected_total_cents: Option<i64>,
}

/// A note.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoteRequest {
    /// The text.
    text: String,
}

acts! {
    /// Records that the payment provider holds what is open. Staff.
    authorize_payment "/v1/bookings/{id}/authorize-payment" AmountRequest: |body, _api, _with|
        Act::AuthorizePayment { amount_cents: body.amount_cents, reference: body.reference.clone() };
    /// Records that an amount was taken. Staff.
    capture_payment "/v1/bookings/{id}/capture-payment" AmountRequest: |body, _api, _with|
        Act::CapturePayment { amount_cents: body.amount_cents, reference: body.reference.clone() };
    /// Records that a payment failed. Staff.
    fail_payment "/v1/bookings/{id}/fail-payment" ReasonRequest: |body, _api, _with|
        Act::FailPayment { reason: body.reason.clone() };
    /// Records that a held payment was let go; before the rental that cancels the booking. Staff.
    void_payment "/v1/bookings/{id}/void-payment" ReasonRequest: |body, _api, _with|
        Act::VoidPayment { reason: body.reason.clone() };
    /// Records that an amount was given back. Staff.
    refund_payment "/v1/bookings/{id}/refund-payment" RefundRequest: |body, _api, _with|
        Act::RefundPayment { amount_cents: body.amount_cents, reason: body.reason.clone() };
    /// Records that the contract was sent. Staff.
    send_contract "/v1/bookings/{id}/send-contract" DocumentRequest: |body, _api, _with|
        Act::SendContract { document: body.document.clone() };
    /// Records that the contract was looked at. Staff.
    view_contract "/v1/bookings/{id}/view-contract" Nothing: |_body, _api, _with| Act::ViewContract;
    /// Records that the contract was signed. Staff.
    sign_contract "/v1/bookings/{id}/sign-contract" Nothing: |_body, _api, _with| Act::SignContract;
    /// Records that the contract was declined. Staff.
    decline_contract "/v1/bookings/{id}/decline-contract" ReasonRequest: |body, _api, _with|
        Act::DeclineContract { reason: body.reason.clone() };
    /// Hands the car out, from the first day on. Staff.
    pick_up "/v1/bookings/{id}/pick-up" Nothing: |_body, _api, _with| Act::PickUp;
    /// Takes the car back; the days after that are free. Staff.
    return_car "/v1/bookings/{id}/return" ReturnRequest: |body, _api, _with|
        Act::Return { on: body.returned_on };
    /// Settles the rental. Staff.
    complete "/v1/bookings/{id}/complete" Nothing: |_body, _api, _with| Act::Complete;
    /// Calls the rental off; the days are free. Staff, and the customer.
    cancel "/v1/bookings/{id}/cancel" ReasonRequest: |body, _api, _with|
        Act::Cancel { reason: body.reason.clone() };
    /// Nobody came for the car; the days are free. Staff, from the first day on.
    no_show "/v1/bookings/{id}/no-show" ReasonRequest: |body, _api, _with|
        Act::NoShow { reason: body.reason.clone() };
    /// Records a dispute. Staff.
    dispute "/v1/bookings/{id}/dispute" ReasonRequest: |body, _api, _with|
        Act::Dispute { reason: body.reason.clone() };
    /// Records how a dispute ended. Staff.
    resolve_dispute "/v1/bookings/{id}/resolve-dispute" ResolveRequest: |body, _api, _with| {
        let status: Status = body.status.parse().map_err(|_| {
            validation(vec![Fault::new("/status", "must be completed or cancelled")])
        })?;
        Act::ResolveDispute { status, reason: body.reason.clone() }
    };
    /// Gives the booking other days, priced as a new booking of them, or leaves it as it is. Staff, and the customer.
    reschedule "/v1/bookings/{id}/reschedule" RescheduleRequest: |body, _api, _with| {
        let days = days(body.start_date, body.end_date)?;
        let (pick_up, drop_off) = (body.pick_up.clone(), body.drop_off.clone());
        let choices = body.fees.clone().map(|fees| Choices { fees, pick_up, drop_off });
        Act::Reschedule { days, choices, expected_total_cents: body.expected_total_cents }
    };
    /// Gives the booking a later last day, also while the customer has the car. Staff, and the customer.
    extend "/v1/bookings/{id}/extend" ExtendRequest: |body, _api, _with| Act::Extend {
        last: body.end_date,
        expected_total_cents: body.expected_total_cents,
    };
    /// Writes something down. Staff.
    add_note "/v1/bookings/{id}/notes" NoteRequest: |body, _api, _with|
        Act::AddNote { text: body.text.clone() };
    /// Changes who rents. Staff.
    change_customer "/v1/bookings/{id}/customer" CustomerRequest: |body, api, with| {
        let customer = body.customer(&with.party);
        Act::ChangeCustomer { customer_id: api.desk.customer_id(&customer), customer }
    };
}

/// Another car for a booking.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MoveRequest {
    /// The other car's id or slug.
    car_id: String,
    /// Leave the price as it was agreed, whatever the other car costs.
    #[serde(default)]
    keep_price: bool,
    /// Why.
    reason: Option<String>,
    /// The total that the customer was shown, in cents.
    expected_total_cents: Option<i64>,
}

/// Moves a booking to another car: the days change hands on both, or on
/// neither. Staff.
#[utoipa::path(
    post, path = "/v1/bookings/{id}/move", tag = "bookings", security(("token" = [])),
    params(
        ("id" = String, Path, description = "The booking's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repeat under the same key gets the first answer"),
        ("If-Match" = Option<String>, Header, description = "Only if the booking is as this `ETag` says; else 412 with `current`"),
    ),
    request_body = MoveRequest,
    responses(
        (status = 200, description = "The booking after it", body = BookingDetail),
        (status = 409, description = "`dates_unavailable`: the other car is taken; `action_not_allowed`; `car_not_bookable`", body = Problem, content_type = "application/problem+json"),
        Problem,
    ),
)]
pub(crate) async fn move_booking(
    State(api): App,
    Path(id): Path<String>,
    command: Command<MoveRequest>,
) -> Result<Response, ApiError> {
    let with = command.circumstances();
    let booking_id = known_form(&id)?;
    let body = &command.body;
    let run = async {
        let to = car_id(&api, &body.car_id).await?;
        let (reason, expected) = (body.reason.as_deref(), body.expected_total_cents);
        let moved =
            api.desk.move_booking(booking_id, to, body.keep_price, reason, expected, &with).await;
        match moved {
            Ok(done) => shown(&done, &with),
            Err(error) => Err(told(&api, booking_id, error, &with).await),
        }
    };
    Ok(command.once(&api, &with, run).await?.into_response())
}

/// Makes another link by which the customer sees the booking, good for 30
/// days. Staff.
#[utoipa::path(
    post, path = "/v1/bookings/{id}/access-link", tag = "bookings", security(("token" = [])),
    params(("id" = String, Path, description = "The booking's id")),
    request_body = Nothing,
    responses(
        (status = 200, description = "The link", body = LinkDetail),
        Problem,
    ),
)]
pub(crate) async fn issue_link(
    State(api): App,
    Path(id): Path<String>,
    command: Command<Nothing>,
) -> Result<Response, ApiError> {
    command.only_staff()?;
    let with = command.circumstances();
    let booking_id = known_form(&id)?;
    // Each command has a link of its own, the same in every retry.
    let n =
        usize::try_from(u32::from_str_radix(&with.command_id[..7], 16).unwrap_or(1)).unwrap_or(1);
    let token = api.desk.link_token(booking_id, n);
    let expires_at = api.desk.now() + TimeDelta::days(STAFF_LINK_DAYS);
    let link = AccessLink { hash: sha256(token.as_bytes()), expires_at };
    let answer = command
        .once(&api, &with, async {
            let done = api.desk.act(booking_id, Act::IssueLink { link }, &with).await;
            let done = done.map_err(|error| refused(error, true))?;
            let hash = sha256(api.desk.link_token(booking_id, n).as_bytes());
            let link = done.thing.links.iter().find(|link| link.hash == hash);
            let expires_at = link.map_or(expires_at, |link| link.expires_at);
            let link = LinkDetail { token: String::new(), expires_at };
            Ok(Answer::of(&link, done.position)?.replayed(done.replayed))
        })
        .await?;
    let mut answer = answer;
    answer.body["token"] = token.into();
    Ok(answer.into_response())
}
