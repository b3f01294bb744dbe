//! Erasure of a person's data: found in the log, requested, approved, and
//! executed by a worker. Used by the command line and by HTTP.

mod error;
pub mod restored;
mod watch;

pub use error::ErasureError;
pub use watch::RestoreWatch;

use crate::{context::CommandContext, digest::uuid_from_digest, event::decided_event};
use chrono::{DateTime, Utc};
use exodrive_domain::{
    KnownEvent, Payload, Recorded, Subject, decode,
    erasure::{Erasure, ErasureChange, ErasureEvent, ErasureStatus, HoldChange, HoldEvent},
    id::{ErasureId, HoldId},
    personal::Personal,
    time::serde_micros,
    value::{Reason, address_key},
};
use exodrive_log::{AppendError, Log, NewEvent};
use exodrive_replays::person::{self, Found};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use utoipa::ToSchema;

/// Filter for the subjects of every erasure, for a reader of the log.
pub const SUBJECTS: &str = exodrive_domain::erasure::ERASURE_SUBJECTS;

/// Erasure commands and reads on one log. Cheap to clone.
#[derive(Clone)]
pub struct Erasures {
    log: Log,
}

/// A plan: what erasing a person would destroy.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErasurePlan {
    /// Always `erasure_plan`.
    pub object: &'static str,
    /// Data keys that would be destroyed: `email.<id>` for each email,
    /// `customer.<id>` for each customer that the person is, `delivery.<digest>`
    /// for a delivery about no email.
    pub keys: Vec<String>,
    /// Events that would become unreadable.
    pub events: u64,
    /// Emails among them.
    pub emails: usize,
    /// Customers that the person is, by id.
    pub customers: Vec<String>,
    /// Events about others that mention the address; they stay, unless
    /// `include_mentions` is asked for.
    pub mentions: Vec<ErasureMention>,
    /// The reason of a hold, if one forbids the erasure.
    pub hold: Option<String>,
    /// Position up to which the log was read.
    pub position: u64,
}

/// An event about others that mentions the person.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErasureMention {
    /// Position of the event.
    pub position: u64,
    /// The event's type.
    #[serde(rename = "type")]
    pub kind: String,
}

impl ErasurePlan {
    fn of(found: Found, hold: Option<String>) -> Self {
        let emails = found.keys.keys().filter(|key| key.starts_with("email.")).count();
        Self {
            object: "erasure_plan",
            events: found.events(),
            emails,
            keys: found.keys.into_keys().collect(),
            customers: found.customers.into_iter().collect(),
            mentions: found
                .mentions
                .into_iter()
                .map(|mention| ErasureMention { position: mention.position, kind: mention.kind })
                .collect(),
            hold,
            position: found.position,
        }
    }
}

/// An erasure in its present state. Holds no personal data.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErasureDetail {
    /// Always `erasure`.
    pub object: &'static str,
    /// Its id.
    pub id: String,
    /// `requested`, `approved`, `started`, `completed` or `cancelled`.
    pub status: &'static str,
    /// The actor who requested it.
    pub requested_by: String,
    /// Time of the request.
    #[serde(with = "serde_micros")]
    pub requested_at: DateTime<Utc>,
    /// The actor who approved it.
    pub approved_by: Option<String>,
    /// True if it was approved without a second person, from the command line.
    pub single_handed: bool,
    /// Reason, as the requester wrote it.
    pub reason: String,
    /// True if the erasure includes events that only mention the address.
    pub include_mentions: bool,
    /// Data keys destroyed, by name.
    pub keys: Vec<String>,
    /// Events that are unreadable now.
    pub events: u64,
    /// Rows folded again, over all projections.
    pub rows: u64,
    /// Position of its last event.
    pub position: u64,
}

/// An erasure, folded from its events.
#[derive(Clone, Debug)]
pub struct ErasureRecord {
    /// Its id.
    pub id: ErasureId,
    /// Its state.
    pub erasure: Erasure,
    /// The person's address, while the erasure's own key exists.
    pub address: Option<String>,
    requested_at: DateTime<Utc>,
    /// Position of its last event.
    pub position: u64,
}

impl ErasureRecord {
    /// Applies one more event to what is known.
    fn evolve(known: Option<Self>, event: &ErasureEvent, recorded: &Recorded) -> Option<Self> {
        let actor = recorded.envelope.actor.as_deref().unwrap_or("unknown");
        let (erasure, address, requested_at) = match known {
            Some(known) => (Some(known.erasure), known.address, known.requested_at),
            None => (None, None, recorded.stored_at),
        };
        let address = match &event.change {
            ErasureChange::Requested { address, .. } if !recorded.is_erased() => {
                Some(address.0.clone())
            }
            _ => address,
        };
        let erasure = Erasure::evolve(erasure, &event.change, actor)?;
        let (id, position) = (event.erasure_id, recorded.position);
        Some(Self { id, erasure, address, requested_at, position })
    }

    /// The erasure as the API shows it.
    pub fn detail(&self) -> ErasureDetail {
        let Erasure { status, requested_by, approved_by, single_handed, include_mentions, .. } =
            &self.erasure;
        ErasureDetail {
            object: "erasure",
            id: self.id.to_string(),
            status: match status {
                ErasureStatus::Requested => "requested",
                ErasureStatus::Approved => "approved",
                ErasureStatus::Started => "started",
                ErasureStatus::Completed => "completed",
                ErasureStatus::Cancelled => "cancelled",
            },
            requested_by: requested_by.clone(),
            requested_at: self.requested_at,
            approved_by: approved_by.clone(),
            single_handed: *single_handed,
            reason: self.erasure.reason.clone(),
            include_mentions: *include_mentions,
            keys: self.erasure.keys.clone(),
            events: self.erasure.events,
            rows: self.erasure.rows,
            position: self.position,
        }
    }
}

/// Every erasure that the log has, by id.
///
/// # Errors
/// When the log cannot be read.
pub async fn all_records(log: &Log) -> Result<BTreeMap<String, ErasureRecord>, ErasureError> {
    let mut all: BTreeMap<String, ErasureRecord> = BTreeMap::new();
    let Some(last) = log.last_position_under(SUBJECTS).await? else { return Ok(all) };
    let mut reader = log.reader_of(&[SUBJECTS.to_owned()], 1);
    let mut position = 0;
    while position < last {
        let batch = reader.next_batch(1_000, std::time::Duration::from_secs(5)).await?;
        for recorded in &batch.events {
            position = recorded.position;
            let Ok(Payload::Erasure(event)) = decode(recorded) else { continue };
            let id = event.erasure_id.to_string();
            let known = all.remove(&id);
            all.extend(ErasureRecord::evolve(known, &event, recorded).map(|record| (id, record)));
        }
    }
    Ok(all)
}

impl Erasures {
    /// Erasure commands on `log`.
    pub fn new(log: Log) -> Self {
        Self { log }
    }

    /// Plans an erasure: what it would destroy. Changes nothing. Reads the
    /// whole log.
    ///
    /// # Errors
    /// When the text is not an address, or the log does not answer.
    pub async fn plan(
        &self,
        address: &str,
        include_mentions: bool,
        progress: impl FnMut(u64, u64),
    ) -> Result<ErasurePlan, ErasureError> {
        let address = normal(address)?;
        let hold = self.hold_on(&address).await?.map(|hold| hold.reason);
        let found = person::find_mentions(&self.log, &address, include_mentions, progress).await?;
        Ok(ErasurePlan::of(found, hold))
    }

    /// Requests the erasure of a person. It then waits for an approval.
    ///
    /// # Errors
    /// When the address or the reason is invalid, a hold forbids it, or the log
    /// does not take it.
    pub async fn request(
        &self,
        address: &str,
        include_mentions: bool,
        reason: &str,
        context: &CommandContext,
    ) -> Result<ErasureDetail, ErasureError> {
        let (address, reason) = (normal(address)?, valid_reason(reason)?);
        if let Some(hold) = self.hold_on(&address).await? {
            return Err(ErasureError::Rejected(exodrive_domain::erasure::ErasureRejection::Held(
                hold.reason,
            )));
        }
        let hold_id = self.log.find_or_make_hold(&address).await?;
        let id = ErasureId::from(context.derived_id("erasure"));
        let change = ErasureChange::Requested {
            address: Personal(address),
            hold_id,
            include_mentions,
            reason,
        };
        self.append(id, change, 0, context).await?;
        self.get(id).await
    }

    /// Approves an erasure, which a worker then executes. Unless it is `single_handed`, the
    /// approver must be another person than the requester, and both must have shown who they are.
    ///
    /// # Errors
    /// When the approval is rejected, or the log does not take it.
    pub async fn approve(
        &self,
        id: ErasureId,
        single_handed: bool,
        context: &CommandContext,
    ) -> Result<ErasureDetail, ErasureError> {
        let record = self.record(id).await?;
        let state = record.as_ref().map(|record| &record.erasure);
        let hold = self.hold_on_erasure(record.as_ref()).await?;
        let change =
            Erasure::approve(state, &context.actor_name(), hold.as_deref(), single_handed)?;
        self.append(id, change, record.map_or(0, |record| record.position), context).await?;
        self.get(id).await
    }

    /// Cancels an erasure that is not approved yet.
    ///
    /// # Errors
    /// When the cancellation is rejected, or the log does not take it.
    pub async fn cancel(
        &self,
        id: ErasureId,
        reason: &str,
        context: &CommandContext,
    ) -> Result<ErasureDetail, ErasureError> {
        let record = self.record(id).await?;
        let change =
            Erasure::cancel(record.as_ref().map(|record| &record.erasure), &valid_reason(reason)?)?;
        self.append(id, change, record.map_or(0, |record| record.position), context).await?;
        self.get(id).await
    }

    /// Places a hold that forbids the erasure of a person, or releases it.
    ///
    /// # Errors
    /// When the address or the reason is invalid, or the log does not take it.
    pub async fn hold(
        &self,
        address: &str,
        held: bool,
        reason: &str,
        context: &CommandContext,
    ) -> Result<HoldId, ErasureError> {
        let (address, reason) = (normal(address)?, valid_reason(reason)?);
        let current = self.hold_on(&address).await?;
        let (hold_id, change, last) = match (current, held) {
            (Some(placed), true) => return Ok(placed.id),
            (Some(placed), false) => (placed.id, HoldChange::Lifted { reason }, placed.last),
            (None, false) => return Ok(self.log.find_or_make_hold(&address).await?),
            (None, true) => {
                let id = self.log.find_or_make_hold(&address).await?;
                (id, HoldChange::Placed { reason }, self.last_of(id).await?.1)
            }
        };
        let (kind, event) = (change.kind(), HoldEvent { hold_id, change });
        let event = self.event(Subject::Hold(hold_id), kind, &event, context)?;
        self.log.append_decision(&event, last).await?;
        // An erasure that ends just now forgets whom the id is about: nobody would find the hold.
        if held && self.log.find_hold(&address).await? != Some(hold_id) {
            return Err(ErasureError::Append(AppendError::Conflict));
        }
        Ok(hold_id)
    }

    /// One erasure.
    ///
    /// # Errors
    /// When no erasure has this id, or the log does not answer.
    pub async fn get(&self, id: ErasureId) -> Result<ErasureDetail, ErasureError> {
        let record = self.record(id).await?;
        Ok(record.ok_or(exodrive_domain::erasure::ErasureRejection::NotFound)?.detail())
    }

    /// Every erasure, newest first.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn list(&self) -> Result<Vec<ErasureDetail>, ErasureError> {
        let mut all: Vec<_> =
            all_records(&self.log).await?.values().map(ErasureRecord::detail).collect();
        all.sort_by_key(|erasure| std::cmp::Reverse(erasure.requested_at));
        Ok(all)
    }

    /// One erasure, folded from its events; `None` if no erasure has this id.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn record(&self, id: ErasureId) -> Result<Option<ErasureRecord>, ErasureError> {
        let history = self.log.history(&Subject::Erasure(id)).await?;
        let mut record = None;
        for recorded in &history {
            if let Payload::Erasure(event) = KnownEvent::read(recorded)?.event().payload {
                record = ErasureRecord::evolve(record, event, recorded);
            }
        }
        Ok(record)
    }

    /// Appends the next event of an erasure, unless another one was appended
    /// after `last`.
    ///
    /// # Errors
    /// When the log does not take it.
    pub async fn append(
        &self,
        id: ErasureId,
        change: ErasureChange,
        last: u64,
        context: &CommandContext,
    ) -> Result<u64, ErasureError> {
        let (kind, event) = (change.kind(), ErasureEvent { erasure_id: id, change });
        let event = self.event(Subject::Erasure(id), kind, &event, context)?;
        Ok(self.log.append_decision(&event, last).await?.position)
    }

    /// An event of a command. One command appends one event of a kind, so the
    /// kind tells its events apart.
    fn event(
        &self,
        subject: Subject,
        kind: &str,
        body: &impl Serialize,
        context: &CommandContext,
    ) -> Result<NewEvent, ErasureError> {
        let id = context.derived_id(kind).to_string();
        Ok(decided_event(subject, context.envelope(kind, id, self.log.now()), body)?)
    }

    /// The hold that is placed on a person, if there is one. Earlier releases derived the id of a
    /// hold from the address by a key that stays for ever: one that they have placed counts until
    /// it is lifted.
    async fn hold_on(&self, address: &str) -> Result<Option<PlacedHold>, ErasureError> {
        let earlier = uuid_from_digest(self.log.mac_bytes("hold", address.as_bytes()));
        let ids = [Some(HoldId::from(earlier)), self.log.find_hold(address).await?];
        for id in ids.into_iter().flatten() {
            if let (Some(reason), last) = self.last_of(id).await? {
                return Ok(Some(PlacedHold { id, reason, last }));
            }
        }
        Ok(None)
    }

    /// The reason of a hold that forbids an erasure: that which its request names, or one that was
    /// placed under another id since.
    async fn hold_on_erasure(
        &self,
        record: Option<&ErasureRecord>,
    ) -> Result<Option<String>, ErasureError> {
        let Some(record) = record else { return Ok(None) };
        if let (Some(reason), _) = self.last_of(record.erasure.hold_id).await? {
            return Ok(Some(reason));
        }
        let Some(address) = &record.address else { return Ok(None) };
        Ok(self.hold_on(address).await?.map(|hold| hold.reason))
    }

    /// Reason of a hold, if it is placed, and the position of its last event.
    async fn last_of(&self, id: HoldId) -> Result<(Option<String>, u64), ErasureError> {
        let history = self.log.history(&Subject::Hold(id)).await?;
        let last = history.last().map_or(0, |recorded| recorded.position);
        let mut reason = None;
        for recorded in &history {
            if let Payload::Hold(event) = KnownEvent::read(recorded)?.event().payload {
                reason = match &event.change {
                    HoldChange::Placed { reason } => Some(reason.clone()),
                    HoldChange::Lifted { .. } => None,
                };
            }
        }
        Ok((reason, last))
    }

    /// Forgets whom the holds of begun erasures are about, so that their ids say nothing of the
    /// address any more. One that is placed now is left: it must be found by the address.
    ///
    /// # Errors
    /// When the log or the key store does not answer.
    pub async fn forget_erased_holds(&self) -> Result<(), ErasureError> {
        let mut erased = HashSet::new();
        for record in all_records(&self.log).await?.into_values() {
            let begun =
                matches!(record.erasure.status, ErasureStatus::Started | ErasureStatus::Completed);
            if begun && self.last_of(record.erasure.hold_id).await?.0.is_none() {
                erased.insert(record.erasure.hold_id);
            }
        }
        Ok(self.log.forget_holds(&erased).await?)
    }
}

/// A hold that is placed.
struct PlacedHold {
    id: HoldId,
    reason: String,
    /// The position of its last event.
    last: u64,
}

/// Characters of the longest address that is looked for: mail may name one that is longer than any
/// to which it can be delivered.
const LONGEST_ADDRESS: usize = 1_000;

/// Normalises an address for comparisons.
fn normal(address: &str) -> Result<String, ErasureError> {
    let address = address_key(address);
    let parts = address.split_once('@').filter(|(local, domain)| {
        !local.is_empty() && !domain.is_empty() && !address.contains(char::is_whitespace)
    });
    if parts.is_none() || address.chars().count() > LONGEST_ADDRESS {
        Err(ErasureError::Address)
    } else {
        Ok(address)
    }
}

fn valid_reason(reason: &str) -> Result<String, ErasureError> {
    match Reason::optional(Some(reason)) {
        Ok(Some(reason)) => Ok(reason.into()),
        Ok(None) => Err(ErasureError::NoReason),
        Err(fault) => Err(ErasureError::Reason(fault)),
    }
}
