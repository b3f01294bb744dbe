//! `exodrive audit history`: the history of email with all its evidence.

use super::super::{Failure, replay, table, terminal};
use crate::settings::{Connections, HttpSettings};
use chrono::{DateTime, Utc};
use exodrive_audit::evidence::{EmailEvidence, Entry, EvidenceQuery, EvidenceRequest, Page, Scope};
use exodrive_domain::{email::EmailId, id::BookingId, time, value::address_key};
use exodrive_log::Log;
use exodrive_projections::{Database, views::booking_timeline::read::BookingEntry};
use exodrive_replays::{self as replays, Order, Until};
use serde_json::json;
use std::process::ExitCode;

/// Emails or deliveries fetched at a time.
const PAGE: i64 = 50;
/// Most entries fetched at a time.
const ENTRIES: usize = 1_000;
const COMMAND: &str = "exodrive audit history";

#[derive(clap::Args)]
#[command(
    after_help = "Every delivery is shown with the present verdict on its signature, and with the
state of the email after it; every email with its repeats, its rejected deliveries,
and the reads by staff. Your read is recorded too. --json has the bytes.

Examples:
  exodrive audit history --email f3c95789-ace1-4954-ac5d-6baed2eac902 --order happened
  exodrive audit history --address guest@example.com --at 2026-11-20T09:15:00Z
  exodrive audit history --booking 0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4
  exodrive audit history --since 2026-11-20T00:00:00Z --until 2026-11-21T00:00:00Z --json
  exodrive audit history --email f3c95789-ace1-4954-ac5d-6baed2eac902 --diff 120 now"
)]
pub(super) struct History {
    #[command(flatten)]
    of: Of,
    /// History of the deliveries that were stored at this time or later (RFC
    /// 3339)
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "Of")]
    since: Option<DateTime<Utc>>,
    /// History of the deliveries that were stored before this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "Of")]
    until: Option<DateTime<Utc>>,
    /// received: the order in which we received the events; happened: as the
    /// provider dates them
    #[arg(long, default_value = "received", value_name = "ORDER")]
    order: Order,
    /// Only what was known at this time (RFC 3339) or position
    #[arg(long, value_name = "TIME|POSITION", conflicts_with = "diff")]
    at: Option<Until>,
    /// Compare the email at two points, and name the delivery that last changed
    /// each field: times, positions, or `now`
    #[arg(long, num_args = 2, value_names = ["A", "B"], value_parser = replay::parse_point, requires = "email")]
    diff: Option<Vec<Until>>,
    /// An object on each line, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connections: Connections,
    #[command(flatten)]
    http: HttpSettings,
}

#[derive(clap::Args)]
#[group(multiple = false)]
struct Of {
    /// History of this email, by its id
    #[arg(long, value_name = "ID")]
    email: Option<EmailId>,
    /// History of every email that names this address
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// History of this booking, and of every email that was tagged with it
    #[arg(long, value_name = "ID")]
    booking: Option<BookingId>,
}

fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    time::parse(text).ok_or_else(|| format!("{text:?} is no RFC 3339 time"))
}

impl History {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        if let (Some(id), Some(&[from, to])) = (&self.of.email, self.diff.as_deref()) {
            return self.diff(id, (from, to)).await;
        }
        let Some(scope) = self.scope() else {
            eprintln!(
                "error: give one of --email, --address and --booking, or --since and --until"
            );
            return Ok(ExitCode::from(2));
        };
        let urls = self.connections.resolve()?;
        let evidence_query = EvidenceQuery {
            log: Log::open(&self.connections.reading_config(urls.nats)?).await?,
            database: Database::for_readers(&urls.database)?,
            secrets: self.http.webhook_secrets(&self.connections)?,
        };
        let (order, at) = (self.order, self.at.unwrap_or(Until::Now));
        let mut request =
            EvidenceRequest { scope, order, at, limit: PAGE, entries: ENTRIES, after: None };
        let mut reported = false;
        loop {
            let page = evidence_query.page(&request).await?;
            record(&self.connections, &request.scope, &page).await;
            reported |= !page.entries.is_empty();
            match self.json {
                true => print_lines(&page)?,
                false => print(&page),
            }
            request.after = page.next;
            if request.after.is_none() {
                break;
            }
        }
        if !reported {
            eprintln!("The log has no event about it up to there.");
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn scope(&self) -> Option<Scope> {
        let Of { email, address, booking } = &self.of;
        let email = email.clone().map(Scope::Email);
        let address = || address.as_ref().map(|it| Scope::Address(address_key(it)));
        let between = || {
            let said = self.since.is_some() || self.until.is_some();
            said.then_some(Scope::Between(self.since, self.until))
        };
        email.or_else(address).or(booking.map(Scope::Booking)).or_else(between)
    }

    async fn diff(&self, id: &EmailId, points: (Until, Until)) -> Result<ExitCode, Failure> {
        let (url, _) = self.connections.resolve_log()?;
        let log = Log::open(&self.connections.reading_config(url)?).await?;
        let compared = replays::compare(&log, "inbox", id.as_str(), points, &|_, _| {}).await?;
        let Some(compared) = compared else {
            eprintln!("The log has no event about it up to there.");
            return Ok(ExitCode::FAILURE);
        };
        terminal::record(&self.connections, COMMAND, [("email", Some(id.as_str()))]).await;
        if self.json {
            let (from, to) = (compared.before.position, compared.after.position);
            say!("{}", json!({"email": id, "from": from, "to": to, "fields": compared.fields}));
        } else {
            replay::print_fields(&format!("email {id}"), &compared);
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn record(connections: &Connections, scope: &Scope, page: &Page) {
    let booking = match scope {
        Scope::Booking(id) if !page.entries.is_empty() => Some(id.to_string()),
        _ => None,
    };
    let booking = booking.as_deref().map(|id| ("booking", Some(id)));
    let emails = page.emails.iter().map(|email| ("email", Some(email.email_id.as_str())));
    terminal::record(connections, COMMAND, booking.into_iter().chain(emails)).await;
}

fn print_lines(page: &Page) -> Result<(), Failure> {
    for entry in &page.entries {
        say!("{}", serde_json::to_string(entry)?);
    }
    for email in &page.emails {
        say!("{}", serde_json::to_string(email)?);
    }
    Ok(())
}

fn print(page: &Page) {
    if page.entries.is_empty() {
        return;
    }
    let mut rows = table::table(&[
        "position",
        "happened (UTC)",
        "received (UTC)",
        "event",
        "about",
        "evidence",
        "again",
        "rejected",
        "after",
    ]);
    for entry in &page.entries {
        rows.add_row(match entry {
            Entry::Delivery(it) => {
                let mut evidence = it.verdict.name().replace('_', " ");
                if let Some(first) = it.repeats {
                    evidence += &format!(", repeats {}", table::number(first));
                }
                let status = it.state.as_ref().map(|state| state.status.clone());
                [
                    table::number(it.position),
                    table::cell(it.happened_at.map(table::time)),
                    table::time(it.received_at),
                    table::short(it.kind.as_deref().unwrap_or("-"), 30),
                    table::cell(it.email_id.clone()),
                    evidence,
                    table::number(it.stored_again + it.duplicates),
                    table::number(it.rejected),
                    table::cell(it.error.clone().or(status)),
                ]
            }
            Entry::Booking(it) => of_booking(it),
        });
    }
    say!("{rows}\n");
    page.emails.iter().for_each(print_email);
}

fn of_booking(it: &BookingEntry) -> [String; 9] {
    [
        table::number(it.position),
        table::time(it.at),
        String::new(),
        table::short(&it.kind, 40),
        table::short(&it.summary, 60),
        format!("by {}", table::short(it.actor.as_deref().unwrap_or("-"), 40)),
        String::new(),
        String::new(),
        table::cell(it.status.clone()),
    ]
}

fn print_email(email: &EmailEvidence) {
    say!(
        "email {}: {} deliveries; {} stored again, {} duplicates not stored, {} rejected",
        email.email_id,
        table::number(email.deliveries),
        table::number(email.stored_again),
        table::number(email.duplicates),
        table::number(email.rejected)
    );
    if email.accesses.is_empty() {
        say!("  No member of staff has read it.\n");
        return;
    }
    let mut rows = table::table(&["read by", "times", "first (UTC)", "last (UTC)", "routes"]);
    for access in &email.accesses {
        let routes: Vec<_> = access.routes.keys().map(String::as_str).collect();
        rows.add_row([
            table::short(&access.actor, 50),
            table::number(access.count),
            table::time(access.first_at),
            table::time(access.last_at),
            table::short(&routes.join(", "), 100),
        ]);
    }
    say!("{rows}\n");
}
