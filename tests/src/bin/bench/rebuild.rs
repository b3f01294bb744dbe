//! Rebuilds beside the rows that readers see, against a consumer that reads the
//! same stream and drops it; and the effect of rebuilds on readers.

use crate::{
    Failure, Scale,
    catch_up::{read_and_drop, until_at},
    load::{self, Connection, Load, Outcome},
    mail,
    report::{Detail, Row, Series, Target},
    system::{System, Watch, again, append_all, auditor, get, progress, stop},
};
use exodrive_runtime::services::SyncMode;
use exodrive_tests::Process;
use serde_json::Value;
use sqlx::{PgPool, postgres::PgPoolOptions};
use std::time::{Duration, Instant};

const PROJECTIONS: [&str; 3] = ["inbox", "email_timeline", "deliveries"];
/// Longer than any rebuild takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(600);
/// Events made at a time, so that they are not all in memory.
const CHUNK: usize = 100_000;
/// Readers at a time while a rebuild is watched.
const READERS: usize = 4;

/// A system with a worker and an API that are level with the log.
pub(crate) struct Noon {
    pub(crate) system: System,
    pub(crate) pool: PgPool,
    worker: Process,
    pub(crate) events: u64,
    email_ids: Vec<String>,
}

/// One rebuild.
pub(crate) struct Rebuilt {
    pub(crate) took: Duration,
    /// Until the rows were loaded, and until their indexes were made.
    loaded: Duration,
    indexed: Duration,
    resident: f64,
    limit: f64,
    yielded: f64,
    rows: f64,
}

impl Noon {
    pub(crate) async fn start() -> Result<Self, Failure> {
        let mut system = System::start(SyncMode::Default).await?;
        let database = system.database().to_owned();
        system.log().await?;
        system.migrate(&database).await?;
        let worker = system.exodrive("work", &database);
        system.serve(&database).await?;
        let pool = PgPoolOptions::new().max_connections(2).connect(&database).await?;
        Ok(Self { system, pool, worker, events: 0, email_ids: Vec::new() })
    }

    /// Appends until the log has this number of events, and waits until the
    /// views have them.
    pub(crate) async fn fill(&mut self, events: usize) -> Result<(), Failure> {
        let log = self.system.log().await?;
        progress(&format!("rebuild: filling the log to {events} events"));
        while (self.events as usize) < events {
            let more = CHUNK.min(events - self.events as usize);
            let (chunk, ids) = mail::traffic(more);
            append_all(&log, &chunk).await?;
            self.email_ids = ids;
            self.events = log.last_position().await?;
        }
        let (system, worker) = (&self.system, &mut self.worker);
        until_at(&self.pool, self.events, "%", || system.still_runs(worker, "work")).await
    }

    /// Ends the worker.
    pub(crate) async fn stop(self) {
        stop(self.worker).await;
    }

    /// Asks for a rebuild as an operator's event would, and waits for its end.
    pub(crate) async fn rebuild(&mut self, projection: &str) -> Result<Rebuilt, Failure> {
        let insert = "insert into rebuilds (id, projection, kind, version, actor, reason, told)
             select gen_random_uuid(), name, 'rebuild', version, 'bench', 'bench', true
             from projections join generations on projection = name
                 and generation = active_generation
             where name = $1 returning id::text";
        let id: String = sqlx::query_scalar(insert).bind(projection).fetch_one(&self.pool).await?;
        let (mut loaded, mut indexed) = (None, None);
        let (mut resident, asked) = (0.0_f64, Instant::now());
        let mut began = None;
        loop {
            let sql = "select to_jsonb(rebuilds) from rebuilds where id = $1::uuid";
            let job: Value = sqlx::query_scalar(sql).bind(&id).fetch_one(&self.pool).await?;
            let number = |name: &str| job[name].as_f64().unwrap_or_default();
            resident = resident.max(number("resident"));
            let state = job["state"].as_str().unwrap_or_default();
            if state != "queued" {
                began.get_or_insert_with(Instant::now);
            }
            let since = || began.map_or(Duration::ZERO, |began| began.elapsed());
            if !["queued", "building"].contains(&state) {
                loaded.get_or_insert_with(since);
                if state != "indexing" {
                    indexed.get_or_insert_with(since);
                }
            }
            match state {
                "done" => {
                    let different = job["comparison"]["difference_count"].as_i64();
                    if different != Some(0) {
                        return Err(format!("the rebuilt rows differ: {job}").into());
                    }
                    let sql = "select extract(epoch from finished_at - started_at)::float8
                         from rebuilds where id = $1::uuid";
                    let took: f64 = sqlx::query_scalar(sql).bind(&id).fetch_one(&self.pool).await?;
                    return Ok(Rebuilt {
                        took: Duration::from_secs_f64(took),
                        loaded: loaded.unwrap_or_default(),
                        indexed: indexed.unwrap_or_default(),
                        resident,
                        limit: number("resident_limit"),
                        yielded: number("yielded_seconds"),
                        rows: job["comparison"]["rows"].as_f64().unwrap_or_default(),
                    });
                }
                "failed" | "cancelled" | "waiting" => {
                    return Err(format!("the rebuild ended otherwise: {job}").into());
                }
                _ if asked.elapsed() > WAIT_TIMEOUT => {
                    return Err(format!("no end of a rebuild after {WAIT_TIMEOUT:?}: {job}").into());
                }
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
            self.system.still_runs(&mut self.worker, "work")?;
        }
    }

    /// Each email projection alone, each beside a reading of the stream.
    async fn rows(&mut self, target: Target) -> Result<Vec<Row>, Failure> {
        let events = self.events as f64;
        let mut table = Vec::new();
        let mut sum = Duration::ZERO;
        let mut ceilings = Series::default();
        let watch = Watch::begin();
        for projection in PROJECTIONS {
            let (mut figure, mut ceiling) = (Series::default(), Series::default());
            let read = read_and_drop(&self.system, self.events).await?;
            ceiling.add(events / read.as_secs_f64());
            ceilings.add(ceiling.last());
            let rebuilt = self.rebuild(projection).await?;
            sum += rebuilt.took;
            figure.add(events / rebuilt.took.as_secs_f64());
            progress(&format!(
                "rebuild: {projection}, {events} events: {:.0}/s, reading alone {:.0}/s",
                figure.last(),
                ceiling.last()
            ));
            let seconds = |name: &str, it: Duration| Detail::new(name, it.as_secs_f64(), "s");
            table.push(Row {
                name: format!("rebuild, {projection}, {} events", self.events),
                figure,
                ceiling_name: "reading the stream".to_owned(),
                ceiling,
                target,
                others: watch.others(),
                details: vec![
                    seconds("loading", rebuilt.loaded),
                    seconds("indexes", rebuilt.indexed.saturating_sub(rebuilt.loaded)),
                    seconds(
                        "catching up, comparing, swapping",
                        rebuilt.took.saturating_sub(rebuilt.indexed),
                    ),
                    seconds("all", rebuilt.took),
                    Detail::new("rows per event", rebuilt.rows / events, ""),
                    Detail::new("rows in memory", rebuilt.resident / f64::from(1 << 20), "MiB"),
                    Detail::new("limit", rebuilt.limit / f64::from(1 << 20), "MiB"),
                    Detail::new("given way to reads", rebuilt.yielded, "s"),
                ],
            });
        }
        let mut figure = Series::default();
        figure.add(3.0 * events / sum.as_secs_f64());
        table.push(Row {
            name: format!("rebuild, all three one by one, {} events each", self.events),
            figure,
            ceiling_name: "reading the stream".to_owned(),
            ceiling: ceilings,
            target,
            others: watch.others(),
            details: vec![Detail::new("all", sum.as_secs_f64(), "s")],
        });
        Ok(table)
    }

    /// Measures the answers that readers of emails get, without and with a
    /// rebuild beside.
    async fn reads(&mut self) -> Result<Row, Failure> {
        let token = auditor();
        let of = |id: &String| {
            vec![
                get(&format!("/v1/inbox/{id}"), Some(&token)),
                get(&format!("/v1/inbox/{id}/timeline"), Some(&token)),
            ]
        };
        let requests = again(self.email_ids.iter().step_by(7).take(2_000).flat_map(of).collect());
        let load = Load { in_flight: READERS, ..Load::default() };
        let address = self.system.address;
        let watch = Watch::begin();
        let alone = load::http(address, requests.clone(), Duration::from_secs(5), load).await?;
        let mut beside = Outcome::default();
        let rebuild = self.rebuild("inbox");
        tokio::pin!(rebuild);
        let rebuilt = loop {
            let reads = load::http(address, requests.clone(), Duration::from_secs(1), load);
            tokio::select! {
                rebuilt = &mut rebuild => break rebuilt?,
                outcome = reads => beside.add(outcome?),
            }
        };
        let (mut figure, mut ceiling) = (Series::default(), Series::default());
        figure.add(beside.rate());
        ceiling.add(alone.rate());
        Ok(Row {
            name: format!("reads during a rebuild of inbox, {READERS} at a time"),
            figure,
            ceiling_name: "the same without one".to_owned(),
            ceiling,
            target: Target::None,
            others: watch.others(),
            details: vec![
                Detail::ms("p50", beside.percentile_ms(0.5)),
                Detail::ms("p99", beside.percentile_ms(0.99)),
                Detail::ms("p50 without", alone.percentile_ms(0.5)),
                Detail::ms("p99 without", alone.percentile_ms(0.99)),
                Detail::new("the rebuild took", rebuilt.took.as_secs_f64(), "s"),
                Detail::new("given way to reads", rebuilt.yielded, "s"),
            ],
        })
    }

    /// The delay from a webhook's answer until readers see its content, at 500
    /// events a second.
    async fn live(&mut self, events: usize) -> Result<Row, Failure> {
        const PER_SECOND: f64 = 500.0;
        /// The number of senders; one of them polls until its email is visible.
        const SENDERS: usize = 10;
        let commits = "select xact_commit from pg_stat_database where datname = current_database()";
        let before: i64 = sqlx::query_scalar(commits).fetch_one(&self.pool).await?;
        let (token, began, watch) = (auditor(), Instant::now(), Watch::begin());
        let address = self.system.address;
        let mut senders = tokio::task::JoinSet::new();
        for sender in 0..SENDERS {
            let token = token.clone();
            senders.spawn(async move {
                let mut seen = Vec::new();
                let mut connection = Connection::open(address).await?;
                let mut reader = Connection::open(address).await?;
                for n in (sender..events).step_by(SENDERS) {
                    let due = began + Duration::from_secs_f64(n as f64 / PER_SECOND);
                    tokio::time::sleep_until(due.into()).await;
                    let email = mail::uuid();
                    let answer = connection.exchange(&mail::webhook("sent", &email)).await?;
                    if answer.status != 200 {
                        return Err(format!("a webhook was answered {}", answer.status).into());
                    }
                    if sender > 0 {
                        continue;
                    }
                    let answered = Instant::now();
                    let read = get(&format!("/v1/inbox/{email}"), Some(&token));
                    while reader.exchange(&read).await?.status != 200 {
                        if answered.elapsed() > Duration::from_secs(10) {
                            return Err("an email was not to be seen after 10 s".into());
                        }
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    seen.push(answered.elapsed());
                }
                Ok::<_, Failure>(seen)
            });
        }
        let mut outcome = Outcome::default();
        while let Some(seen) = senders.join_next().await {
            outcome.latencies.extend(seen??);
        }
        let elapsed = began.elapsed();
        self.events += events as u64;
        until_at(&self.pool, self.events, "%", || Ok(())).await?;
        // Postgres reports the statistics of idle sessions after a while.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after: i64 = sqlx::query_scalar(commits).fetch_one(&self.pool).await?;
        let mut figure = Series::default();
        figure.add(events as f64 / elapsed.as_secs_f64());
        let is = outcome.percentile_ms(0.99);
        Ok(Row {
            name: "webhook to visible view, 500 events/s".to_owned(),
            figure,
            ceiling_name: String::new(),
            ceiling: Series::default(),
            target: Target::P99 { most: 50.0, is },
            others: watch.others(),
            details: vec![
                Detail::ms("p50 (target 5)", outcome.percentile_ms(0.5)),
                Detail::ms("p90", outcome.percentile_ms(0.9)),
                Detail::ms("p99", is),
                Detail::new("commits per event, all", (after - before) as f64 / events as f64, ""),
            ],
        })
    }
}

pub(crate) async fn measure(scale: Scale) -> Result<Vec<Row>, Failure> {
    let mut noon = Noon::start().await?;
    let mut table = Vec::new();
    noon.fill(scale.events).await?;
    table.push(noon.live(scale.live).await?);
    table.extend(noon.rows(Target::None).await?);
    noon.fill(scale.rebuild_events).await?;
    table.extend(noon.rows(Target::Ratio(0.4)).await?);
    table.push(noon.reads().await?);
    noon.stop().await;
    Ok(table)
}
