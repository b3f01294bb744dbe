//! Bookings through the whole API: on many cars, on one that every client
//! books, and the delay until its calendar shows one.

use crate::{
    Failure, Scale,
    catch_up::until_at,
    load::{self, Connection, Load, Outcome, Requests},
    mail::uuid,
    raw::Raw,
    rental,
    report::{Detail, Row, Series, Target},
    system::{System, Watch, append_all, get, post, progress, stop},
};
use bytes::Bytes;
use chrono::Days as Count;
use exodrive_domain::{Payload, booking::BookingEvent, days::Days, decode, id::CarId};
use exodrive_log::Log;
use exodrive_runtime::services::SyncMode;
use rand::RngExt;
use sqlx::postgres::PgPoolOptions;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// The longest wait for a calendar.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);
/// The season, in days, in which all bookings of the hot car are.
const SEASON: u64 = 180;
/// The longest rental of the hot car.
const LONGEST: u64 = 7;

/// A system that takes bookings, and the size of one in its log.
struct BookingLoad {
    system: System,
    log: Log,
    raw: Raw,
    like: Box<BookingEvent>,
    body: Bytes,
}

impl BookingLoad {
    async fn open(sync: SyncMode) -> Result<Self, Failure> {
        let mut system = System::start(sync).await?;
        let database = system.database().to_owned();
        system.migrate(&database).await?;
        system.serve(&database).await?;
        let (log, raw) = (system.log().await?, Raw::connect(&system).await?);
        let cars = rental::fleet(&log, 1).await?;
        let car_id = *cars.first().ok_or("no car")?;
        let request =
            post("/v1/bookings", &rental::request(car_id, rental::day(0), rental::day(2)));
        let requests = Requests { bytes: Arc::new(vec![request]), again: false };
        let only = Load { in_flight: 1, statuses: &[201], mark: None };
        load::http(system.address, requests, WAIT_TIMEOUT, only).await?;
        let booked =
            log.read_event(log.last_position().await?).await?.ok_or("no event of a booking")?;
        let Payload::Booking(like) = decode(&booked)? else {
            return Err("the last event is not the booking's".into());
        };
        Ok(Self { system, log, raw, like: Box::new(like), body: booked.body })
    }

    /// A round of requests; every 201 must have stored an event, and no other
    /// answer may have.
    async fn round(
        &self,
        round: Duration,
        requests: Vec<Vec<u8>>,
        statuses: &'static [u16],
    ) -> Result<Outcome, Failure> {
        let requests = Requests { bytes: Arc::new(requests), again: false };
        let before = self.log.last_position().await?;
        let load = Load { statuses, ..Load::default() };
        let outcome = load::http(self.system.address, requests, round, load).await?;
        let stored = self.log.last_position().await? - before;
        let made = outcome.statuses.get(&201).copied().unwrap_or_default();
        if stored != made as u64 {
            return Err(format!("{made} bookings made, {stored} events stored").into());
        }
        Ok(outcome)
    }
}

/// Measures bookings of free days on many cars.
pub(crate) async fn many_cars(sync: SyncMode, scale: Scale) -> Result<Row, Failure> {
    let name = match sync {
        SyncMode::Always | SyncMode::Unchecked => "bookings on many cars, sync always",
        SyncMode::Default => "bookings on many cars, sync default",
    };
    progress(&format!("{name}: starting a system"));
    let load_test = BookingLoad::open(sync).await?;
    let cars = rental::fleet(&load_test.log, scale.cars).await?;
    let mut next = 0;
    let mut requests = |most: usize| -> Vec<_> {
        let request = |n: usize| {
            let day = rental::day((n / cars.len()) as u64);
            post("/v1/bookings", &rental::request(cars[n % cars.len()], day, day))
        };
        let made = (next..next + most).map(request).collect();
        // The rest of a round's days stays free.
        next = (next + most).next_multiple_of(cars.len());
        made
    };
    let subjects =
        || -> Vec<_> { cars.iter().map(|_| format!("raw.booking.{}", uuid())).collect() };
    let enough = |rate: f64| (rate * scale.round.as_secs_f64() * 1.5) as usize + 500;

    let (mut figure, mut ceiling) = (Series::default(), Series::default());
    let (mut made, mut published, mut cpu) = (Outcome::default(), Outcome::default(), Vec::new());
    // Every car's state is loaded once before it counts.
    load_test.round(WAIT_TIMEOUT, requests(cars.len()), &[201]).await?;
    let mut expected = load_test.round(scale.round / 4, requests(2_000), &[201]).await?.rate();
    let watch = Watch::begin();
    for round in 1..=scale.booking_rounds() {
        let outcome = load_test.raw.round_over(scale.round, &subjects(), &load_test.body).await?;
        ceiling.add(outcome.rate());
        published.add(outcome);

        let requests = requests(enough(expected));
        let before = load_test.system.cpu();
        let outcome = load_test.round(scale.round, requests, &[201]).await?;
        cpu.push(load_test.system.cpu().since(&before, outcome.count()));
        figure.add(outcome.rate());
        expected = expected.max(outcome.rate());
        made.add(outcome);
        progress(&format!(
            "{name}: round {round} of {}: {:.0}/s, raw publish {:.0}/s",
            scale.booking_rounds(),
            figure.last(),
            ceiling.last()
        ));
    }
    let mut details = latencies(&made, &published);
    details.push(Detail::new("cars", cars.len() as f64, ""));
    details.push(Detail::new("event", load_test.body.len() as f64, "B"));
    details.extend(Detail::cpu(&cpu));
    Ok(Row {
        name: name.to_owned(),
        figure,
        ceiling_name: "raw guarded publish".to_owned(),
        ceiling,
        target: Target::Ratio(0.4),
        others: watch.others(),
        details,
    })
}

/// Any days of one car, once without a past and once with a long one.
pub(crate) async fn hot_car(scale: Scale) -> Result<Vec<Row>, Failure> {
    progress("one hot car: starting a system");
    let load_test = BookingLoad::open(SyncMode::Always).await?;
    let mut rows = Vec::new();
    for history in [0, scale.history] {
        rows.push(hot(&load_test, history, scale).await?);
    }
    Ok(rows)
}

async fn hot(load_test: &BookingLoad, history: usize, scale: Scale) -> Result<Row, Failure> {
    let name = match history {
        0 => "one hot car".to_owned(),
        bookings => format!("one hot car with {bookings} bookings"),
    };
    let mut random = rand::rng();
    let mut requests = |car: CarId, most: usize| -> Vec<_> {
        let mut request = || {
            let first = random.random_range(0..SEASON);
            let last = first + random.random_range(0..LONGEST);
            post("/v1/bookings", &rental::request(car, rental::day(first), rental::day(last)))
        };
        (0..most).map(|_| request()).collect()
    };
    let (mut figure, mut ceiling) = (Series::default(), Series::default());
    let (mut accepted, mut refused) = (Series::default(), Series::default());
    let (mut decided, mut published, mut cpu) =
        (Outcome::default(), Outcome::default(), Vec::new());
    let mut expected = 2_000.0_f64;
    let watch = Watch::begin();
    for round in 1..=scale.booking_rounds() {
        let subject = [format!("raw.booking.{}", uuid())];
        let outcome = load_test.raw.round_over(scale.round, &subject, &load_test.body).await?;
        ceiling.add(outcome.rate());
        published.add(outcome);

        let car = *rental::fleet(&load_test.log, 1).await?.first().ok_or("no car")?;
        let past = |n: usize| {
            let day = rental::day(0) - Count::new(3 + n as u64);
            rental::again(&load_test.like, car, Days::inclusive(day, day)?)
        };
        let past = (0..history).map(past).collect::<Result<Vec<_>, _>>()?;
        append_all(&load_test.log, &past).await?;
        let requests = requests(car, (expected * scale.round.as_secs_f64() * 2.0) as usize);
        let before = load_test.system.cpu();
        let outcome = load_test.round(scale.round, requests, &[201, 409]).await?;
        cpu.push(load_test.system.cpu().since(&before, outcome.count()));
        figure.add(outcome.rate());
        accepted.add(outcome.rate_of(201));
        refused.add(outcome.rate_of(409));
        expected = expected.max(outcome.rate());
        decided.add(outcome);
        progress(&format!(
            "{name}: round {round} of {}: {:.0}/s ({:.0} accepted), raw serial publish {:.0}/s",
            scale.booking_rounds(),
            figure.last(),
            accepted.last(),
            ceiling.last()
        ));
    }
    let mut details = vec![
        Detail::new("accepted", accepted.median(), "/s"),
        Detail::new("rejected", refused.median(), "/s"),
    ];
    details.extend(latencies(&decided, &published));
    details.extend(Detail::cpu(&cpu));
    Ok(Row {
        name,
        figure,
        ceiling_name: "raw guarded publish, one by one".to_owned(),
        ceiling,
        target: Target::Rate(300.0),
        others: watch.others(),
        details,
    })
}

/// From a booking's answer until its car's calendar shows it.
pub(crate) async fn visible(scale: Scale) -> Result<Row, Failure> {
    const NAME: &str = "calendar after a booking";
    progress(&format!("{NAME}: starting a system"));
    let load_test = BookingLoad::open(SyncMode::Always).await?;
    let database = load_test.system.database().to_owned();
    let worker = load_test.system.exodrive("work", &database);
    let cars = rental::fleet(&load_test.log, scale.visible.div_ceil(20)).await?;
    let pool = PgPoolOptions::new().max_connections(1).connect(&database).await?;
    until_at(&pool, load_test.log.last_position().await?, "%", || Ok(())).await?;

    let mut connection = Connection::open(load_test.system.address).await?;
    let (mut seen, mut booked) = (Outcome::default(), Outcome::default());
    let mut figure = Series::default();
    let watch = Watch::begin();
    for n in 0..scale.visible {
        let (car, day) = (cars[n % cars.len()], rental::day((n / cars.len()) as u64));
        let sent = Instant::now();
        let request = post("/v1/bookings", &rental::request(car, day, day));
        let answer = connection.exchange(&request).await?;
        if answer.status != 201 {
            let text = String::from_utf8_lossy(connection.body(&answer)).into_owned();
            return Err(format!("a booking was answered {}: {text}", answer.status).into());
        }
        booked.latencies.push(sent.elapsed());
        let answered = Instant::now();
        let read = get(&format!("/v1/cars/{car}/calendar?from={day}&to={day}"), None);
        loop {
            let answer = connection.exchange(&read).await?;
            if load::contains(connection.body(&answer), "\"status\":\"held\"") {
                break;
            }
            if answered.elapsed() > WAIT_TIMEOUT {
                return Err(format!("a calendar without its booking after {WAIT_TIMEOUT:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        seen.latencies.push(answered.elapsed());
        figure.add(1.0 / sent.elapsed().as_secs_f64());
    }
    let others = watch.others();
    stop(worker).await;
    let is = seen.percentile_ms(0.99);
    Ok(Row {
        name: NAME.to_owned(),
        figure,
        ceiling_name: String::new(),
        ceiling: Series::default(),
        target: Target::P99 { most: 100.0, is },
        others,
        details: vec![
            Detail::ms("p50", seen.percentile_ms(0.5)),
            Detail::ms("p99", is),
            Detail::ms("p50 of the booking", booked.percentile_ms(0.5)),
            Detail::ms("p99 of the booking", booked.percentile_ms(0.99)),
        ],
    })
}

fn latencies(ours: &Outcome, raw: &Outcome) -> Vec<Detail> {
    vec![
        Detail::ms("p50", ours.percentile_ms(0.5)),
        Detail::ms("p99", ours.percentile_ms(0.99)),
        Detail::ms("p50 of raw publish", raw.percentile_ms(0.5)),
        Detail::ms("p99 of raw publish", raw.percentile_ms(0.99)),
    ]
}
