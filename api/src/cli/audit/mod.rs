//! `exodrive audit`: evidence for auditors, and erasure.

mod erase;

use super::{Failure, table};
use clap::Subcommand;
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive audit erase --email-address dana@example.com --reason 'request of 3 May' --dry-run
  exodrive audit erase --email-address dana@example.com --reason 'request of 3 May'
  exodrive audit approve 0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4")]
pub(super) struct Audit {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
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
            Action::Erase(erase) => erase.run().await,
            Action::Approve(approve) => approve.run().await,
            Action::Cancel(cancel) => cancel.run().await,
            Action::Erasures(list) => list.run().await,
            Action::Reapply(reapply) => reapply.run().await,
            Action::Hold(hold) => hold.run().await,
        }
    }
}
