//! `exodrive replay`: history, told from the log.

use super::{Failure, table};
use crate::settings::{Connections, reading_config};
use clap::Subcommand;
use exodrive_domain::{email::EmailId, time};
use exodrive_log::Log;
use exodrive_projections::inbox::{InboxRow, read::EmailDetail};
use exodrive_replays::{self as replays, Frame, Order, Until};
use serde_json::json;
use std::process::ExitCode;

#[derive(clap::Args)]
pub(super) struct Replay {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The history of one email; needs only the log
    Email(Email),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive replay email 4ef9a417-02e9-4d39-ad75-9611e0fcc33c
  exodrive replay email 4ef9a417-02e9-4d39-ad75-9611e0fcc33c --at 2026-11-20T09:15:06Z --order happened
  exodrive replay email 4ef9a417-02e9-4d39-ad75-9611e0fcc33c --json | jq '.[-1].state'")]
struct Email {
    /// The provider's id of the email
    id: EmailId,
    /// Stop after this time (RFC 3339) or position
    #[arg(long, value_name = "TIME|POSITION")]
    at: Option<Until>,
    /// received: as we learnt of it; happened: as the provider dates it
    #[arg(long, default_value = "received", value_name = "ORDER")]
    order: Order,
    /// A JSON array, an object for each event with the state after it
    #[arg(long, conflicts_with = "raw")]
    json: bool,
    /// The received headers and bytes of each event
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    connections: Connections,
}

impl Replay {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let What::Email(email) = self.what;
        email.run().await
    }
}

impl Email {
    async fn run(self) -> Result<ExitCode, Failure> {
        let (url, _) = self.connections.resolve_log()?;
        let log = Log::open(&reading_config(url)).await?;
        let frames =
            replays::email(&log, &self.id, self.at.unwrap_or_default(), self.order).await?;
        if frames.is_empty() {
            eprintln!("The log has no event about email {} up to there.", self.id);
            if self.json {
                say!("[]");
            }
            return Ok(ExitCode::FAILURE);
        }
        if self.json {
            let frames: Vec<_> = frames.iter().map(to_json).collect();
            say!("{}", serde_json::to_string_pretty(&frames)?);
        } else if self.raw {
            frames.iter().for_each(print_raw);
        } else {
            print_history(&frames, self.order);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn detail(frame: &Frame<InboxRow>) -> Option<EmailDetail> {
    frame.state.as_ref().map(|row| EmailDetail::of(row, frame.recorded.position))
}

fn to_json(frame: &Frame<InboxRow>) -> serde_json::Value {
    json!({
        "position": frame.recorded.position,
        "type": frame.kind,
        "event_id": frame.recorded.envelope.id,
        "happened_at": frame.happened_at.as_ref().map(time::format),
        "received_at": time::format(&frame.recorded.envelope.time),
        "status": frame.state.as_ref().map(|row| row.status.as_str()),
        "error": frame.error,
        "state": detail(frame),
    })
}

fn print_raw(frame: &Frame<InboxRow>) {
    say!(
        "# position {}, received {}",
        frame.recorded.position,
        time::format(&frame.recorded.envelope.time)
    );
    for (name, value) in &frame.recorded.provider_headers {
        say!("{name}: {value}");
    }
    say!("\n{}\n", String::from_utf8_lossy(&frame.recorded.body));
}

/// The history as a table, and the state at its end.
pub(super) fn print_history(frames: &[Frame<InboxRow>], order: Order) {
    let mut table =
        table::table(&["position", "happened (UTC)", "received (UTC)", "event", "effect"]);
    let mut before: Option<&InboxRow> = None;
    for frame in frames {
        let after = frame.state.as_ref();
        table.add_row([
            table::number(frame.recorded.position),
            frame.happened_at.map(table::time).unwrap_or_default(),
            table::time(frame.recorded.envelope.time),
            table::short(&frame.kind, 30),
            frame.error.clone().unwrap_or_else(|| effect(before, after)),
        ]);
        before = after;
    }
    say!("{table}");
    let order = match order {
        Order::Happened => "as they happened",
        Order::Received => "as we learnt of them",
    };
    say!("{} events {order}, read from the log.", frames.len());
    let Some(state) = before else { return };
    let detail = EmailDetail::of(state, 0);
    say!("\n  {}  {}", detail.id, detail.status.to_uppercase());
    say!("  from     {}", table::short(&detail.from.unwrap_or_default(), 80));
    for recipient in &detail.to {
        say!("  to       {}  {}", table::short(&recipient.address, 60), recipient.status);
    }
    say!("  subject  {}", table::short(&detail.subject.unwrap_or_default(), 80));
    if let Some(booking) = detail.booking_id {
        say!("  booking  {}", table::short(&booking, 80));
    }
    if let Some(bounce) = detail.bounce {
        let parts = [bounce.kind, bounce.sub_type, bounce.message];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        say!("  bounce   {}", table::short(&parts.join(", "), 100));
    }
}

/// What an event did to the email, in words.
fn effect(before: Option<&InboxRow>, after: Option<&InboxRow>) -> String {
    match (before, after) {
        (None, None) => "no effect".to_owned(),
        (Some(before), Some(after)) if before == after => "no effect".to_owned(),
        (Some(before), Some(after)) if after.email.repeats > before.email.repeats => {
            "repeat, counted once".to_owned()
        }
        (Some(before), Some(after)) if before.email.status == after.email.status => {
            format!("stays {}", after.status)
        }
        (Some(before), Some(after)) => format!("{} → {}", before.status, after.status),
        (_, after) => format!("→ {}", after.map_or("gone", |after| after.status.as_str())),
    }
}
