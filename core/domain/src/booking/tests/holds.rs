//! What each event says about the hold of its booking. That those effects, one
//! after another, come to the holds of the calendars is asserted after every
//! step of every story.

use super::{
    stories::{held, imported},
    *,
};

const ENDS: &str = "2026-12-01T18:00:00Z";

/// The effects of the newest events.
fn updates(world: &World) -> Vec<HoldUpdate> {
    let of = |payload: &Payload| match payload {
        Payload::Booking(event) => HoldUpdate::of(event),
        _ => panic!("no event of a booking"),
    };
    world.newest.iter().map(of).collect()
}

fn opened(car: u128, ends_at: &str) -> HoldUpdate {
    HoldUpdate::Opened { car_id: car_id(car), ends_at: time(ends_at) }
}

#[test]
fn given_nothing_when_days_are_held_then_a_hold_is_open_until_its_end() {
    let world = given([])
        .when(hold("b1", "2027-01-01", "2027-01-03").on_car(2))
        .then(Status::PendingPayment);
    assert_eq!(updates(&world), [opened(2, ENDS)]);
}

#[test]
fn given_a_hold_when_it_is_paid_or_ends_then_it_is_over() {
    for (step, status) in [
        (authorize("b1"), Status::PendingContract),
        (capture("b1", None), Status::PendingContract),
        (cancel("b1"), Status::Cancelled),
        (expire("b1").at(ENDS), Status::Expired),
    ] {
        let world = held().when(step).then(status);
        assert_eq!(updates(&world), [HoldUpdate::Over], "{status}");
        assert_eq!(world.holds, BTreeMap::new());
    }
}

#[test]
fn given_a_hold_when_anything_else_changes_then_it_stays() {
    for step in [
        act("b1", BookingAction::FailPayment { reason: None }),
        send("b1"),
        reschedule("b1", "2027-02-01", "2027-02-02"),
        extend("b1", "2027-01-05"),
        act("b1", BookingAction::AddNote { text: text(SECRET) }),
    ] {
        let world = held().when(step).then(Status::PendingPayment);
        assert_eq!(updates(&world), [HoldUpdate::Unchanged]);
        assert_eq!(world.holds[&booking_id("b1")], (car_id(1), time(ENDS)));
    }
}

#[test]
fn given_a_hold_when_it_moves_then_it_is_over_here_and_open_there() {
    let world = held().when(move_to(2, "b1", true)).then(Status::PendingPayment);
    assert_eq!(updates(&world), [HoldUpdate::Over, opened(2, ENDS)]);
}

#[test]
fn given_a_paid_booking_when_it_moves_then_no_hold_is_open() {
    let world = held().and([authorize("b1")]).when(move_to(2, "b1", true));
    let world = world.then(Status::PendingContract);
    assert_eq!(updates(&world), [HoldUpdate::Over, HoldUpdate::Over]);
}

#[test]
fn given_an_unpaid_booking_that_is_imported_then_its_hold_is_open_if_it_has_one() {
    let unpaid =
        || imported(Status::PendingPayment, PaymentStatus::Pending, ContractStatus::NotSent);
    let world = given([]).when(unpaid()).then(Status::PendingPayment);
    assert_eq!(updates(&world), [HoldUpdate::Over]);
    let mut held = unpaid();
    if let Command::Booking(BookingCommand::Import(import)) = &mut held.command {
        import.hold_expires_at = Some(time(ENDS));
    }
    let world = given([]).when(held).then(Status::PendingPayment);
    assert_eq!(updates(&world), [opened(1, ENDS)]);
}
