//! The log itself, for auditors: stored events with their content, and exports
//! that can be proven.

use super::problem::{ApiError, Code, Problem};
use super::{
    Api, App,
    auth::extract::EmailReader,
    layers::{load::held, request},
    media::prefers,
    proofs::{no_event, number, path_position},
    read_answer::{cursor, limit, parse_query, text},
    state::export_budget::Spending,
};
use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, RawQuery, State},
    http::{
        HeaderMap,
        header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use exodrive_audit::{
    events::{Scan, Selection, check_subject},
    export::{Export, ExportError},
    seal::leaf_hash,
};
use exodrive_domain::time;
use exodrive_log::StoredMessage;
use exodrive_projections::parse_position;
use exodrive_proof::export::{ExportWriter, Format};
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};

/// Seconds after which a refused export may be asked for again.
const RETRY_AFTER: u64 = 5;
/// Largest number of events that are read for one page: a page can have fewer
/// events than requested and still not be the last.
const EFFORT: u64 = 20_000;
/// Bytes of bodies on a page after which no other event is added.
const MOST_BYTES: usize = 8 << 20;
/// Bytes of an export that wait for a slow reader: so many pieces of at most this size, and one
/// that is written meanwhile.
const PIECES: usize = 2;
const PIECE: usize = 256 << 10;

/// Filter of events.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct EventQuery {
    /// Only of this subject, which may hold NATS wildcards.
    #[param(example = "exo.booking.>")]
    subject: Option<String>,
    /// Only of this type.
    #[serde(rename = "type")]
    #[param(example = "exodrive.booking.confirmed")]
    kind: Option<String>,
    /// Only by this actor.
    actor: Option<String>,
    /// Only those stored at this time (RFC 3339) or later.
    #[param(value_type = Option<DateTime<Utc>>)]
    since: Option<String>,
    /// Only those stored before this time.
    #[param(value_type = Option<DateTime<Utc>>)]
    until: Option<String>,
    /// Only those at this position or after it.
    #[param(value_type = Option<u64>, minimum = 1)]
    from: Option<String>,
    /// Only those at this position or before it.
    #[param(value_type = Option<u64>, minimum = 1)]
    to: Option<String>,
    /// Start of the page: `next` of the previous page.
    #[param(value_type = Option<u64>)]
    after: Option<String>,
    /// Events on a page, 1 to 100. 20 if not given.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100)]
    limit: Option<String>,
    /// `json`: a page. `ndjson`, `csv` or `parquet`: an export of all of them
    /// that can be proven.
    #[param(pattern = "^(json|ndjson|csv|parquet)$")]
    format: Option<String>,
    /// `true`: an export has the decrypted content of every event.
    #[param(value_type = Option<bool>)]
    content: Option<String>,
}

/// A page of events.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventList {
    /// Always `list`.
    object: &'static str,
    /// Events in log order.
    data: Vec<AuditEvent>,
    /// True if there may be more.
    has_more: bool,
    /// Value of `after` for them.
    next: Option<u64>,
}

/// A name with a value.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventHeader {
    name: String,
    value: String,
}

/// An event as stored, with its content.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditEvent {
    /// Always `audit_event`.
    object: &'static str,
    /// Position in the log.
    position: u64,
    /// Time at which the log's server stored it, to the nanosecond.
    stored_at: String,
    /// Subject of the event.
    subject: String,
    /// Its type.
    #[serde(rename = "type")]
    kind: String,
    /// Its id.
    event_id: String,
    /// The actor of the event.
    actor: Option<String>,
    /// Every stored header, sorted by name.
    headers: Vec<EventHeader>,
    /// Decrypted content: JSON, or base64 if it is not JSON. Null if it was
    /// erased.
    #[schema(value_type = Option<Object>)]
    content: Option<Value>,
    /// True if personal data in it was erased.
    erased: bool,
    /// Hash of its leaf, in hex, computed from the stored message.
    leaf_hash: String,
    /// True if a checkpoint covers it.
    sealed: bool,
}

/// Lists events of the log in its order; as NDJSON, exports all of them.
///
/// With `Accept: application/x-ndjson` (or `format=ndjson`) the answer is not a
/// page but an export of every event that the filter matches, in log order, in
/// the form of `/v1/audit/export`.
#[utoipa::path(
    get, path = "/v1/audit/events", tag = "audit", security(("token" = []), ("service_key" = ["audit:read"])), params(EventQuery),
    responses(
        (status = 200, description = "A page, or an export", content(
            (EventList = "application/json"),
            (String = "application/x-ndjson"),
            (String = "text/csv"),
            (String = "application/vnd.apache.parquet"),
        )),
        Problem,
    ),
)]
pub(crate) async fn list_events(
    State(api): App,
    _: EmailReader,
    Extension(identity): Extension<request::Identity>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query: EventQuery = parse_query(query)?;
    let ndjson = prefers(&headers, Format::Ndjson.media_type());
    match query.format.as_deref() {
        Some("json") => {}
        None if !ndjson => {}
        None => return export(api, &identity, query, Format::Ndjson).await,
        Some(format) => {
            let format = parse_format(format)?;
            return export(api, &identity, query, format).await;
        }
    }
    if query.content.is_some() {
        return Err(ApiError::parameter("content", "it is for exports: a page always has it"));
    }
    let requested = usize::try_from(limit(query.limit.clone())?).unwrap_or(20);
    let after = cursor(query.after.clone(), parse_position)?.unwrap_or(0);
    let mut selection = selection(&query)?;
    // What is filtered is looked for among many.
    let _room = api.readings.of_events(if selection.is_all() { 0 } else { EFFORT / 4 })?;
    selection.from = Some(selection.from.unwrap_or(1).max(after.saturating_add(1)));
    let end = api.log.last_position().await?;
    let mut scan = Scan::begin(&api.log, selection, end).await?;
    let begin = scan.scanned();
    let (mut found, mut ended) = (Vec::new(), false);
    while fitting(&found, requested) == found.len()
        && found.len() < requested
        && scan.scanned() - begin < EFFORT
    {
        match scan.next().await? {
            Some(messages) => found.extend(messages),
            None => {
                ended = true;
                break;
            }
        }
    }
    let fitting = fitting(&found, requested);
    let cut = found.len() > fitting;
    let more = cut || !ended;
    found.truncate(fitting);
    let reached = if cut || found.len() == requested {
        found.last().map_or(scan.scanned(), |message| message.position)
    } else {
        scan.scanned()
    };
    let data = describe(&api, found).await?;
    let next = more.then_some(reached);
    let list = EventList { object: "list", data, has_more: more, next };
    Ok(([(CACHE_CONTROL, "no-store")], Json(list)).into_response())
}

/// The number of events that fit on a page, one at least.
fn fitting(found: &[StoredMessage], requested: usize) -> usize {
    let mut bytes = 0;
    let fits = found.iter().take(requested).take_while(|message| {
        let fits = bytes < MOST_BYTES;
        bytes += message.body.len();
        fits
    });
    fits.count()
}

/// Gives one event as stored, with its content.
#[utoipa::path(
    get, path = "/v1/audit/events/{position}", tag = "audit", security(("token" = []), ("service_key" = ["audit:read"])),
    params(("position" = u64, Path, description = "The event's position")),
    responses(
        (status = 200, description = "The event", body = AuditEvent),
        Problem,
    ),
)]
pub(crate) async fn get_event(
    State(api): App,
    _: EmailReader,
    Path(position): Path<String>,
) -> Result<Response, ApiError> {
    let position = path_position(&position)?;
    let stored = api.log.read_stored(position).await;
    let stored = stored?.ok_or_else(no_event)?;
    let event = describe(&api, vec![stored]).await?.pop().ok_or_else(no_event)?;
    Ok(([(CACHE_CONTROL, "no-store")], Json(event)).into_response())
}

/// Exports events of the log in its order, for the offline proof by `exodrive
/// audit verify`.
///
/// The export ends at the newest checkpoint, which it contains. Events after
/// that are left for the next export. Events that the filter does not match are
/// represented by hashes. An export that breaks off has no `end` record. A user
/// has one export at a time, and a budget for each day.
#[utoipa::path(
    get, path = "/v1/audit/export", tag = "audit", security(("token" = []), ("service_key" = ["audit:read"])), params(EventQuery),
    responses(
        (status = 200, description = "The export: NDJSON if `format` is not given", content(
            (String = "application/x-ndjson"),
            (String = "text/csv"),
            (String = "application/vnd.apache.parquet"),
        )),
        Problem,
    ),
)]
pub(crate) async fn get_export(
    State(api): App,
    _: EmailReader,
    Extension(identity): Extension<request::Identity>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query: EventQuery = parse_query(query)?;
    let format = query.format.as_deref().map_or(Ok(Format::Ndjson), parse_format)?;
    let mut response = export(api, &identity, query, format).await?;
    let name = format!("attachment; filename=\"exodrive-export.{}\"", format.name());
    if let Ok(name) = name.parse() {
        response.headers_mut().insert(CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

fn parse_format(format: &str) -> Result<Format, ApiError> {
    format.parse().map_err(|_| ApiError::parameter("format", "it must be ndjson, csv or parquet"))
}

fn selection(query: &EventQuery) -> Result<Selection, ApiError> {
    let subject = text(query.subject.clone());
    if let Some(subject) = &subject {
        check_subject(subject).map_err(|detail| ApiError::parameter("subject", detail))?;
    }
    let at = |name, value: &Option<String>| -> Result<Option<DateTime<Utc>>, ApiError> {
        let Some(value) = value else { return Ok(None) };
        let detail = "it must be a time as in RFC 3339, such as 2026-11-20T09:15:00Z";
        time::parse(value).map(Some).ok_or_else(|| ApiError::parameter(name, detail))
    };
    Ok(Selection {
        subject,
        kind: text(query.kind.clone()),
        actor: text(query.actor.clone()),
        since: at("since", &query.since)?,
        until: at("until", &query.until)?,
        from: number("from", 1, query.from.clone())?,
        to: number("to", 1, query.to.clone())?,
    })
}

/// Describes stored events with their content.
async fn describe(api: &Api, found: Vec<StoredMessage>) -> Result<Vec<AuditEvent>, ApiError> {
    let sealed = api.seals.newest_seal().await?;
    let sealed = sealed.map_or(0, |seal| seal.size);
    let recorded = api.log.decode_all(found.clone()).await;
    let recorded = recorded?;
    let event = |(stored, recorded): (StoredMessage, exodrive_domain::Recorded)| AuditEvent {
        object: "audit_event",
        position: stored.position,
        stored_at: stored.stored_at().to_rfc3339_opts(SecondsFormat::Nanos, true),
        kind: recorded.envelope.kind.clone(),
        event_id: recorded.envelope.id.clone(),
        actor: recorded.envelope.actor.clone(),
        content: content(&recorded.body),
        erased: recorded.is_erased(),
        leaf_hash: hex::encode(leaf_hash(&stored)),
        sealed: stored.position <= sealed,
        subject: stored.subject,
        headers: stored
            .headers
            .into_iter()
            .map(|(name, value)| EventHeader { name, value })
            .collect(),
    };
    Ok(found.into_iter().zip(recorded).map(event).collect())
}

fn content(body: &Bytes) -> Option<Value> {
    if body.is_empty() {
        return None;
    }
    let json = serde_json::from_slice(body).ok();
    Some(json.unwrap_or_else(|| BASE64_STANDARD.encode(body).into()))
}

/// Bytes that are written and not sent yet.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn len(&self) -> usize {
        self.bytes().len()
    }

    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.bytes()).into()
    }
}

impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An answer that is written while the log is read: a slow reader slows it
/// down, and one that takes nothing for a while is disconnected. Until then it
/// has its places.
async fn export(
    api: Arc<Api>,
    identity: &request::Identity,
    query: EventQuery,
    format: Format,
) -> Result<Response, ApiError> {
    for (name, given) in [("after", &query.after), ("limit", &query.limit)] {
        if given.is_some() {
            return Err(ApiError::parameter(name, "it is for pages: an export has all of them"));
        }
    }
    let content = match query.content.as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(ApiError::parameter("content", "it must be true or false")),
    };
    let selection = selection(&query)?;
    let place = api.exports.take(&identity.user()).ok_or_else(|| {
        let detail = "You have another export in progress: take it to its end, or give it up.";
        let mut error = ApiError::new(Code::Busy, detail);
        error.retry_after = Some(RETRY_AFTER);
        error
    })?;
    let room = api.readings.of_everything()?;
    let mut spending = Spending::begin(&api, identity).await?;
    let mut export = Export::begin(&api.log, &api.seals, selection, content).await?;
    let (pieces, received) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    tokio::spawn(async move {
        if let Err(error) = write(&mut export, format, &pieces, &mut spending).await {
            let error_chain = exodrive_runtime::error_chain(&error);
            tracing::warn!(error = error_chain, "An export broke off");
            // The reader sees that it broke off, and the file has no end.
            let _ = pieces.send(Err(io::Error::other("the export broke off"))).await;
        }
    });
    let body = stream::unfold(received, |mut received| async move {
        received.recv().await.map(|piece| (piece, received))
    });
    let headers = [(CONTENT_TYPE, format.media_type()), (CACHE_CONTROL, "no-store")];
    let answer = (headers, Body::from_stream(body)).into_response();
    Ok(held(answer, (place, room)))
}

/// Writes and sends until the end, or until the client disconnects.
async fn write(
    export: &mut Export,
    format: Format,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
    spending: &mut Spending,
) -> Result<(), ExportError> {
    let buffer = Buffer::default();
    let mut writer = ExportWriter::new(format, buffer.clone())?;
    loop {
        let more = export.write_some(&mut writer, || buffer.len() >= PIECE).await?;
        if !send(&buffer, pieces, spending).await {
            return Ok(());
        }
        if !more {
            writer.finish()?;
            send(&buffer, pieces, spending).await;
            return Ok(());
        }
    }
}

/// Sends what is written, in pieces; false if nobody takes it.
async fn send(
    buffer: &Buffer,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
    spending: &mut Spending,
) -> bool {
    let mut written = buffer.take();
    while !written.is_empty() {
        let piece = written.split_to(written.len().min(PIECE));
        spending.spend(piece.len()).await;
        if pieces.send(Ok(piece)).await.is_err() {
            return false;
        }
    }
    true
}
