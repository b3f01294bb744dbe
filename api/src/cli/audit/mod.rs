//! `exodrive audit`: evidence for auditors and for those who trust nobody, and
//! erasure.

mod erase;
mod export;
mod files;
mod history;
mod live;
mod seals;
mod verify;
mod witness;

use super::{Failure, table};
use crate::settings::Connections;
use clap::Subcommand;
use exodrive_audit::store::SealStore;
use exodrive_log::Log;
use exodrive_projections::Database;
use std::process::ExitCode;

/// The log is not what was signed, or what was shown before.
const TAMPERED: u8 = 1;
/// Nothing can be said.
const UNUSABLE: u8 = 2;

#[derive(clap::Args)]
#[command(after_help = "What an auditor does:
  1. Get the log's public key once, from somebody other than whoever runs the log.
  2. Keep a checkpoint now and then, or run a witness, on a machine of your own.
  3. Ask for an export, and verify it against all that you kept. Everything that
     the log said at a checkpoint is then proven to be said still, unchanged.

Examples:
  exodrive audit public-key --out log.pub
  exodrive audit checkpoint --out kept.txt
  exodrive audit export --out log.ndjson
  exodrive audit verify --export log.ndjson --checkpoint kept/*.txt --public-key log.pub
  exodrive audit verify --live
  exodrive audit witness --new-key witness.key --name witness.example.org
  exodrive audit witness --url https://rental.example --state seen.txt --key witness.key
  exodrive audit history --email f3c95789-ace1-4954-ac5d-6baed2eac902
  exodrive audit history --address guest@example.com --at 2026-11-20T09:15:00Z
  exodrive audit erase --email-address dana@example.com --reason 'request of 3 May' --dry-run
  exodrive audit approve 0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4")]
pub(super) struct Audit {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Write part of the log, or all of it, into a file that can be verified offline
    Export(export::Export),
    /// Write the newest signed checkpoint: keep it
    Checkpoint(seals::Checkpoint),
    /// Print the public keys that checkpoints are signed with
    PublicKey(seals::PublicKey),
    /// Verify an export offline, or with --live the log, its seals and views where they run
    Verify(verify::Verify),
    /// Prove that one event is in the log
    Proof(seals::Proof),
    /// Watch a log from a machine of your own, and cosign what it shows
    Witness(witness::Witness),
    /// Let sealing go on after an alarm: first all of the log is compared again
    Unhalt(seals::Unhalt),
    /// The history of an email, an address, a booking or a time, with all its evidence
    History(Box<history::History>),
    /// Have a person's data erased: say what that is, and ask for an approval
    Erase(erase::Erase),
    /// Approve an erasure: a worker destroys the keys, then cleans every view
    Approve(erase::Approve),
    /// Call an erasure off that is not approved yet
    Cancel(erase::Cancel),
    /// List the erasures; --out keeps the list, for a restore from a backup
    Erasures(erase::List),
    /// After a restore: erase again what a kept list of erasures names
    Reapply(erase::Reapply),
    /// Place or lift a legal hold: nothing of that person may be erased
    Hold(erase::Hold),
}

impl Audit {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        match self.action {
            Action::Export(export) => export.run().await,
            Action::Checkpoint(checkpoint) => checkpoint.run().await,
            Action::PublicKey(keys) => keys.run().await,
            Action::Verify(verify) => verify.run().await,
            Action::Proof(proof) => proof.run().await,
            Action::Witness(witness) => witness.run().await,
            Action::Unhalt(unhalt) => unhalt.run().await,
            Action::History(history) => history.run().await,
            Action::Erase(erase) => erase.run().await,
            Action::Approve(approve) => approve.run().await,
            Action::Cancel(cancel) => cancel.run().await,
            Action::Erasures(list) => list.run().await,
            Action::Reapply(reapply) => reapply.run().await,
            Action::Hold(hold) => hold.run().await,
        }
    }
}

/// The database, as its owner.
fn database(connections: &Connections) -> Result<Database, Failure> {
    let url = match &connections.database_url {
        Some(url) => url.clone(),
        None => connections.resolve()?.database,
    };
    Ok(Database::for_workers(&url)?)
}

fn seal_store(connections: &Connections) -> Result<SealStore, Failure> {
    Ok(SealStore::of(&database(connections)?))
}

/// The log, to be read.
async fn log(connections: &Connections) -> Result<Log, Failure> {
    let (nats, _) = connections.resolve_log()?;
    Ok(Log::open(&connections.reading_config(nats)?).await?)
}
