//! `exodrive audit`: evidence for auditors who need not trust this system, and
//! erasure of personal data.

mod erase;
mod export;
mod files;
mod history;
mod live;
mod rewrap;
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

/// Exit code: the log is not what was signed, or what was shown before.
const TAMPERED: u8 = 1;
/// Exit code: the answer is unknown.
const UNUSABLE: u8 = 2;

#[derive(clap::Args)]
#[command(after_help = "The steps of an audit:
  1. Get the log's public key once, from another source than the operator of the log.
  2. Save a checkpoint now and then, or run a witness, on a machine of your own.
  3. Ask for an export, and verify it against all that you saved. This proves that
     everything that the log said at a checkpoint is still there, unchanged.

Examples:
  exodrive audit public-key --out log.pub
  exodrive audit checkpoint --out saved.txt
  exodrive audit export --out log.ndjson
  exodrive audit verify --export log.ndjson --checkpoint saved/*.txt --public-key log.pub
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
    /// Write the newest signed checkpoint, for you to save
    Checkpoint(seals::Checkpoint),
    /// Print the public keys that checkpoints are signed with
    PublicKey(seals::PublicKey),
    /// Verify an export offline, or with --live the log, its seals and views where they run
    Verify(verify::Verify),
    /// Prove that one event is in the log
    Proof(seals::Proof),
    /// Watch a log from a machine of your own, and cosign its checkpoints
    Witness(witness::Witness),
    /// Let sealing go on after an alarm, once the whole log has been compared
    /// again
    Unhalt(seals::Unhalt),
    /// The history of an email, an address, a booking or a time, with all its evidence
    History(Box<history::History>),
    /// Request the erasure of a person's data: show what it would destroy, and
    /// wait for an approval
    Erase(erase::Erase),
    /// Approve an erasure: a worker destroys the keys, then cleans every view
    Approve(erase::Approve),
    /// Cancel an erasure that is not approved yet
    Cancel(erase::Cancel),
    /// List the erasures; --out saves the list, for a restore from a backup
    Erasures(erase::List),
    /// After a restore: erase again what a saved list of erasures names
    Reapply(erase::Reapply),
    /// Place or release a legal hold: nothing of that person may be erased
    Hold(erase::Hold),
    /// Wrap all data keys by the newest wrapping key, so that an older one can be retired
    Rewrap(rewrap::Rewrap),
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
            Action::Rewrap(rewrap) => rewrap.run().await,
        }
    }
}

/// Connects to the database as the worker's login.
fn database(connections: &Connections) -> Result<Database, Failure> {
    Ok(Database::for_workers(&connections.resolve_database()?)?)
}

fn seal_store(connections: &Connections) -> Result<SealStore, Failure> {
    Ok(SealStore::of(&database(connections)?))
}

/// Opens the log for reading.
async fn log(connections: &Connections) -> Result<Log, Failure> {
    let (nats, _) = connections.resolve_log()?;
    Ok(Log::open(&connections.reading_config(nats)?).await?)
}
