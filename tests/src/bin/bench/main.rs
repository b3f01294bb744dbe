//! `make bench`: the speed of the system, as ratios to ceilings that are
//! measured in the same run.
//!
//! Absolute figures of a shared machine say little, so each row alternates
//! between the subject and its ceiling, a round of each in turn, and compares
//! the medians. The system is the real one: private servers with the settings
//! of `exodrive up`, and `exodrive serve` and `exodrive work` as processes. The
//! clients of both sides are as lean as they can be, since they share the
//! machine's cores with the measured system.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line prints")]

mod audit;
mod booking;
mod cached_read;
mod catch_up;
mod fleet;
mod ingest;
mod load;
mod mail;
mod raw;
mod rebuild;
mod rental;
mod report;
mod search;
mod side_by_side;
mod system;

use clap::{Parser, Subcommand, ValueEnum};
use exodrive_runtime::services::SyncMode;
use report::{Machine, Row};
use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The allocator of `exodrive`, so that no side has a better one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures webhook ingest, projection catch-up, cached reads, bookings and
/// lists of the fleet, rebuilds, and the verification of exports, each against a
/// ceiling of this machine, and reports the targets that are met.
///
/// Takes about ten minutes. For comparable figures, run nothing else
/// meanwhile.
#[derive(Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
struct Bench {
    /// Short rounds and few events: a check that everything works, without useful figures
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Only these rows, with commas between
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ROW")]
    only: Vec<Benchmark>,
    /// Number of runs of each side
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// Serve only a file, as `exodrive serve` serves an email
    #[command(hide = true)]
    BareAxum { address: SocketAddr, file: PathBuf },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Benchmark {
    /// Webhooks, NATS flushing to disk before each acknowledgement
    IngestAlways,
    /// Webhooks, NATS flushing to disk by its default
    IngestDefault,
    /// The projections from zero
    CatchUp,
    /// An email's detail from the cache
    CachedRead,
    /// Bookings on many cars, NATS flushing to disk before each acknowledgement
    BookingAlways,
    /// Bookings on many cars, NATS flushing to disk by its default
    BookingDefault,
    /// Bookings on one car that every client books, accepted or rejected
    HotCar,
    /// From a booking until its car's calendar shows it
    Calendar,
    /// Lists of a large fleet, by several filters
    Fleet,
    /// Searches of a large inbox, by several kinds of query
    Search,
    /// Rebuilds beside the rows that readers see, their effect on readers, and
    /// the delay until readers see a webhook
    Rebuild,
    /// Sealing, exporting and verifying a large log
    Audit,
    /// The same events through the crate cqrs-es
    CqrsEs,
}

/// The amounts that are measured.
#[derive(Clone, Copy)]
struct Scale {
    /// Rounds of requests. Short and many, since the speed of a shared disk
    /// or processor changes from second to second.
    rounds: usize,
    round: Duration,
    /// Rounds of catching up.
    catch_ups: usize,
    /// Events to catch up with.
    events: usize,
    /// Cars that are booked in turn.
    cars: usize,
    /// Cars in the list.
    fleet: usize,
    /// Emails in the inbox that is searched.
    searched: usize,
    /// Bookings of a car with a long history.
    history: usize,
    /// Bookings whose calendar is polled.
    visible: usize,
    /// Events of the larger log that is rebuilt from; `events` of the smaller.
    rebuild_events: usize,
    /// Webhooks of the measurement of the delay until readers see them.
    live: usize,
    /// Events that go through cqrs-es too.
    side_by_side: usize,
}

impl Scale {
    /// Rounds of bookings and lists: there are many of those rows.
    fn booking_rounds(&self) -> usize {
        self.rounds.div_ceil(2)
    }
}

impl Bench {
    fn scale(&self) -> Scale {
        let (rounds, round, events) = if self.quick {
            (1, Duration::from_millis(300), 3_000)
        } else {
            (20, Duration::from_millis(600), 100_000)
        };
        let rounds = self.rounds.unwrap_or(rounds).max(1);
        let (cars, fleet, history, visible) =
            if self.quick { (100, 300, 200, 20) } else { (1_000, 10_000, 2_000, 300) };
        let catch_ups = rounds.div_ceil(4);
        let (rebuild_events, live, side_by_side) =
            if self.quick { (6_000, 500, 1_200) } else { (1_000_000, 10_000, 60_000) };
        let searched = if self.quick { 20_000 } else { 1_000_000 };
        Scale {
            rounds,
            round,
            catch_ups,
            events,
            cars,
            fleet,
            searched,
            history,
            visible,
            rebuild_events,
            live,
            side_by_side,
        }
    }

    async fn run(self) -> Result<(), Failure> {
        let scale = self.scale();
        let requested = |row| self.only.is_empty() || self.only.contains(&row);
        let machine = Machine::now()?;
        let mut rows: Vec<Row> = Vec::new();
        if requested(Benchmark::IngestAlways) {
            rows.push(ingest::measure(SyncMode::Always, scale).await?);
        }
        if requested(Benchmark::IngestDefault) {
            rows.push(ingest::measure(SyncMode::Default, scale).await?);
        }
        if requested(Benchmark::CatchUp) || requested(Benchmark::CachedRead) {
            let mut filled = catch_up::Filled::new(scale).await?;
            let caught_up = if requested(Benchmark::CatchUp) {
                let (more, caught_up) = filled.measure(scale).await?;
                rows.extend(more);
                caught_up
            } else {
                filled.project().await?
            };
            if requested(Benchmark::CachedRead) {
                let (system, ids) = (&mut filled.system, &filled.email_ids);
                rows.push(cached_read::measure(system, &caught_up.database, ids, scale).await?);
            }
        }
        if requested(Benchmark::BookingAlways) {
            rows.push(booking::many_cars(SyncMode::Always, scale).await?);
        }
        if requested(Benchmark::BookingDefault) {
            rows.push(booking::many_cars(SyncMode::Default, scale).await?);
        }
        if requested(Benchmark::HotCar) {
            rows.extend(booking::hot_car(scale).await?);
        }
        if requested(Benchmark::Calendar) {
            rows.push(booking::visible(scale).await?);
        }
        if requested(Benchmark::Fleet) {
            rows.extend(fleet::measure(scale).await?);
        }
        if requested(Benchmark::Search) {
            rows.extend(search::measure(scale).await?);
        }
        if requested(Benchmark::Rebuild) {
            rows.extend(rebuild::measure(scale).await?);
        }
        if requested(Benchmark::Audit) {
            rows.push(audit::measure(scale).await?);
        }
        if requested(Benchmark::CqrsEs) {
            rows.extend(side_by_side::measure(scale).await?);
        }
        if self.json {
            println!("{:#}", report::json(&machine, &rows));
        } else {
            println!("{}", report::text(&machine, &rows));
            if self.quick {
                println!("--quick: everything works; too little was measured to judge by.");
            }
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let bench = Bench::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = match bench.part {
        Some(Part::BareAxum { address, file }) => {
            runtime.block_on(cached_read::serve_bare(address, file))
        }
        None => runtime.block_on(bench.run()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", exodrive_runtime::error_chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
