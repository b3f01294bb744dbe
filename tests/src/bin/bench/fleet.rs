//! Lists of a large fleet by several filters, each against a bare axum handler
//! that answers the same body.

use crate::{
    Failure, Scale,
    cached_read::Bare,
    catch_up::until_at,
    load::{self, Connection, Load, Outcome},
    rental::{self, CATEGORIES, FEATURES, MAKERS},
    report::{Detail, Row, Series, Target},
    system::{System, Watch, again, append_all, get, post, progress, stop},
};
use chrono::Days as Count;
use exodrive_domain::{Payload, days::Days, decode};
use exodrive_runtime::services::SyncMode;
use rand::RngExt;
use sqlx::postgres::PgPoolOptions;

/// Callers at a time.
const IN_FLIGHT: usize = 16;
/// Different requests of each kind.
const REQUESTS: usize = 64;
/// A list that takes longer is too slow for people.
const SLOW_FOR_PEOPLE_MS: f64 = 200.0;

/// The name of a query, and a function that gives its path.
type Query = (&'static str, fn(usize) -> String);

const QUERIES: [Query; 5] = [
    ("no filter", |_| "/v1/cars".to_owned()),
    ("category, price, by price", |n| {
        let category = CATEGORIES[n % CATEGORIES.len()].to_lowercase().replace(' ', "%20");
        let least = 50_000 + n * 1_000;
        format!(
            "/v1/cars?category={category}&price_min={least}&price_max={}&sort=price",
            least + 60_000
        )
    }),
    ("text", |n| {
        let maker = MAKERS[n % MAKERS.len()].to_lowercase().replace(' ', "%20");
        format!("/v1/cars?q={maker}%20modello%20{}", 10 + n)
    }),
    ("features", |n| {
        let feature = |n: usize| FEATURES[n % FEATURES.len()].to_lowercase().replace(' ', "%20");
        format!("/v1/cars?features={},{}", feature(n), feature(n / 8 + n + 1))
    }),
    ("free on days, category", |n| {
        let category = CATEGORIES[n % CATEGORIES.len()].to_lowercase().replace(' ', "%20");
        let (first, last) = (rental::day(n as u64 % 30), rental::day(n as u64 % 30 + 4));
        format!("/v1/cars?category={category}&available_from={first}&available_to={last}")
    }),
];

pub(crate) async fn measure(scale: Scale) -> Result<Vec<Row>, Failure> {
    progress(&format!("fleet list: starting a system, appending {} cars", scale.fleet));
    let mut system = System::start(SyncMode::Default).await?;
    let database = system.database().to_owned();
    system.migrate(&database).await?;
    system.serve(&database).await?;
    let log = system.log().await?;
    let cars = rental::fleet(&log, scale.fleet).await?;
    let first = cars.first().ok_or("no cars")?;
    let mut connection = Connection::open(system.address).await?;
    let requested = rental::request(*first, rental::day(300), rental::day(302));
    connection.exchange(&post("/v1/bookings", &requested)).await?;
    let booked =
        log.read_event(log.last_position().await?).await?.ok_or("no event of a booking")?;
    let Payload::Booking(like) = decode(&booked)? else {
        return Err("the last event is not the booking's".into());
    };
    let mut random = rand::rng();
    let mut bookings = Vec::new();
    for car in cars.iter().step_by(2) {
        let day = rental::day(random.random_range(0..40));
        bookings.push(rental::again(&like, *car, Days::inclusive(day, day + Count::new(3))?)?);
    }
    append_all(&log, &bookings).await?;
    let mut worker = system.exodrive("work", &database);
    let pool = PgPoolOptions::new().max_connections(1).connect(&database).await?;
    let end = log.last_position().await?;
    until_at(&pool, end, "%", || system.still_runs(&mut worker, "work")).await?;
    // As autovacuum would have done by itself after a minute.
    sqlx::raw_sql("vacuum analyze").execute(&pool).await?;

    let mut rows = Vec::new();
    for query in QUERIES {
        rows.push(list(&system, query, scale).await?);
    }
    stop(worker).await;
    Ok(rows)
}

async fn list(system: &System, (what, path): Query, scale: Scale) -> Result<Row, Failure> {
    let name = format!("fleet list of {} cars, {what}", scale.fleet);
    let requests: Vec<_> = (0..REQUESTS).map(|n| get(&path(n), None)).collect();
    let mut connection = Connection::open(system.address).await?;
    let first = requests.first().ok_or("no requests")?;
    let answer = connection.exchange(first).await?;
    let body = connection.body(&answer).to_vec();
    let bare = Bare::start(&body).await?;
    let plain = again(vec![get("/v1/cars", None)]);
    let requests = again(requests);
    let load = Load { in_flight: IN_FLIGHT, ..Load::default() };
    let (mut figure, mut ceiling) = (Series::default(), Series::default());
    let (mut listed, mut cpu) = (Outcome::default(), Vec::new());
    load::http(system.address, requests.clone(), scale.round / 4, load).await?;
    let watch = Watch::begin();
    for round in 1..=scale.booking_rounds() {
        let outcome = load::http(bare.address, plain.clone(), scale.round, load).await?;
        ceiling.add(outcome.rate());
        let before = system.cpu();
        let outcome = load::http(system.address, requests.clone(), scale.round, load).await?;
        cpu.push(system.cpu().since(&before, outcome.count()));
        figure.add(outcome.rate());
        listed.add(outcome);
        progress(&format!(
            "{name}: round {round} of {}: {:.0}/s, bare axum {:.0}/s",
            scale.booking_rounds(),
            figure.last(),
            ceiling.last()
        ));
    }
    let p99 = listed.percentile_ms(0.99);
    let mut details = vec![
        Detail::ms("p50", listed.percentile_ms(0.5)),
        Detail::ms(if p99 > SLOW_FOR_PEOPLE_MS { "TOO SLOW FOR PEOPLE: p99" } else { "p99" }, p99),
        Detail::new("body", body.len() as f64, "B"),
    ];
    details.extend(Detail::cpu(&cpu));
    Ok(Row {
        name,
        figure,
        ceiling_name: "bare axum".to_owned(),
        ceiling,
        target: Target::None,
        others: watch.others(),
        details,
    })
}
