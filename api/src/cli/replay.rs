//! `exodrive replay`: history of any row, folded from the log.

use super::{Failure, table, terminal};
use crate::settings::Connections;
use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};
use exodrive_domain::{email::EmailId, time};
use exodrive_log::Log;
use exodrive_projections::{ViewInfo, names, view, views, views::inbox::read::EmailDetail};
use exodrive_replays::{
    self as replays, Compared, Frame, HistoryEvent, Order, RowHistory, Until, Window,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::process::ExitCode;

const COMMAND: &str = "exodrive replay";

/// Options of `exodrive replay`, with a subcommand for each view.
#[derive(clap::Args)]
#[command(
    subcommand_value_name = "VIEW",
    subcommand_help_heading = "Views",
    after_help = "Every view is a fold over the log, so this shows a row at any earlier time or
position, and the events that made it. Only the log is needed: Postgres and Redis may be
down. Where a row's events are scattered (bookings, customers), all events of
that kind are read.

Examples:
  exodrive replay bookings 0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4
  exodrive replay calendar $CAR --at 2026-11-20T09:15:00Z
  exodrive replay inbox $EMAIL --diff 120 now
  exodrive replay cars $CAR --json | jq '.state'"
)]
pub(super) struct Replay {
    #[command(subcommand)]
    what: ReplayCommand,
}

/// The subcommands: one for email, and one for each view in the list of views.
enum ReplayCommand {
    Email(Email),
    View(ViewInfo, View),
}

impl Subcommand for ReplayCommand {
    fn augment_subcommands(command: Command) -> Command {
        // Shared arguments bring a description of their own, so ours comes
        // last.
        let about =
            "The history of one email, in words, in the order of arrival or as the events happened";
        let email = Email::augment_args(Command::new("email")).about(about).long_about(None);
        views().into_iter().fold(command.subcommand(email), |command, view| {
            let ViewInfo { name, about, key_example: key, .. } = view;
            let example =
                format!("Example:\n  exodrive replay {name} {key} --at 2026-11-20T09:15:00Z");
            let it = View::augment_args(Command::new(name)).about(about).long_about(None);
            command.subcommand(it.after_help(example))
        })
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        name == "email" || names().contains(&name)
    }
}

impl FromArgMatches for ReplayCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand() {
            Some(("email", matches)) => Email::from_arg_matches(matches).map(Self::Email),
            Some((name, matches)) if let Some(view) = view(name) => {
                View::from_arg_matches(matches).map(|it| Self::View(view, it))
            }
            _ => Err(clap::Error::new(clap::error::ErrorKind::MissingSubcommand)),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[derive(clap::Args)]
struct View {
    /// The row's key
    key: String,
    /// Stop after this time (RFC 3339) or position
    #[arg(long, value_name = "TIME|POSITION", conflicts_with = "diff")]
    at: Option<Until>,
    /// Compare the row at two points, and name the event that last changed each
    /// field: times, positions, or `now`
    #[arg(long, num_args = 2, value_names = ["A", "B"], value_parser = parse_point)]
    diff: Option<Vec<Until>>,
    /// Print a JSON object, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connections: Connections,
}

pub(super) fn parse_point(text: &str) -> Result<Until, String> {
    if text == "now" { Ok(Until::Now) } else { text.parse() }
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive replay email f3c95789-ace1-4954-ac5d-6baed2eac902
  exodrive replay email f3c95789-ace1-4954-ac5d-6baed2eac902 --at 2026-11-20T09:15:06Z --order happened
  exodrive replay email f3c95789-ace1-4954-ac5d-6baed2eac902 --json | jq '.[-1].state'")]
struct Email {
    /// The provider's id of the email
    id: EmailId,
    /// Stop after this time (RFC 3339) or position
    #[arg(long, value_name = "TIME|POSITION")]
    at: Option<Until>,
    /// received: the order in which we received the events; happened: as the
    /// provider dates them
    #[arg(long, default_value = "received", value_name = "ORDER")]
    order: Order,
    /// Print a JSON array, an object for each event with the state after it
    #[arg(long, conflicts_with = "raw")]
    json: bool,
    /// Print the received headers and bytes of each event
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    connections: Connections,
}

impl Replay {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        match self.what {
            ReplayCommand::Email(email) => email.run().await,
            ReplayCommand::View(of, view) => view.run(of).await,
        }
    }
}

impl View {
    async fn run(self, view: ViewInfo) -> Result<ExitCode, Failure> {
        let (url, _) = self.connections.resolve_log()?;
        let log = Log::open(&self.connections.reading_config(url)?).await?;
        let bar = reading_bar()?;
        let progress = |done, end| {
            bar.set_length(end);
            bar.set_position(done);
        };
        let shown = (view.personal)(&self.key).resource();
        let view = view.name;
        let found = match self.diff.as_deref() {
            Some(&[from, to]) => {
                let points = (from, to);
                let compared = replays::compare(&log, view, &self.key, points, &progress).await;
                bar.finish_and_clear();
                let compared = compared?;
                terminal::record(&self.connections, COMMAND, shown.filter(|_| compared.is_some()))
                    .await;
                compared.map(|compared| self.print_diff(view, &compared)).transpose()?
            }
            _ => {
                let upto = (self.at.unwrap_or(Until::Now), Window::ALL);
                let history = replays::row_history(&log, view, &self.key, upto, &progress).await;
                bar.finish_and_clear();
                let history = history?;
                terminal::record(&self.connections, COMMAND, shown.filter(|_| history.is_some()))
                    .await;
                history.map(|history| self.print(view, &history)).transpose()?
            }
        };
        if found.is_some() {
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!(
            "The log has no event about {} of {view} up to there.",
            table::short(&self.key, 80)
        );
        if self.json {
            say!("null");
        }
        Ok(ExitCode::FAILURE)
    }

    fn print(&self, view: &str, history: &RowHistory) -> Result<(), Failure> {
        if self.json {
            let mut answer = json!({"object": "replay", "view": view, "key": self.key});
            merge(&mut answer, json!(history));
            say!("{}", serde_json::to_string_pretty(&answer)?);
            return Ok(());
        }
        print_events(&history.events);
        let count = history.events.len();
        say!("{count} {}, read from the log.\n", if count == 1 { "event" } else { "events" });
        match &history.state {
            Some(state) => {
                say!(
                    "{view} {} as of {}:",
                    table::short(&self.key, 80),
                    table::number(history.position)
                );
                say!("{}", serde_json::to_string_pretty(state)?);
            }
            None => say!("There is no such row of {view} then."),
        }
        Ok(())
    }

    fn print_diff(&self, view: &str, compared: &Compared) -> Result<(), Failure> {
        let (before, after) = (compared.before.position, compared.after.position);
        if self.json {
            let mut answer = json!({"object": "replay_diff", "view": view, "key": self.key});
            let count = compared.fields_count;
            let fields = json!({"fields": compared.fields, "fields_count": count});
            merge(&mut answer, json!({"from": before, "to": after}));
            merge(&mut answer, fields);
            say!("{}", serde_json::to_string_pretty(&answer)?);
            return Ok(());
        }
        print_fields(&format!("{view} {}", table::short(&self.key, 80)), compared);
        Ok(())
    }
}

/// Prints the fields in which a row differs, as a table.
pub(super) fn print_fields(what: &str, compared: &Compared) {
    let mut fields = table::table(&["field", "before", "after", "last changed", "by"]);
    for field in &compared.fields {
        fields.add_row([
            whole(&field.change.pointer),
            table::json(field.change.old.as_ref(), 40),
            table::json(field.change.new.as_ref(), 40),
            table::cell(field.position.map(table::number)),
            table::cell(field.kind.clone()),
        ]);
    }
    if compared.fields.is_empty() {
        say!("The row is the same at both points.");
    } else {
        say!("{fields}");
    }
    say!(
        "{what}, from its state as of {} to that as of {}: {} fields differ.",
        table::number(compared.before.position),
        table::number(compared.after.position),
        compared.fields_count
    );
}

/// A progress bar for reading much of the log. It is shown on a terminal only.
pub(super) fn reading_bar() -> Result<ProgressBar, Failure> {
    let style = ProgressStyle::with_template("{msg} {bar:40} {human_pos}/{human_len} {eta} left")?;
    Ok(ProgressBar::new(0).with_style(style))
}

fn merge(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

/// Text of a pointer, for people.
fn whole(pointer: &str) -> String {
    if pointer.is_empty() { "(the row)".to_owned() } else { table::short(pointer, 60) }
}

fn print_events(events: &[HistoryEvent]) {
    let mut rows = table::table(&["position", "at (UTC)", "event", "actor", "changed"]);
    for event in events {
        let changed: Vec<_> = event.changed.iter().map(|pointer| whole(pointer)).collect();
        let others = event.changed_count - changed.len() as u64;
        let others = if others > 0 { format!(" and {others} more") } else { String::new() };
        let changed = match (&event.error, changed.is_empty()) {
            (Some(error), _) => table::short(error, 100),
            (None, true) => "nothing".to_owned(),
            (None, false) => table::short(&changed.join(" "), 100) + &others,
        };
        rows.add_row([
            table::number(event.position),
            table::time(event.at),
            table::short(&event.kind, 40),
            table::short(event.actor.as_deref().unwrap_or("-"), 30),
            changed,
        ]);
    }
    say!("{rows}");
}

impl Email {
    async fn run(self) -> Result<ExitCode, Failure> {
        let (url, _) = self.connections.resolve_log()?;
        let log = Log::open(&self.connections.reading_config(url)?).await?;
        let frames =
            replays::email(&log, &self.id, self.at.unwrap_or(Until::Now), self.order).await?;
        if frames.is_empty() {
            eprintln!("The log has no event about email {} up to there.", self.id);
            if self.json {
                say!("[]");
            }
            return Ok(ExitCode::FAILURE);
        }
        terminal::record(&self.connections, COMMAND, [("email", Some(self.id.as_str()))]).await;
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

fn email_detail(frame: &Frame<EmailDetail>) -> Option<EmailDetail> {
    let state = frame.state.clone()?;
    Some(EmailDetail { position: frame.recorded.position, ..state })
}

fn to_json(frame: &Frame<EmailDetail>) -> serde_json::Value {
    json!({
        "position": frame.recorded.position,
        "type": frame.kind,
        "event_id": frame.recorded.envelope.id,
        "happened_at": frame.happened_at.as_ref().map(time::format),
        "received_at": time::format(&frame.recorded.envelope.time),
        "status": frame.state.as_ref().map(|row| row.status.as_str()),
        "error": frame.error,
        "state": email_detail(frame),
    })
}

fn print_raw(frame: &Frame<EmailDetail>) {
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

/// Prints the history as a table, and the state at its end.
pub(super) fn print_history(frames: &[Frame<EmailDetail>], order: Order) {
    let mut table =
        table::table(&["position", "happened (UTC)", "received (UTC)", "event", "effect"]);
    let mut before: Option<&EmailDetail> = None;
    for frame in frames {
        let after = frame.state.as_ref();
        table.add_row([
            table::number(frame.recorded.position),
            table::cell(frame.happened_at.map(table::time)),
            table::time(frame.recorded.envelope.time),
            table::short(&frame.kind, 30),
            frame.error.clone().unwrap_or_else(|| effect(before, after)),
        ]);
        before = after;
    }
    say!("{table}");
    let order = match order {
        Order::Happened => "as they happened",
        Order::Received => "as they were received",
    };
    say!("{} events {order}, read from the log.", frames.len());
    let Some(detail) = before.cloned() else { return };
    say!("\n  {}  {}", detail.id, detail.status.to_uppercase());
    if let Some(from) = detail.from {
        say!("  from     {}", table::short(&from, 80));
    }
    for recipient in &detail.to {
        say!("  to       {}  {}", table::short(&recipient.address, 60), recipient.status);
    }
    if let Some(subject) = detail.subject {
        say!("  subject  {}", table::short(&subject, 80));
    }
    if let Some(booking) = detail.booking_id {
        say!("  booking  {}", table::short(&booking, 80));
    }
    if let Some(bounce) = detail.bounce {
        let parts = [bounce.kind, bounce.sub_type, bounce.message];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        say!("  bounce   {}", table::short(&parts.join(", "), 100));
    }
}

/// Describes the effect of an event on the email, in words.
fn effect(before: Option<&EmailDetail>, after: Option<&EmailDetail>) -> String {
    match (before, after) {
        (None, None) => "no effect".to_owned(),
        (Some(before), Some(after)) if before == after => "no effect".to_owned(),
        (Some(before), Some(after)) if after.repeats > before.repeats => {
            "repeat, counted once".to_owned()
        }
        (Some(before), Some(after)) if before.status == after.status => {
            format!("stays {}", after.status)
        }
        (Some(before), Some(after)) => format!("{} → {}", before.status, after.status),
        (_, after) => format!("→ {}", after.map_or("gone", |after| after.status.as_str())),
    }
}
