//! The same events through the crate `cqrs-es` with its Postgres store, which
//! is in a workspace of its own (`bench-cqrs-es`), built by `make bench`.
//!
//! Both maintain the same read model, a row for each email. `cqrs-es` writes
//! event and row in the command's path. Ours appends, then projects, so it is
//! measured until the row is level. Its log is the same Postgres that our
//! projections write to; ours is a NATS server that flushes by its own
//! schedule.

use crate::{
    Failure, Scale,
    catch_up::until_at,
    mail,
    rebuild::Noon,
    report::{Detail, Row, Series, Target},
    system::{Watch, append, progress},
};
use exodrive_domain::time;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, postgres::PgPoolOptions};
use std::{fmt::Write, fs, path::Path, process::Command, time::Instant};

/// Events appended at a time, on both sides.
const CONCURRENCY: usize = 8;

pub(crate) async fn measure(scale: Scale) -> Result<Vec<Row>, Failure> {
    let program =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench-cqrs-es/target/release/bench-cqrs-es");
    if !program.exists() {
        return Err("bench-cqrs-es is not built: run this by `make bench`".into());
    }
    let (events, _) = mail::traffic(scale.side_by_side);
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("events.ndjson");
    let mut text = String::new();
    for event in &events {
        let body: Value = serde_json::from_slice(&event.body)?;
        let line = json!({
            "email_id": body["data"]["email_id"], "id": event.envelope.id,
            "kind": body["type"], "received_at": time::format(&event.envelope.time), "body": body,
        });
        writeln!(text, "{line}")?;
    }
    fs::write(&file, text)?;

    let watch = Watch::begin();
    let mut noon = Noon::start().await?;
    progress("cqrs-es: the same events through it");
    let mut theirs = Vec::new();
    for (n, replay) in ["all", "each"].into_iter().enumerate() {
        let own = noon.system.database();
        let (server, _) = own.rsplit_once('/').ok_or("a database URL without a database")?;
        let pool = PgPoolOptions::new().max_connections(1).connect(own).await?;
        let create = AssertSqlSafe(format!("create database cqrs_{n}"));
        sqlx::raw_sql(create).execute(&pool).await?;
        let mut command = Command::new(&program);
        command.args(["--database", &format!("{server}/cqrs_{n}"), "--replay", replay]);
        command.args(["--concurrency", &CONCURRENCY.to_string()]).arg("--events").arg(&file);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        theirs.push(serde_json::from_slice::<Value>(&output.stdout)?);
    }

    progress("cqrs-es: ours");
    let (count, log) = (events.len() as f64, noon.system.log().await?);
    let began = Instant::now();
    append(&log, &events, CONCURRENCY).await?;
    noon.events = count as u64;
    until_at(&noon.pool, noon.events, "inbox", || Ok(())).await?;
    let appended = count / began.elapsed().as_secs_f64();
    let rebuilt = noon.rebuild("inbox").await?;
    let of = |name: &str| theirs.iter().filter_map(|it| it[name].as_f64()).fold(0.0, f64::max);
    let row = |name: &str, figure: f64, ceiling: f64, details| {
        let (mut ours, mut other) = (Series::default(), Series::default());
        ours.add(figure);
        other.add(ceiling);
        Row {
            name: format!("{name}, {count} events"),
            figure: ours,
            ceiling_name: format!("cqrs-es {}", theirs[0]["cqrs_es"].as_str().unwrap_or_default()),
            ceiling: other,
            target: Target::None,
            others: watch.others(),
            details,
        }
    };
    let replays = theirs
        .iter()
        .zip(["one after the other", "emails beside each other"])
        .filter_map(|(it, how)| {
            let rate = it["replay_per_second"].as_f64()?;
            Some(Detail::new(format!("cqrs-es replay, {how}"), rate, "/s"))
        });
    Ok(vec![
        row("append until the row is level", appended, of("append_per_second"), Vec::new()),
        row(
            "replay of the same rows",
            count / rebuilt.took.as_secs_f64(),
            of("replay_per_second"),
            replays.collect(),
        ),
    ])
}
