//! The calendars of two cars against a naive model of them: for each car a map
//! from the day to who has it.

use super::*;
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use std::{cell::RefCell, collections::BTreeSet};

/// The number of days in which all bookings are.
const SPAN: u64 = 24;

#[derive(Clone, Debug)]
enum Attempt {
    Hold { car: u128, days: Days },
    Cancel(usize),
    Expire(usize),
    Reschedule(usize, Days),
    Extend(usize, u64),
    PickUp(usize),
    Return(usize, u64),
    Move(usize),
    Block { car: u128, days: Days, force: bool },
    Unblock(usize),
}

impl Attempt {
    fn name(&self) -> &'static str {
        match self {
            Self::Hold { .. } => "hold",
            Self::Cancel(_) => "cancel",
            Self::Expire(_) => "expire",
            Self::Reschedule(..) => "reschedule",
            Self::Extend(..) => "extend",
            Self::PickUp(_) => "pick up",
            Self::Return(..) => "return",
            Self::Move(_) => "move",
            Self::Block { force: false, .. } => "block",
            Self::Block { force: true, .. } => "forced block",
            Self::Unblock(_) => "unblock",
        }
    }
}

fn any_range() -> impl Strategy<Value = Days> {
    (0..SPAN, 0..6_u64).prop_map(|(start, more)| {
        let first = day("2027-01-01") + chrono::Days::new(start);
        Days::inclusive(first, first + chrono::Days::new(more)).unwrap()
    })
}

fn any_attempt() -> impl Strategy<Value = Attempt> {
    let (which, car) = (|| 0..16_usize, || 1..=2_u128);
    prop_oneof![
        6 => (car(), any_range()).prop_map(|(car, days)| Attempt::Hold { car, days }),
        1 => which().prop_map(Attempt::Cancel),
        1 => which().prop_map(Attempt::Expire),
        2 => (which(), any_range()).prop_map(|(which, days)| Attempt::Reschedule(which, days)),
        2 => (which(), 1..4_u64).prop_map(|(which, more)| Attempt::Extend(which, more)),
        2 => which().prop_map(Attempt::PickUp),
        2 => (which(), 0..6_u64).prop_map(|(which, after)| Attempt::Return(which, after)),
        2 => which().prop_map(Attempt::Move),
        3 => (car(), any_range(), any::<bool>())
            .prop_map(|(car, days, force)| Attempt::Block { car, days, force }),
        1 => which().prop_map(Attempt::Unblock),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Held,
    Out,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Booking(usize),
    Block(usize),
}

/// The calendars that the test expects.
#[derive(Debug, Default)]
struct Model {
    taken: [BTreeMap<NaiveDate, BTreeSet<Who>>; 2],
    bookings: Vec<(u128, Days, Phase)>,
    blocks: Vec<(u128, bool)>,
}

impl Model {
    fn free(&self, car: u128, days: Days, except: Option<Who>) -> bool {
        let taken = &self.taken[place(car)];
        let free =
            |day| taken.get(&day).is_none_or(|all| all.iter().all(|who| Some(*who) == except));
        days.iter().all(free)
    }

    fn blocked(&self, car: u128, days: Days) -> bool {
        let blocked = |day| {
            let all = self.taken[place(car)].get(&day);
            all.is_some_and(|all| all.iter().any(|who| matches!(who, Who::Block(_))))
        };
        days.iter().any(blocked)
    }

    fn give(&mut self, car: u128, days: Days, who: Who) {
        for day in days.iter() {
            self.taken[place(car)].entry(day).or_default().insert(who);
        }
    }

    fn free_after(&mut self, who: Who, last: Option<NaiveDate>) {
        for (day, all) in self.taken.iter_mut().flatten() {
            if last.is_none_or(|last| *day > last) {
                all.remove(&who);
            }
        }
    }
}

fn booking_name(number: usize) -> String {
    format!("b{number}")
}

fn block_name(number: usize) -> String {
    format!("m{number}")
}

/// Noon of a day, in New York.
fn noon(day: NaiveDate) -> Option<DateTime<Utc>> {
    Some(time(&format!("{day}T17:00:00Z")))
}

struct Run {
    world: World,
    model: Model,
}

impl Run {
    /// Executes the attempt in the world and in the model. Returns true beside
    /// the step if the model accepts it; `None` if there is no target for it.
    fn expect(&mut self, attempt: &Attempt) -> Option<(Step, bool)> {
        let model = &mut self.model;
        let count = model.bookings.len();
        let booking = |which: usize| (count > 0).then(|| which % count);
        Some(match *attempt {
            Attempt::Hold { car, days } => {
                let possible = model.free(car, days, None);
                let name = booking_name(count);
                if possible {
                    model.give(car, days, Who::Booking(count));
                    model.bookings.push((car, days, Phase::Held));
                }
                let new = BookingCommand::Hold(new_booking(&name, days));
                let step = Step::new(Command::Booking(new)).on_car(car);
                (Step { at: noon(day("2026-12-01")), ..step }, possible)
            }
            Attempt::Cancel(which) | Attempt::Expire(which) => {
                let number = booking(which)?;
                let (car, _, phase) = model.bookings[number];
                let possible = phase == Phase::Held;
                if possible {
                    model.bookings[number].2 = Phase::Over;
                    model.free_after(Who::Booking(number), None);
                }
                let name = booking_name(number);
                let cancelled = matches!(attempt, Attempt::Cancel(_));
                let step = if cancelled { cancel(&name) } else { expire(&name) };
                let at = noon(day("2026-12-02"));
                (Step { at, ..step.on_car(car) }, possible)
            }
            Attempt::Reschedule(which, days) => {
                let number = booking(which)?;
                let (car, before, phase) = model.bookings[number];
                let who = Who::Booking(number);
                let possible =
                    phase == Phase::Held && days != before && model.free(car, days, Some(who));
                if possible {
                    model.free_after(who, None);
                    model.give(car, days, who);
                    model.bookings[number].1 = days;
                }
                let act_of =
                    BookingAction::Reschedule { days, choices: None, expected_total_cents: None };
                (act(&booking_name(number), act_of).on_car(car), possible)
            }
            Attempt::Extend(which, more) => {
                let number = booking(which)?;
                let (car, before, phase) = model.bookings[number];
                let who = Who::Booking(number);
                let last = before.last() + chrono::Days::new(more);
                let days = Days::inclusive(before.first(), last).unwrap();
                let possible = phase != Phase::Over && model.free(car, days, Some(who));
                if possible {
                    model.give(car, days, who);
                    model.bookings[number].1 = days;
                }
                let act_of = BookingAction::Extend { last, expected_total_cents: None };
                (act(&booking_name(number), act_of).on_car(car), possible)
            }
            Attempt::PickUp(which) => {
                let number = booking(which)?;
                let (car, days, phase) = model.bookings[number];
                let (name, possible) = (booking_name(number), phase == Phase::Held);
                if possible {
                    model.bookings[number].2 = Phase::Out;
                    let world = &mut self.world;
                    for step in [authorize(&name), send(&name), sign(&name)] {
                        assert_eq!(world.take(&step.on_car(car)), Ok(()));
                    }
                }
                (Step { at: noon(days.first()), ..pick_up(&name).on_car(car) }, possible)
            }
            Attempt::Return(which, after) => {
                let number = booking(which)?;
                let (car, days, phase) = model.bookings[number];
                let possible = phase == Phase::Out;
                let on = days.first() + chrono::Days::new(after);
                if possible {
                    model.bookings[number].2 = Phase::Over;
                    model.free_after(Who::Booking(number), Some(on));
                }
                let step = give_back(&booking_name(number), None).on_car(car);
                (Step { at: noon(on), ..step }, possible)
            }
            Attempt::Move(which) => {
                let number = booking(which)?;
                let (car, days, phase) = model.bookings[number];
                let to = 3 - car;
                let possible = phase == Phase::Held && model.free(to, days, None);
                if possible {
                    model.free_after(Who::Booking(number), None);
                    model.give(to, days, Who::Booking(number));
                    model.bookings[number].0 = to;
                }
                (move_to(to, &booking_name(number), true).on_car(car), possible)
            }
            Attempt::Block { car, days, force } => {
                let number = model.blocks.len();
                let free = model.free(car, days, None);
                let possible = free || force && !model.blocked(car, days);
                if possible {
                    model.give(car, days, Who::Block(number));
                    model.blocks.push((car, true));
                }
                let (block, reason) = (block_id(&block_name(number)), text("maintenance"));
                (Step::new(Command::Block { block, days, reason, force }).on_car(car), possible)
            }
            Attempt::Unblock(which) => {
                let count = model.blocks.len();
                let number = (count > 0).then(|| which % count)?;
                let (car, possible) = model.blocks[number];
                model.blocks[number].1 = false;
                model.free_after(Who::Block(number), None);
                (unblock(&block_name(number)).on_car(car), possible)
            }
        })
    }

    fn agrees(&self, range: Days) -> Result<(), TestCaseError> {
        for (calendar, taken) in self.world.calendars.iter().zip(&self.model.taken) {
            let named = |who: &Who| match *who {
                Who::Booking(number) => {
                    let id = booking_id(&booking_name(number));
                    match calendar.bookings.get(&id).map(|booking| booking.status) {
                        Some(Status::PendingPayment) => Taken::Held(id),
                        _ => Taken::Booked(id),
                    }
                }
                Who::Block(number) => Taken::Blocked(block_id(&block_name(number))),
            };
            let mut expected: Vec<_> = range
                .iter()
                .filter_map(|date| Some((date, taken.get(&date)?)))
                .flat_map(|(date, all)| all.iter().map(move |who| (date, who)))
                .map(|(date, who)| TakenDay { date, by: named(who) })
                .collect();
            expected.sort_unstable();
            prop_assert_eq!(calendar.taken(range, None), expected);

            let has = |day| taken.get(&day).is_some_and(|all: &BTreeSet<Who>| !all.is_empty());
            let free = |days: &Days| !days.iter().any(has);
            let later = range.first().iter_days().filter_map(|first| range.beginning(first));
            prop_assert_eq!(calendar.next_free(range, None), later.into_iter().find(free));

            for all in taken.values() {
                let bookings = all.iter().filter(|who| matches!(who, Who::Booking(_))).count();
                prop_assert!(bookings <= 1 && all.len() - bookings <= 1);
            }
        }
        Ok(())
    }
}

/// Counts of accepted and rejected commands, by command.
type Tally = BTreeMap<&'static str, [u32; 2]>;

fn run(attempts: &[(Attempt, Days)], tally: &RefCell<Tally>) -> Result<(), TestCaseError> {
    let mut run = Run { world: given([]), model: Model::default() };
    for (attempt, range) in attempts {
        let Some((step, possible)) = run.expect(attempt) else { continue };
        let result = run.world.take(&step);
        prop_assert_eq!(result.is_ok(), possible, "{:?}: {:?}", step, result);
        if let Err(BookingRejection::DaysTaken { taken, .. }) = &result {
            prop_assert!(!taken.is_empty());
        }
        run.agrees(*range)?;
        tally.borrow_mut().entry(attempt.name()).or_default()[usize::from(possible)] += 1;
    }
    Ok(())
}

#[test]
fn the_calendar_is_a_map_from_day_to_who_has_it() {
    let tally = RefCell::new(Tally::new());
    let attempts = prop::collection::vec((any_attempt(), any_range()), 1..60);
    let config = Config { cases: 500, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&attempts, |attempts| run(&attempts, &tally));
    if let Err(failure) = result {
        panic!("{failure}");
    }
    let tally = tally.into_inner();
    assert_eq!(tally.len(), 11, "{tally:?}");
    for (name, [refused, accepted]) in &tally {
        assert!(*refused >= 20 && *accepted >= 20, "{name} was not tried enough: {tally:?}");
    }
}
