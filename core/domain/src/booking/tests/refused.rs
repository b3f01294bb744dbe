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
fn a_customer_has_a_name_and_an_address() {
    let with = |change: fn(&mut CustomerDetails)| {
        let mut new = new_booking("b1", days("2027-01-01", "2027-01-01"));
        change(&mut new.customer.details.0);
        Step::new(Command::Booking(BookingCommand::Hold(new)))
    };
    for email in
        ["", "dana", "dana@", "@example.com", "dana@example", "da na@example.com", "d@e.c\n"]
    {
        let mut step = with(|_| {});
        if let Command::Booking(BookingCommand::Hold(new)) = &mut step.command {
            new.customer.details.0.email = email.into();
        }
        given([]).when(step).then_faulty("/customer/email");
    }
    given([])
        .when(with(|details| details.first_name = "  ".into()))
        .then_faulty("/customer/first_name")
        .when(with(|details| details.last_name = "a\u{7}".into()))
        .then_faulty("/customer/last_name")
        .when(with(|details| details.phone = Some("5".repeat(41))))
        .then_faulty("/customer/phone");
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
    let because = |text: &str| {
        let reason = text.to_owned();
        Step::new(Command::Block {
            block: block_id("m2"),
            days: days("2027-02-01", "2027-02-01"),
            reason,
            force: false,
        })
    };
    world
        .when(block("m1", "2027-01-01", "2027-01-02").under("made", "asked"))
        .then_rejected(BookingRejection::AlreadyDone(1))
        .when(block("m1", "2027-01-01", "2027-01-03").under("made", "asked otherwise"))
        .then_rejected(BookingRejection::KeyReused)
        .when(block("m1", "2027-01-01", "2027-01-02"))
        .then_rejected(BookingRejection::AlreadyDone(1))
        .when(block("m1", "2027-02-01", "2027-02-02"))
        .then_rejected(BookingRejection::KeyReused)
        .when(because(" "))
        .then_faulty("/reason")
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
