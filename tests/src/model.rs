//! A model of who has which days, against which the tests check the log of
//! bookings.

use chrono::NaiveDate;
use exodrive_domain::Recorded;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The taken days of each car, folded from the stored events, apart from the
/// code that decides.
#[derive(Clone, Debug, Default)]
pub struct Holders {
    /// The taken days by car, then by booking or block.
    pub days: BTreeMap<String, BTreeMap<String, BTreeSet<NaiveDate>>>,
    /// Blocks that were forced over a booking.
    forced: BTreeSet<(String, String)>,
}

impl Holders {
    /// Folds events. Fails as soon as a day is taken twice, or a booking moved
    /// on one car and not on the other.
    #[track_caller]
    pub fn of(events: &[Recorded]) -> Self {
        let mut all = Self::default();
        let mut left: Option<(u64, Value)> = None;
        for recorded in events {
            if !recorded.subject.starts_with("exo.booking.") {
                continue;
            }
            let body: Value = serde_json::from_slice(&recorded.body).unwrap();
            let kind = recorded.envelope.kind.as_str();
            if let Some((position, out)) = left.take() {
                let both = kind == "exodrive.booking.moved_in"
                    && position + 1 == recorded.position
                    && body["booking_id"] == out["booking_id"]
                    && body["car_id"] == out["to_car_id"];
                assert!(both, "half a move at {position}: {out}, then {kind} {body}");
            } else {
                assert_ne!(kind, "exodrive.booking.moved_in", "half a move: {body}");
            }
            if kind == "exodrive.booking.moved_out" {
                left = Some((recorded.position, body.clone()));
            }
            all.learn(kind, &body, recorded.position);
        }
        assert!(left.is_none(), "half a move: {left:?}");
        all
    }

    fn learn(&mut self, kind: &str, body: &Value, position: u64) {
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        let (car, days) = (text("car_id"), self.days.entry(text("car_id")).or_default());
        let (id, range) = match kind {
            "exodrive.calendar.blocked" => (text("block_id"), &body["days"]),
            "exodrive.calendar.unblocked" => (text("block_id"), &Value::Null),
            _ => (text("booking_id"), &body["occupies"]),
        };
        for over in body["forced_over"].as_array().into_iter().flatten() {
            self.forced.insert((id.clone(), over.as_str().unwrap().to_owned()));
        }
        days.remove(&id);
        let now = dates(range);
        for (other, theirs) in &*days {
            let pair = |a: &String, b: &String| self.forced.contains(&(a.clone(), b.clone()));
            if pair(&id, other) || pair(other, &id) {
                continue;
            }
            let twice = now.intersection(theirs).next();
            assert_eq!(twice, None, "{id} and {other} of {car} at {position}");
        }
        if !now.is_empty() {
            days.insert(id, now);
        }
    }

    /// The taken days of a car.
    pub fn taken(&self, car: &str) -> BTreeSet<NaiveDate> {
        self.days.get(car).into_iter().flat_map(BTreeMap::values).flatten().copied().collect()
    }
}

fn dates(range: &Value) -> BTreeSet<NaiveDate> {
    if range.is_null() {
        return BTreeSet::new();
    }
    let date = |name: &str| range[name].as_str().unwrap().parse::<NaiveDate>().unwrap();
    let (from, until) = (date("from"), date("until"));
    from.iter_days().take_while(|day| *day < until).collect()
}

/// The number of bookings that were made, by the log.
pub fn bookings_in(events: &[Recorded]) -> usize {
    events.iter().filter(|event| event.envelope.kind == "exodrive.booking.held").count()
}
