//! Commands about checkpoints, keys and proofs, and about sealing after an
//! alarm.

use super::{Failure, files, log, seal_store};
use crate::{
    cli::{replay::reading_bar, terminal::actor},
    settings::Connections,
};
use exodrive_audit::seal::{SealError, compare};
use exodrive_audit::store::Seal;
use exodrive_proof::tree::verify_inclusion;
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

/// Time that a worker has to seal again before the command ends.
const UNHALT_TIMEOUT: Duration = Duration::from_secs(30);
const NOTHING_SEALED: &str = "nothing is sealed yet: the first checkpoint comes some seconds after the first event, made by a worker (`exodrive work`)";

#[derive(clap::Args)]
#[command(
    after_help = "A checkpoint says how many events there are and what the root of their Merkle tree is,
signed. Whoever saves one can prove later that the log still says what it said then.

Examples:
  exodrive audit checkpoint --out saved.txt
  exodrive audit checkpoint --out saved-$(date +%F).txt"
)]
pub(super) struct Checkpoint {
    /// The file; - is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,
    /// The checkpoint of this size; the newest if not given
    #[arg(long, value_name = "EVENTS")]
    size: Option<u64>,
    #[command(flatten)]
    connections: Connections,
}

#[derive(clap::Args)]
#[command(
    after_help = "Verifier keys of C2SP signed-note, the newest first. They check signatures; give them to
auditors by another way, too, and not only by this system.

Example:
  exodrive audit public-key --out log.pub"
)]
pub(super) struct PublicKey {
    /// The file; - is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,
    #[command(flatten)]
    connections: Connections,
}

#[derive(clap::Args)]
#[command(after_help = "Example:
  exodrive audit proof 1042")]
pub(super) struct Proof {
    /// Position of the event
    #[arg(value_name = "POSITION")]
    position: u64,
    /// Size of the tree; that of the newest checkpoint if not given
    #[arg(long, value_name = "EVENTS")]
    size: Option<u64>,
    #[command(flatten)]
    connections: Connections,
}

#[derive(clap::Args)]
#[command(
    after_help = "Sealing halts when the log is not what was sealed. Investigate the cause first
(`exodrive audit verify --live`). This compares all of the log with its seals and
changes nothing while the cause still exists; a worker does the same again before it signs.

Example:
  exodrive audit unhalt --reason 'the stream was restored from the backup of 3 May'"
)]
pub(super) struct Unhalt {
    /// Reason: it is stored
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    connections: Connections,
}

impl Checkpoint {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let seals = seal_store(&self.connections)?;
        let seal: Option<Seal> = match self.size {
            None => seals.newest_seal().await?,
            Some(size) => seals.seals_between(size, size, 1).await?.pop(),
        };
        let missing = match self.size {
            None => NOTHING_SEALED.to_owned(),
            Some(size) => format!("there is no checkpoint of size {size}"),
        };
        write(&self.out, &seal.ok_or(missing)?.note)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl PublicKey {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let keys = seal_store(&self.connections)?.seal_keys().await?;
        if keys.is_empty() {
            return Err(NOTHING_SEALED.into());
        }
        let lines: String = keys.into_iter().map(|key| key.vkey + "\n").collect();
        write(&self.out, &lines)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn write(out: &Path, text: &str) -> Result<(), Failure> {
    if out == Path::new("-") {
        say!("{}", text.trim_end_matches('\n'));
        return Ok(());
    }
    files::replace(out, text)
}

impl Proof {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let seals = seal_store(&self.connections)?;
        let sealed = seals.newest_seal().await?.ok_or(NOTHING_SEALED)?;
        let size = self.size.unwrap_or(sealed.size);
        if size > sealed.size || !(1..=size).contains(&self.position) {
            let sealed = sealed.size;
            return Err(format!("{sealed} events are sealed; ask for one of 1 to {sealed}").into());
        }
        let (leaf, proof) = seals.prove_inclusion(self.position, size).await?;
        let seal = seals.seals_between(size, size, 1).await?.pop();
        if let Some(seal) = &seal
            && !verify_inclusion(&leaf, self.position - 1, size, &proof, &seal.root)
        {
            eprintln!("error: the proof does not hold: `exodrive audit verify --live` says why");
            return Ok(ExitCode::FAILURE);
        }
        let answer = json!({
            "object": "inclusion_proof",
            "position": self.position,
            "size": size,
            "leaf_hash": hex::encode(leaf),
            "proof": proof.iter().map(hex::encode).collect::<Vec<_>>(),
            "checkpoint": seal.map(|seal| seal.note),
        });
        say!("{}", serde_json::to_string_pretty(&answer)?);
        Ok(ExitCode::SUCCESS)
    }
}

impl Unhalt {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        if self.reason.trim().is_empty() {
            return Err("--reason must not be empty".into());
        }
        let (log, seals) = (log(&self.connections).await?, seal_store(&self.connections)?);
        let standing = seals.sealing().await?;
        let Some(halt) = standing.halt else {
            say!("Sealing has not halted.");
            return Ok(ExitCode::SUCCESS);
        };
        let bar = reading_bar()?;
        let progress = |done, end| {
            bar.set_length(end);
            bar.set_position(done);
        };
        let compared = compare(&log, &seals, 1, standing.sealed, &progress).await;
        bar.finish_and_clear();
        match compared {
            Ok(()) => {}
            Err(SealError::Fault(fault)) => {
                say!("Not cleared, the cause still exists: {fault}.");
                return Ok(ExitCode::FAILURE);
            }
            Err(error) => return Err(error.into()),
        }
        seals.clear_seal_halt(&actor(), self.reason.trim()).await?;
        say!("Cleared: {}.", halt.reason);
        let began = Instant::now();
        while began.elapsed() < UNHALT_TIMEOUT {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let standing = seals.sealing().await?;
            if let Some(halt) = standing.halt {
                say!("A worker has halted it again: {}.", halt.reason);
                return Ok(ExitCode::FAILURE);
            }
            if standing.compared_log.is_some() {
                say!("Sealing goes on.");
                return Ok(ExitCode::SUCCESS);
            }
        }
        say!("A worker that starts (`exodrive work`) compares all of the log again, then seals.");
        Ok(ExitCode::SUCCESS)
    }
}
