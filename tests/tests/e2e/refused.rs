//! Rows that Postgres refuses, and events that cannot be folded: live folding, a rebuild and a
//! verification treat them alike, whatever the batches.

use crate::in_process::InProcess;
use chrono::Utc;
use exodrive_domain::{
    Envelope, Event, Recorded, Subject, WEBHOOK_RECEIVED, WEBHOOK_RECEIVED_VERSION, decode,
};
use exodrive_log::{Log, NewEvent};
use exodrive_projections::{
    Database, PersonalData, Projection,
    engine::{EngineSettings, RebuildSettings, Runner, cache::Cache},
    names,
    views::inbox::{Inbox, InboxRow},
};
use exodrive_replays::verify::{Extent, Options, verify};
use exodrive_tests::{Rows, System, World, day, email_body, eventually, open_log};
use rand::{RngExt, seq::IndexedRandom};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use tokio_util::sync::CancellationToken;

/// Marks a row that Postgres refuses, after each later event too.
const STUCK: &str = "\0stuck";

/// Time that a slow fold takes, without using the processor.
const SLOW: Duration = Duration::from_millis(200);

/// What the id of an event makes of the row.
fn evolved(row: Option<InboxRow>, event: &Event<'_>) -> Option<InboxRow> {
    let id = &event.recorded.envelope.id;
    assert!(!id.starts_with("panic"), "a defect of evolve");
    while id.starts_with("endless") {
        std::hint::black_box(());
    }
    if id.starts_with("slow") {
        std::thread::sleep(SLOW);
    }
    let stuck =
        id.starts_with("stuck") || row.as_ref().is_some_and(|row| row.search.contains(STUCK));
    // The fold of the next event makes another text.
    let mut row = Inbox::evolve("", row, event)?;
    if stuck {
        row.search.push_str(STUCK);
    } else if id.starts_with("refused") {
        row.search.push('\0');
    }
    Some(row)
}

/// The release's version of `inbox`, and the next one.
const PRESENT: u32 = Inbox::VERSION;
const NEXT: u32 = PRESENT + 1;

/// `inbox` with rows that Postgres refuses, in this version.
struct Odd<const VERSION: u32>;

impl<const V: u32> Projection for Odd<V> {
    const NAME: &'static str = Inbox::NAME;
    const ABOUT: &'static str = Inbox::ABOUT;
    const KEY_EXAMPLE: &'static str = Inbox::KEY_EXAMPLE;
    const VERSION: u32 = V;
    const SUBJECTS: &'static [&'static str] = Inbox::SUBJECTS;
    const SCHEMA: &'static str = Inbox::SCHEMA;
    const CACHED: bool = true;
    const COUNTED: Option<&'static str> = Inbox::COUNTED;
    type Row = InboxRow;

    fn personal(key: &str) -> PersonalData<'_> {
        Inbox::personal(key)
    }

    fn keys(event: &Event<'_>) -> Vec<String> {
        if event.recorded.envelope.id.starts_with("nul-key") {
            return vec!["a\0b".to_owned()];
        }
        Inbox::keys(event)
    }

    fn evolve(_key: &str, row: Option<InboxRow>, event: &Event<'_>) -> Option<InboxRow> {
        evolved(row, event)
    }

    fn counted(row: &InboxRow) -> Option<&str> {
        Inbox::counted(row)
    }

    fn cached(row: &InboxRow, position: u64) -> Option<String> {
        Inbox::cached(row, position)
    }
}

/// Servers, and workers of `inbox` as tasks of the test.
struct Odds {
    world: World,
    log: Log,
    database: Database,
    stop: CancellationToken,
}

impl Drop for Odds {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Odds {
    async fn start() -> Self {
        let world = World::without_processes(&[]).await;
        world.migrate().await;
        let log = open_log(&world.urls().nats_operator).await;
        let database = Database::for_workers(&world.urls().database_worker).unwrap();
        Self { world, log, database, stop: CancellationToken::new() }
    }

    fn work<P: Projection>(&self) {
        let cache = Cache::new(&self.world.urls().redis_worker).unwrap();
        // Rows are copied out and taken back many times.
        let rebuilds = RebuildSettings { memory: 20_000, ..RebuildSettings::default() };
        let settings = EngineSettings { rebuilds, fold_limit: Duration::from_millis(200) };
        let runner = Runner::new::<P>(
            self.log.clone(),
            self.database.clone(),
            cache,
            &format!("odd-{}", P::VERSION),
        )
        .with_settings(settings);
        let stop = self.stop.clone();
        tokio::spawn(async move { runner.run(&stop).await.unwrap() });
    }

    async fn append(&self, id: &str, email: &str) {
        let kind = ["sent", "delivered", "opened", "clicked"].choose(&mut rand::rng()).unwrap();
        let body = email_body(kind, email, "2026-11-20T09:00:00Z", "");
        let envelope = Envelope {
            source: "resend".to_owned(),
            version: WEBHOOK_RECEIVED_VERSION,
            ..Envelope::decision(WEBHOOK_RECEIVED, id, Utc::now())
        };
        let event = NewEvent {
            subject: Subject::Email(email.parse().unwrap()),
            envelope,
            provider_headers: Vec::new(),
            body: body.into(),
        };
        self.log.append_fact(&event).await.unwrap();
    }

    /// Waits until a generation has reached the end of the log, and nothing is tried again.
    async fn level<P: Projection>(&self) {
        let end = i64::try_from(self.log.last_position().await.unwrap()).unwrap();
        eventually("inbox is level", async || {
            let sql = "select min(position) from checkpoints
                 join projections on name = projection and generation = active_generation
                 where name = 'inbox'";
            let reached: i64 =
                sqlx::query_scalar(sql).fetch_one(self.world.database()).await.unwrap();
            let left = self.database.still_parked::<P>(&self.log).await.unwrap();
            let level = reached == end && left.is_empty();
            level.then_some(()).ok_or_else(|| format!("{reached} of {end}, {left:?}"))
        })
        .await;
    }

    /// Rows and parked events of the generation that readers see.
    async fn found(&self) -> (Rows, Vec<ParkedEvent>) {
        let sql = "select key, position, error <> '' from parked_events
             join projections on name = projection and generation = active_generation
             where name = 'inbox' order by key, position";
        let parked = sqlx::query_as(sql).fetch_all(self.world.database()).await.unwrap();
        (self.world.rows("inbox").await, parked)
    }

    async fn request_rebuild(&self) {
        let sql = "insert into rebuilds (id, projection, kind, version, actor, reason)
             values (gen_random_uuid(), 'inbox', 'rebuild', $1, 'a test', 'a test')";
        let version = i32::try_from(PRESENT).unwrap();
        sqlx::query(sql).bind(version).execute(self.world.database()).await.unwrap();
    }

    /// Waits until the last rebuild is in a state; gives its comparison.
    async fn rebuild_is(&self, state: &str) -> Value {
        eventually(&format!("the rebuild is {state}"), async || {
            let sql = "select state, comparison, error from rebuilds order by requested_at desc
                 limit 1";
            let found: Option<(String, Option<Value>, Option<String>)> =
                sqlx::query_as(sql).fetch_optional(self.world.database()).await.unwrap();
            match found {
                Some((found, comparison, _)) if found == state => {
                    Ok(comparison.unwrap_or_default())
                }
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }
}

/// Key, position, and true if the event is the cause and does not only wait.
type ParkedEvent = (String, i64, bool);

/// The rule, event by event: a row is in the state after the last event after which Postgres takes
/// it, and what comes after that event is parked.
fn expected(events: &[Recorded]) -> (Rows, Vec<ParkedEvent>) {
    let mut keys: BTreeMap<String, Vec<(&Recorded, String)>> = BTreeMap::new();
    for recorded in events {
        let payload = decode(recorded).unwrap();
        let mut touched = Inbox::keys(&Event { recorded, payload: &payload });
        if recorded.subject.ends_with("em-nul") {
            // Its first event has a key that Postgres cannot store: its subject is blocked.
            touched = vec![recorded.subject.clone()];
        }
        for key in touched {
            let id = recorded.envelope.id.clone();
            keys.entry(key).or_default().push((recorded, id));
        }
    }
    let (mut rows, mut parked) = (Rows::new(), Vec::new());
    for (key, events) in keys {
        let (mut row, mut taken, mut waiting) = (None, None, Vec::new());
        let mut blocked = false;
        for (recorded, id) in events {
            blocked |= ["panic", "endless", "nul-key"].iter().any(|it| id.starts_with(it));
            if blocked {
                waiting.push(recorded.position);
                continue;
            }
            let payload = decode(recorded).unwrap();
            let after = evolved(row.clone(), &Event { recorded, payload: &payload });
            let changes = after != row;
            row = after;
            let refused = row.as_ref().is_some_and(|row| row.search.contains('\0'));
            if refused || !waiting.is_empty() && !changes {
                waiting.push(recorded.position);
            } else {
                waiting.clear();
                if changes {
                    taken = row.clone().map(|row| (recorded.position, row));
                }
            }
        }
        for (n, position) in waiting.into_iter().enumerate() {
            parked.push((key.clone(), i64::try_from(position).unwrap(), n == 0));
        }
        if let Some((position, row)) = taken {
            rows.insert(key, (position, serde_json::to_value(row).unwrap()));
        }
    }
    (rows, parked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_alike_live_rebuilt_and_verified_whatever_is_refused() {
    let odds = Odds::start().await;
    odds.work::<Odd<PRESENT>>();
    let emails: Vec<_> = (0..8).map(|n| format!("em-{n}")).collect();
    let mut n = 0;
    for _ in 0..12 {
        // Batches end anywhere.
        for _ in 0..rand::rng().random_range(1..25) {
            let what = match rand::rng().random_range(0..100) {
                0..70 => "fine",
                70..94 => "refused",
                94..97 => "stuck",
                _ => "panic",
            };
            n += 1;
            odds.append(&format!("{what}-{n}"), emails.choose(&mut rand::rng()).unwrap()).await;
        }
        let pause = rand::rng().random_range(0..300);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    // Whatever was drawn: a row that is refused to the end, one that goes on, and a fold that hangs.
    for (id, email) in [
        ("fine", "em-a"),
        ("refused", "em-a"),
        ("fine-again", "em-a"),
        ("refused-again", "em-a"),
        ("fine-b", "em-b"),
        ("stuck", "em-b"),
        ("after", "em-b"),
        ("fine-c", "em-c"),
        ("endless", "em-c"),
        ("after-it", "em-c"),
        ("nul-key", "em-nul"),
        ("after-nul", "em-nul"),
    ] {
        odds.append(id, email).await;
    }
    odds.level::<Odd<PRESENT>>().await;
    let live = odds.found().await;
    assert_eq!(live, expected(&odds.world.events().await));
    assert!(live.1.len() >= 5, "{live:?}");

    odds.request_rebuild().await;
    let comparison = odds.rebuild_is("done").await;
    assert_eq!(comparison["difference_count"], 0, "{comparison}");
    assert_eq!(comparison["to_generation"], 2, "{comparison}");
    assert_eq!(odds.found().await, live);

    let options = Options::new(Extent::All);
    let report = verify::<Odd<PRESENT>>(&odds.log, &odds.database, None, &options, &|_, _| {})
        .await
        .unwrap();
    assert!(report.is_equal(), "{report:?}");
    assert!(report.blocked >= 3, "{report:?}");
}

#[tokio::test]
async fn folds_that_together_take_longer_than_a_lease_are_written_bit_by_bit() {
    let odds = Odds::start().await;
    // One batch of 6 s; Postgres ends a transaction that waits for 3 s, and so long is a lease.
    for n in 0..30 {
        odds.append(&format!("slow-{n}"), &format!("em-{n}")).await;
    }
    odds.append("refused-1", "em-3").await;
    odds.work::<Odd<PRESENT>>();
    let mut reached = Vec::new();
    eventually("inbox has its rows", async || {
        let position: i64 =
            sqlx::query_scalar("select max(position) from checkpoints where projection = 'inbox'")
                .fetch_one(odds.world.database())
                .await
                .unwrap();
        if reached.last() != Some(&position) {
            reached.push(position);
        }
        if position == 31 { Ok(()) } else { Err(format!("{reached:?}")) }
    })
    .await;
    assert!(reached.len() > 3, "{reached:?}");
    let (rows, parked) = odds.found().await;
    assert_eq!(rows.len(), 30);
    assert_eq!(parked, [("em-3".to_owned(), 31, true)]);
}

#[tokio::test]
async fn an_event_that_is_parked_though_it_can_be_folded_is_reported() {
    let odds = Odds::start().await;
    odds.work::<Odd<PRESENT>>();
    for (id, email) in [("fine", "em-a"), ("panic", "em-a"), ("stuck", "em-b")] {
        odds.append(id, email).await;
    }
    odds.level::<Odd<PRESENT>>().await;
    let verified = async |fixed: bool| {
        let options = Options::new(Extent::All);
        let (log, database) = (&odds.log, &odds.database);
        let progress = &|_, _| {};
        if fixed {
            verify::<Inbox>(log, database, None, &options, progress).await.unwrap()
        } else {
            verify::<Odd<PRESENT>>(log, database, None, &options, progress).await.unwrap()
        }
    };
    let report = verified(false).await;
    assert!(report.is_equal() && report.blocked == 2, "{report:?}");
    // The release with the fix, before its worker has tried the events again.
    odds.stop.cancel();
    let report = verified(true).await;
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.place.to_string(), finding.key.as_str()))
        .collect();
    let still = |key| ("still parked".to_owned(), key);
    assert_eq!(found, [still("em-a"), still("em-b")], "{report:?}");
}

#[tokio::test]
async fn a_newer_version_that_parks_more_is_not_swapped_in_by_itself() {
    let odds = Odds::start().await;
    odds.work::<Inbox>();
    for (id, email) in [("fine", "em-a"), ("panic", "em-a"), ("fine-b", "em-b")] {
        odds.append(id, email).await;
    }
    odds.level::<Inbox>().await;
    odds.work::<Odd<NEXT>>();
    let comparison = odds.rebuild_is("waiting").await;
    let parked = &comparison["newly_parked"];
    assert_eq!((&parked[0]["key"], &parked[0]["position"]), (&json!("em-a"), &json!(2)));
    assert!(parked[0]["error"].as_str().unwrap().contains("panicked"), "{comparison}");
    assert_eq!(parked.as_array().unwrap().len(), 1);
    let active = async || -> i32 {
        let sql = "select active_generation from projections where name = 'inbox'";
        sqlx::query_scalar(sql).fetch_one(odds.world.database()).await.unwrap()
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(active().await, 1, "readers see what they saw");

    let accept = "update rebuilds set accepted = true where kind = 'version'";
    sqlx::query(accept).execute(odds.world.database()).await.unwrap();
    odds.rebuild_is("done").await;
    assert_eq!(active().await, 2);
}

#[tokio::test]
async fn every_index_of_a_view_bounds_its_text() {
    let world = InProcess::start().await;
    // The B-trees of the active generations that hold text, and the columns that their bound has.
    let sql = "select relname::text, array_agg(attname::text), (
             select pg_get_constraintdef(oid) from pg_constraint
             where conrelid = indrelid and conname = relname || '_fits' and convalidated)
         from projections join pg_index
             on indrelid = format('%1$s_g%2$s.%1$s', name, active_generation)::regclass
         join pg_class on pg_class.oid = indexrelid
         join pg_am on pg_am.oid = relam and amname = 'btree'
         join pg_attribute on attrelid = indexrelid and attlen = -1
         where name = $1 group by relname, indrelid";
    for name in names() {
        let indexes: Vec<(String, Vec<String>, Option<String>)> =
            sqlx::query_as(sql).bind(name).fetch_all(world.database()).await.unwrap();
        assert!(!indexes.is_empty(), "{name} has a key");
        for (index, columns, bound) in indexes {
            let bound = bound.unwrap_or_else(|| panic!("{index} of {name} has no bound"));
            for column in columns {
                let bounded = format!("octet_length({column})");
                assert!(bound.contains(&bounded), "{index} of {name}: {column} in {bound}");
            }
        }
    }
}

/// Appends the first booking of the log again, under another id and for another user.
async fn book_as(world: &System, user: &str) -> String {
    let log = world.log().await;
    let events = world.events().await;
    let held = events.iter().find(|it| it.envelope.kind == "exodrive.booking.held").unwrap();
    let id = uuid_like();
    let mut body: Value = serde_json::from_slice(&held.body).unwrap();
    body["booking_id"] = json!(id);
    body["customer"]["user_id"] = json!(user);
    let subject: Subject = held.subject.parse().unwrap();
    let event = NewEvent {
        subject: subject.clone(),
        envelope: Envelope::decision("exodrive.booking.held", exodrive_tests::key(), Utc::now()),
        provider_headers: Vec::new(),
        body: serde_json::to_vec(&body).unwrap().into(),
    };
    let last = log.last_position_of(&subject).await.unwrap().unwrap();
    log.append_decision(&event, last).await.unwrap();
    id
}

fn uuid_like() -> String {
    let digits: u64 = rand::rng().random_range(0..1 << 48);
    format!("0198f3a6-c1f0-7d5a-b0c4-{digits:012x}")
}

#[tokio::test]
async fn a_value_too_long_for_an_index_parks_a_row_and_not_a_rebuild() {
    let world = InProcess::start().await;
    let car = world.admin().add_car("one", 100_000).await;
    let held = world.visitor().booked(&car, day(0), day(1)).await;
    // Random: Postgres would compress a repetitive one until it fits a page.
    let long: String =
        (0..2_900).map(|_| rand::rng().sample(rand::distr::Alphanumeric) as char).collect();
    let long = book_as(&world, &long).await;
    let short = book_as(&world, "user-ada").await;
    let state = async || {
        world.settled().await;
        let sql = "select key from parked_events
             join projections on name = projection and generation = active_generation
             where name = 'bookings'";
        let parked: Vec<String> =
            sqlx::query_scalar(sql).fetch_all(world.database()).await.unwrap();
        let rows: Vec<_> = world.rows("bookings").await.into_keys().collect();
        (rows, parked)
    };
    let (rows, parked) = state().await;
    assert_eq!(parked, std::slice::from_ref(&long));
    let mut known = vec![held["id"].as_str().unwrap().to_owned(), short];
    known.sort();
    assert_eq!(rows, known);

    let done = crate::rebuild::rebuild(&world, &["bookings"]).await;
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!(done["comparison"]["difference_count"], 0, "{done}");
    assert_eq!(state().await, (rows.clone(), parked));
    crate::rebuild::is_verified(&world).await;

    // Operators see what the rebuild has parked, and may leave it out.
    let path = "/v1/operator/projections/bookings";
    let shown = world.get_as("operator", path).await.expect(200);
    let printed = world.exodrive_prints(&["projections", "show", "bookings", "--json"]).await;
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(shown["parked_events"][0]["key"], json!(long));
    let parked = |shown: &Value| {
        let of = |it: &Value| (it["key"].clone(), it["position"].clone(), it["error"].clone());
        shown["parked_events"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(parked(&shown), parked(&printed));
    let position = shown["parked_events"][0]["position"].to_string();
    let skip = ["projections", "skip", "bookings", "--key", &long, "--position", &position];
    world.exodrive_prints(&[&skip[..], &["--reason", "a test"]].concat()).await;
    eventually("nothing is parked", async || {
        let left = state().await;
        (left == (rows.clone(), Vec::new())).then_some(()).ok_or_else(|| format!("{left:?}"))
    })
    .await;
}
