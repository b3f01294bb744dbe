//! Plan for blocked days of cars.

use super::{BLOCKS, BOOKINGS, ImportCommand, Plan, Rows, Step, parse, problem};
use crate::{
    digest::derived_uuid,
    import::tables::{DayColumns, Row, Tables},
};
use chrono::NaiveDate;
use exodrive_domain::{
    days::Days,
    id::{BlockId, CarId},
};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};

/// Plans maintenance as blocks: consecutive days become one block. Days of
/// bookings follow from the bookings.
pub(super) fn plan_blocks(
    tables: &Tables,
    cars_of: &HashMap<String, (CarId, Days)>,
    plan: &mut Plan,
) {
    let mut maintenance: BTreeMap<&str, BTreeMap<NaiveDate, &Row<DayColumns>>> = BTreeMap::new();
    for row in &tables.car_availability {
        let it = &row.columns;
        let refuse = |plan: &mut Plan, why: String| {
            plan.problems.push(problem("car_availability", row.line, &it.id, why));
        };
        let date: NaiveDate = match parse("date", &it.date) {
            Ok(date) => date,
            Err(why) => {
                refuse(plan, why);
                continue;
            }
        };
        match (it.status.as_str(), &it.booking_id) {
            ("maintenance", _) => {
                maintenance.entry(&it.car_id).or_default().insert(date, row);
            }
            ("available", _) => {
                let why = "a day is available unless a row says otherwise";
                plan.remarks.push(problem("car_availability", row.line, &it.id, why));
            }
            ("booked" | "pending_confirmation", Some(booking_id)) => {
                match cars_of.get(booking_id) {
                    Some((car_id, days))
                        if days.contains(date) && car_id.to_string() == it.car_id =>
                    {
                        // The day is counted with its booking.
                        let about = it.car_id.clone();
                        let steps = plan.stages[BOOKINGS].get_mut(&about);
                        let id = format!("bookings-{booking_id}");
                        let step = steps.and_then(|it| it.iter_mut().find(|step| step.id == id));
                        if let Some(step) = step {
                            step.rows.push(("car_availability", row.line, it.id.clone()));
                        }
                    }
                    Some(_) => refuse(plan, format!("is not a day of its booking {booking_id}")),
                    None => refuse(plan, format!("its booking {booking_id} was not taken")),
                }
            }
            ("booked" | "pending_confirmation", None) => {
                refuse(plan, "is booked, but has no booking".to_owned());
            }
            (other, _) => refuse(plan, format!("status is unknown: {other:?}")),
        }
    }
    for (car_id, days) in maintenance {
        plan_block(car_id, &days, plan);
    }
}

fn plan_block(car_id: &str, days: &BTreeMap<NaiveDate, &Row<DayColumns>>, plan: &mut Plan) {
    let mut ranges: Vec<Vec<(NaiveDate, &Row<DayColumns>)>> = Vec::new();
    for (date, row) in days {
        match ranges.last_mut() {
            Some(range) if range.last().and_then(|last| last.0.succ_opt()) == Some(*date) => {
                range.push((*date, row));
            }
            _ => ranges.push(vec![(*date, row)]),
        }
    }
    for range in ranges {
        let rows: Rows = range
            .iter()
            .map(|(_, row)| ("car_availability", row.line, row.columns.id.clone()))
            .collect();
        let (Some((first, _)), Some((last, _))) = (range.first(), range.last()) else { continue };
        let (Ok(car), Ok(days)) = (car_id.parse(), Days::inclusive(*first, *last)) else {
            for (table, line, id) in rows {
                plan.problems.push(problem(table, line, &id, "car_id or date cannot be read"));
            }
            continue;
        };
        let first = first.to_string();
        let block_id = BlockId::from(derived_uuid(&["import", "block", car_id, &first]));
        let reason = "Maintenance".to_owned();
        let step = Step {
            id: format!("car_availability-{car_id}-{first}"),
            rows,
            source: json!([car_id, days]),
            happened_at: None,
            actor: None,
            command: ImportCommand::Block(car, block_id, days, reason),
        };
        plan.push(BLOCKS, car_id.to_owned(), step);
    }
}
