//! The projections from zero to the log's end, against a consumer that reads
//! the same stream and drops it.

use crate::{
    Failure, Scale, mail,
    report::{Detail, Row, Series, Target},
    system::{System, Watch, append_all, client, cpu_seconds, progress, stop},
};
use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, pull},
};
use exodrive_log::names::STREAM;
use exodrive_projections::{
    Database,
    engine::{Runner, cache::Cache},
    names,
};
use exodrive_runtime::services::SyncMode;
use futures::StreamExt;
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Longer than any catch-up takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(300);

/// A system whose log holds some traffic.
pub(crate) struct Filled {
    pub(crate) system: System,
    pub(crate) email_ids: Vec<String>,
    events: u64,
    /// The number of databases made so far.
    databases: usize,
}

/// The measurements of a worker's catch-up from zero to the log's end.
pub(crate) struct CaughtUp {
    pub(crate) database: String,
    took: Duration,
    /// The number of written rows, by projection.
    rows: Vec<(String, i64)>,
    wal_bytes: i64,
    worker_cpu: f64,
    /// Processor time of all parts of the system.
    cpu: f64,
    others: f64,
}

impl Filled {
    pub(crate) async fn new(scale: Scale) -> Result<Self, Failure> {
        progress(&format!("catch-up: starting a system, appending {} events", scale.events));
        let system = System::start(SyncMode::Default).await?;
        let log = system.log().await?;
        let (events, email_ids) = mail::traffic(scale.events);
        append_all(&log, &events).await?;
        Ok(Self { system, email_ids, events: log.last_position().await?, databases: 0 })
    }

    /// A database of its own, ready for workers, and a connection that reads
    /// their progress.
    async fn database(&mut self) -> Result<(String, PgPool), Failure> {
        self.databases += 1;
        let name = format!("bench_{}", self.databases);
        let first = self.system.database();
        let (server, _) = first.rsplit_once('/').ok_or("a database URL without a database")?;
        let url = format!("{server}/{name}");
        let pool = PgPoolOptions::new().max_connections(1).connect(first).await?;
        sqlx::raw_sql(AssertSqlSafe(format!("create database {name} owner exodrive_migrate")))
            .execute(&pool)
            .await?;
        self.system.migrate(&url).await?;
        // Redis is as empty as the database, and what was written before does
        // not reach the disk while we measure.
        let redis = redis::Client::open(self.system.redis())?;
        let mut redis = redis.get_multiplexed_async_connection().await?;
        redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await?;
        sqlx::raw_sql("checkpoint").execute(&pool).await?;
        let pool = PgPoolOptions::new().max_connections(1).connect(&url).await?;
        Ok((url, pool))
    }

    /// `exodrive work` from an empty database to the log's end.
    pub(crate) async fn project(&mut self) -> Result<CaughtUp, Failure> {
        let (database, pool) = self.database().await?;
        let wal = wal(&pool).await?;
        let (began, watch) = (Instant::now(), Watch::begin());
        let mut worker = self.system.exodrive("work", &database);
        until_at(&pool, self.events, "%", || self.system.still_runs(&mut worker, "work")).await?;
        let took = began.elapsed();
        let (worker_cpu, cpu, others) = (cpu_seconds(worker.id()), watch.ours(), watch.others());
        let wal_bytes = self::wal(&pool).await? - wal;
        let rows = sqlx::query_as("select projection, folded from checkpoints order by projection")
            .fetch_all(&pool)
            .await?;
        stop(worker).await;
        Ok(CaughtUp { database, took, rows, wal_bytes, worker_cpu, cpu, others })
    }

    /// Runs one projection alone, in this process.
    async fn project_alone(&mut self, name: &str) -> Result<Duration, Failure> {
        let (database, pool) = self.database().await?;
        let log = self.system.log().await?;
        let cache = Cache::new(&self.system.urls().redis_worker)?;
        let runner = Runner::named(name, log, Database::for_workers(&database)?, cache, "bench")
            .ok_or("no such projection")?;
        let stop = CancellationToken::new();
        let began = Instant::now();
        let worker = tokio::spawn({
            let stop = stop.clone();
            async move { runner.run(&stop).await }
        });
        until_at(&pool, self.events, name, || Ok(())).await?;
        let took = began.elapsed();
        stop.cancel();
        worker.await??;
        Ok(took)
    }

    pub(crate) async fn measure(&mut self, scale: Scale) -> Result<(Vec<Row>, CaughtUp), Failure> {
        let events = self.events as f64;
        let rate = |took: Duration| events / took.as_secs_f64();
        let mut alones = Vec::new();
        for name in names() {
            let mut alone = Series::default();
            alone.add(rate(self.project_alone(name).await?));
            progress(&format!("catch-up: {name} alone: {:.0} events/s", alone.last()));
            alones.push((name, alone));
        }
        let (mut figure, mut ceiling) = (Series::default(), Series::default());
        // The last of these leaves its views in Redis.
        let mut last = None;
        let mut others: f64 = 0.0;
        let rounds = scale.catch_ups;
        for round in 1..=rounds {
            ceiling.add(rate(read_and_drop(&self.system, self.events).await?));
            let caught_up = self.project().await?;
            figure.add(rate(caught_up.took));
            others = others.max(caught_up.others);
            last = Some(caught_up);
            progress(&format!(
                "catch-up: round {round} of {rounds}: {:.0} events/s, reading alone {:.0}/s",
                figure.last(),
                ceiling.last()
            ));
        }
        let last = last.ok_or("no round")?;
        let mut details: Vec<_> = last
            .rows
            .iter()
            .map(|(name, rows)| {
                Detail::new(format!("rows per event, {name}"), *rows as f64 / events, "")
            })
            .collect();
        let rows: i64 = last.rows.iter().map(|(_, rows)| rows).sum();
        details.push(Detail::new("rows per event, all", rows as f64 / events, ""));
        details.push(Detail::new("WAL per event", last.wal_bytes as f64 / events, "B"));
        for (name, cpu) in [("worker", last.worker_cpu), ("worker and servers", last.cpu)] {
            details.push(Detail::new(format!("CPU per event, {name}"), cpu * 1e6 / events, "µs"));
        }
        let row = |name: String, figure, target, details| Row {
            name,
            figure,
            ceiling_name: "reading the stream".to_owned(),
            ceiling: ceiling.clone(),
            target,
            others,
            details,
        };
        let name = format!("catch-up, {} events, all projections", self.events);
        let mut table = vec![row(name, figure, Target::Rate(25_000.0), details)];
        for (projection, alone) in alones {
            let name = format!("catch-up, {projection} alone");
            table.push(row(name, alone, Target::None, Vec::new()));
        }
        Ok((table, last))
    }
}

/// Reads the stream and drops it.
pub(crate) async fn read_and_drop(system: &System, events: u64) -> Result<Duration, Failure> {
    let context = jetstream::new(client(&system.urls().nats_operator).await?);
    let began = Instant::now();
    let config = pull::Config {
        ack_policy: AckPolicy::None,
        memory_storage: true,
        inactive_threshold: Duration::from_secs(30),
        ..pull::Config::default()
    };
    let consumer = context.create_consumer_on_stream(config, STREAM).await?;
    let mut messages = consumer.stream().max_messages_per_batch(1_000).messages().await?;
    for _ in 0..events {
        messages.next().await.ok_or("the consumer ended")??;
    }
    Ok(began.elapsed())
}

/// Waits until the projections of this name are at a position.
pub(crate) async fn until_at(
    pool: &PgPool,
    position: u64,
    projection: &str,
    mut check: impl FnMut() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        let sql = "select min(position) from checkpoints
             join projections on name = projection and generation = active_generation
             where name like $1";
        let reached: Option<i64> = sqlx::query_scalar(sql).bind(projection).fetch_one(pool).await?;
        if reached.is_some_and(|reached| reached.unsigned_abs() >= position) {
            return Ok(());
        }
        check()?;
        if began.elapsed() > WAIT_TIMEOUT {
            return Err(format!("at {reached:?} of {position} after {WAIT_TIMEOUT:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Bytes of write-ahead log that Postgres has made so far.
async fn wal(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select (pg_current_wal_insert_lsn() - '0/0')::bigint").fetch_one(pool).await
}
