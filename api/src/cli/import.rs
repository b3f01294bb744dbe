//! `exodrive import`: imports the tables of the present product as events.

use super::{Failure, table};
use crate::{
    http::TIME_ZONE,
    settings::{BookingSettings, Connections},
};
use chrono::Utc;
use exodrive_commands::{
    import::{self, Ledger, Rehearsal, Report, Tables},
    rental::{BookingSecret, RentalCommands},
};
use exodrive_log::{Commands, Log};
use exodrive_projections::{Database, engine::cache::Cache};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

#[derive(clap::Args)]
#[command(
    after_help = "The folder holds one CSV file (RFC 4180, UTF-8) for each table, with a header row:
  cars car_pricing car_additional_fees car_images car_specifications car_features
  car_availability customers bookings booking_events inbox_emails

Every row is taken (it becomes an event with the time that it happened), known
(an earlier import took it, or it says what holds anyway), or refused with its
line and the reason. The three add up to the rows of the file. The exit code is
1 if a row was refused.

An import can be repeated, also after it was interrupted: what was taken is
left alone. A row that has changed since is refused.

A file is refused whole if it cannot be told what its rows and columns are: a
quote is opened and not closed, or closed and followed by text, or stands in a
cell that is not in quotes; the header is missing, lacks a column or has one
twice. Mend the line that is named, and import again.

Of rows with one id (capitals make no difference), of prices of one car and of
rows about one day of a car, the first is taken and the others are refused. A
row that belongs to a refused one is refused too. docs/operating.md has all
rules.

Examples:
  exodrive import tests/fixtures/season --dry-run
  exodrive import tests/fixtures/season
  exodrive import export/ --time-zone America/Los_Angeles --json > report.json"
)]
pub(super) struct Import {
    /// The folder with the CSV files
    folder: PathBuf,
    /// Only report what would be taken and what not
    #[arg(long)]
    dry_run: bool,
    /// Time zone of the cars (IANA): their days are calendar days there
    #[arg(long, default_value = TIME_ZONE, value_name = "ZONE")]
    time_zone: String,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connections: Connections,
    #[command(flatten)]
    bookings: BookingSettings,
}

impl Import {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let tables = Tables::read_folder(&self.folder)
            .map_err(|error| format!("cannot read {}: {error}", self.folder.display()))?;
        if tables.missing.len() == Tables::NAMES.len() {
            return Err(format!(
                "{} holds none of the tables: `exodrive import --help` names them",
                self.folder.display()
            )
            .into());
        }
        if !tables.missing.is_empty() {
            eprintln!("Not there, so taken as empty: {}.", tables.missing.join(", "));
        }
        let started = Instant::now();
        let secret = self.bookings.secret(&self.connections)?;
        let (rental, log) = open(&self.connections, secret).await?;
        let (report, _) = import(&rental, &log, &tables, &self.time_zone, self.dry_run).await?;
        if self.json {
            say!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print(&report, self.dry_run, started.elapsed());
        }
        Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Opens command handlers for this program, beside the API's.
pub(super) async fn open(
    connections: &Connections,
    secret: BookingSecret,
) -> Result<(RentalCommands, Log), Failure> {
    let urls = connections.resolve()?;
    let log = Log::connect(&connections.appending_config(urls.nats, urls.nats_monitor)?).await?;
    let redis = Cache::new(&urls.redis)?;
    let commands = Commands::new(log.clone(), Some(redis.redis().clone()));
    let database = Database::for_readers(&urls.database)?;
    let rental = RentalCommands::new(commands, database, redis).with_earlier_ids(secret);
    Ok((rental, log))
}

/// Imports the tables, or rehearses it. Returns the number of steps.
pub(super) async fn import(
    rental: &RentalCommands,
    log: &Log,
    tables: &Tables,
    time_zone: &str,
    dry_run: bool,
) -> Result<(Report, usize), Failure> {
    if time_zone.parse::<chrono_tz::Tz>().is_err() {
        return Err(
            format!("{time_zone:?} is not a time zone: give for example America/New_York").into()
        );
    }
    let plan = import::plan(tables, time_zone, Utc::now());
    let mut ledger = Ledger::of(tables, &plan);
    let bar = ProgressBar::new(plan.len() as u64).with_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} {per_sec} {eta} left {msg}",
    )?);
    let done = |step: &import::Step, outcome| {
        ledger.count(step, &outcome);
        bar.inc(1);
    };
    let outcome = if dry_run {
        Rehearsal::new(rental).run(log, &plan, done).await
    } else {
        import::run_import(rental, log, &plan, done).await
    };
    bar.finish_and_clear();
    outcome.map_err(|error| {
        let chain = exodrive_runtime::error_chain(&error);
        format!(
            "interrupted after {} of {} steps: {chain}. Run it again: what was taken is left alone",
            bar.position(),
            plan.len()
        )
    })?;
    Ok((ledger.finish(), plan.len()))
}

fn print(report: &Report, dry_run: bool, took: Duration) {
    let taken = if dry_run { "would be taken" } else { "taken" };
    let mut counts = table::table(&["table", "rows", taken, "known", "refused"]);
    for (name, it) in &report.tables {
        let number = |n: usize| table::number(n as u64);
        counts.add_row([
            name.clone(),
            number(it.rows),
            number(it.taken),
            number(it.known),
            number(it.refused),
        ]);
    }
    say!("{counts}");
    list("broken file", &report.broken);
    list("taken with other values", &report.remarks);
    list("refused", &report.problems);
    if !report.ignored_columns.is_empty() {
        say!("\nColumns that are not read: {}.", report.ignored_columns.join(", "));
    }
    let all: usize = report.tables.values().map(|counts| counts.taken).sum();
    let seconds = took.as_secs_f64();
    let changed = if dry_run { "Nothing was changed" } else { "Every row taken is an event" };
    say!(
        "\n{} rows {taken}, {} refused, in {seconds:.1} s. {changed}.",
        table::number(all as u64),
        report.problems.len()
    );
}

/// Shows problems; neighbours with one reason share a line.
fn list(title: &str, problems: &[import::Problem]) {
    if problems.is_empty() {
        return;
    }
    let mut rows = table::table(&["table", "line", "id", title]);
    for group in problems.chunk_by(|a, b| (a.table, &a.why) == (b.table, &b.why)) {
        let [first, rest @ ..] = group else { continue };
        let (lines, id) = match rest.last() {
            Some(last) => {
                let count = table::number(group.len() as u64);
                (format!("{} to {}", first.line, last.line), format!("{count} rows"))
            }
            None => (first.line.to_string(), table::short(&first.id, 36)),
        };
        rows.add_row([first.table.to_owned(), lines, id, table::short(&first.why, 200)]);
    }
    say!("\n{rows}");
}
