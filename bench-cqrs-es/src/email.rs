//! The domain as a user of cqrs-es writes it: an email is what was reported of
//! it, and its view is the row that an inbox lists.

use cqrs_es::{Aggregate, DomainEvent, EventEnvelope, View, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeSet, convert::Infallible};

/// A provider's report of an email.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// The delivery's id, the same in every repeat.
    pub id: String,
    /// For example `email.delivered`.
    pub kind: String,
    /// Time that it arrived, by RFC 3339.
    pub received_at: String,
    /// The webhook's body.
    pub body: Value,
}

impl DomainEvent for Reported {
    fn event_type(&self) -> String {
        self.kind.clone()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}

/// A command to an email.
pub enum Command {
    /// Keep the report unless one of its id is kept already.
    Record(Reported),
}

/// The state that commands are decided on.
#[derive(Default, Serialize, Deserialize)]
pub struct Email {
    seen: BTreeSet<String>,
}

impl Aggregate for Email {
    const TYPE: &'static str = "email";
    type Command = Command;
    type Event = Reported;
    type Error = Infallible;
    type Services = ();

    async fn handle(
        &mut self,
        Command::Record(report): Command,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), Infallible> {
        if !self.seen.contains(&report.id) {
            sink.write(report, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, report: Reported) {
        self.seen.insert(report.id);
    }
}

/// The inbox's row.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct EmailView {
    email_id: String,
    rank: usize,
    status: String,
    from: Option<String>,
    to: BTreeSet<String>,
    subject: Option<String>,
    event_ids: BTreeSet<String>,
    events: usize,
}

impl View<Email> for EmailView {
    fn update(&mut self, event: &EventEnvelope<Email>) {
        let report = &event.payload;
        self.email_id.clone_from(&event.aggregate_id);
        if let Some((rank, status)) = standing(report)
            && rank >= self.rank
        {
            (self.rank, self.status) = (rank, status.to_owned());
        }
        let mail = &report.body["data"];
        keep_fullest(&mut self.from, &mail["from"]);
        keep_fullest(&mut self.subject, &mail["subject"]);
        let addresses = mail["to"].as_array().into_iter().flatten().filter_map(Value::as_str);
        self.to.extend(addresses.map(str::to_owned));
        self.event_ids.insert(report.id.clone());
        self.events = self.event_ids.len();
    }
}

/// The statuses that reports tell of, lowest rank first; as the product's.
const RANKS: &str = "received scheduled sent delivery_delayed soft_bounced delivered opened clicked \
                     suppressed failed bounced complained";

/// The rank and name of the status that a report tells of.
fn standing(report: &Reported) -> Option<(usize, &str)> {
    let name = report.kind.strip_prefix("email.")?;
    let bounce = report.body["data"]["bounce"]["type"].as_str();
    let ranked = match (name, bounce) {
        ("bounced", Some("Transient" | "Temporary" | "Undetermined")) => "soft_bounced",
        _ => name,
    };
    Some((RANKS.split(' ').position(|known| known == ranked)?, name))
}

/// Keeps the longest value where reports differ, so that their order does not matter.
fn keep_fullest(known: &mut Option<String>, new: &Value) {
    let Some(new) = new.as_str() else { return };
    if known.as_deref().is_none_or(|known| (new.len(), new) > (known.len(), known)) {
        *known = Some(new.to_owned());
    }
}
