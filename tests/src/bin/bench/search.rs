//! Searches of a large inbox, each kind of query against reads of one row by its key.

use crate::{
    Failure, Scale, load,
    load::{Load, Outcome},
    mail,
    report::{Detail, Row, Series, Target},
    system::{System, Watch, again, append_all, auditor, get, progress},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use exodrive_domain::{
    email::{Email, Status},
    time,
};
use exodrive_projections::views::inbox::{Inbox, InboxRow};
use exodrive_runtime::services::SyncMode;
use exodrive_tests::fold;
use sqlx::{PgPool, postgres::PgPoolOptions};
use std::time::Instant;

/// People who search at a time.
const IN_FLIGHT: usize = 2;
/// Different requests of each kind.
const REQUESTS: usize = 64;
/// Rows written at a time.
const CHUNK: usize = 2_000;
/// What 95 of 100 searches must not exceed.
const MOST_MS: f64 = 50.0;
const CARS: [&str; 8] = [
    "Ferrari Roma",
    "Lamborghini Huracán",
    "Porsche 911 GT3",
    "McLaren 720S",
    "Bentley Continental",
    "Aston Martin DB12",
    "Rolls-Royce Ghost",
    "Audi R8",
];
const NAMES: [&str; 8] = ["Anna", "Ben", "Zoë", "Dana", "Émile", "Frida", "Gustav", "Hanna"];

/// What the `n`th of so many emails is about.
struct Sample {
    booking: usize,
    car: &'static str,
    address: String,
    subject: String,
    status: Status,
    at: DateTime<Utc>,
}

impl Sample {
    fn of(n: usize) -> Self {
        let (booking, car) = (n / 4, CARS[n / 4 * 7 % CARS.len()]);
        let name = NAMES[n / 4 * 5 % NAMES.len()];
        let subject = match n % 4 {
            0 => format!("Your booking BK-{booking} is confirmed: {car}"),
            1 => format!("Receipt for the payment of BK-{booking}"),
            2 => format!("{name}, your contract for the {car} is ready to be signed"),
            _ => format!("Tomorrow: pick-up of your booking BK-{booking}"),
        };
        let status = match n * 7_919 % 1_000 {
            0..2 => Status::Complained,
            2..22 => Status::Bounced,
            22..100 => Status::Sent,
            100..400 => Status::Opened,
            _ => Status::Delivered,
        };
        let began = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let at = began + TimeDelta::seconds(i64::try_from(n).unwrap_or_default() * 20);
        let address = format!("{name}.guest{}@mail{}.example.com", booking % 50_021, n % 13);
        Self { booking, car, address, subject, status, at }
    }

    fn row(&self, n: usize, like: &Email) -> InboxRow {
        let mut email = like.clone();
        let id =
            format!("{:08x}-4ace-4954-8c5d-{n:012x}", n.wrapping_mul(2_654_435_761) % (1 << 32));
        email.id = id.parse().unwrap_or(email.id);
        (email.created_at, email.last_event_at) = (self.at, self.at);
        email.status = self.status;
        email.subject = Some(self.subject.clone());
        email.recipients = [(self.address.clone(), self.status)].into();
        email.cc.clear();
        email.tags.insert("booking_id".to_owned(), format!("BK-{}", self.booking));
        InboxRow::of(email)
    }
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// The name of a kind of query, and a function that gives its text by the sample, and what else
/// it asks for.
type Query = (&'static str, fn(&Sample) -> String, &'static str);

const QUERIES: [Query; 20] = [
    ("nothing typed", |_| String::new(), ""),
    ("nothing typed, a later page", |_| String::new(), "&after="),
    ("a common word", |_| "booking".to_owned(), ""),
    ("a word of every email", |_| "example".to_owned(), ""),
    ("a rare word", |it| format!("bk-{}", it.booking), ""),
    ("two words", |it| format!("{} your", it.car), ""),
    ("a common and a rare word", |it| format!("your bk-{}", it.booking), ""),
    ("two common words", |it| format!("contract {}", &it.car[..3]), ""),
    ("the beginning of a word", |it| format!("guest{}", it.booking % 100), ""),
    ("an address", |it| it.address.clone(), ""),
    ("a part of an address", |_| "@example.com".to_owned(), ""),
    ("a phrase of a subject", |it| it.subject.clone(), ""),
    ("nothing that there is", |it| format!("nothing{}", it.booking), ""),
    ("one letter", |it| it.car[..1].to_owned(), ""),
    (
        "200 characters",
        |it| {
            format!("{} {}", it.subject, "your is b c d e ".repeat(20)).chars().take(200).collect()
        },
        "",
    ),
    ("a common word, bounced", |_| "booking".to_owned(), "&status=bounced"),
    ("a common word, complained", |_| "booking".to_owned(), "&status=complained"),
    ("a rare word, delivered", |it| format!("bk-{}", it.booking), "&status=delivered"),
    ("a common word, a later page", |_| "booking".to_owned(), "&after="),
    ("a rare word, a later page", |it| format!("guest{}", it.booking % 100), "&after="),
];

pub(crate) async fn measure(scale: Scale) -> Result<Vec<Row>, Failure> {
    let emails = scale.searched;
    progress(&format!("search: starting a system, writing {emails} rows into the inbox's table"));
    let mut system = System::start(SyncMode::Default).await?;
    let database = system.database().to_owned();
    system.migrate(&database).await?;
    let pool = PgPoolOptions::new().max_connections(2).connect(&database).await?;
    let began = Instant::now();
    let keys = fill(&system, &pool, emails).await?;
    progress(&format!("search: they are written after {:.0} s", began.elapsed().as_secs_f64()));
    system.serve(&database).await?;
    let mut rows = Vec::new();
    for query in QUERIES {
        rows.push(search(&system, &pool, &keys, query, scale).await?);
    }
    Ok(rows)
}

/// Writes rows as the projection would, but not from the log: that would take an hour. Gives some
/// keys.
async fn fill(system: &System, pool: &PgPool, emails: usize) -> Result<Vec<String>, Failure> {
    let log = system.log().await?;
    let (events, _) = mail::traffic(1);
    append_all(&log, &events).await?;
    let event = log.read_event(log.last_position().await?).await?.ok_or("no event was stored")?;
    let rows = fold::<Inbox>(&[event]);
    let (_, (_, like)) = rows.into_iter().next().ok_or("an email without a row")?;
    let like: InboxRow = serde_json::from_value(like)?;
    let mut some = Vec::new();
    for from in (0..emails).step_by(CHUNK) {
        let (mut keys, mut data) = (Vec::new(), Vec::new());
        for n in from..emails.min(from + CHUNK) {
            let row = Sample::of(n).row(n, &like.email);
            keys.push(row.email.id.to_string());
            data.push(serde_json::to_string(&row)?);
        }
        some.extend(keys.first().cloned());
        sqlx::query(
            "insert into inbox_g1.inbox (key, position, data)
             select key, 1, data::jsonb from unnest($1::text[], $2::text[]) as row (key, data)",
        )
        .bind(keys)
        .bind(data)
        .execute(pool)
        .await?;
    }
    let count = "update checkpoints set counts = (select jsonb_object_agg(status, rows)
            from (select status, count(*) as rows from inbox_g1.inbox group by 1) as counted)
        where projection = 'inbox' and generation = 1";
    sqlx::raw_sql(count).execute(pool).await?;
    // As autovacuum would have done by itself after a minute.
    sqlx::raw_sql("vacuum analyze inbox_g1.inbox").execute(pool).await?;
    Ok(some)
}

async fn search(
    system: &System,
    pool: &PgPool,
    keys: &[String],
    (what, text, more): Query,
    scale: Scale,
) -> Result<Row, Failure> {
    let name = format!("search of {} emails, {what}", scale.searched);
    let token = auditor();
    let request = |n: usize| {
        let sample = Sample::of(scale.searched / REQUESTS * n + n % 4);
        // A page in the middle of the list.
        let place = time::format(&Sample::of(scale.searched / 2).at);
        let place = BASE64_URL_SAFE_NO_PAD.encode(format!("{place}\n0"));
        let more = if more == "&after=" { format!("{more}{place}") } else { more.to_owned() };
        get(&format!("/v1/inbox?q={}{more}", encoded(&text(&sample))), Some(&token))
    };
    let requests = again((0..REQUESTS).map(request).collect());
    let load = Load { in_flight: IN_FLIGHT, ..Load::default() };
    let (mut figure, mut ceiling) = (Series::default(), Series::default());
    let mut found = Outcome::default();
    load::http(system.address, requests.clone(), scale.round, load).await?;
    let watch = Watch::begin();
    for round in 1..=scale.booking_rounds() {
        ceiling.add(by_key(pool, keys, scale).await?);
        let outcome = load::http(system.address, requests.clone(), scale.round, load).await?;
        figure.add(outcome.rate());
        found.add(outcome);
        progress(&format!(
            "{name}: round {round} of {}: {:.0}/s, by key {:.0}/s",
            scale.booking_rounds(),
            figure.last(),
            ceiling.last()
        ));
    }
    let (p50, p95) = (found.percentile_ms(0.5), found.percentile_ms(0.95));
    Ok(Row {
        name,
        figure,
        ceiling_name: "by key".to_owned(),
        ceiling,
        target: Target::P95 { most: MOST_MS, is: p95 },
        others: watch.others(),
        details: vec![Detail::ms("p50", p50), Detail::ms("p95", p95)],
    })
}

/// Reads rows by their keys for a while, one after the other; gives how many a second.
async fn by_key(pool: &PgPool, keys: &[String], scale: Scale) -> Result<f64, Failure> {
    let began = Instant::now();
    let mut count = 0.0;
    for key in keys.iter().cycle() {
        if began.elapsed() >= scale.round {
            break;
        }
        let read =
            sqlx::query_scalar::<_, serde_json::Value>("select data from inbox where key = $1");
        read.bind(key).fetch_one(pool).await?;
        count += 1.0;
    }
    Ok(count / began.elapsed().as_secs_f64())
}
