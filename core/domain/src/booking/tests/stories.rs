//! The life of a booking.

use super::*;

/// Held for three days, the first of them the first of January.
pub(super) fn held() -> World {
    given([hold("b1", "2027-01-01", "2027-01-03")])
}

fn upcoming() -> World {
    held().and([authorize("b1"), send("b1"), sign("b1")])
}

fn active() -> World {
    upcoming().and([pick_up("b1").at("2027-01-01T15:00:00Z")])
}

#[test]
fn a_rental_is_held_paid_signed_had_returned_and_settled() {
    let world = given([])
        .when(hold("b1", "2027-01-01", "2027-01-03"))
        .then(Status::PendingPayment)
        .when(authorize("b1"))
        .then(Status::PendingContract)
        .when(send("b1"))
        .then(Status::PendingContract)
        .when(act("b1", BookingAction::ViewContract))
        .then(Status::PendingContract)
        .when(sign("b1"))
        .then(Status::Upcoming)
        .when(pick_up("b1").at("2027-01-01T15:00:00Z"))
        .then(Status::Active)
        .when(give_back("b1", None).at("2027-01-02T15:00:00Z"))
        .then(Status::Returned)
        .when(capture("b1", None))
        .then(Status::Returned)
        .when(complete("b1"))
        .then(Status::Completed);
    let booking = world.booking("b1");
    let payment = Payment {
        status: PaymentStatus::Captured,
        authorized_cents: 0,
        captured_cents: 3 * DAY_CENTS,
        refunded_cents: 0,
        payers: vec![Payer {
            customer_id: uuid("customer").into(),
            authorized_cents: 0,
            captured_cents: 3 * DAY_CENTS,
            refunded_cents: 0,
        }],
    };
    assert_eq!(booking.payment, payment);
    assert_eq!(booking.contract.status, ContractStatus::Signed);
    assert_eq!(booking.contract.document.as_deref(), Some("document"));
    assert_eq!(booking.days, days("2027-01-01", "2027-01-03"));
    assert_eq!(booking.returned_on, Some(day("2027-01-02")));
    assert_eq!(booking.hold_expires_at, None);
    assert_eq!((booking.position, booking.updated_at), (9, time("2027-01-02T15:00:00Z")));
    assert_eq!(booking.created_at, time("2026-12-01T17:00:00Z"));
    let by = Taken::Booked(booking.id);
    let taken = [("2027-01-01".to_owned(), by), ("2027-01-02".to_owned(), by)];
    assert_eq!(world.taken(1, "2026-12-01", "2027-12-01"), taken);
    world.when(hold("b2", "2027-01-03", "2027-01-03")).then(Status::PendingPayment);
}

#[test]
fn a_car_returned_on_the_day_it_was_had_keeps_that_day() {
    let world = active().and([give_back("b1", Some("2027-01-01"))]);
    assert_eq!(world.booking("b1").occupied(), Some(days("2027-01-01", "2027-01-01")));
}

#[test]
fn a_late_return_takes_no_days_of_others() {
    let world = active().and([give_back("b1", None).at("2027-01-05T15:00:00Z")]);
    assert_eq!(world.booking("b1").returned_on, Some(day("2027-01-05")));
    assert_eq!(world.booking("b1").occupied(), Some(days("2027-01-01", "2027-01-03")));
}

#[test]
fn a_return_is_neither_before_the_rental_nor_in_the_future() {
    active()
        .when(give_back("b1", Some("2026-12-31")))
        .then_faulty("/returned_on")
        .when(give_back("b1", Some("2027-01-02")))
        .then_faulty("/returned_on");
}

#[test]
fn the_contract_may_be_signed_before_the_payment() {
    held()
        .when(send("b1"))
        .then(Status::PendingPayment)
        .when(sign("b1"))
        .then(Status::PendingPayment)
        .when(authorize("b1"))
        .then(Status::Upcoming);
}

#[test]
fn a_contract_is_viewed_once_declined_and_sent_again() {
    let world = held()
        .and([authorize("b1")])
        .when(sign("b1"))
        .then_wrong("the contract is not out")
        .and([send("b1"), act("b1", BookingAction::ViewContract)])
        .when(act("b1", BookingAction::ViewContract))
        .then_wrong("the contract is not out, or has been viewed")
        .when(act("b1", BookingAction::DeclineContract { reason: Some(text("too long")) }))
        .then(Status::PendingContract);
    assert_eq!(world.booking("b1").contract.status, ContractStatus::Declined);
    world
        .when(sign("b1"))
        .then_wrong("the contract is not out")
        .and([send("b1")])
        .when(sign("b1"))
        .then(Status::Upcoming)
        .when(send("b1"))
        .then(Status::PendingContract)
        .when(sign("b1"))
        .then(Status::Upcoming);
}

#[test]
fn a_failed_payment_may_be_tried_again() {
    let world = held()
        .when(act("b1", BookingAction::FailPayment { reason: Some(text("no funds")) }))
        .then(Status::PendingPayment);
    let booking = world.booking("b1");
    assert_eq!(booking.payment.status, PaymentStatus::Failed);
    assert_eq!(booking.hold_expires_at, Some(time("2026-12-01T18:00:00Z")));
    world.when(authorize("b1")).then(Status::PendingContract);
}

#[test]
fn what_is_authorized_is_what_is_open() {
    let amount = |amount_cents| {
        act(
            "b1",
            BookingAction::AuthorizePayment { amount_cents: Some(amount_cents), reference: None },
        )
    };
    held()
        .when(amount(3 * DAY_CENTS - 1))
        .then_faulty("/amount_cents")
        .when(amount(3 * DAY_CENTS + 1))
        .then_faulty("/amount_cents")
        .when(amount(3 * DAY_CENTS))
        .then(Status::PendingContract)
        .when(authorize("b1"))
        .then_wrong("nothing is open to be paid");
}

#[test]
fn a_void_before_the_rental_cancels_it() {
    let world = upcoming().when(void("b1")).then(Status::Cancelled);
    assert_eq!(world.booking("b1").payment.status, PaymentStatus::Voided);
    assert_eq!(world.booking("b1").open_cents(), 0);
    assert_eq!(world.taken(1, "2027-01-01", "2027-01-03"), []);
    world.when(void("b1")).then_wrong("no payment is authorized");
}

#[test]
fn a_void_of_the_rest_leaves_what_was_captured() {
    let world = upcoming().and([capture("b1", Some(1))]).when(void("b1")).then(Status::Upcoming);
    let payment = &world.booking("b1").payment;
    assert_eq!((payment.status, payment.captured_cents), (PaymentStatus::Captured, 1));
    assert_eq!(world.booking("b1").open_cents(), 3 * DAY_CENTS - 1);
}

#[test]
fn a_cancelled_bookings_money_goes_back() {
    let authorized = upcoming().and([cancel("b1")]).when(void("b1")).then(Status::Cancelled);
    assert_eq!(authorized.booking("b1").payment.status, PaymentStatus::Voided);
    let captured = upcoming().and([capture("b1", None), cancel("b1")]);
    let refunded = captured.when(refund("b1", None)).then(Status::Cancelled);
    assert_eq!(refunded.booking("b1").payment.status, PaymentStatus::Refunded);
    refunded.when(refund("b1", None)).then_wrong("there is nothing to be refunded");
}

#[test]
fn it_is_captured_in_parts_and_never_too_much() {
    let world = upcoming()
        .when(capture("b1", Some(0)))
        .then_faulty("/amount_cents")
        .when(capture("b1", Some(3 * DAY_CENTS + 1)))
        .then_faulty("/amount_cents")
        .when(capture("b1", Some(DAY_CENTS)))
        .then(Status::Upcoming);
    let payment = world.booking("b1").payment.clone();
    assert_eq!((payment.authorized_cents, payment.captured_cents), (2 * DAY_CENTS, DAY_CENTS));
    let world = world
        .when(capture("b1", Some(2 * DAY_CENTS + 1)))
        .then_faulty("/amount_cents")
        .when(capture("b1", None))
        .then(Status::Upcoming);
    assert_eq!(world.booking("b1").payment.captured_cents, 3 * DAY_CENTS);
    world.when(capture("b1", None)).then_wrong("everything is captured already");
}

#[test]
fn a_payment_may_be_captured_at_once() {
    let world = held().when(capture("b1", None)).then(Status::PendingContract);
    assert_eq!(world.booking("b1").payment.status, PaymentStatus::Captured);
    assert_eq!(world.booking("b1").hold_expires_at, None);
}

#[test]
fn before_the_return_only_what_was_paid_too_much_is_refunded() {
    let world = held()
        .and([capture("b1", None), send("b1"), sign("b1")])
        .when(refund("b1", None))
        .then_wrong("there is nothing to be refunded")
        .and([reschedule("b1", "2027-01-01", "2027-01-02")])
        .when(refund("b1", Some(DAY_CENTS + 1)))
        .then_faulty("/amount_cents")
        .when(refund("b1", None))
        .then(Status::Upcoming);
    assert_eq!(world.booking("b1").payment.refunded_cents, DAY_CENTS);
    assert_eq!(world.booking("b1").payment.status, PaymentStatus::Captured);
    let returned = world
        .and([pick_up("b1").at("2027-01-02T15:00:00Z")])
        .when(refund("b1", None))
        .then_wrong("there is nothing to be refunded")
        .and([give_back("b1", None)]);
    let world = returned
        .when(refund("b1", Some(2 * DAY_CENTS + 1)))
        .then_faulty("/amount_cents")
        .when(refund("b1", Some(DAY_CENTS / 2)))
        .then(Status::Returned)
        .and([complete("b1")])
        .when(refund("b1", None))
        .then(Status::Completed);
    assert_eq!(world.booking("b1").payment.status, PaymentStatus::Refunded);
}

#[test]
fn what_was_given_back_after_the_rental_is_not_asked_for_again() {
    let world = active().and([capture("b1", None), give_back("b1", None), refund("b1", None)]);
    assert_eq!((world.booking("b1").open_cents(), world.booking("b1").uncaptured_cents()), (0, 0));
    world.when(capture("b1", None)).then_wrong("everything is captured already");
}

#[test]
fn an_authorization_counts_though_an_earlier_payment_was_given_back() {
    let free_of_charge = |car: &mut Car| {
        car.prices = Some(PriceList { discount_basis_points: 10_000, ..prices() });
    };
    let world = held()
        .and([capture("b1", None)])
        .with_car(1, free_of_charge)
        .and([reschedule("b1", "2027-01-02", "2027-01-04")])
        .when(refund("b1", None))
        .then(Status::PendingContract)
        .with_car(1, |car| car.prices = Some(prices()))
        .when(reschedule("b1", "2027-01-01", "2027-01-03"))
        .then(Status::PendingPayment)
        .when(authorize("b1"))
        .then(Status::PendingContract);
    assert_eq!(world.booking("b1").payment.status, PaymentStatus::Authorized);
}

#[test]
fn a_rental_that_costs_nothing_waits_only_for_the_contract() {
    given([])
        .with_car(1, |car| {
            car.prices = Some(PriceList { discount_basis_points: 10_000, ..prices() });
        })
        .when(hold("b1", "2027-01-01", "2027-01-01"))
        .then(Status::PendingContract)
        .when(authorize("b1"))
        .then_wrong("nothing is open to be paid")
        .and([send("b1")])
        .when(sign("b1"))
        .then(Status::Upcoming);
}

#[test]
fn other_days_free_the_days_before() {
    let world =
        upcoming().when(reschedule("b1", "2027-01-03", "2027-01-06")).then(Status::Upcoming);
    let booking = world.booking("b1");
    assert_eq!(booking.days, days("2027-01-03", "2027-01-06"));
    assert_eq!(booking.quote.total_cents, 4 * DAY_CENTS);
    assert_eq!(booking.open_cents(), DAY_CENTS);
    world
        .when(reschedule("b1", "2027-01-03", "2027-01-06"))
        .then_rejected(BookingRejection::Unchanged)
        .when(authorize("b1"))
        .then(Status::Upcoming)
        .when(hold("b2", "2027-01-01", "2027-01-02"))
        .then(Status::PendingPayment);
}

#[test]
fn a_rental_is_extended_also_while_the_car_is_out() {
    let world = upcoming().when(extend("b1", "2027-01-04").by_customer()).then(Status::Upcoming);
    let world = world
        .and([pick_up("b1").at("2027-01-01T15:00:00Z")])
        .when(extend("b1", "2027-01-04"))
        .then_faulty("/end_date")
        .when(extend("b1", "2027-01-06").by_customer().at("2027-01-04T15:00:00Z"))
        .then(Status::Active);
    let booking = world.booking("b1");
    assert_eq!(booking.days, days("2027-01-01", "2027-01-06"));
    assert_eq!((booking.quote.total_cents, booking.open_cents()), (6 * DAY_CENTS, 3 * DAY_CENTS));
    world
        .when(authorize("b1"))
        .then(Status::Active)
        .when(give_back("b1", Some("2027-01-04")))
        .then(Status::Returned);
}

#[test]
fn who_does_not_come_gives_the_days_up() {
    let no_show = || act("b1", BookingAction::NoShow { reason: None });
    let world = upcoming()
        .when(no_show().at("2027-01-01T04:59:59Z"))
        .then_rejected(BookingRejection::TooEarly(day("2027-01-01")))
        .when(pick_up("b1"))
        .then_rejected(BookingRejection::TooEarly(day("2027-01-01")))
        .when(no_show().at("2027-01-01T05:00:00Z"))
        .then(Status::Cancelled);
    assert_eq!(world.taken(1, "2027-01-01", "2027-01-03"), []);
    assert_eq!(world.kinds.last().map(String::as_str), Some("exodrive.booking.not_shown"));
}

#[test]
fn a_dispute_ends_completed_or_cancelled() {
    let disputed = || active().when(dispute("b1")).then(Status::Disputed);
    disputed()
        .when(resolve("b1", Status::Upcoming))
        .then_faulty("/status")
        .when(resolve("b1", Status::Completed))
        .then(Status::Completed)
        .when(dispute("b1"))
        .then(Status::Disputed);
    let world = disputed().when(resolve("b1", Status::Cancelled)).then(Status::Cancelled);
    assert_eq!(world.taken(1, "2027-01-01", "2027-01-03"), []);
}

#[test]
fn a_hold_ends_exactly_at_its_time() {
    let world = held()
        .when(expire("b1").at("2026-12-01T17:59:59.999999Z"))
        .then_wrong("the hold has not ended")
        .when(expire("b1").at("2026-12-01T18:00:00Z"))
        .then(Status::Expired);
    assert_eq!(world.taken(1, "2027-01-01", "2027-01-03"), []);
    assert_eq!(world.booking("b1").hold_expires_at, None);
    world.when(authorize("b1")).then_wrong(None);
    held().and([authorize("b1")]).when(expire("b1").at("2027-01-01T00:00:00Z")).then_wrong(None);
}

#[test]
fn links_notes_and_the_customer_change_nothing_else() {
    let other = customer("Other Dana");
    let changed = BookingAction::ChangeCustomer {
        customer_id: uuid("other").into(),
        customer: valid(Customer { user_id: Some("user".into()), ..other.into_inner() }),
    };
    let world = held()
        .when(act("b1", BookingAction::AddNote { text: text(&format!("call {SECRET}")) }))
        .then(Status::PendingPayment)
        .when(act("b1", BookingAction::IssueLink { link: link("second") }))
        .then(Status::PendingPayment)
        .when(act("b1", changed))
        .then(Status::PendingPayment);
    let booking = world.booking("b1");
    assert_eq!(
        (booking.customer_id, booking.user_id.as_deref()),
        (uuid("other").into(), Some("user"))
    );
    assert!(booking.link("first", world.now).is_some());
    assert!(booking.link("second", time("2027-05-31T23:59:59Z")).is_some());
    assert_eq!(booking.link("second", time("2027-06-01T00:00:00Z")), None);
    assert_eq!(booking.link("third", world.now), None);
    let world = world.when(act("b1", BookingAction::RevokeLinks)).then(Status::PendingPayment);
    let revoked = world.booking("b1");
    assert_eq!((revoked.link("first", world.now), revoked.link("second", world.now)), (None, None));
}

pub(super) fn imported(status: Status, payment: PaymentStatus, contract: ContractStatus) -> Step {
    let quote = held().booking("b1").quote.clone();
    let total = quote.total_cents;
    let of = |requested| if payment == requested { total } else { 0 };
    import(Import {
        id: booking_id("b1"),
        customer_id: uuid("customer").into(),
        customer: customer(SECRET),
        days: days("2027-01-01", "2027-01-03"),
        quote: valid(quote),
        status,
        payment: valid(Payment {
            status: payment,
            authorized_cents: of(PaymentStatus::Authorized),
            captured_cents: of(PaymentStatus::Captured) + of(PaymentStatus::Refunded),
            refunded_cents: of(PaymentStatus::Refunded),
            payers: Vec::new(),
        }),
        paid_at: None,
        contract: Contract { status: contract, document: None },
        hold_expires_at: None,
        created_at: time("2025-08-26T00:00:00Z"),
    })
}

#[test]
fn an_imported_booking_has_its_old_status_if_that_is_valid() {
    use {ContractStatus as C, PaymentStatus as P, Status as S};
    for (status, payment, contract, becomes) in [
        (S::PendingPayment, P::Pending, C::NotSent, S::PendingPayment),
        (S::PendingPayment, P::Failed, C::Signed, S::PendingPayment),
        (S::PendingContract, P::Authorized, C::Viewed, S::PendingContract),
        (S::Upcoming, P::Captured, C::Signed, S::Upcoming),
        (S::Active, P::Captured, C::Signed, S::Active),
        (S::Active, P::Pending, C::NotSent, S::Active),
        (S::Returned, P::Captured, C::Signed, S::Returned),
        (S::Completed, P::Captured, C::Signed, S::Completed),
        (S::Cancelled, P::Refunded, C::NotSent, S::Cancelled),
        (S::Expired, P::Pending, C::NotSent, S::Expired),
        (S::Disputed, P::Captured, C::Signed, S::Disputed),
        (S::Upcoming, P::Authorized, C::NotSent, S::PendingContract),
        (S::Upcoming, P::Pending, C::Signed, S::PendingPayment),
    ] {
        let world = given([]).when(imported(status, payment, contract)).then(becomes);
        let booking = world.booking("b1");
        assert_eq!(booking.payment.status, payment);
        assert_eq!(booking.created_at, time("2025-08-26T00:00:00Z"));
        assert_eq!(booking.occupied().is_none(), matches!(status, S::Cancelled | S::Expired));
    }
}

#[test]
fn an_import_takes_no_days_of_others_unless_it_needs_none() {
    use {ContractStatus as C, PaymentStatus as P, Status as S};
    let world = given([hold("b2", "2027-01-02", "2027-01-02")]);
    let by = Taken::Held(booking_id("b2"));
    let next = Some(days("2027-01-03", "2027-01-05"));
    world
        .when(imported(S::Upcoming, P::Captured, C::Signed))
        .then_taken(&[("2027-01-02", by)], next)
        .when(imported(S::Cancelled, P::Voided, C::NotSent))
        .then(S::Cancelled)
        .when(imported(S::Cancelled, P::Voided, C::NotSent))
        .then_rejected(BookingRejection::AlreadyDone(2));
}

#[test]
fn the_first_command_stays_remembered() {
    let note = |n| act("b1", BookingAction::AddNote { text: text(&format!("note {n}")) });
    let world = given([hold("b1", "2027-01-01", "2027-01-03").under("made", "asked")]);
    let world = world.and((0..200).map(note));
    assert_eq!(world.booking("b1").commands.len(), 64);
    world
        .when(hold("b1", "2027-01-01", "2027-01-03").under("made", "asked"))
        .then_rejected(BookingRejection::AlreadyDone(1));
}

#[test]
fn a_disputed_car_comes_back_and_a_late_cancellation_costs() {
    let disputed = held().and([
        capture("b1", None),
        send("b1"),
        sign("b1"),
        pick_up("b1").at("2027-01-01T17:00:00Z"),
        act("b1", BookingAction::Dispute { reason: None }),
    ]);
    let back = disputed.when(give_back("b1", None)).then(Status::Disputed);
    assert!(back.booking("b1").returned_on.is_some());

    let cancelled = held().and([authorize("b1"), cancel("b1")]);
    let held_cents = cancelled.booking("b1").payment.authorized_cents;
    let charged = cancelled.when(capture("b1", Some(held_cents))).then(Status::Cancelled);
    assert_eq!(charged.booking("b1").payment.captured_cents, held_cents);
    charged.when(capture("b1", Some(1))).then_wrong("everything is captured already");
}
