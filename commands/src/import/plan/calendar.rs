//! Plan for days of cars.

use super::{
    BLOCKS, BOOKINGS, CellError, ImportCommand, Parents, Plan, Step, bookings::PlannedBooking,
    cars::PlannedCar, day, parse, row_ref,
};
use crate::{
    digest::derived_uuid,
    import::tables::{DayColumns, Row, RowRef, Tables, key},
};
use chrono::NaiveDate;
use exodrive_domain::{
    days::Days,
    id::{BlockId, CarId},
    value::Reason,
};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};

/// What a day of a car is.
enum Day<'a> {
    /// Free, as it is without the row.
    Available,
    /// Taken by a booking, with which it is counted.
    Booked(&'a PlannedBooking),
    /// Blocked.
    Maintenance,
}

/// Plans maintenance as blocks: consecutive days become one block. Days of
/// bookings follow from the bookings.
pub(super) fn plan_days(
    tables: &Tables,
    cars: &Parents<PlannedCar>,
    bookings: &Parents<PlannedBooking>,
    plan: &mut Plan,
) {
    let mut maintenance: BTreeMap<CarId, BTreeMap<NaiveDate, RowRef>> = BTreeMap::new();
    let mut first_of_day: HashMap<(CarId, NaiveDate), u64> = HashMap::new();
    for row in &tables.car_availability {
        let place = row_ref("car_availability", row);
        let read = read_place(&row.columns).and_then(|(car_id, date)| {
            let first = *first_of_day.entry((car_id, date)).or_insert(row.line);
            if first != row.line {
                return Err(format!("line {first} has the same day of the same car"));
            }
            Ok((car_id, date, read_day(row, (car_id, date), cars, bookings)?))
        });
        match read {
            Ok((_, _, Day::Available)) => plan.known.push(place),
            Ok((car_id, _, Day::Booked(booking))) => {
                let steps = plan.stages[BOOKINGS].get_mut(&car_id.to_string());
                if let Some(step) = steps.and_then(|steps| steps.get_mut(booking.place)) {
                    step.rows.push(place);
                }
            }
            Ok((car_id, date, Day::Maintenance)) => {
                maintenance.entry(car_id).or_default().insert(date, place);
            }
            Err(why) => plan.refuse("car_availability", row, &row.columns.id, why),
        }
    }
    let Ok(reason) = "Maintenance".parse::<Reason>() else { return };
    for (car_id, days) in maintenance {
        let car = cars.get(&car_id.to_string()).and_then(|car| car.as_ref().ok());
        for (days, rows) in ranges(days) {
            let reason = reason.clone();
            let step = block(car_id, (days, reason), rows, car);
            plan.push(BLOCKS, car_id.to_string(), step);
        }
    }
}

fn read_place(it: &DayColumns) -> Result<(CarId, NaiveDate), CellError> {
    let (car_id, date) = (parse("car_id", &it.car_id)?, day("date", &it.date)?);
    Days::inclusive(date, date).map_err(|error| error.to_string())?;
    Ok((car_id, date))
}

fn read_day<'a>(
    row: &Row<DayColumns>,
    (car_id, date): (CarId, NaiveDate),
    cars: &Parents<PlannedCar>,
    bookings: &'a Parents<PlannedBooking>,
) -> Result<Day<'a>, CellError> {
    let it = &row.columns;
    // A car that is in no file may be in this system: the decision says so.
    if let Some(Err(why)) = cars.get(&car_id.to_string()) {
        return Err(why.clone());
    }
    match (it.status.as_str(), &it.booking_id) {
        ("maintenance", _) => Ok(Day::Maintenance),
        ("available", _) => Ok(Day::Available),
        ("booked" | "pending_confirmation", Some(id)) => {
            let booking = bookings
                .get(&key(id))
                .ok_or_else(|| format!("bookings.csv has no booking {id}"))?
                .as_ref()?;
            if booking.car_id == car_id && booking.days.contains(date) {
                Ok(Day::Booked(booking))
            } else {
                Err(format!("is not a day of its booking {id}"))
            }
        }
        ("booked" | "pending_confirmation", None) => {
            Err("is booked, but has no booking".to_owned())
        }
        (other, _) => Err(format!("status is unknown: {other:?}")),
    }
}

/// Joins consecutive days.
fn ranges(days: BTreeMap<NaiveDate, RowRef>) -> Vec<(Days, Vec<RowRef>)> {
    let mut ranges: Vec<(Days, Vec<RowRef>)> = Vec::new();
    for (date, row) in days {
        let joined = ranges.last().filter(|(days, _)| days.until() == date);
        let joined = joined.and_then(|(days, _)| Days::inclusive(days.first(), date).ok());
        match (joined, ranges.last_mut()) {
            (Some(longer), Some((days, rows))) => {
                *days = longer;
                rows.push(row);
            }
            // Each day was read as a range of one day before.
            _ => ranges.extend(Days::inclusive(date, date).ok().map(|one| (one, vec![row]))),
        }
    }
    ranges
}

fn block(
    car_id: CarId,
    (days, reason): (Days, Reason),
    rows: Vec<RowRef>,
    car: Option<&PlannedCar>,
) -> Step {
    let (car_name, first) = (car_id.to_string(), days.first().to_string());
    let block_id = BlockId::from(derived_uuid(&["import", "block", &car_name, &first]));
    Step {
        id: format!("car_availability-{car_name}-{first}"),
        rows,
        needs: car.map(|car| ("car", car.added_by.clone())),
        part: None,
        source: json!([car_name, days]),
        happened_at: None,
        actor: None,
        command: ImportCommand::Block(car_id, block_id, days, reason),
    }
}
