//! Money is of somebody and of a currency, whatever becomes of the booking.

use super::*;
use crate::id::CustomerId;
use proptest::prelude::*;

fn person(name: &str) -> CustomerId {
    uuid(name).into()
}

/// The booking is another customer's from now on.
fn change_customer(booking: &str, name: &str) -> Step {
    act(
        booking,
        BookingAction::ChangeCustomer { customer_id: person(name), customer: customer(SECRET) },
    )
}

fn cars_of_two_currencies() -> World {
    given([]).with_car(2, |car| {
        car.prices =
            Some(PriceList { currency: "EUR".into(), base_per_day_cents: 40_000, ..prices() });
    })
}

/// Captured less refunded, by payer.
fn kept(booking: &Booking) -> BTreeMap<CustomerId, i64> {
    let kept = |it: &Payer| (it.customer_id, it.captured_cents - it.refunded_cents);
    booking.payment.payers.iter().map(kept).filter(|(_, cents)| *cents != 0).collect()
}

#[test]
fn a_refund_goes_to_who_paid() {
    let world = given([
        hold("b1", "2027-01-01", "2027-01-03"),
        capture("b1", None),
        change_customer("b1", "another"),
    ]);
    assert_eq!(kept(world.booking("b1")), BTreeMap::from([(person("customer"), 3 * DAY_CENTS)]));
    let world = world.and([cancel("b1"), refund("b1", None)]);
    assert_eq!(kept(world.booking("b1")), BTreeMap::new());
    let [Payload::Booking(event)] = world.newest.as_slice() else { panic!() };
    let back = Share { customer_id: person("customer"), amount_cents: -3 * DAY_CENTS };
    assert_eq!(event.paid(), Some((vec![back], "USD")));
    assert_eq!(event.customer_id, person("another"));
}

#[test]
fn who_authorized_pays_first_and_who_paid_last_gets_back_first() {
    let world = given([
        hold("b1", "2027-01-01", "2027-01-03"),
        authorize("b1"),
        change_customer("b1", "another"),
        extend("b1", "2027-01-04"),
        capture("b1", None),
    ]);
    let both =
        BTreeMap::from([(person("customer"), 3 * DAY_CENTS), (person("another"), DAY_CENTS)]);
    assert_eq!(kept(world.booking("b1")), both);
    let world = world.and([cancel("b1"), refund("b1", Some(2 * DAY_CENTS))]);
    let left = BTreeMap::from([(person("customer"), 2 * DAY_CENTS)]);
    assert_eq!(kept(world.booking("b1")), left);
}

#[test]
fn a_paid_booking_moves_to_no_price_in_another_currency() {
    let other = "its price is in another currency than what was paid";
    let held = hold("b1", "2027-01-01", "2027-01-03");
    cars_of_two_currencies()
        .and([held.clone(), capture("b1", Some(1))])
        .when(move_to(2, "b1", false))
        .then_rejected(BookingRejection::NotBookable(other))
        .when(move_to(2, "b1", true))
        .then(Status::PendingContract)
        .when(extend("b1", "2027-01-04").on_car(2))
        .then_rejected(BookingRejection::NotBookable(other));
    // Nothing was paid, or nothing any more that was only authorized.
    let world = cars_of_two_currencies().and([held, move_to(2, "b1", false)]);
    assert_eq!(world.booking("b1").quote.currency, "EUR");
}

#[test]
fn a_move_or_a_change_that_changes_nothing_names_another_total_too() {
    let changed = |expected_cents| BookingRejection::PriceChanged {
        expected_cents,
        total_cents: 3 * DAY_CENTS,
    };
    given([hold("b1", "2027-01-01", "2027-01-03")])
        .when(move_to(2, "b1", true).shown(7))
        .then_rejected(changed(7))
        .when(move_to(1, "b1", true).shown(7))
        .then_rejected(changed(7))
        .when(move_to(1, "b1", true).shown(3 * DAY_CENTS))
        .then_rejected(BookingRejection::Unchanged)
        .when(reschedule("b1", "2027-01-01", "2027-01-03").shown(7))
        .then_rejected(changed(7))
        .when(move_to(2, "b1", true).shown(3 * DAY_CENTS))
        .then(Status::PendingPayment);
}

#[test]
fn a_booking_moves_to_its_own_car_only_when_it_may_move() {
    let world = given([hold("b1", "2027-01-01", "2027-01-03")]);
    let stay = |world: &World| {
        let now = world.now;
        let (command_id, request_hash) = ("m".to_owned(), "h".to_owned());
        let meta = Meta { command_id, request_hash, now, if_position: None, by_staff: true };
        decide_move_to_own_car(&world.calendars[0], booking_id("b1"), None, &meta)
    };
    assert_eq!(stay(&world), BookingRejection::Unchanged);
    let world = world.and([cancel("b1")]);
    assert!(matches!(stay(&world), BookingRejection::WrongStatus { .. }));
}

/// Any step about the one booking, on the car that it is on.
fn any_step() -> impl Strategy<Value = Step> {
    let amount = prop::option::of(1..4 * DAY_CENTS);
    let status = prop::sample::select(&[Status::Completed, Status::Cancelled][..]);
    let name = prop::sample::select(&["customer", "another", "third"][..]);
    let days = ["2027-01-01", "2027-01-02", "2027-01-05", "2027-01-07"];
    let first = prop::sample::select(days.to_vec());
    prop_oneof![
        3 => Just(authorize("b1")),
        4 => amount.clone().prop_map(|amount| capture("b1", amount)),
        4 => amount.prop_map(|amount| refund("b1", amount)),
        2 => Just(void("b1")),
        4 => name.prop_map(|name| change_customer("b1", name)),
        3 => (1..=2_u128, any::<bool>()).prop_map(|(to, keep)| move_to(to, "b1", keep)),
        2 => (first.clone(), first.clone()).prop_map(|(one, two)| {
            reschedule("b1", one.min(two), one.max(two))
        }),
        2 => first.prop_map(|last| extend("b1", last)),
        1 => Just(cancel("b1")),
        1 => Just(send("b1")),
        1 => Just(sign("b1")),
        1 => Just(pick_up("b1").at("2027-01-07T15:00:00Z")),
        1 => Just(give_back("b1", None)),
        1 => Just(dispute("b1")),
        1 => status.prop_map(|status| resolve("b1", status)),
        1 => Just(complete("b1")),
    ]
}

proptest! {
    #[test]
    fn a_customers_balance_is_the_sum_of_their_events(
        steps in prop::collection::vec(any_step(), 1..40),
    ) {
        let mut world = cars_of_two_currencies().and([hold("b1", "2027-01-01", "2027-01-03")]);
        let mut paid = BTreeMap::<(CustomerId, String), i64>::new();
        let mut owners = vec![person("customer")];
        for step in steps {
            let on = if world.calendars[0].bookings.contains_key(&booking_id("b1")) { 1 } else { 2 };
            if world.take(&step.on_car(on)).is_err() {
                continue;
            }
            for payload in &world.newest {
                let Payload::Booking(event) = payload else { continue };
                let Some((shares, currency)) = event.paid() else { continue };
                let whole = match &event.change {
                    BookingChange::PaymentCaptured { amount_cents, .. } => *amount_cents,
                    BookingChange::PaymentRefunded { amount_cents, .. } => -amount_cents,
                    other => panic!("{other:?} moves no money"),
                };
                prop_assert_eq!(shares.iter().map(|share| share.amount_cents).sum::<i64>(), whole);
                for share in shares {
                    let of = (share.customer_id, currency.to_owned());
                    *paid.entry(of).or_default() += share.amount_cents;
                }
            }
            let booking = world.booking("b1");
            owners.push(booking.customer_id);
            paid.retain(|_, cents| *cents != 0);
            let expected: BTreeMap<_, _> = kept(booking)
                .into_iter()
                .map(|(customer, cents)| ((customer, booking.quote.currency.clone()), cents))
                .collect();
            prop_assert_eq!(&paid, &expected);
            let Payment { authorized_cents, captured_cents, refunded_cents, payers, .. } =
                &booking.payment;
            let sum = |of: fn(&Payer) -> i64| payers.iter().map(of).sum::<i64>();
            prop_assert_eq!(sum(|payer| payer.authorized_cents), *authorized_cents);
            prop_assert_eq!(sum(|payer| payer.captured_cents), *captured_cents);
            prop_assert_eq!(sum(|payer| payer.refunded_cents), *refunded_cents);
            for payer in payers {
                prop_assert!(payer.authorized_cents >= 0);
                prop_assert!(payer.captured_cents >= payer.refunded_cents);
                prop_assert!(owners.contains(&payer.customer_id));
            }
        }
    }
}
