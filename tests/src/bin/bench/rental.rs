//! Cars and bookings to measure with: plausible ones, of the size of real ones.

use crate::{Failure, mail::uuid, system::append_all};
use chrono::{Days as Count, NaiveDate, Utc};
use exodrive_domain::{
    DECISION_VERSION, Envelope, Subject,
    booking::{BookingChange, BookingEvent},
    days::Days,
    fleet::{FleetChange, FleetEvent, NamedText, Profile},
    id::CarId,
    price::{Fee, Location, LocationFee, Peak, PriceList},
};
use exodrive_log::{Log, NewEvent};
use serde_json::{Value, json};

/// The categories of the fleet.
pub(crate) const CATEGORIES: [&str; 5] =
    ["Supercar", "Convertible", "SUV", "Grand Tourer", "Sedan"];
/// The features of cars: each has some.
pub(crate) const FEATURES: [&str; 8] = [
    "Carbon brakes",
    "Lift system",
    "Sport exhaust",
    "Heated seats",
    "Apple CarPlay",
    "Night vision",
    "Panoramic roof",
    "Rear axle steering",
];
/// The makers of the cars.
pub(crate) const MAKERS: [&str; 8] = [
    "Ferrari",
    "Lamborghini",
    "Porsche",
    "McLaren",
    "Bentley",
    "Aston Martin",
    "Maserati",
    "Lotus",
];

/// A day after today, where every car's today has come.
pub(crate) fn day(n: u64) -> NaiveDate {
    Utc::now().date_naive() + Count::new(2 + n)
}

/// The n-th car of a fleet, added, priced and listed.
fn car(n: usize) -> Result<(CarId, [NewEvent; 3]), Failure> {
    let car_id: CarId = uuid().parse()?;
    let maker = MAKERS[n % MAKERS.len()];
    let text = |name: &str, text: &str| NamedText {
        name: name.to_owned(),
        text: text.to_owned(),
        highlighted: false,
    };
    let features = FEATURES.iter().enumerate().filter(|(at, _)| !(n + at).is_multiple_of(3));
    let profile = Profile {
        name: format!("{maker} Modello {n}"),
        category: CATEGORIES[(n / 3) % CATEGORIES.len()].to_owned(),
        description: "A car that is rented by the day, with the whole of its history at the desk. "
            .repeat(6),
        short_description: format!("{maker} of the year {}", 2018 + n % 8),
        specifications: vec![
            text("Top speed", "325 km/h"),
            text("Power", "654 hp"),
            text("0 to 100 km/h", "2.9 s"),
        ],
        features: features.map(|(_, name)| text(name, "On board and in order")).collect(),
        time_zone: "Europe/Berlin".to_owned(),
    };
    let location = |id: &str, cents| Location {
        id: id.to_owned(),
        name: format!("At {id}"),
        pick_up: LocationFee { fixed_cents: cents, basis_points: 0 },
        drop_off: LocationFee { fixed_cents: cents, basis_points: 0 },
    };
    let prices = PriceList {
        version: 1,
        currency: "EUR".to_owned(),
        base_per_day_cents: 40_000 + i64::try_from(n * 7_919 % 260_000)?,
        minimum_days: 1,
        fees: vec![Fee {
            id: "insurance".to_owned(),
            name: "Insurance".to_owned(),
            amount_cents: 9_900,
            mandatory: true,
        }],
        peaks: vec![Peak {
            name: "Weekend".to_owned(),
            weekdays: [0, 6].into(),
            days: None,
            multiplier_basis_points: 12_500,
        }],
        locations: vec![location("desk", 0), location("airport", 15_000)],
        one_way_fee_cents: 25_000,
        tax_basis_points: 1_900,
        ..PriceList::default()
    };
    let slug = format!("car-{n}-{}", &uuid()[..8]);
    let changes = [
        FleetChange::Added { slug, profile },
        FleetChange::Priced { prices },
        FleetChange::Listed {},
    ];
    let event = |change: FleetChange| {
        let kind = change.kind();
        let event = FleetEvent { car_id, request_hash: None, change };
        Ok::<_, Failure>(new_event(Subject::Fleet(car_id), kind, serde_json::to_vec(&event)?))
    };
    let [added, priced, listed] = changes.map(event);
    Ok((car_id, [added?, priced?, listed?]))
}

/// Appends a fleet of this number of cars.
pub(crate) async fn fleet(log: &Log, cars: usize) -> Result<Vec<CarId>, Failure> {
    let cars = (0..cars).map(car).collect::<Result<Vec<_>, _>>()?;
    // Events on their way at once may change places: all are added, then all
    // are priced.
    for step in 0..3 {
        let events: Vec<_> = cars.iter().map(|(_, events)| events[step].clone()).collect();
        append_all(log, &events).await?;
    }
    Ok(cars.into_iter().map(|(id, _)| id).collect())
}

/// The body of `POST /v1/bookings`.
pub(crate) fn request(car_id: CarId, first: NaiveDate, last: NaiveDate) -> Value {
    let n: u32 = rand::random();
    json!({
        "car_id": car_id.to_string(),
        "start_date": first,
        "end_date": last,
        "customer": {
            "email": format!("guest.{n}@example.com"),
            "first_name": "Erika",
            "last_name": "Mustermann",
            "phone": "+49 30 901820",
        },
        "pick_up": "airport",
    })
}

/// The same booking again: another one, of these days of a car.
pub(crate) fn again(like: &BookingEvent, car_id: CarId, days: Days) -> Result<NewEvent, Failure> {
    let mut event =
        BookingEvent { booking_id: uuid().parse()?, car_id, occupies: Some(days), ..like.clone() };
    let BookingChange::Held { days: held, .. } = &mut event.change else {
        return Err("not a booking that was made".into());
    };
    *held = days;
    let kind = event.change.kind();
    Ok(new_event(Subject::Booking(car_id), kind, serde_json::to_vec(&event)?))
}

fn new_event(subject: Subject, kind: &str, body: Vec<u8>) -> NewEvent {
    NewEvent {
        subject,
        envelope: Envelope {
            id: uuid(),
            kind: kind.to_owned(),
            version: DECISION_VERSION,
            source: "exodrive".to_owned(),
            time: Utc::now(),
            traceparent: None,
            causation: None,
            correlation: None,
            actor: Some("admin:bench".to_owned()),
        },
        provider_headers: Vec::new(),
        body: body.into(),
    }
}
