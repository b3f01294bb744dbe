//! `exodrive projections rebuild` and `rollback`: requests them, then watches
//! them.

use super::{
    super::{Failure, terminal},
    acts::{Common, print_receipt_line},
    append_planned, operator, parse_name, table,
};
use exodrive_commands::operations::{
    CommandReceipt, Job, NO_WORKER_NOTICE, OperationRejection, Operator, OperatorError,
    ProjectionCommand,
};
use exodrive_projections::names;
use exodrive_runtime::shutdown;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use std::{
    io::{BufRead, IsTerminal, Write},
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Interval at which the rebuild is read.
const POLL_INTERVAL: Duration = Duration::from_millis(150);
/// Interval at which a line is printed if there is no terminal.
const LINE: Duration = Duration::from_secs(2);
/// Time without a heartbeat after which the operator is warned.
const QUIET_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time to wait for one answer of the database.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Differing keys that are printed.
const SHOWN: usize = 20;
/// The exit code after Ctrl-C.
const INTERRUPTED: u8 = 130;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive projections rebuild inbox --reason 'after the fix of the status fold'
  exodrive projections rebuild inbox --reason 'try it' --dry-run
  exodrive projections rebuild bookings --partitions 4 --reason 'more than one core'
  exodrive projections rebuild inbox --key f3c95789-ace1-4954-ac5d-6baed2eac902 --reason 'changed by hand'
  exodrive projections rebuild --all --reason 'restored from a backup' --json
  exodrive projections rebuild inbox --watch        (one that is in progress)
  exodrive projections rebuild inbox --cancel

A worker builds a new generation beside the one that readers see, compares both
at the same position, and swaps in one transaction. Rows of the same version
that differ are shown before the swap. Ctrl-C leaves the rebuild to the worker.
Exit codes: 0 swapped, 1 failed, rejected, stalled or waiting for you, 130 left
by Ctrl-C.")]
pub(super) struct Rebuild {
    /// Name of the projection
    #[arg(value_parser = parse_name, required_unless_present = "all")]
    name: Option<String>,
    /// Every projection, one after the other
    #[arg(long, conflicts_with_all = ["name", "key", "from", "watch", "cancel", "accept"])]
    all: bool,
    /// Reason: it stays in the log
    #[arg(long, required_unless_present_any = ["watch", "cancel", "accept"])]
    reason: Option<String>,
    /// Only this row, in place
    #[arg(long, conflicts_with_all = ["from", "partitions"])]
    key: Option<String>,
    /// Only rows that an event at this position or later touches
    #[arg(long, value_name = "POSITION")]
    from: Option<u64>,
    /// Number of partitions that the keys are split into, which workers fold
    /// side by side
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    partitions: Option<u32>,
    /// Swap although rows differ from the present ones
    #[arg(long)]
    accept_differences: bool,
    /// Do not wait for it
    #[arg(long)]
    no_wait: bool,
    /// Watch the rebuild that is in progress
    #[arg(long, group = "running", conflicts_with = "reason")]
    watch: bool,
    /// Cancel the rebuild that is in progress; readers go on seeing the present
    /// rows
    #[arg(long, group = "running")]
    cancel: bool,
    /// Swap the rebuild that waits because rows differ
    #[arg(long, group = "running")]
    accept: bool,
    #[command(flatten)]
    bound: Bound,
    #[command(flatten)]
    common: Common,
}

/// Options of watching.
#[derive(clap::Args)]
struct Bound {
    /// Stop watching when nothing has moved for this long; the worker goes on
    #[arg(long, default_value = "5m", value_name = "DURATION",
          value_parser = humantime::parse_duration)]
    stalled_after: Duration,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive projections rollback inbox --reason 'the new status is wrong' --dry-run
  exodrive projections rollback inbox --reason 'the new status is wrong'

Readers see the previous generation, up to date with the log, after one transaction.")]
pub(super) struct Rollback {
    /// Name of the projection
    #[arg(value_parser = parse_name)]
    name: String,
    /// Reason: it stays in the log
    #[arg(long)]
    reason: String,
    /// Do not wait for it
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    bound: Bound,
    #[command(flatten)]
    common: Common,
}

impl Rebuild {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let operator = operator(&self.common.connections).await?;
        let reason = self.reason.clone().unwrap_or_default();
        let waits = (!self.no_wait).then_some(self.bound.stalled_after);
        if let Some(name) = &self.name
            && (self.watch || self.cancel || self.accept)
        {
            return self.resume(&operator, name, &reason).await;
        }
        let command = ProjectionCommand::Rebuild {
            key: self.key,
            from_position: self.from,
            partitions: self.partitions,
            accept_differences: self.accept_differences,
        };
        let names = self
            .name
            .map_or_else(|| names().into_iter().map(str::to_owned).collect(), |name| vec![name]);
        append_planned_all(&operator, &names, &command, &reason, &self.common, waits).await
    }

    /// Watches, cancels or swaps the rebuild that is in progress.
    async fn resume(
        &self,
        operator: &Operator,
        name: &str,
        reason: &str,
    ) -> Result<ExitCode, Failure> {
        let rebuilds = operator.database().rebuilds(Some(name), 50).await?;
        let job = rebuilds.into_iter().find(|it| !it.is_over()).map(Job::from);
        let job = job
            .ok_or_else(|| OperationRejection::NothingUnderWay { projection: name.to_owned() })
            .map_err(OperatorError::from)?;
        if !self.watch {
            let command =
                if self.cancel { ProjectionCommand::Cancel } else { ProjectionCommand::Accept };
            let plan = operator.plan(name, &command, reason).await?;
            if self.common.dry_run {
                print_receipt(&CommandReceipt::of(&plan, None), self.common.json)?;
                return Ok(ExitCode::SUCCESS);
            }
            let recorded = append_planned(operator, &plan).await?;
            if self.cancel || self.no_wait {
                print_receipt(&CommandReceipt::of(&plan, Some(&recorded)), self.common.json)?;
                return Ok(ExitCode::SUCCESS);
            }
        }
        let mut watch = Watch::begin(operator, self.accept, self.bound.stalled_after)?;
        let end = watch.until_over(job).await?;
        if self.common.json {
            say!("{}", serde_json::to_string_pretty(&end.job)?);
        }
        Ok(conclude(&end, self.common.json))
    }
}

impl Rollback {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let operator = operator(&self.common.connections).await?;
        let waits = (!self.no_wait).then_some(self.bound.stalled_after);
        let names = [self.name];
        append_planned_all(
            &operator,
            &names,
            &ProjectionCommand::Rollback,
            &self.reason,
            &self.common,
            waits,
        )
        .await
    }
}

fn print_receipt(receipt: &CommandReceipt, json: bool) -> Result<(), Failure> {
    if json {
        say!("{}", serde_json::to_string_pretty(receipt)?);
    } else {
        print_receipt_line(receipt);
    }
    Ok(())
}

/// One value, or all of them.
fn print_json<T: serde::Serialize>(values: &[T]) -> Result<(), Failure> {
    match values {
        [one] => say!("{}", serde_json::to_string_pretty(one)?),
        all => say!("{}", serde_json::to_string_pretty(all)?),
    }
    Ok(())
}

/// Plans for every projection first, so that no rebuild begins if one is
/// rejected. Then appends the events, and watches one rebuild after the other,
/// each while something moves within `waits`. With `None` it does not watch.
async fn append_planned_all(
    operator: &Operator,
    names: &[String],
    command: &ProjectionCommand,
    reason: &str,
    common: &Common,
    waits: Option<Duration>,
) -> Result<ExitCode, Failure> {
    let mut plans = Vec::new();
    for name in names {
        plans.push(operator.plan(name, command, reason).await?);
    }
    if common.dry_run {
        let receipts: Vec<_> = plans.iter().map(|plan| CommandReceipt::of(plan, None)).collect();
        if common.json {
            print_json(&receipts)?;
        } else {
            receipts.iter().for_each(print_receipt_line);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut jobs = Vec::new();
    for plan in &plans {
        let context = terminal::command_context();
        let recorded = operator.append_planned(plan, &context).await?;
        if !recorded.applied {
            eprintln!("{NO_WORKER_NOTICE}");
        }
        let job = operator.job(plan, &context.actor_name(), &recorded).await?;
        if !common.json {
            let effect = &plan.effect;
            say!("Recorded at position {} as {}: {effect}.", recorded.position, job.id);
        }
        jobs.push(job);
    }
    let Some(stalled_after) = waits else {
        if common.json {
            print_json(&jobs)?;
        } else if let [job] = &jobs[..] {
            say!("Watch it: exodrive projections rebuild {} --watch", job.projection);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let mut watch = Watch::begin(operator, false, stalled_after)?;
    let (mut code, mut ends) = (ExitCode::SUCCESS, Vec::new());
    for job in jobs {
        let end = watch.until_over(job).await?;
        let ended = conclude(&end, common.json);
        if ended != ExitCode::SUCCESS {
            code = ended;
        }
        let left = end.left == Some(Left::Interrupted);
        ends.push(end.job);
        if left {
            break;
        }
    }
    if common.json {
        print_json(&ends)?;
    }
    Ok(code)
}

/// Reason why watching ended before the rebuild did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Ctrl-C.
    Interrupted,
    /// It waits for an operator to accept the differences.
    Undecided,
    /// Nothing has moved for too long.
    Stalled,
}

/// Furthest progress of a rebuild, even if it goes back in between: a
/// generation that cannot be swapped in is compared again and again.
struct Furthest {
    stage: usize,
    done: u64,
    at: Instant,
}

impl Furthest {
    const STAGES: [&str; 7] =
        ["recorded", "queued", "building", "indexing", "catching_up", "comparing", "swapping"];

    fn of(job: &Job) -> Self {
        let stage = Self::STAGES.iter().position(|state| *state == job.state).unwrap_or_default();
        Self { stage, done: job.progress.done, at: Instant::now() }
    }

    /// Notes the present progress. Once both generations are up to date, more
    /// events do not bring it nearer to its end.
    fn note(&mut self, job: &Job) {
        let now = Self::of(job);
        let folds =
            now.stage == self.stage && matches!(job.state.as_str(), "building" | "catching_up");
        if now.stage > self.stage || folds && now.done > self.done {
            *self = now;
        }
    }
}

struct End {
    job: Job,
    left: Option<Left>,
}

struct Watch<'a> {
    operator: &'a Operator,
    stop: CancellationToken,
    /// True once it is accepted: a worker will go on with it.
    accepted: bool,
    stalled_after: Duration,
}

impl<'a> Watch<'a> {
    fn begin(
        operator: &'a Operator,
        accepted: bool,
        stalled_after: Duration,
    ) -> Result<Self, Failure> {
        Ok(Self { operator, stop: shutdown::requested()?, accepted, stalled_after })
    }

    /// Shows the progress of a rebuild until it is over, waits for a decision,
    /// nothing has moved for too long, or Ctrl-C is pressed.
    async fn until_over(&mut self, mut job: Job) -> Result<End, Failure> {
        let id = job.id.parse()?;
        let mut shown = ProgressLine::begin(&job);
        let (mut quiet_since, mut warned) = (Instant::now(), false);
        let mut furthest = Furthest::of(&job);
        loop {
            shown.show(&job);
            if job.is_over() {
                shown.end();
                return Ok(End { job, left: None });
            }
            let undecided = job.state == "waiting" && !job.accepted && !job.cancel_requested;
            if undecided && !self.accepted {
                shown.end();
                print_differences(&job);
                if !self.ask(&job).await? {
                    let interrupted = self.stop.is_cancelled();
                    let left = if interrupted { Left::Interrupted } else { Left::Undecided };
                    return Ok(End { job, left: Some(left) });
                }
                shown = ProgressLine::begin(&job);
                furthest = Furthest::of(&job);
            }
            furthest.note(&job);
            if furthest.at.elapsed() > self.stalled_after {
                shown.end();
                self.print_standing(&job).await;
                return Ok(End { job, left: Some(Left::Stalled) });
            }
            if !warned && quiet_since.elapsed() > QUIET_TIMEOUT && !self.is_alive(&job).await {
                warned = true;
                shown.say(&format!(
                    "No worker sends a heartbeat: {} goes on when one starts (`exodrive work`).",
                    job.projection
                ));
            }
            let look = async {
                tokio::time::sleep(POLL_INTERVAL).await;
                tokio::time::timeout(READ_TIMEOUT, self.operator.rebuild(id)).await
            };
            let looked = tokio::select! {
                looked = look => looked,
                () = self.stop.cancelled() => {
                    shown.end();
                    return Ok(End { job, left: Some(Left::Interrupted) });
                }
            };
            // The worker executes it: an outage of the database here does not
            // end it.
            if let Ok(Ok(now)) = looked.map(|found| found.map(Job::from)) {
                if now != job {
                    quiet_since = Instant::now();
                }
                job = now;
            }
        }
    }

    /// Prints what has not moved, and the state of the generations.
    async fn print_standing(&self, job: &Job) {
        let (name, progress) = (&job.projection, &job.progress);
        eprintln!(
            "Nothing has moved for {}: {} {} of {name} is {}, {} of {} events, worker {}.",
            humantime::format_duration(self.stalled_after),
            job.kind,
            job.id,
            job.state.replace('_', " "),
            table::number(progress.done),
            table::number(progress.total),
            job.worker.as_deref().unwrap_or("none")
        );
        let database = self.operator.database();
        let found = tokio::time::timeout(READ_TIMEOUT, database.generations(name)).await;
        let Ok(Ok(generations)) = found else {
            eprintln!("The database does not answer, so the state of the generations is unknown.");
            return;
        };
        for it in generations {
            eprintln!(
                "  generation {} (version {}): {}, at {}, worker {}",
                it.generation,
                it.version,
                it.state.replace('_', " "),
                it.position,
                it.worker.as_deref().unwrap_or("none")
            );
        }
    }

    async fn is_alive(&self, job: &Job) -> bool {
        let found =
            tokio::time::timeout(READ_TIMEOUT, self.operator.database().projections()).await;
        let standings = found.ok().and_then(Result::ok).unwrap_or_default();
        let worker = standings.into_iter().find(|it| it.name == job.projection);
        worker.and_then(|it| it.heartbeat_age_seconds).is_some_and(|age| age <= 5.0)
    }

    /// Asks whether to swap all the same. Returns true if a decision was made.
    async fn ask(&mut self, job: &Job) -> Result<bool, Failure> {
        if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
            return Ok(false);
        }
        eprint!("Swap all the same? [y/N] ");
        std::io::stderr().flush()?;
        let (sender, answer) = tokio::sync::oneshot::channel();
        // A thread of its own: the program does not wait for it at the end,
        // however long it reads.
        std::thread::spawn(move || {
            let mut answer = String::new();
            let read = std::io::stdin().lock().read_line(&mut answer).map(|_| answer);
            let _ = sender.send(read);
        });
        let answer = tokio::select! {
            answer = answer => answer??,
            () = self.stop.cancelled() => return Ok(false),
        };
        let accept = matches!(answer.trim().to_lowercase().as_str(), "y" | "yes");
        let command = if accept { ProjectionCommand::Accept } else { ProjectionCommand::Cancel };
        let plan = self.operator.plan(&job.projection, &command, "").await?;
        append_planned(self.operator, &plan).await?;
        self.accepted = true;
        Ok(true)
    }
}

/// A progress bar on a terminal, or else lines.
struct ProgressLine {
    bar: Option<ProgressBar>,
    last: Option<(String, Instant)>,
}

impl ProgressLine {
    fn begin(job: &Job) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} {msg:14} {bar:30} {pos}/{len}");
            let bar = ProgressBar::new(job.progress.total);
            if let Ok(style) = style {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(job.projection.clone());
            bar
        });
        Self { bar, last: None }
    }

    fn show(&mut self, job: &Job) {
        let progress = &job.progress;
        let pace = format!("{:.0} events/s", progress.events_per_second);
        let eta = progress.eta_seconds.map(|eta| format!(", {eta:.0} s left")).unwrap_or_default();
        let state = job.state.replace('_', " ");
        if let Some(bar) = &self.bar {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            bar.set_message(format!("{state}, {pace}{eta}"));
            return;
        }
        let due = self.last.as_ref().is_none_or(|(known, at)| {
            *known != job.state || (at.elapsed() >= LINE && progress.total > 0)
        });
        if due {
            let (done, total) = (table::number(progress.done), table::number(progress.total));
            eprintln!("{}: {state}, {done} of {total} events, {pace}{eta}", job.projection);
            self.last = Some((job.state.clone(), Instant::now()));
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn field<'a>(job: &'a Job, name: &str) -> &'a Value {
    job.comparison.as_ref().and_then(|it| it.get(name)).unwrap_or(&Value::Null)
}

fn print_differences(job: &Job) {
    let name = &job.projection;
    let count = field(job, "difference_count").as_u64().unwrap_or(0);
    eprintln!(
        "{} rows of {name} differ from what readers see, though the fold has the same version:",
        table::number(count)
    );
    let differences = field(job, "differences").as_array().map(Vec::as_slice).unwrap_or_default();
    for difference in differences.iter().take(SHOWN) {
        let text = |name: &str| difference[name].as_str().unwrap_or_default();
        eprintln!("  {:8} {}", table::short(text("change"), 10), table::short(text("key"), 100));
    }
    let left = count.saturating_sub(differences.len().min(SHOWN) as u64);
    if left > 0 {
        eprintln!("  and {} more", table::number(left));
    }
}

/// Prints how it ended, on standard output unless that is for programs.
fn conclude(end: &End, json: bool) -> ExitCode {
    let (job, name) = (&end.job, &end.job.projection);
    match end.left {
        Some(Left::Stalled) => {
            eprintln!(
                "The worker goes on with it, and its log says what it waits for; readers see what they saw.\n  watch it:  exodrive projections rebuild {name} --watch\n  end it:    exodrive projections rebuild {name} --cancel"
            );
            return ExitCode::FAILURE;
        }
        Some(Left::Interrupted) => {
            eprintln!(
                "The rebuild goes on in the worker; readers see what they saw.\n  watch it:  exodrive projections rebuild {name} --watch\n  end it:    exodrive projections rebuild {name} --cancel"
            );
            return ExitCode::from(INTERRUPTED);
        }
        Some(Left::Undecided) => {
            eprintln!(
                "It waits for you; readers see what they saw.\n  swap it:   exodrive projections rebuild {name} --accept\n  end it:    exodrive projections rebuild {name} --cancel\n  (or ask with --accept-differences from the beginning)"
            );
            return ExitCode::FAILURE;
        }
        None => {}
    }
    match job.state.as_str() {
        "done" => {
            if !json {
                print_outcome(job);
            }
            ExitCode::SUCCESS
        }
        "cancelled" => {
            eprintln!("Rebuild {} of {name} was cancelled; readers see what they saw.", job.id);
            ExitCode::FAILURE
        }
        _ => {
            let error = table::short(job.error.as_deref().unwrap_or("no reason is given"), 500);
            eprintln!("error: rebuild {} of {name} failed: {error}", job.id);
            ExitCode::FAILURE
        }
    }
}

fn print_outcome(job: &Job) {
    let name = &job.projection;
    if let Some(key) = &job.key {
        say!("Row {} of {name} was folded again.", table::short(key, 100));
        return;
    }
    if job.comparison.is_none() {
        say!("Done: {} of {name}.", job.kind);
        return;
    }
    let number = |name: &str| field(job, name).as_u64().unwrap_or(0);
    say!(
        "Readers of {name} see generation {} (version {}), {} before (version {}).",
        number("to_generation"),
        number("to_version"),
        number("from_generation"),
        number("from_version")
    );
    say!(
        "Compared at position {}: {} rows, {} different, digest {}.",
        table::number(number("position")),
        table::number(number("rows")),
        table::number(number("difference_count")),
        table::short(field(job, "digest").as_str().unwrap_or("-"), 64)
    );
    if job.kind != "rollback" {
        say!("To go back: exodrive projections rollback {name} --reason TEXT");
    }
}
