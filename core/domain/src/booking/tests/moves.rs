//! A booking moves to another car, whole or not at all.

use super::*;

fn moved() -> World {
    given([hold("b1", "2027-01-01", "2027-01-03").under("made", "asked"), authorize("b1")])
        .with_car(2, |car| {
            car.prices =
                Some(PriceList { version: 7, base_per_day_cents: 2 * DAY_CENTS, ..prices() });
            car.profile.time_zone = "Europe/Berlin".into();
        })
        .and([move_to(2, "b1", true).under("move", "asked")])
}

#[test]
fn it_leaves_one_car_and_is_on_the_other() {
    let world = moved();
    let reported: Vec<_> = world.kinds.iter().map(String::as_str).collect();
    let out_and_in = ["exodrive.booking.moved_out", "exodrive.booking.moved_in"];
    assert_eq!(reported[2..], out_and_in);
    let booking = world.booking("b1");
    assert_eq!(booking.car_id, car_id(2));
    assert_eq!(booking.time_zone, "Europe/Berlin");
    assert_eq!((booking.status, booking.position), (Status::PendingContract, 4));
    assert_eq!(booking.created_at, time("2026-12-01T17:00:00Z"));
    assert_eq!(world.taken(1, "2027-01-01", "2027-01-03"), []);
    assert_eq!(world.taken(2, "2027-01-01", "2027-01-03").len(), 3);
    world
        .when(hold("b2", "2027-01-01", "2027-01-03"))
        .then(Status::PendingPayment)
        .when(send("b1").on_car(2))
        .then(Status::PendingContract);
}

#[test]
fn its_price_stays_or_is_quoted_again() {
    assert_eq!(moved().booking("b1").quote.total_cents, 3 * DAY_CENTS);
    let world = given([hold("b1", "2027-01-01", "2027-01-03")]).with_car(2, |car| {
        car.prices = Some(PriceList { version: 7, base_per_day_cents: 2 * DAY_CENTS, ..prices() });
    });
    let changed = BookingRejection::PriceChanged {
        expected_cents: 3 * DAY_CENTS,
        total_cents: 6 * DAY_CENTS,
    };
    let world = world
        .when(move_to(2, "b1", false).shown(3 * DAY_CENTS))
        .then_rejected(changed)
        .when(move_to(2, "b1", false).shown(6 * DAY_CENTS))
        .then(Status::PendingPayment);
    let quote = &world.booking("b1").quote;
    assert_eq!((quote.total_cents, quote.price_list_version), (6 * DAY_CENTS, 7));
}

#[test]
fn a_command_on_the_car_that_it_left_names_its_new_car() {
    let elsewhere = || BookingRejection::MovedTo(car_id(2));
    moved()
        .when(cancel("b1"))
        .then_rejected(elsewhere())
        .when(hold("b1", "2027-01-01", "2027-01-03").under("made", "asked"))
        .then_rejected(elsewhere())
        .when(move_to(2, "b1", true).under("move", "asked"))
        .then_rejected(elsewhere());
}

#[test]
fn commands_are_remembered_where_it_is_now() {
    moved()
        .when(hold("b1", "2027-01-01", "2027-01-03").under("made", "asked").on_car(2))
        .then_rejected(BookingRejection::AlreadyDone(1))
        .when(move_to(2, "b1", true).under("move", "asked").on_car(2))
        .then_rejected(BookingRejection::AlreadyDone(4))
        .when(move_to(2, "b1", false).under("move", "asked otherwise").on_car(2))
        .then_rejected(BookingRejection::KeyReused)
        .when(move_to(2, "b1", true).on_car(2))
        .then_rejected(BookingRejection::Unchanged);
}

#[test]
fn it_comes_back() {
    let world = moved().and([move_to(1, "b1", true).on_car(2)]);
    assert_eq!(world.booking("b1").car_id, car_id(1));
    assert_eq!(world.taken(2, "2027-01-01", "2027-01-03"), []);
    world
        .when(cancel("b1").on_car(2))
        .then_rejected(BookingRejection::MovedTo(car_id(1)))
        .when(cancel("b1"))
        .then(Status::Cancelled);
}

#[test]
fn it_moves_only_to_a_car_that_can_take_it() {
    let world = given([
        hold("b1", "2027-01-01", "2027-01-03"),
        hold("b2", "2027-01-03", "2027-01-05").on_car(2),
    ]);
    let before = world.clone();
    let taken = [("2027-01-03", Taken::Held(booking_id("b2")))];
    let world = world
        .when(move_to(2, "b1", true))
        .then_taken(&taken, Some(days("2027-01-06", "2027-01-08")))
        .when(move_to(2, "b3", true))
        .then_rejected(BookingRejection::NoSuchBooking);
    assert_eq!(world.calendars, before.calendars);
    world
        .and([cancel("b2").on_car(2)])
        .with_car(2, |car| car.prices = None)
        .when(move_to(2, "b1", true))
        .then_rejected(BookingRejection::NotBookable("it has no price yet"))
        .with_car(2, |car| car.archived = true)
        .when(move_to(2, "b1", true))
        .then_rejected(BookingRejection::NotBookable("it has left the fleet"));
}

#[test]
fn staff_move_it_to_a_car_that_is_not_shown() {
    given([hold("b1", "2027-01-01", "2027-01-03")])
        .with_car(2, |car| car.listed = false)
        .when(move_to(2, "b1", true))
        .then(Status::PendingPayment);
}
