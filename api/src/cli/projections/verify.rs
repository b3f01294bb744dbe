//! `exodrive projections verify`: verifies that the views are what the log
//! says.

use crate::cli::{Failure, replay::reading_bar, table};
use crate::settings::Connections;
use exodrive_log::Log;
use exodrive_projections::{Database, Projection, engine::cache::Cache, for_each_projection};
use exodrive_replays::verify::{self, Extent, Options, RedisOutcome, Report};
use exodrive_runtime::error_chain;
use indicatif::ProgressBar;
use serde_json::json;
use std::process::ExitCode;

/// Differences printed of one projection.
const SHOWN: usize = 10;
/// Fields printed of one difference.
const FIELDS: usize = 6;

#[derive(clap::Args)]
#[command(
    after_help = "The log is folded again, as in a rebuild, and every row is compared with the one
in Postgres (document and position, at one moment: the system may go on) and with
its views in Redis. Memory does not grow with the log: rows are folded for a part
of the keys at a time.

A sample takes rows, and keys of events, by chance; it is quick and finds what is
wrong with many rows. --all finds everything, and views in Redis of no row.

What can be wrong: row changed, row missing, row too many, redis stale, redis
missing, redis too many, not folded. A rebuild of the projection repairs all of it.

Exit codes: 0 equal, 1 different, 2 the answer is unknown.

Examples:
  exodrive projections verify
  exodrive projections verify --all
  exodrive projections verify inbox --sample 5000
  exodrive projections verify --all --json | jq '.projections[] | select(.differences > 0)'"
)]
pub(super) struct Verify {
    /// Name of the projection; all of them if not given
    #[arg(value_parser = super::parse_name)]
    name: Option<String>,
    /// Rows of each projection that are compared, chosen at random
    #[arg(long, value_name = "N", default_value_t = 100)]
    sample: usize,
    /// Compare all rows
    #[arg(long, conflicts_with = "sample")]
    all: bool,
    /// Leave Redis out
    #[arg(long)]
    no_redis: bool,
    /// MiB of rows that are folded at a time
    #[arg(long, value_name = "MIB", default_value_t = (Options::MEMORY >> 20) as u64,
          value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    memory: u64,
    /// Print a JSON object, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connections: Connections,
}

/// Exit code: the answer is unknown.
const UNUSABLE: u8 = 2;

impl Verify {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        Ok(self.verify().await.unwrap_or_else(|error| {
            eprintln!("error: {}", error_chain(error.as_ref()));
            ExitCode::from(UNUSABLE)
        }))
    }

    async fn verify(&self) -> Result<ExitCode, Failure> {
        let urls = self.connections.resolve()?;
        let log = Log::open(&self.connections.reading_config(urls.nats)?).await?;
        let database = Database::for_workers(&urls.database_worker)?;
        let cache = if self.no_redis { None } else { Some(Cache::new(&urls.redis_worker)?) };
        let extent = if self.all { Extent::All } else { Extent::Sample(self.sample) };
        let memory = usize::try_from(self.memory << 20)?;
        let options = Options { extent, memory };
        let bar = reading_bar()?;
        let mut reports = Vec::new();
        for_each_projection!(P => if self.name.as_deref().is_none_or(|name| name == P::NAME) {
            let name = P::NAME;
            bar.set_message(name);
            let progress = |done, end| show(&bar, done, end);
            let report = verify::verify::<P>(&log, &database, cache.as_ref(), &options, &progress);
            reports.push(report.await.map_err(|error| {
                format!("{name} could not be verified: {}", error_chain(&error))
            })?);
        });
        bar.finish_and_clear();
        let equal = reports.iter().all(Report::is_equal);
        let unavailable = reports.iter().find_map(|report| match &report.redis {
            RedisOutcome::Unavailable(why) => Some(why),
            _ => None,
        });
        if self.json {
            let answer = json!({"object": "verification", "equal": equal, "projections": reports});
            say!("{}", serde_json::to_string_pretty(&answer)?);
        } else {
            print(&reports);
        }
        if let Some(why) = unavailable {
            eprintln!(
                "Redis could not be compared: {why}. Try again when it is back, or leave it out with --no-redis."
            );
        }
        Ok(match (equal, unavailable) {
            (false, _) => ExitCode::FAILURE,
            (true, Some(_)) => ExitCode::from(UNUSABLE),
            (true, None) => ExitCode::SUCCESS,
        })
    }
}

fn show(bar: &ProgressBar, done: u64, end: u64) {
    bar.set_length(end);
    bar.set_position(done);
}

fn print(reports: &[Report]) {
    let headings =
        ["name", "generation", "position", "rows compared", "redis", "blocked keys", "different"];
    let mut rows = table::table(&headings);
    for report in reports {
        rows.add_row([
            report.name.to_owned(),
            report.generation.to_string(),
            table::number(report.position),
            table::number(report.checked),
            match &report.redis {
                RedisOutcome::NotServed => "-".to_owned(),
                RedisOutcome::LeftOut => "left out".to_owned(),
                RedisOutcome::Compared(values) => table::number(*values),
                RedisOutcome::Unavailable(_) => "unavailable".to_owned(),
            },
            table::number(report.blocked as u64),
            table::number(report.differences),
        ]);
    }
    say!("{rows}");
    for report in reports.iter().filter(|report| !report.is_equal()) {
        print_findings(report);
    }
    let different: u64 = reports.iter().map(|report| report.differences).sum();
    if different == 0 {
        say!("\nEqual: every row compared is what the log says.");
    } else {
        say!(
            "\n{} differences. The log is the truth: rebuild what differs (`exodrive projections --help`).",
            table::number(different)
        );
    }
}

fn print_findings(report: &Report) {
    let mut rows = table::table(&["view", "key", "where", "field", "expected", "found"]);
    for finding in report.findings.iter().take(SHOWN) {
        let mut first =
            [report.name.to_owned(), table::short(&finding.key, 60), finding.place.to_string()];
        if let Some(detail) = &finding.detail {
            let detail = table::short(detail, 100);
            rows.add_row(first.iter().cloned().chain([detail]));
            first = Default::default();
        }
        for field in finding.fields.iter().take(FIELDS) {
            let name = if field.field.is_empty() { "(the row)" } else { &field.field };
            rows.add_row(first.into_iter().chain([
                table::short(name, 50),
                table::json(field.expected.as_ref(), 50),
                table::json(field.found.as_ref(), 50),
            ]));
            first = Default::default();
        }
        let more = finding.fields.len().saturating_sub(FIELDS);
        if more > 0 {
            rows.add_row(first.into_iter().chain([format!("and {more} more fields")]));
        }
    }
    say!("\n{rows}");
    let more = report.differences.saturating_sub(SHOWN as u64);
    if more > 0 {
        say!("... and {} more of {}; --json shows more of them.", table::number(more), report.name);
    }
}
