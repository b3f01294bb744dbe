//! `exodrive projections rebuild` and `rollback`: requests them, then watches
//! them.

use super::{
    super::{Failure, terminal},
    actions::{Common, print_receipt_line},
    append_planned, operator, parse_name, table,
};
use exodrive_commands::operations::{
    CommandReceipt, Job, NO_WORKER_NOTICE, OperationRejection, Operator, OperatorError,
    ProjectionCommand, RebuildKind, RebuildState,
};
use exodrive_projections::{engine::store::Comparison, names};
use exodrive_runtime::shutdown;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
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
/// Longest time to wait before there is something to watch.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(20);
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
        // Only what goes on with a rebuild may be asked without a reason.
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
        let rebuilds = in_time(operator.database().rebuilds(Some(name), 50)).await?;
        let job = rebuilds.into_iter().find(|it| !it.is_over()).map(Job::from);
        let job = job
            .ok_or_else(|| OperationRejection::NothingUnderWay { projection: name.to_owned() })
            .map_err(OperatorError::from)?;
        if !self.watch {
            let command =
                if self.cancel { ProjectionCommand::Cancel } else { ProjectionCommand::Accept };
            let plan = in_time(operator.plan(name, &command, reason)).await?;
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
        conclude(&end, self.common.json)
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

/// An answer of the database, unless its connection is dead.
async fn in_time<T, E: std::error::Error + Send + Sync + 'static>(
    question: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(BEGIN_TIMEOUT, question).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err("the database has not answered in time: ask again".into()),
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
        plans.push(in_time(operator.plan(name, command, reason)).await?);
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
        let job = in_time(operator.job(plan, &context.actor_name(), &recorded)).await?;
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
        let ended = conclude(&end, common.json)?;
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
    fn of(job: &Job) -> Self {
        Self { stage: Self::stage(job.state), done: job.progress.done, at: Instant::now() }
    }

    /// The rank of a state: higher nearer to the end of a rebuild. One that waits begins
    /// from the first when it is accepted.
    fn stage(state: RebuildState) -> usize {
        match state {
            RebuildState::Recorded
            | RebuildState::Waiting
            | RebuildState::Done
            | RebuildState::Cancelled
            | RebuildState::Failed => 0,
            RebuildState::Queued => 1,
            RebuildState::Building => 2,
            RebuildState::Indexing => 3,
            RebuildState::CatchingUp => 4,
            RebuildState::Comparing => 5,
            RebuildState::Swapping => 6,
        }
    }

    /// Notes the present progress. Once both generations are up to date, more
    /// events do not bring it nearer to its end.
    fn note(&mut self, job: &Job) {
        let now = Self::of(job);
        let folds = now.stage == self.stage
            && matches!(job.state, RebuildState::Building | RebuildState::CatchingUp);
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
            let undecided =
                job.state == RebuildState::Waiting && !job.accepted && !job.cancel_requested;
            if undecided && !self.accepted {
                shown.end();
                print_differences(&job)?;
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
            if !warned && quiet_since.elapsed() > QUIET_TIMEOUT && self.is_abandoned(&job).await {
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
            table::words(job.state),
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
                table::words(it.state),
                it.position,
                it.worker.as_deref().unwrap_or("none")
            );
        }
    }

    /// True if no worker sends a heartbeat; false, too, if the database does not say.
    async fn is_abandoned(&self, job: &Job) -> bool {
        let found =
            tokio::time::timeout(READ_TIMEOUT, self.operator.database().projections()).await;
        let Ok(Ok(standings)) = found else { return false };
        let worker = standings.into_iter().find(|it| it.name == job.projection);
        worker.and_then(|it| it.heartbeat_age_seconds).is_none_or(|age| age > 5.0)
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
        let plan = in_time(self.operator.plan(&job.projection, &command, "")).await?;
        append_planned(self.operator, &plan).await?;
        self.accepted = true;
        Ok(true)
    }
}

/// A progress bar on a terminal, or else lines.
struct ProgressLine {
    bar: Option<ProgressBar>,
    last: Option<(RebuildState, Instant)>,
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
        let eta = progress.eta_seconds;
        let eta = eta.map_or_else(String::new, |eta| format!(", {eta:.0} s left"));
        let state = table::words(job.state);
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
            self.last = Some((job.state, Instant::now()));
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

/// The comparison of a rebuild; `None` if it has none.
///
/// # Errors
/// When it cannot be read: nobody is to decide by it.
fn comparison(rebuild: &str, found: Option<&Value>) -> Result<Option<Comparison>, Failure> {
    let found = found.map(Comparison::deserialize).transpose();
    found.map_err(|error| format!("the comparison of {rebuild} cannot be read: {error}").into())
}

fn print_differences(job: &Job) -> Result<(), Failure> {
    let name = &job.projection;
    let Some(compared) = comparison(&job.id, job.comparison.as_ref())? else {
        return Err(format!("rebuild {} waits, and has no comparison", job.id).into());
    };
    let count = compared.difference_count.unsigned_abs();
    let why = if compared.from_version == compared.to_version {
        "though the fold has the same version"
    } else {
        "because the fold has another version"
    };
    eprintln!("{} rows of {name} differ from what readers see, {why}:", table::number(count));
    for it in compared.differences.iter().take(SHOWN) {
        eprintln!("  {:8} {}", table::short(&it.change, 10), table::short(&it.key, 100));
    }
    let shown = compared.differences.len().min(SHOWN) as u64;
    let left = count.saturating_sub(shown);
    if left > 0 {
        eprintln!("  and {} more", table::number(left));
    }
    if !compared.newly_parked.is_empty() {
        eprintln!(
            "The new generation has parked events that the present one has folded, so these rows would go back:"
        );
    }
    for it in compared.newly_parked.iter().take(SHOWN) {
        let key = table::short(&it.key, 60);
        eprintln!("  {key} at position {}: {}", table::number(it.position), it.error);
    }
    Ok(())
}

/// Prints how it ended, on standard output unless that is for programs.
fn conclude(end: &End, json: bool) -> Result<ExitCode, Failure> {
    let (job, name) = (&end.job, &end.job.projection);
    match end.left {
        Some(Left::Stalled) => {
            eprintln!(
                "The worker goes on with it, and its log says what it waits for; readers see what they saw.\n  watch it:  exodrive projections rebuild {name} --watch\n  end it:    exodrive projections rebuild {name} --cancel"
            );
            return Ok(ExitCode::FAILURE);
        }
        Some(Left::Interrupted) => {
            eprintln!(
                "The rebuild goes on in the worker; readers see what they saw.\n  watch it:  exodrive projections rebuild {name} --watch\n  end it:    exodrive projections rebuild {name} --cancel"
            );
            return Ok(ExitCode::from(INTERRUPTED));
        }
        Some(Left::Undecided) => {
            eprintln!(
                "It waits for you; readers see what they saw.\n  swap it:   exodrive projections rebuild {name} --accept\n  end it:    exodrive projections rebuild {name} --cancel\n  (or ask with --accept-differences from the beginning)"
            );
            return Ok(ExitCode::FAILURE);
        }
        None => {}
    }
    match job.state {
        RebuildState::Done => {
            if !json {
                print_outcome(job)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        RebuildState::Cancelled => {
            eprintln!("Rebuild {} of {name} was cancelled; readers see what they saw.", job.id);
            Ok(ExitCode::FAILURE)
        }
        _ => {
            let error = table::short(job.error.as_deref().unwrap_or("no reason is given"), 500);
            eprintln!("error: rebuild {} of {name} failed: {error}", job.id);
            Ok(ExitCode::FAILURE)
        }
    }
}

fn print_outcome(job: &Job) -> Result<(), Failure> {
    let name = &job.projection;
    if let Some(key) = &job.key {
        say!("Row {} of {name} was folded again.", table::short(key, 100));
        return Ok(());
    }
    let Some(compared) = comparison(&job.id, job.comparison.as_ref())? else {
        say!("Done: {} of {name}.", job.kind);
        return Ok(());
    };
    say!(
        "Readers of {name} see generation {} (version {}), {} before (version {}).",
        compared.to_generation,
        compared.to_version,
        compared.from_generation,
        compared.from_version
    );
    say!(
        "Compared at position {}: {} rows, {} different, digest {}.",
        table::number(compared.position),
        table::number(compared.rows.unsigned_abs()),
        table::number(compared.difference_count.unsigned_abs()),
        table::short(&compared.digest, 64)
    );
    if job.kind != RebuildKind::Rollback {
        say!("To go back: exodrive projections rollback {name} --reason TEXT");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_comparison_that_cannot_be_read_is_not_one_without_differences() {
        let mut found = json!({
            "from_generation": 1, "to_generation": 2, "from_version": 1, "to_version": 1,
            "position": 9, "rows": 3, "digest": "00", "difference_count": 1,
            "differences": [{ "key": "a", "change": "changed" }],
        });
        assert_eq!(comparison("r", Some(&found)).unwrap().unwrap().difference_count, 1);
        found["difference_count"] = json!("one");
        assert!(comparison("r", Some(&found)).is_err());
        assert!(comparison("r", None).unwrap().is_none());
    }
}
