//! The state of a system, reported when a wait times out.

use crate::{Answer, process::bare, program};
use reqwest::Method;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::{
    collections::HashMap,
    fs,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

/// The timeout of each part's report.
const EACH: Duration = Duration::from_secs(3);
/// The number of reported lines of each log file.
const LINES: usize = 15;

/// Generations, their checkpoints and writers; and the jobs in progress.
const TABLES: [(&str, &str); 5] = [
    ("projections", "select name, active_generation, paused, swaps from projections order by name"),
    (
        "generations",
        "select projection, generation, version, state, withdrawn, partition, position, published,
             worker, lease_until - clock_timestamp() as lease_left,
             clock_timestamp() - heartbeat_at as heartbeat_age
         from generations join checkpoints using (projection, generation)
         order by projection, generation, partition",
    ),
    (
        "rebuilds",
        "select id, projection, kind, state, generation, done, total, error, worker,
             lease_until - clock_timestamp() as lease_left, cancel_wanted, accepted,
             clock_timestamp() - requested_at as age
         from rebuilds order by requested_at desc limit 5",
    ),
    (
        "refolds due",
        "select projection, generation, partition, folded, attempts, count(*), max(error)
         from refolds_due group by 1, 2, 3, 4, 5 order by 1, 2, 3",
    ),
    (
        "Postgres sessions",
        "select pid, application_name, state, wait_event_type, wait_event,
             pg_blocking_pids(pid) as blocked_by, clock_timestamp() - xact_start as in_transaction,
             left(query, 120) as query
         from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle'",
    ),
];

/// The addresses at which a system can be observed from outside, independent of
/// its own state.
pub(crate) struct ObservedSystem {
    pub(crate) folder: PathBuf,
    pub(crate) http: reqwest::Client,
    pub(crate) database: String,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) addresses: Arc<Mutex<HashMap<String, SocketAddr>>>,
}

impl ObservedSystem {
    /// Readiness, projections, rebuilds, locks, and the ends of the logs.
    pub(crate) async fn report(&self) -> String {
        let mut reported = String::new();
        let addresses = self.addresses.lock().unwrap().clone();
        for (name, address) in addresses {
            let request = self.http.request(Method::GET, format!("http://{address}/readyz"));
            let answer = bounded(async {
                let answer = Answer::of(request).await.map_err(|error| error.to_string())?;
                Ok(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)))
            });
            reported += &format!("\n/readyz of {name}: {}", answer.await);
        }
        let list = bounded(async {
            let args = ["projections", "list", "--json"];
            let mut command =
                tokio::process::Command::from(bare(&program("exodrive"), &args, &self.env));
            let done = command.kill_on_drop(true).output().await;
            let done = done.map_err(|error| error.to_string())?;
            let listed = serde_json::from_slice::<Vec<serde_json::Value>>(&done.stdout);
            let listed = listed.unwrap_or_default();
            let lines: String = listed.iter().map(|it| format!("\n  {it}")).collect();
            Ok(lines + &String::from_utf8_lossy(&done.stderr))
        });
        reported += &format!("\nexodrive projections list --json: {}", list.await);
        for (name, sql) in TABLES {
            reported += &format!("\n{name}:{}", bounded(self.rows(sql)).await);
        }
        for file in ["", "services/logs"] {
            reported += &ends_of_logs(&self.folder.join(file));
        }
        reported
    }

    /// The rows of a query, each as JSON on a line of its own. It uses a
    /// connection of its own: the wait may be for one of the test's.
    async fn rows(&self, sql: &str) -> Result<String, String> {
        let sql = AssertSqlSafe(format!("select to_jsonb(it)::text from ({sql}) as it"));
        let rows = async {
            let mut connection = PgConnection::connect(&self.database).await?;
            sqlx::query_scalar(sql).fetch_all(&mut connection).await
        };
        let rows: Vec<String> = rows.await.map_err(|error: sqlx::Error| error.to_string())?;
        Ok(rows.iter().map(|row| format!("\n  {row}")).collect())
    }
}

async fn bounded(part: impl Future<Output = Result<String, String>>) -> String {
    match tokio::time::timeout(EACH, part).await {
        Ok(Ok(reported)) => reported,
        Ok(Err(error)) => format!(" cannot be read: {error}"),
        Err(_) => format!(" no answer within {EACH:?}"),
    }
}

fn ends_of_logs(folder: &Path) -> String {
    let mut reported = String::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|it| it == "log")
            && let Ok(text) = fs::read(&path)
        {
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            let end = lines[lines.len().saturating_sub(LINES)..].join("\n  ");
            reported += &format!("\nend of {}:\n  {end}", entry.file_name().display());
        }
    }
    reported
}
