//! `exodrive audit`: for auditors, and for those who trust nobody.

mod history;

use super::Failure;
use clap::Subcommand;
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive audit history --email 4ef9a417-02e9-4d39-ad75-9611e0fcc33c
  exodrive audit history --address guest@example.com --at 2026-11-20T09:15:00Z")]
pub(super) struct Audit {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// The history of an email, an address, a booking or a time, with all its evidence
    History(history::History),
}

impl Audit {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        match self.action {
            Action::History(history) => history.run().await,
        }
    }
}
