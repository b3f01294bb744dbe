//! The history of email with all its evidence, for auditors: every delivery with its bytes, signed
//! headers and verdict, its effect on the email, repeated and rejected deliveries, and the staff's
//! reads of it.

mod ids;
mod pages;
mod wanted;

use crate::webhook_signature::Secrets;
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use exodrive_domain::{
    EMAIL_IMPORTED, Payload, Recorded, Subject, decode, email::EmailId, id::BookingId,
    time::serde_micros,
};
use exodrive_log::{DUPLICATE, Log, ReadError, RejectedDelivery};
use exodrive_projections::{
    Database, Error, Identity, Place, ReadTransaction, RowPlace, parse_position,
    views::{
        accesses::read::{self as accesses, Access},
        booking_timeline::read::{self as booking_timeline, BookingEntry},
        inbox::read::{self as inbox, EmailDetail},
    },
};
use exodrive_replays::{self as replays, Frame, Order, Until};
use ids::Ids;
use pages::{Resume, Room};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};
use utoipa::ToSchema;
use wanted::{Found, OnPage};

/// Bytes of bodies on a page after which no other entry is added.
const MOST_BYTES: usize = 8 << 20;
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
    /// Emails of a page for [`Scope::Address`], deliveries for [`Scope::Between`], entries of the
    /// timeline for [`Scope::Booking`].
    pub limit: i64,
    /// Most entries of a page, but for [`Scope::Between`].
    pub entries: usize,
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
        if let Scope::Between(since, until) = request.scope {
            return self.between(request, since, until).await;
        }
        let resume =
            request.after.as_deref().map(|it| Resume::parse(it).ok_or(HistoryError::Cursor));
        let resume = resume.transpose()?.unwrap_or_default();
        let (things, following) = self.things(request, resume.list.as_deref()).await?;
        let mut page = Page::default();
        let mut room = Room { entries: request.entries, bytes: MOST_BYTES };
        let (mut emails, mut ids) = (Vec::new(), Ids::default());
        for (index, thing) in things.into_iter().enumerate().skip(resume.things) {
            let next = |things, entries| Resume { things, entries, ..resume.clone() }.cursor();
            if room.is_full() {
                page.next = Some(next(index, 0));
                break;
            }
            match thing {
                Thing::Own(entry) => {
                    room.take(0);
                    page.entries.push(Entry::Booking(entry));
                }
                Thing::Email(id) => {
                    let begin = if index == resume.things { resume.entries } else { 0 };
                    let history = self.history(request, id, begin, &mut room).await?;
                    ids.merge(&history.ids);
                    let more = history.more;
                    emails.push(history);
                    if let Some(end) = more {
                        page.next = Some(next(index, end));
                        break;
                    }
                }
            }
        }
        if page.next.is_none() {
            page.next =
                following.map(|list| Resume { list: Some(list), ..Resume::default() }.cursor());
        }
        let claims = self.claims(&ids, request).await?;
        for History { id, ids, frames, .. } in emails {
            if ids.is_empty() {
                continue;
            }
            page.emails.push(self.evidence(&id, &ids, &claims, request).await?);
            let entry = |frame| self.entry(frame, Some(&id), &ids, &claims);
            page.entries.extend(frames.into_iter().map(entry));
        }
        sort(&mut page.entries, request.order);
        Ok(page)
    }

    /// Some of what a history is about, from a cursor of the list of it on, with the cursor that
    /// follows.
    async fn things(
        &self,
        request: &EvidenceRequest,
        list: Option<&str>,
    ) -> Result<(Vec<Thing>, Option<String>), HistoryError> {
        let limit = request.limit;
        match &request.scope {
            Scope::Email(id) => Ok((vec![Thing::Email(id.clone())], None)),
            Scope::Address(address) => {
                let after = list.map(|it| RowPlace::parse(it).ok_or(HistoryError::Cursor));
                let after = after.transpose()?;
                let mut reader = self.read(request).await?;
                let found =
                    inbox::find_emails_of_address(&mut reader, address, limit, after.as_ref())
                        .await?;
                Ok((found.rows.into_iter().map(Thing::Email).collect(), found.next))
            }
            Scope::Booking(id) => {
                let after = list.map(|it| Place::parse(it).ok_or(HistoryError::Cursor));
                let after = after.transpose()?;
                let mut reader = self.read(request).await?;
                let page = (limit, after.as_ref());
                let found =
                    booking_timeline::timeline_of_booking(&mut reader, &id.to_string(), page)
                        .await?;
                let thing = |entry: BookingEntry| match entry.kind.as_str() {
                    "email" => entry.id.parse().ok().map(Thing::Email),
                    _ => request
                        .at
                        .covers(entry.position, entry.at)
                        .then(|| Thing::Own(Box::new(entry))),
                };
                Ok((found.rows.into_iter().filter_map(thing).collect(), found.next))
            }
            Scope::Between(..) => Ok((Vec::new(), None)),
        }
    }

    /// The history of an email, of which the frames from `begin` on are kept for which there is
    /// room.
    async fn history(
        &self,
        request: &EvidenceRequest,
        id: EmailId,
        begin: usize,
        room: &mut Room,
    ) -> Result<History, HistoryError> {
        let wanted = OnPage { begin, room: *room, more: None, ids: Ids::default() };
        let point = (request.at, request.order);
        let (OnPage { room: left, more, ids, .. }, frames) =
            replays::select_of_email(&self.log, &id, point, wanted).await?;
        *room = left;
        Ok(History { id, ids, frames, more })
    }

    async fn between(
        &self,
        request: &EvidenceRequest,
        since: Option<DateTime<Utc>>,
        until: Option<DateTime<Utc>>,
    ) -> Result<Page, HistoryError> {
        let from = match (&request.after, since) {
            (Some(after), _) => parse_position(after).ok_or(HistoryError::Cursor)? + 1,
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
        let on_page = found.iter().map(|event| event.position);
        let on_page = Arc::new(on_page.collect::<HashSet<_>>());
        // Each is read whole, whatever the page, since a state depends on all events before; only
        // what is on the page is kept.
        let mut histories: BTreeMap<EmailId, (Ids, Vec<Frame<EmailDetail>>)> = BTreeMap::new();
        let mut ids = Ids::of(&found);
        for event in &found {
            if let Some(id) = email_of(event)
                && !histories.contains_key(&id)
            {
                let point = (request.at, Order::Received);
                let wanted = Found { positions: on_page.clone(), ids: Ids::default() };
                let (Found { ids: own, .. }, frames) =
                    replays::select_of_email(&self.log, &id, point, wanted).await?;
                ids.merge(&own);
                histories.insert(id, (own, frames));
            }
        }
        let claims = self.claims(&ids, request).await?;
        for (id, (own, _)) in &histories {
            page.emails.push(self.evidence(id, own, &claims, request).await?);
        }
        for event in found {
            let id = email_of(&event);
            let frames = id.as_ref().and_then(|id| histories.get(id)).map(|(_, frames)| frames);
            let own = |frame: &&Frame<EmailDetail>| frame.recorded.position == event.position;
            let frame = frames.and_then(|frames| frames.iter().find(own)).cloned();
            let frame = frame.unwrap_or_else(|| of_no_email(event));
            page.entries.push(self.entry(frame, id.as_ref(), &ids, &claims));
        }
        sort(&mut page.entries, request.order);
        Ok(page)
    }

    /// Duplicates and rejected deliveries with the ids of deliveries, as far as was known then.
    async fn claims(&self, ids: &Ids, request: &EvidenceRequest) -> Result<Claims, HistoryError> {
        let Some(first) = ids.first_stored_at else {
            return Ok(Claims::new());
        };
        let mut claims = Claims::new();
        let count = |refusal: RejectedDelivery| {
            let Some(id) = refusal.claimed_id.filter(|id| ids.known.contains_key(id)) else {
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
        ids: &Ids,
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
        let of_ids = || ids.known.keys().filter_map(|id| claims.get(id));
        let stored: u64 = ids.known.values().map(|it| it.times).sum();
        let deliveries = ids.known.len() as u64;
        Ok(EmailEvidence {
            object: "email_evidence",
            email_id: id.to_string(),
            deliveries,
            stored_again: stored - deliveries,
            duplicates: of_ids().map(|(duplicates, _)| duplicates).sum(),
            rejected: of_ids().map(|(_, rejected)| rejected).sum(),
            more_accesses: accesses.next.is_some(),
            accesses: accesses.rows,
        })
    }

    fn entry(
        &self,
        frame: Frame<EmailDetail>,
        email_id: Option<&EmailId>,
        ids: &Ids,
        claims: &Claims,
    ) -> Entry {
        let Frame { recorded, kind, happened_at, state, error } = frame;
        let id = &recorded.envelope.id;
        let known = ids.known.get(id);
        let (first, times) = known.map_or((recorded.position, 0), |it| (it.first, it.times));
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
            state: state.map(|state| EmailDetail { position: recorded.position, ..state }),
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

/// What a history is about: an event of a booking, or an email with all deliveries about it.
enum Thing {
    Own(Box<BookingEntry>),
    Email(EmailId),
}

/// A part of the history of an email.
struct History {
    id: EmailId,
    /// The ids of all of it.
    ids: Ids,
    frames: Vec<Frame<EmailDetail>>,
    /// The place of the next entry, if there was no room for all of them.
    more: Option<usize>,
}

fn email_of(event: &Recorded) -> Option<EmailId> {
    match event.subject.parse() {
        Ok(Subject::Email(id)) => Some(id),
        _ => None,
    }
}

fn of_no_email(recorded: Recorded) -> Frame<EmailDetail> {
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
