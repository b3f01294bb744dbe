//! Erasure of a person's data, from the command line.

use super::{Failure, table};
use crate::{
    cli::{replay::reading_bar, terminal::Person},
    settings::Connections,
};
use exodrive_commands::erasure::{ErasureDetail, ErasurePlan, Erasures, restored};
use exodrive_domain::id::ErasureId;
use exodrive_log::Log;
use serde::Deserialize;
use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive audit erase --email-address dana@example.com --reason 'request of 3 May' --dry-run
  exodrive audit erase --email-address dana@example.com --reason 'request of 3 May'

The whole log is read for the address: mail from and to it, bookings of the customer with it, contacts. Erasing
destroys the data keys that encrypt those events. The events stay, unreadable, so every seal and proof holds; every
view, cache and parked copy is rebuilt without the data and says `erased`. It cannot be undone.

It begins when it is approved: `exodrive audit approve ID`.")]
pub(super) struct Erase {
    /// The person's email address
    #[arg(long, value_name = "ADDRESS")]
    email_address: String,
    /// Reason: it stays in the log, so write nothing personal
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Erase events that only mention the address, too: mail to others, other
    /// customers' bookings
    #[arg(long)]
    include_mentions: bool,
    /// Only describe what would be erased
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    person: Person,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  EXODRIVE_TOKEN=... exodrive audit approve 0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4
  exodrive audit approve 0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4 --single-handed

Another person than the requester approves, and both show who they are by a token (--as, or EXODRIVE_TOKEN). Who has the
system's secrets and no second person says so: the event of the approval then says that it was single-handed.")]
pub(super) struct Approve {
    /// Id of the erasure
    #[arg(value_name = "ID")]
    id: ErasureId,
    /// Approve it without a second person: the log says so for ever
    #[arg(long)]
    single_handed: bool,
    /// Do not wait until it is done
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    person: Person,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub(super) struct Cancel {
    /// Id of the erasure
    #[arg(value_name = "ID")]
    id: ErasureId,
    /// Reason: it stays in the log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    person: Person,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive audit erasures
  exodrive audit erasures --out erasures.json     (keep it apart from the backups)")]
pub(super) struct List {
    /// Write the list to a file, for `exodrive audit reapply`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
#[command(after_help = "Example:
  exodrive audit reapply --erasures erasures.json

A log restored from a backup, into an empty database, does not have erasures after the backup. This command appends
them; workers execute them when they start. Erasures that the log or the database has are executed without this.")]
pub(super) struct Reapply {
    /// The list that `exodrive audit erasures --out` wrote
    #[arg(long, value_name = "FILE")]
    erasures: PathBuf,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive audit hold --email-address dana@example.com --reason 'case 12/2026'
  exodrive audit hold --email-address dana@example.com --reason 'case 12/2026 is closed' --lift")]
pub(super) struct Hold {
    /// The person's email address; the log does not hold it
    #[arg(long, value_name = "ADDRESS")]
    email_address: String,
    /// Reason: it stays in the log, so write nothing personal
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Release the hold
    #[arg(long)]
    lift: bool,
    #[command(flatten)]
    person: Person,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Common {
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connections: Connections,
}

impl Common {
    async fn log(&self) -> Result<Log, Failure> {
        let (nats, monitor) = self.connections.resolve_log()?;
        Ok(Log::connect(&self.connections.appending_config(nats, monitor)?).await?)
    }

    fn print(&self, erasure: &ErasureDetail) -> Result<(), Failure> {
        if self.json {
            say!("{}", serde_json::to_string_pretty(erasure)?);
        } else {
            say!("{}", described(erasure));
        }
        Ok(())
    }
}

impl Erase {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let log = self.common.log().await?;
        let erasures = Erasures::new(log);
        let bar = reading_bar()?;
        let progress = |done, end| {
            bar.set_length(end);
            bar.set_position(done);
        };
        let plan = erasures.plan(&self.email_address, self.include_mentions, progress).await?;
        bar.finish_and_clear();
        if !self.common.json || self.dry_run {
            self.show(&plan)?;
        }
        if self.dry_run {
            return Ok(ExitCode::SUCCESS);
        }
        let context = self.person.context(&self.common.connections).await?;
        let erasure = erasures
            .request(&self.email_address, self.include_mentions, &self.reason, &context)
            .await?;
        if self.common.json {
            say!("{}", serde_json::to_string_pretty(&erasure)?);
        } else {
            say!("\nErasure {} waits for an approval:\n  exodrive audit approve {0}", erasure.id);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn show(&self, plan: &ErasurePlan) -> Result<(), Failure> {
        if self.common.json {
            say!("{}", serde_json::to_string_pretty(plan)?);
            return Ok(());
        }
        let mut rows = table::table(&["", "found in the log"]);
        rows.add_row(["emails", &plan.emails.to_string()]);
        rows.add_row(["customers", &plan.customers.len().to_string()]);
        rows.add_row(["data keys to destroy", &plan.keys.len().to_string()]);
        rows.add_row(["events that would become unreadable", &plan.events.to_string()]);
        let stay = if self.include_mentions { "" } else { " (they stay)" };
        rows.add_row(["events that only mention it", &format!("{}{stay}", plan.mentions.len())]);
        rows.add_row(["log read up to", &plan.position.to_string()]);
        say!("{rows}");
        for mention in plan.mentions.iter().take(20) {
            say!("  mentioned at {} ({})", mention.position, mention.kind);
        }
        if let Some(hold) = &plan.hold {
            say!("A legal hold forbids it: {hold}");
        }
        Ok(())
    }
}

impl Approve {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let erasures = Erasures::new(self.common.log().await?);
        let context = self.person.context(&self.common.connections).await?;
        let mut erasure = erasures.approve(self.id, self.single_handed, &context).await?;
        if erasure.single_handed {
            eprintln!("warning: the log says that no second person has approved it");
        }
        if self.no_wait {
            self.common.print(&erasure)?;
            return Ok(ExitCode::SUCCESS);
        }
        let bar = indicatif::ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(100));
        bar.set_message("waits for a worker (Ctrl-C leaves it to the worker)");
        while erasure.status != "completed" {
            tokio::time::sleep(Duration::from_millis(300)).await;
            erasure = erasures.get(self.id).await?;
            if erasure.status == "started" {
                bar.set_message("keys are destroyed, views are being cleaned");
            }
        }
        bar.finish_and_clear();
        self.common.print(&erasure)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Cancel {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let erasures = Erasures::new(self.common.log().await?);
        let context = self.person.context(&self.common.connections).await?;
        self.common.print(&erasures.cancel(self.id, &self.reason, &context).await?)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let list = Erasures::new(self.common.log().await?).list().await?;
        if let Some(out) = &self.out {
            fs::write(out, serde_json::to_vec_pretty(&list)?)?;
        }
        if self.common.json {
            say!("{}", serde_json::to_string_pretty(&list)?);
            return Ok(ExitCode::SUCCESS);
        }
        let mut rows =
            table::table(&["erasure", "status", "asked for", "by", "approved by", "events", "why"]);
        for erasure in &list {
            rows.add_row([
                &erasure.id,
                erasure.status,
                &erasure.requested_at.format("%Y-%m-%d %H:%M").to_string(),
                &erasure.requested_by,
                erasure.approved_by.as_deref().unwrap_or(""),
                &erasure.events.to_string(),
                &erasure.reason,
            ]);
        }
        say!("{rows}");
        Ok(ExitCode::SUCCESS)
    }
}

/// Fields of a saved list of erasures that this command needs.
#[derive(Deserialize)]
struct ErasureListEntry {
    id: ErasureId,
    status: String,
    keys: Vec<String>,
}

impl Reapply {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let saved: Vec<ErasureListEntry> = serde_json::from_slice(&fs::read(&self.erasures)?)?;
        let log = self.common.log().await?;
        let known = Erasures::new(log.clone()).list().await?;
        let mut reported = 0;
        for erasure in saved.iter().filter(|it| matches!(&*it.status, "started" | "completed")) {
            if known.iter().all(|known| known.id != erasure.id.to_string()) {
                restored::record_keys_again(&log, erasure.id, &erasure.keys).await?;
                reported += 1;
            }
        }
        say!("{reported} erasures are recorded again; a worker executes them.");
        Ok(ExitCode::SUCCESS)
    }
}

impl Hold {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let erasures = Erasures::new(self.common.log().await?);
        let held = !self.lift;
        let context = self.person.context(&self.common.connections).await?;
        let id = erasures.hold(&self.email_address, held, &self.reason, &context).await?;
        if self.common.json {
            say!("{}", serde_json::json!({ "object": "hold", "id": id.to_string(), "held": held }));
        } else if held {
            say!("Hold {id}: nothing of this person is erased until it is released.");
        } else {
            say!("Hold {id} is released.");
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn described(erasure: &ErasureDetail) -> String {
    match erasure.status {
        "completed" => format!(
            "Erased: {} data keys destroyed, {} events cannot be read any more, {} rows folded again.\n\
             Every seal and proof holds: they are of the ciphertext. Backups made before hold the keys:\n\
             `exodrive audit erasures --out FILE` saves what has to be erased again after a restore.",
            erasure.keys.len(),
            erasure.events,
            erasure.rows
        ),
        status => format!("Erasure {} is {status}.", erasure.id),
    }
}
