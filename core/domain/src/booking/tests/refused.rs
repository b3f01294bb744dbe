//! Rejections and their reasons; blocks; the same command again.

use super::*;
use crate::price::QuoteError;

#[test]
fn no_day_is_given_twice() {
    let by = Taken::Held(booking_id("b1"));
    let world = given([hold("b1", "2027-01-03", "2027-01-05")])
        .when(hold("b2", "2027-01-05", "2027-01-06"))
        .then_taken(&[("2027-01-05", by)], Some(days("2027-01-06", "2027-01-07")))
        .when(hold("b2", "2027-01-01", "2027-01-04"))
        .then_taken(
            &[("2027-01-03", by), ("2027-01-04", by)],
            Some(days("2027-01-06", "2027-01-09")),
        );
    let by = Taken::Booked(booking_id("b1"));
    world
        .and([authorize("b1")])
        .when(hold("b2", "2027-01-04", "2027-01-04"))
        .then_taken(&[("2027-01-04", by)], Some(days("2027-01-06", "2027-01-06")))
        .when(hold("b2", "2027-01-03", "2027-01-05").on_car(2))
        .then(Status::PendingPayment);
}

#[test]
fn rentals_may_follow_each_other() {
    let world = given([
        hold("b1", "2027-01-03", "2027-01-05"),
        hold("b2", "2027-01-06", "2027-01-07"),
        hold("b3", "2027-01-02", "2027-01-02"),
        block("m1", "2027-01-08", "2027-01-08"),
    ]);
    assert_eq!(world.taken(1, "2027-01-01", "2027-01-31").len(), 7);
    let (b2, b3) = (Taken::Held(booking_id("b2")), Taken::Held(booking_id("b3")));
    world
        .when(extend("b1", "2027-01-06"))
        .then_taken(&[("2027-01-06", b2)], Some(days("2027-01-09", "2027-01-12")))
        .when(reschedule("b1", "2027-01-02", "2027-01-05"))
        .then_taken(&[("2027-01-02", b3)], Some(days("2027-01-09", "2027-01-12")));
}

#[test]
fn a_rental_may_begin_and_end_today() {
    let world = given([])
        .when(hold("b1", "2026-12-01", "2026-12-01").by_customer())
        .then(Status::PendingPayment)
        .and([authorize("b1"), send("b1"), sign("b1"), pick_up("b1"), give_back("b1", None)]);
    assert_eq!(world.booking("b1").quote.total_cents, DAY_CENTS);
    assert_eq!(world.booking("b1").occupied(), Some(days("2026-12-01", "2026-12-01")));
}

#[test]
fn only_staff_book_days_that_are_over_where_the_car_is() {
    // Still the last of December in New York.
    let night = "2027-01-01T04:59:59Z";
    let today = || BookingRejection::InThePast(day("2027-01-01"));
    given([])
        .when(hold("b1", "2026-12-31", "2026-12-31").by_customer().at(night))
        .then(Status::PendingPayment)
        .when(hold("b2", "2026-12-30", "2027-01-02").by_customer().at("2027-01-01T05:00:00Z"))
        .then_rejected(today())
        .and([hold("b2", "2027-01-02", "2027-01-02")])
        .when(reschedule("b2", "2026-12-29", "2026-12-29").by_customer())
        .then_rejected(today())
        .when(reschedule("b2", "2026-12-29", "2026-12-29"))
        .then(Status::PendingPayment)
        .when(hold("b3", "2026-12-30", "2026-12-30"))
        .then(Status::PendingPayment);
}

#[test]
fn a_car_is_booked_only_while_it_is_offered() {
    let step = || hold("b1", "2027-01-01", "2027-01-03");
    given([])
        .with_car(1, |car| car.listed = false)
        .when(step().by_customer())
        .then_rejected(BookingRejection::NoSuchCar)
        .when(step())
        .then(Status::PendingPayment)
        .when(extend("b1", "2027-01-04").by_customer())
        .then(Status::PendingPayment);
    given([])
        .with_car(1, |car| car.prices = None)
        .when(step())
        .then_rejected(BookingRejection::NotBookable("it has no price yet"));
    let archived = given([step()]).with_car(1, |car| car.archived = true);
    archived
        .when(hold("b2", "2027-02-01", "2027-02-01"))
        .then_rejected(BookingRejection::NotBookable("it has left the fleet"))
        .when(extend("b1", "2027-01-04"))
        .then_rejected(BookingRejection::NotBookable("it has left the fleet"))
        .when(cancel("b1"))
        .then(Status::Cancelled);
    let mut nowhere = given([]);
    nowhere.cars[0] = None;
    nowhere.when(step()).then_rejected(BookingRejection::NoSuchCar);
}

#[test]
fn the_price_is_the_one_that_was_shown() {
    let changed = |expected_cents, total_cents| BookingRejection::PriceChanged {
        expected_cents,
        total_cents,
    };
    given([])
        .when(hold("b1", "2027-01-01", "2027-01-03").shown(2 * DAY_CENTS))
        .then_rejected(changed(2 * DAY_CENTS, 3 * DAY_CENTS))
        .when(hold("b1", "2027-01-01", "2027-01-03").shown(3 * DAY_CENTS))
        .then(Status::PendingPayment)
        .when(extend("b1", "2027-01-04").shown(1))
        .then_rejected(changed(1, 4 * DAY_CENTS))
        .when(reschedule("b1", "2027-01-01", "2027-01-01").shown(2))
        .then_rejected(changed(2, DAY_CENTS));
    given([])
        .with_car(1, |car| car.prices = Some(PriceList { minimum_days: 2, ..prices() }))
        .when(hold("b1", "2027-01-01", "2027-01-01"))
        .then_rejected(BookingRejection::NoQuote(QuoteError::TooShort { minimum: 2 }));
}

#[test]
fn a_customer_has_a_name_and_one_address() {
    let faults = |change: fn(&mut CustomerDetails)| {
        let mut customer = customer(SECRET).into_inner();
        change(&mut customer.details.0);
        let faults = Valid::new(customer).err().unwrap_or_default();
        faults.into_iter().map(|fault| fault.pointer).collect::<Vec<_>>()
    };
    assert_eq!(faults(|it| it.email = "dana@example".into()), ["/email"]);
    assert_eq!(faults(|it| it.last_name = "a\u{7}".into()), ["/last_name"]);
    assert_eq!(faults(|it| it.first_name = "a".repeat(101)), ["/first_name"]);
    assert_eq!(faults(|it| it.phone = Some("5".repeat(41))), ["/phone"]);
    let nameless: fn(&mut CustomerDetails) = |it| {
        it.first_name = " ".into();
        it.last_name = String::new();
    };
    assert_eq!(faults(nameless), ["/first_name"]);
    let one_name = CustomerDetails {
        email: " Dana@Example.com ".into(),
        first_name: " ".into(),
        last_name: " Dana ".into(),
        phone: Some("  ".into()),
    };
    let customer = Customer { user_id: Some(" ".into()), details: Personal(one_name) };
    let customer = valid(customer).into_inner();
    assert_eq!(customer.user_id, None);
    let details = customer.details.0;
    assert_eq!((details.email.as_str(), details.phone), ("Dana@Example.com", None));
    assert_eq!((details.first_name.as_str(), details.last_name.as_str()), ("", "Dana"));
    let long = Customer { user_id: Some("u".repeat(256)), ..super::customer(SECRET).into_inner() };
    assert_eq!(Valid::new(long).unwrap_err()[0].pointer, "/user_id");
}

#[test]
fn a_block_over_a_booking_needs_force_and_names_it() {
    let (b1, b2) = (booking_id("b1"), booking_id("b2"));
    let world = given([
        hold("b1", "2027-01-01", "2027-01-02"),
        hold("b2", "2027-01-04", "2027-01-04"),
        authorize("b2"),
    ]);
    let taken = [("2027-01-02", Taken::Held(b1)), ("2027-01-04", Taken::Booked(b2))];
    let world = world
        .when(block("m1", "2027-01-02", "2027-01-05"))
        .then_taken(&taken, None)
        .when(block("m1", "2027-01-02", "2027-01-05").forced())
        .then_done();
    let [Payload::Block(BlockEvent { change: BlockChange::Blocked { forced_over, .. }, .. })] =
        world.newest.as_slice()
    else {
        panic!("{:?}", world.newest)
    };
    let mut over = [b1, b2];
    over.sort_unstable();
    assert_eq!(forced_over, &over);
    let m1 = Taken::Blocked(block_id("m1"));
    assert!(world.taken(1, "2027-01-02", "2027-01-02").contains(&("2027-01-02".into(), m1)));
    assert_eq!(world.taken(1, "2027-01-02", "2027-01-02").len(), 2);
    world
        .when(block("m2", "2027-01-05", "2027-01-06").forced())
        .then_taken(&[("2027-01-05", m1)], None)
        .when(hold("b3", "2027-01-03", "2027-01-03"))
        .then_taken(&[("2027-01-03", m1)], Some(days("2027-01-06", "2027-01-06")))
        .when(unblock("m1"))
        .then_done()
        .when(hold("b3", "2027-01-03", "2027-01-03"))
        .then(Status::PendingPayment);
}

#[test]
fn a_block_must_be_valid_and_is_made_once() {
    let world = given([block("m1", "2027-01-01", "2027-01-02").under("made", "asked")]);
    world
        .when(block("m1", "2027-01-01", "2027-01-02").under("made", "asked"))
        .then_rejected(BookingRejection::AlreadyDone(1))
        .when(block("m1", "2027-01-01", "2027-01-03").under("made", "asked otherwise"))
        .then_rejected(BookingRejection::KeyReused)
        .when(block("m1", "2027-01-01", "2027-01-02"))
        .then_rejected(BookingRejection::AlreadyDone(1))
        .when(block("m1", "2027-02-01", "2027-02-02"))
        .then_rejected(BookingRejection::KeyReused)
        .when(block("m2", "2027-01-03", "2031-01-03"))
        .then_faulty("/end_date")
        .when(unblock("m2"))
        .then_rejected(BookingRejection::NoSuchBlock)
        .when(unblock("m1").if_position(9))
        .then_rejected(BookingRejection::Stale(1))
        .when(unblock("m1").if_position(1).under("undo", "asked"))
        .then_done()
        .when(unblock("m1").under("undo", "asked"))
        .then_rejected(BookingRejection::AlreadyDone(2))
        .when(block("m1", "2027-01-01", "2027-01-02").under("made", "asked"))
        .then_rejected(BookingRejection::AlreadyDone(1));
}

#[test]
fn the_same_command_is_done_once() {
    let made = || hold("b1", "2027-01-01", "2027-01-03").under("made", "asked");
    given([made(), authorize("b1").under("pay", "asked"), send("b1")])
        .when(made())
        .then_rejected(BookingRejection::AlreadyDone(1))
        .when(made().under("made", "asked otherwise"))
        .then_rejected(BookingRejection::KeyReused)
        .when(hold("b2", "2027-02-01", "2027-02-01").under("made", "asked"))
        .then_rejected(BookingRejection::KeyReused)
        .when(made().under("again", "asked"))
        .then_rejected(BookingRejection::AlreadyDone(3))
        .when(authorize("b1").under("pay", "asked"))
        .then_rejected(BookingRejection::AlreadyDone(2))
        .when(authorize("b1").under("pay", "asked").if_position(1))
        .then_rejected(BookingRejection::AlreadyDone(2))
        .when(cancel("b1").under("pay", "asked otherwise"))
        .then_rejected(BookingRejection::KeyReused)
        .and([cancel("b1")])
        .when(authorize("b1").under("pay", "asked"))
        .then_rejected(BookingRejection::AlreadyDone(2));
}

#[test]
fn a_command_for_what_it_was_before_is_stale() {
    given([hold("b1", "2027-01-01", "2027-01-03"), hold("b2", "2027-02-01", "2027-02-01")])
        .when(cancel("b1").if_position(2))
        .then_rejected(BookingRejection::Stale(1))
        .when(authorize("b1").if_position(1))
        .then(Status::PendingContract)
        .when(cancel("b1").if_position(1))
        .then_rejected(BookingRejection::Stale(3))
        .when(cancel("b3"))
        .then_rejected(BookingRejection::NoSuchBooking);
}
