//! The history of email with all its evidence, for auditors: every delivery with its bytes, signed
//! headers and verdict, its effect on the email, repeated and rejected deliveries, and the staff's
//! reads of it.

use crate::webhook_signature::Secrets;
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use exodrive_domain::{
    EMAIL_IMPORTED, Payload, Recorded, Subject, decode, email::EmailId, id::BookingId,
    time::serde_micros,
};
use exodrive_log::{DUPLICATE, Log, ReadError, RejectedDelivery};
use exodrive_projections::{
    Database, Error, Identity, ReadTransaction,
    views::{
        accesses::read::{self as accesses, Access},
        booking_timeline::read::{self as booking_timeline, BookingEntry},
        inbox::{
            InboxRow,
            read::{self as inbox, Cursor, EmailDetail},
        },
    },
};
use exodrive_replays::{self as replays, Frame, Order, Until};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use utoipa::ToSchema;

/// Most rows of accesses that are shown for an email, the newest.
const ACCESSES: i64 = 100;

/// The subject of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One email.
    Email(EmailId),
    /// Every email that names an address.
    Address(String),
    /// A booking, and every email that was tagged with it.
    Booking(BookingId),
    /// Every delivery that was stored from one time on and before another.
    Between(Option<DateTime<Utc>>, Option<DateTime<Utc>>),
}

/// A request for a history.
#[derive(Clone, Debug)]
pub struct EvidenceRequest {
    /// The subject.
    pub scope: Scope,
    /// The order. For [`Scope::Between`], pages are cut in the order of arrival, and each page is
    /// then sorted in this order.
    pub order: Order,
    /// Only facts that were known then.
    pub at: Until,
    /// Emails of a page for [`Scope::Address`], deliveries for
    /// [`Scope::Between`]; the others have one page.
    pub limit: i64,
    /// The previous page's [`Page::next`].
    pub after: Option<String>,
}

/// A page of history.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// Evidence about each email in it.
    pub emails: Vec<EmailEvidence>,
    /// Cursor of the next page, if there is one.
    pub next: Option<String>,
}

/// An entry of a history.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Entry {
    /// A delivery about an email.
    Delivery(Box<DeliveryEntry>),
    /// An event of a booking.
    Booking(Box<BookingEntry>),
}

/// A delivery, as it is in the log.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct DeliveryEntry {
    /// Always `email_delivery`.
    pub object: &'static str,
    /// Its position in the log.
    pub position: u64,
    /// The provider's message id.
    pub id: String,
    /// The provider's type, if the body has one.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The email that it is about, if it is about one.
    pub email_id: Option<String>,
    /// Time that the provider made the event, by its body.
    #[serde(with = "serde_micros::option")]
    pub happened_at: Option<DateTime<Utc>>,
    /// Time that it reached us.
    #[serde(with = "serde_micros")]
    pub received_at: DateTime<Utc>,
    /// The body as it was received, base64; empty if it was erased.
    pub raw: String,
    /// The headers that the provider signed, as they were received.
    pub headers: Vec<Header>,
    /// The verdict on its signature, verified now.
    pub verdict: Verdict,
    /// Position of the first delivery with the same id, if this one repeats it.
    pub repeats: Option<u64>,
    /// Number of times its id was stored again.
    pub stored_again: u64,
    /// Number of times its id came again and was answered as a duplicate.
    pub duplicates: u64,
    /// Number of times a delivery with its id was rejected.
    pub rejected: u64,
    /// The email after it; null if it is not about an email.
    pub state: Option<EmailDetail>,
    /// The error, if it could not be folded; the state is then as before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A header as it was received.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Header {
    /// Its name, lower case.
    #[schema(example = "svix-signature")]
    pub name: String,
    /// Its value.
    pub value: String,
}

/// The verdict on a delivery's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A secret that is in use now signed it.
    Verified,
    /// No secret that is in use now signed it. It was verified when it came, by a secret that is no
    /// longer used; or it was changed since.
    NotVerifiedByCurrentSecrets,
    /// Its bytes were erased, and so cannot be verified.
    Erased,
    /// It was imported, and never signed.
    Imported,
}

impl Verdict {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::NotVerifiedByCurrentSecrets => "not_verified_by_current_secrets",
            Self::Erased => "erased",
            Self::Imported => "imported",
        }
    }
}

/// Evidence about an email, other than its deliveries.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct EmailEvidence {
    /// Always `email_evidence`.
    pub object: &'static str,
    /// The email.
    pub email_id: String,
    /// Number of stored deliveries about it, without repeats.
    pub deliveries: u64,
    /// Number of them that were stored again.
    pub stored_again: u64,
    /// Number of them that came again and were answered as duplicates.
    pub duplicates: u64,
    /// Number of rejected deliveries with an id of them.
    pub rejected: u64,
    /// The staff's reads of it, the latest first, 100 rows at most; `/v1/audit/accesses` has all.
    pub accesses: Vec<Access>,
    /// True if there are more.
    pub more_accesses: bool,
}

/// Reason that a history cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The log does not answer.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The views do not answer.
    #[error(transparent)]
    View(#[from] Error),
    /// The cursor is invalid.
    #[error("it must be the next_cursor of a page before")]
    Cursor,
}

/// Answers requests for histories. Cheap to clone.
#[derive(Clone)]
pub struct EvidenceQuery {
    /// The log.
    pub log: Log,
    /// The views that name people, and the log of reads.
    pub database: Database,
    /// Secrets with which signatures are verified again.
    pub secrets: Secrets,
}

/// Of each id, the number of duplicates and of rejected deliveries.
type Claims = HashMap<String, (u64, u64)>;

impl EvidenceRequest {
    /// The views that its history is read from, beside the log.
    pub fn views(&self) -> &'static [&'static str] {
        match self.scope {
            Scope::Email(_) | Scope::Between(..) => &["accesses"],
            Scope::Address(_) => &["inbox", "accesses"],
            Scope::Booking(_) => &["booking_timeline", "inbox", "accesses"],
        }
    }
}

impl EvidenceQuery {
    async fn read(&self, request: &EvidenceRequest) -> Result<ReadTransaction, Error> {
        self.database.read_as(&Identity::Auditor, request.views()).await
    }

    /// A page.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub async fn page(&self, request: &EvidenceRequest) -> Result<Page, HistoryError> {
        let mut page = Page::default();
        let mut emails = Vec::new();
        match &request.scope {
            Scope::Email(id) => emails.push(id.clone()),
            Scope::Address(address) => {
                let after = request.after.as_deref();
                let after = after.map(|it| Cursor::parse(it).ok_or(HistoryError::Cursor));
                let (after, limit) = (after.transpose()?, request.limit);
                let mut reader = self.read(request).await?;
                let found =
                    inbox::find_emails_of_address(&mut reader, address, limit, after.as_ref())
                        .await?;
                (emails, page.next) = (found.rows, found.next);
            }
            Scope::Booking(id) => {
                let mut reader = self.read(request).await?;
                let all =
                    booking_timeline::timeline_of_booking(&mut reader, &id.to_string()).await?;
                let (of_email, own): (Vec<_>, Vec<_>) =
                    all.into_iter().partition(|entry| entry.kind == "email");
                emails.extend(of_email.iter().filter_map(|entry| entry.id.parse::<EmailId>().ok()));
                let known = own.into_iter().filter(|it| request.at.covers(it.position, it.at));
                page.entries.extend(known.map(|entry| Entry::Booking(Box::new(entry))));
            }
            Scope::Between(since, until) => return self.between(request, *since, *until).await,
        }
        let mut reported = Vec::new();
        for id in &emails {
            reported.push(replays::email_as_known(&self.log, id, request.at, request.order).await?);
        }
        let claims =
            self.claims(reported.iter().flatten().map(|frame| &frame.recorded), request).await?;
        for (id, frames) in emails.iter().zip(reported) {
            if frames.is_empty() {
                continue;
            }
            page.emails.push(self.evidence(id, &frames, &claims, request).await?);
            let mut seen = Ids::of(frames.iter().map(|frame| &frame.recorded));
            page.entries.extend(
                frames.into_iter().map(|frame| self.entry(frame, Some(id), &mut seen, &claims)),
            );
        }
        sort(&mut page.entries, request.order);
        Ok(page)
    }

    async fn between(
        &self,
        request: &EvidenceRequest,
        since: Option<DateTime<Utc>>,
        until: Option<DateTime<Utc>>,
    ) -> Result<Page, HistoryError> {
        let from = match (&request.after, since) {
            (Some(after), _) => after.parse::<u64>().map_err(|_| HistoryError::Cursor)? + 1,
            (None, Some(since)) => replays::first_stored_at(&self.log, since).await?,
            (None, None) => 1,
        };
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let ends = |event: &Recorded| {
            until.is_some_and(|until| event.stored_at >= until) || !request.at.includes(event)
        };
        let mut found = replays::deliveries(&self.log, from, limit + 1, ends).await?;
        let more = found.len() > limit;
        found.truncate(limit);
        let last = found.last().map(|event| event.position);
        let mut page =
            Page { next: last.filter(|_| more).map(|at| at.to_string()), ..Page::default() };
        // Whole, whatever the page: a state depends on all events before.
        let mut histories: BTreeMap<EmailId, Vec<Frame<InboxRow>>> = BTreeMap::new();
        for event in &found {
            if let Some(id) = email_of(event)
                && !histories.contains_key(&id)
            {
                let order = Order::Received;
                let frames = replays::email_as_known(&self.log, &id, request.at, order).await?;
                histories.insert(id, frames);
            }
        }
        let all = histories.values().flatten().map(|frame| &frame.recorded).chain(&found);
        let claims = self.claims(all, request).await?;
        for (id, frames) in &histories {
            page.emails.push(self.evidence(id, frames, &claims, request).await?);
        }
        let mut seen =
            Ids::of(histories.values().flatten().map(|frame| &frame.recorded).chain(&found));
        for event in found {
            let id = email_of(&event);
            let frames = id.as_ref().and_then(|id| histories.get(id));
            let own = |frame: &&Frame<InboxRow>| frame.recorded.position == event.position;
            let frame = frames.and_then(|frames| frames.iter().find(own)).cloned();
            let frame = frame.unwrap_or_else(|| of_no_email(event));
            page.entries.push(self.entry(frame, id.as_ref(), &mut seen, &claims));
        }
        sort(&mut page.entries, request.order);
        Ok(page)
    }

    /// Duplicates and rejected deliveries with the ids of deliveries, as far as was known then.
    async fn claims<'a>(
        &self,
        deliveries: impl Iterator<Item = &'a Recorded> + Clone,
        request: &EvidenceRequest,
    ) -> Result<Claims, HistoryError> {
        let Some(first) = deliveries.clone().map(|event| event.stored_at).min() else {
            return Ok(Claims::new());
        };
        let ids: HashSet<_> = deliveries.map(|event| event.envelope.id.as_str()).collect();
        let mut claims = Claims::new();
        let count = |refusal: RejectedDelivery| {
            let Some(id) = refusal.claimed_id.filter(|id| ids.contains(id.as_str())) else {
                return;
            };
            let counts = claims.entry(id).or_default();
            match refusal.reason.as_str() {
                DUPLICATE => counts.0 += 1,
                _ => counts.1 += 1,
            }
        };
        // A rejected delivery may have come before the first accepted one.
        let since = first - chrono::TimeDelta::days(1);
        self.log.refusals(Some(since), self.moment(request.at).await?, count).await?;
        Ok(claims)
    }

    /// The time of a point.
    async fn moment(&self, at: Until) -> Result<Option<DateTime<Utc>>, HistoryError> {
        Ok(match at {
            Until::Now => None,
            Until::Time(time) => Some(time),
            Until::Position(position) => {
                self.log.read_stored(position).await?.map(|message| message.stored_at())
            }
        })
    }

    async fn evidence(
        &self,
        id: &EmailId,
        frames: &[Frame<InboxRow>],
        claims: &Claims,
        request: &EvidenceRequest,
    ) -> Result<EmailEvidence, HistoryError> {
        let filter = accesses::Filter {
            resource: Some("email".to_owned()),
            key: Some(id.to_string()),
            until: self.moment(request.at).await?,
            limit: ACCESSES,
            ..accesses::Filter::default()
        };
        let mut reader = self.read(request).await?;
        let accesses = accesses::find_accesses(&mut reader, &filter).await?;
        let ids: HashSet<_> = frames.iter().map(|it| it.recorded.envelope.id.as_str()).collect();
        let of_ids = || ids.iter().filter_map(|id| claims.get(*id));
        Ok(EmailEvidence {
            object: "email_evidence",
            email_id: id.to_string(),
            deliveries: ids.len() as u64,
            stored_again: (frames.len() - ids.len()) as u64,
            duplicates: of_ids().map(|(duplicates, _)| duplicates).sum(),
            rejected: of_ids().map(|(_, rejected)| rejected).sum(),
            more_accesses: accesses.next.is_some(),
            accesses: accesses.rows,
        })
    }

    fn entry(
        &self,
        frame: Frame<InboxRow>,
        email_id: Option<&EmailId>,
        ids: &mut Ids,
        claims: &Claims,
    ) -> Entry {
        let Frame { recorded, kind, happened_at, state, error } = frame;
        let id = &recorded.envelope.id;
        let (first, times) = ids.0.get(id).copied().unwrap_or((recorded.position, 0));
        // An id that nobody claimed again has no entry.
        let (duplicates, rejected) = claims.get(id).copied().unwrap_or((0, 0));
        let verdict = self.verdict(&recorded);
        let header = |(name, value)| Header { name, value };
        Entry::Delivery(Box::new(DeliveryEntry {
            object: "email_delivery",
            position: recorded.position,
            kind: Some(kind).filter(|kind| !kind.is_empty()),
            email_id: email_id.map(ToString::to_string),
            happened_at,
            received_at: recorded.envelope.time,
            raw: BASE64_STANDARD.encode(&recorded.body),
            verdict,
            repeats: Some(first).filter(|first| *first != recorded.position),
            stored_again: times.saturating_sub(1),
            duplicates,
            rejected,
            state: state.map(|row| EmailDetail::of(&row, recorded.position)),
            error,
            id: recorded.envelope.id,
            headers: recorded.provider_headers.into_iter().map(header).collect(),
        }))
    }

    fn verdict(&self, recorded: &Recorded) -> Verdict {
        if recorded.is_erased() {
            Verdict::Erased
        } else if recorded.envelope.kind == EMAIL_IMPORTED {
            Verdict::Imported
        } else if self.secrets.verify_stored(&recorded.provider_headers, &recorded.body) {
            Verdict::Verified
        } else {
            Verdict::NotVerifiedByCurrentSecrets
        }
    }
}

/// Of each id, the first position and the number of times that it is stored.
struct Ids(HashMap<String, (u64, u64)>);

impl Ids {
    fn of<'a>(events: impl Iterator<Item = &'a Recorded>) -> Self {
        let (mut ids, mut positions) = (HashMap::<String, (u64, u64)>::new(), HashSet::new());
        for event in events.filter(|event| positions.insert(event.position)) {
            let known = ids.entry(event.envelope.id.clone()).or_insert((event.position, 0));
            known.0 = known.0.min(event.position);
            known.1 += 1;
        }
        Self(ids)
    }
}

fn email_of(event: &Recorded) -> Option<EmailId> {
    match event.subject.parse() {
        Ok(Subject::Email(id)) => Some(id),
        _ => None,
    }
}

fn of_no_email(recorded: Recorded) -> Frame<InboxRow> {
    let (kind, happened_at, error) = match decode(&recorded) {
        Ok(Payload::Delivery(delivery)) => (delivery.provider_type, delivery.happened_at, None),
        Ok(_) => (None, None, None),
        Err(error) => (None, None, Some(error.to_string())),
    };
    // A body that names no type is of the empty one.
    Frame { kind: kind.unwrap_or_default(), happened_at, recorded, state: None, error }
}

fn sort(entries: &mut [Entry], order: Order) {
    entries.sort_by_key(|entry| {
        let (at, position) = match entry {
            Entry::Delivery(it) => (it.happened_at.unwrap_or(it.received_at), it.position),
            Entry::Booking(it) => (it.at, it.position),
        };
        (Some(at).filter(|_| order == Order::Happened), position)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use exodrive_domain::{Envelope, WEBHOOK_RECEIVED};

    #[test]
    fn a_delivery_that_cannot_be_read_says_so() {
        let now = DateTime::UNIX_EPOCH;
        let envelope =
            Envelope { version: u32::MAX, ..Envelope::decision(WEBHOOK_RECEIVED, "msg", now) };
        let frame = of_no_email(Recorded {
            position: 1,
            subject: "exo.delivery".to_owned(),
            stored_at: now,
            envelope,
            provider_headers: Vec::new(),
            body: b"{}".as_slice().into(),
            protection: None,
        });
        assert!(frame.error.is_some_and(|error| error.contains("4294967295")));
    }
}
