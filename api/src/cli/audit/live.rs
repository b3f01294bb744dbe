//! `exodrive audit verify --live`: verifies that the log is what was sealed,
//! and that the views are what the log says. It runs where the system runs, and
//! meanwhile.

use super::{Failure, TAMPERED, UNUSABLE, database, files, log, table};
use crate::{cli::replay::reading_bar, settings::Connections};
use exodrive_audit::seal::{SealError, SealFault, check_seals, compare, signed};
use exodrive_audit::store::SealStore;
use exodrive_log::Log;
use exodrive_projections::{
    Database, Projection,
    engine::cache::Cache,
    views::{deliveries::Deliveries, inbox::Inbox},
};
use exodrive_proof::note::VerifierKey;
use exodrive_replays::verify::{self, Extent, Options, RedisOutcome, Report};
use exodrive_runtime::error_chain;
use serde_json::{Value, json};
use std::{path::Path, process::ExitCode};

/// Differences shown of one view.
const SHOWN: usize = 10;

/// Findings of a verification.
#[derive(Default)]
struct Findings {
    sealed: u64,
    end: u64,
    checkpoints: u64,
    fault: Option<SealFault>,
    views: Vec<Report>,
    /// True if the auditor gave the keys; false if they are those of the
    /// database.
    own_keys: bool,
}

pub(super) async fn run(
    connections: &Connections,
    public_key: Option<&Path>,
    json: bool,
) -> Result<ExitCode, Failure> {
    let found = match examine(connections, public_key).await {
        Ok(found) => found,
        Err(error) => {
            eprintln!("error: the system could not be verified: {}", error_chain(error.as_ref()));
            return Ok(ExitCode::from(UNUSABLE));
        }
    };
    if json {
        say!("{}", serde_json::to_string_pretty(&found.as_json())?);
    } else {
        found.print();
    }
    Ok(if found.is_valid() { ExitCode::SUCCESS } else { ExitCode::from(TAMPERED) })
}

async fn examine(
    connections: &Connections,
    public_key: Option<&Path>,
) -> Result<Findings, Failure> {
    let (log, database) = (log(connections).await?, database(connections)?);
    let seals = SealStore::of(&database);
    let keys = match public_key {
        Some(path) => files::keys(path, VerifierKey::parse)?,
        None => {
            let known = seals.seal_keys().await?.into_iter();
            known.map(|key| VerifierKey::parse(&key.vkey)).collect::<Result<_, _>>()?
        }
    };
    let mut found = Findings { own_keys: public_key.is_some(), ..Findings::default() };
    let standing = seals.sealing().await?;
    found.end = log.last_position().await?;
    found.sealed = standing.sealed;
    let bar = reading_bar()?;
    let progress = |done, end| {
        bar.set_length(end);
        bar.set_position(done);
    };
    bar.set_message("the log");
    let compared = compare(&log, &seals, 1, standing.sealed, &progress).await;
    bar.set_message("its checkpoints");
    let outcome = match compared {
        Ok(()) => checkpoints(&log, &seals, &keys, standing.sealed).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(count) => found.checkpoints = count,
        Err(SealError::Fault(fault)) => found.fault = Some(fault),
        Err(error) => return Err(error.into()),
    }
    // Views cannot be compared with a log that has lost events.
    if found.fault.is_none() {
        // Views are not compared with a cache that has no known address.
        let redis = connections.redis_worker_url.clone().or_else(|| connections.redis_url.clone());
        let redis = redis.or_else(|| connections.resolve().ok().map(|urls| urls.redis_worker));
        let cache = redis.map(|url| Cache::new(&url)).transpose()?;
        for_view::<Deliveries>(&log, &database, cache.as_ref(), &mut found, &progress).await?;
        for_view::<Inbox>(&log, &database, cache.as_ref(), &mut found, &progress).await?;
    }
    bar.finish_and_clear();
    Ok(found)
}

/// Checks every checkpoint, and the one that is stored beside the log.
async fn checkpoints(
    log: &Log,
    seals: &SealStore,
    keys: &[VerifierKey],
    sealed: u64,
) -> Result<u64, SealError> {
    let count = check_seals(seals, keys).await?;
    if let Some(note) = log.newest_checkpoint().await? {
        let saved = signed(&note, keys)?;
        if saved.size > sealed {
            // A checkpoint that was signed since is in the database by now.
            let now = seals.sealing().await?.sealed;
            if saved.size > now {
                return Err(SealFault::Short { end: now, sealed: saved.size }.into());
            }
        }
        if seals.seals_between(saved.size, saved.size, 1).await?.first().map(|seal| seal.root)
            != Some(saved.root)
        {
            return Err(SealFault::Root { size: saved.size }.into());
        }
    }
    Ok(count)
}

async fn for_view<P: Projection>(
    log: &Log,
    database: &Database,
    cache: Option<&Cache>,
    found: &mut Findings,
    progress: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<(), Failure> {
    let options = Options::new(Extent::All);
    found.views.push(verify::verify::<P>(log, database, cache, &options, progress).await?);
    Ok(())
}

impl Findings {
    fn is_valid(&self) -> bool {
        self.fault.is_none() && self.views.iter().all(Report::is_equal)
    }

    fn as_json(&self) -> Value {
        json!({
            "object": "live_verification",
            "verdict": if self.is_valid() { "valid" } else { "tampered" },
            "sealed": self.sealed,
            "events": self.end,
            "checkpoints": self.checkpoints,
            "reason": self.fault.as_ref().map(ToString::to_string),
            "first_bad_position": self.fault.as_ref().and_then(SealFault::position),
            "views": self.views,
        })
    }

    fn print(&self) {
        let number = table::number;
        if let Some(fault) = &self.fault {
            say!("TAMPERED: {fault}.");
            if let Some(position) = fault.position() {
                say!("The first bad position is {position}.");
            }
            say!(
                "Change nothing; an export and the checkpoints that auditors saved are the evidence."
            );
            return;
        }
        say!("The log is what was sealed.\n");
        say!("  events        {}, {} sealed, each compared", number(self.end), number(self.sealed));
        say!("  checkpoints   {}, every root and signature valid", number(self.checkpoints));
        for view in &self.views {
            let redis = match &view.redis {
                RedisOutcome::Compared(values) => format!(", {} in Redis", number(*values)),
                RedisOutcome::Unavailable(_) => ", Redis could not be compared".to_owned(),
                _ => String::new(),
            };
            let differences = number(view.differences);
            say!(
                "  {:<13} {} rows{redis}, {differences} differences",
                view.name,
                number(view.checked)
            );
            for finding in view.findings.iter().take(SHOWN) {
                say!("      {}: {}", finding.place, table::short(&finding.key, 60));
            }
        }
        if self.views.iter().any(|view| !view.is_equal()) {
            say!("\nA view is not what the log says: `exodrive projections rebuild` repairs it.");
        }
        if !self.own_keys {
            say!("\nThe keys were those of the database; with --public-key they are yours.");
        }
    }
}
