//! The price that is charged is the price that was quoted.

use super::*;
use crate::price::{
    quote,
    tests::{any_days, any_prices},
};
use proptest::prelude::*;

/// The quote in the newest event.
fn charged(world: &World) -> Quote {
    match world.newest.as_slice() {
        [Payload::Booking(BookingEvent { change, .. })] => match change {
            BookingChange::Held { quote, .. }
            | BookingChange::Rescheduled { quote, .. }
            | BookingChange::Extended { quote, .. } => quote.clone(),
            other => panic!("{other:?} has no price"),
        },
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn the_quote_is_charged_after_any_later_price_list(
        lists in prop::array::uniform3(any_prices()),
        [first, second] in prop::array::uniform2(any_days()),
        (chosen, here, by) in (any::<bool>(), any::<bool>(), 1..60_u64),
    ) {
        let mut lists = lists;
        // Every list has the chosen fees, so that all can price them.
        let fees = lists[0].fees.clone();
        for (version, list) in (1..).zip(&mut lists) {
            list.version = version;
            list.fees.clone_from(&fees);
        }
        let [by_first, by_second, by_third] = &lists;
        let choices = Choices {
            fees: by_first.fees.iter().filter(|_| chosen).map(|fee| fee.id.clone()).collect(),
            pick_up: here.then(|| "here".to_owned()),
            drop_off: None,
        };
        let held = BookingCommand::Hold(NewBooking {
            choices: valid(choices.clone()), ..new_booking("b1", first)
        });
        let priced = |world: World, list: &PriceList| {
            world.with_car(1, |car| car.prices = Some(list.clone()))
        };

        let agreed = quote(by_first, first, &choices).unwrap();
        let held = Step::new(Command::Booking(held)).shown(agreed.total_cents);
        let world = priced(given([]), by_first).and([held]);
        prop_assert_eq!(&charged(&world), &agreed);
        prop_assert_eq!(&world.booking("b1").quote, &agreed);

        // A booking that costs nothing needs no payment.
        let paid = (agreed.total_cents > 0).then(|| authorize("b1"));
        let world = paid.into_iter().fold(priced(world, by_second), |world, paid| world.and([paid]));
        let world = world.and([send("b1")]);
        prop_assert_eq!(&world.booking("b1").quote, &agreed);
        let world = priced(world, by_third).and([move_to(2, "b1", true)]);
        prop_assert_eq!(&world.booking("b1").quote, &agreed);
        let world = priced(world.and([move_to(1, "b1", true).on_car(2)]), by_second);

        prop_assume!(first != second);
        let agreed = quote(by_second, second, &choices).unwrap();
        let other = BookingAction::Reschedule { days: second, choices: None, expected_total_cents: Some(agreed.total_cents) };
        let world = world.and([act("b1", other)]);
        prop_assert_eq!(&charged(&world), &agreed);
        prop_assert_eq!(&world.booking("b1").quote, &agreed);

        let last = second.last() + chrono::Days::new(by);
        let longer = Days::inclusive(second.first(), last).unwrap();
        let agreed = quote(by_third, longer, &choices).unwrap();
        let extended = BookingAction::Extend { last, expected_total_cents: Some(agreed.total_cents) };
        let world = priced(world, by_third).and([act("b1", extended)]);
        prop_assert_eq!(&charged(&world), &agreed);
        prop_assert_eq!(&world.booking("b1").quote, &agreed);
        prop_assert_eq!(world.booking("b1").days, longer);
    }
}
