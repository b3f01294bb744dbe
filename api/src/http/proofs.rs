//! Evidence with which a stranger can check the log: checkpoints, keys, proofs,
//! tiles, receipts. It is public, as in transparency logs: hashes show no
//! content.
//!
//! `/v1/audit` is the prefix of C2SP tlog-tiles. Entries are left out, since
//! they may be personal.

use super::problem::{ApiError, Code, Problem};
use super::{Api, App, auth::extract::Anyone, read_answer::parse_query, refusals::nothing_sealed};
use axum::{
    Json,
    extract::{Path, RawQuery, State},
    http::{
        HeaderName,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use exodrive_audit::seal::leaf_hash;
use exodrive_audit::store::Seal;
use exodrive_proof::{Hash, tile::Tile};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Header with the hash of the event that a command appended.
pub(super) const LEAF_HASH: HeaderName = HeaderName::from_static("exodrive-leaf-hash");

const TEXT: &str = "text/plain; charset=utf-8";
/// Cache control of an answer that never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
const NOW: &str = "no-cache";

/// Size of the requested checkpoint.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct CheckpointQuery {
    /// Size of the checkpoint; the newest if not given.
    #[param(value_type = Option<u64>, minimum = 1)]
    size: Option<String>,
}

/// Gives a signed checkpoint: the number of events, and the root of their
/// Merkle tree.
///
/// A signed note (C2SP tlog-checkpoint). Without `size`, the newest. Save it:
/// `exodrive audit verify` finds any change to the events that it covers.
#[utoipa::path(
    get, path = "/v1/audit/checkpoint", tag = "audit", params(CheckpointQuery),
    responses(
        (status = 200, description = "The signed note", content_type = "text/plain", body = inline(String)),
        Problem,
    ),
)]
pub(crate) async fn get_checkpoint(
    State(api): App,
    _: Anyone,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query: CheckpointQuery = parse_query(query)?;
    let (seal, saved) = match number("size", 1, query.size)? {
        None => (newest(&api).await?, NOW),
        Some(size) => (of_size(&api, size).await?, FOR_EVER),
    };
    Ok(([(CONTENT_TYPE, TEXT), (CACHE_CONTROL, saved)], seal.note).into_response())
}

/// Gives the public keys that have signed checkpoints, one on each line.
///
/// Verifier keys of C2SP signed-note. An auditor who does not trust this server
/// gets them by another way, too.
#[utoipa::path(
    get, path = "/v1/audit/keys", tag = "audit",
    responses(
        (status = 200, description = "Verifier keys, the newest first", content_type = "text/plain", body = inline(String)),
        Problem,
    ),
)]
pub(crate) async fn get_keys(State(api): App, _: Anyone) -> Result<Response, ApiError> {
    let keys = api.seals.seal_keys().await?;
    let lines: String = keys.into_iter().map(|key| key.vkey + "\n").collect();
    Ok(([(CONTENT_TYPE, TEXT), (CACHE_CONTROL, NOW)], lines).into_response())
}

/// Event and tree of an inclusion proof.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct InclusionQuery {
    /// The event's position.
    #[param(required = true, value_type = u64, minimum = 1)]
    position: Option<String>,
    /// Size of the tree; that of the newest checkpoint if not given.
    #[param(value_type = Option<u64>, minimum = 1)]
    size: Option<String>,
}

/// The proof that an event is in the tree.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InclusionProof {
    /// Always `inclusion_proof`.
    object: &'static str,
    /// The event's position. It is leaf `position - 1` of the tree.
    position: u64,
    /// The size of the tree.
    size: u64,
    /// The hash of the event's leaf, in hex.
    leaf_hash: String,
    /// The proof's hashes (RFC 9162, section 2.1.3), in hex.
    proof: Vec<String>,
    /// The signed checkpoint of that size; null if there is none.
    checkpoint: Option<String>,
}

/// Proves that an event is in the tree of a size.
#[utoipa::path(
    get, path = "/v1/audit/inclusion", tag = "audit", params(InclusionQuery),
    responses(
        (status = 200, description = "The proof", body = InclusionProof),
        Problem,
    ),
)]
pub(crate) async fn get_inclusion(
    State(api): App,
    _: Anyone,
    RawQuery(query): RawQuery,
) -> Result<Json<InclusionProof>, ApiError> {
    let query: InclusionQuery = parse_query(query)?;
    let position = number("position", 1, query.position)?
        .ok_or_else(|| ApiError::parameter("position", "it is missing"))?;
    let sealed = newest(&api).await?;
    let size = number("size", 1, query.size)?.unwrap_or(sealed.size);
    within("size", size, 1, sealed.size)?;
    within("position", position, 1, size)?;
    let (leaf, proof) = api.seals.prove_inclusion(position, size).await?;
    let checkpoint = match size == sealed.size {
        true => Some(sealed),
        false => exactly(&api, size).await?,
    };
    Ok(Json(InclusionProof {
        object: "inclusion_proof",
        position,
        size,
        leaf_hash: hex::encode(leaf),
        proof: all_hex(&proof),
        checkpoint: checkpoint.map(|seal| seal.note),
    }))
}

/// Sizes of the two trees of a consistency proof.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct ConsistencyQuery {
    /// The size of the smaller tree.
    #[param(required = true, value_type = u64, minimum = 1)]
    from: Option<String>,
    /// Size of the larger tree; that of the newest checkpoint if not given.
    #[param(value_type = Option<u64>, minimum = 1)]
    to: Option<String>,
}

/// Proof that one tree is the beginning of another.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConsistencyProof {
    /// Always `consistency_proof`.
    object: &'static str,
    /// The size of the smaller tree.
    from: u64,
    /// The size of the larger tree.
    to: u64,
    /// The proof's hashes (RFC 9162, section 2.1.4), in hex.
    proof: Vec<String>,
}

/// Proves that the tree of one size is the beginning of the tree of another.
#[utoipa::path(
    get, path = "/v1/audit/consistency", tag = "audit", params(ConsistencyQuery),
    responses(
        (status = 200, description = "The proof", body = ConsistencyProof),
        Problem,
    ),
)]
pub(crate) async fn get_consistency(
    State(api): App,
    _: Anyone,
    RawQuery(query): RawQuery,
) -> Result<Json<ConsistencyProof>, ApiError> {
    let query: ConsistencyQuery = parse_query(query)?;
    let from = number("from", 1, query.from)?
        .ok_or_else(|| ApiError::parameter("from", "it is missing"))?;
    let sealed = newest(&api).await?;
    let to = number("to", 1, query.to)?.unwrap_or(sealed.size);
    within("to", to, 1, sealed.size)?;
    within("from", from, 1, to)?;
    let proof = api.seals.prove_consistency(from, to).await?;
    Ok(Json(ConsistencyProof { object: "consistency_proof", from, to, proof: all_hex(&proof) }))
}

/// Gives a tile of the tree: its hashes, 32 bytes each, side by side.
///
/// The path is that of C2SP tlog-tiles, for example `0/x001/067` or
/// `0/000.p/17`, which may have several slashes.
#[utoipa::path(
    get, path = "/v1/audit/tile/{level}/{*path}", tag = "audit",
    params(
        ("level" = u8, Path, description = "The tile's level"),
        ("path" = String, Path, description = "Its index in groups of three digits, and `.p/` with its width if it is partial"),
    ),
    responses(
        (status = 200, description = "The hashes", content_type = "application/octet-stream", body = inline(Vec<u8>),
            headers(("Cache-Control" = String, description = "A tile never changes once it is served"))),
        Problem,
    ),
)]
pub(crate) async fn get_tile(
    State(api): App,
    _: Anyone,
    Path((level, path)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let no_tile = || ApiError::new(Code::NotFound, "There is no such tile, or not yet.");
    let tile: Tile = format!("tile/{level}/{path}").parse().map_err(|_| no_tile())?;
    let sealed = newest(&api).await?;
    let there = Tile::of(tile.level, tile.index, sealed.size).ok_or_else(no_tile)?;
    if there.width < tile.width {
        return Err(no_tile());
    }
    let place = (tile.level, tile.index);
    let mut tiles = api.seals.seal_tiles([place]).await?;
    let mut hashes = tiles.remove(&place).ok_or_else(no_tile)?;
    hashes.truncate(tile.width.into());
    let kind = "application/octet-stream";
    let headers = [(CONTENT_TYPE, kind), (CACHE_CONTROL, FOR_EVER)];
    Ok((headers, hashes.as_flattened().to_vec()).into_response())
}

/// Receipt of an event: evidence that it is in the log. Save it to hold us to
/// it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventReceipt {
    /// Always `event_receipt`.
    object: &'static str,
    /// The event's position.
    position: u64,
    /// The hash of its leaf, in hex.
    leaf_hash: String,
    /// Size of the first checkpoint that covers it; null until there is one,
    /// some seconds after it was stored.
    sealed_in: Option<u64>,
}

/// Gives the receipt of an event: the hash of its leaf, and the checkpoint that
/// covers it.
///
/// The answer to a command has the same hash in `ExoDrive-Leaf-Hash`.
#[utoipa::path(
    get, path = "/v1/audit/receipts/{position}", tag = "audit",
    params(("position" = u64, Path, description = "The event's position")),
    responses(
        (status = 200, description = "The receipt", body = EventReceipt),
        Problem,
    ),
)]
pub(crate) async fn get_receipt(
    State(api): App,
    _: Anyone,
    Path(position): Path<String>,
) -> Result<Json<EventReceipt>, ApiError> {
    let position = path_position(&position)?;
    let sealed = api.seals.sealed_leaf(position).await?;
    let (leaf, sealed_in) = match sealed {
        Some(leaf) => {
            let seals = api.seals.seals_between(position, u64::MAX, 1).await;
            (leaf, seals?.first().map(|seal| seal.size))
        }
        None => (stored_leaf(&api, position).await?.ok_or_else(no_event)?, None),
    };
    let leaf_hash = hex::encode(leaf);
    Ok(Json(EventReceipt { object: "event_receipt", position, leaf_hash, sealed_in }))
}

/// Hash of an event that the log has stored.
pub(super) async fn stored_leaf(api: &Api, position: u64) -> Result<Option<Hash>, ApiError> {
    let stored = api.log.read_stored(position).await?;
    Ok(stored.as_ref().map(leaf_hash))
}

pub(super) fn no_event() -> ApiError {
    ApiError::new(Code::NotFound, "The log has no event at this position.")
}

/// A position in a path.
pub(super) fn path_position(text: &str) -> Result<u64, ApiError> {
    text.parse().ok().filter(|position| *position > 0).ok_or_else(no_event)
}

/// A number in a query.
pub(super) fn number(
    name: &str,
    least: u64,
    text: Option<String>,
) -> Result<Option<u64>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    // A position of the log is an `int64`, as the contract says.
    let number = text.parse::<i64>().ok().and_then(|number| u64::try_from(number).ok());
    let detail = || format!("it must be a whole number from {least}");
    let number = number.filter(|number| *number >= least);
    number.map(Some).ok_or_else(|| ApiError::parameter(name, detail()))
}

fn within(name: &str, number: u64, from: u64, to: u64) -> Result<(), ApiError> {
    if (from..=to).contains(&number) {
        return Ok(());
    }
    Err(ApiError::parameter(name, format!("it must be a number from {from} to {to}")))
}

fn all_hex(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(hex::encode).collect()
}

async fn newest(api: &Api) -> Result<Seal, ApiError> {
    api.seals.newest_seal().await?.ok_or_else(nothing_sealed)
}

async fn exactly(api: &Api, size: u64) -> Result<Option<Seal>, ApiError> {
    Ok(api.seals.seals_between(size, size, 1).await?.pop())
}

async fn of_size(api: &Api, size: u64) -> Result<Seal, ApiError> {
    exactly(api, size).await?.ok_or_else(|| {
        let detail = "There is no checkpoint of this size; a proof of consistency needs none.";
        ApiError::new(Code::NotFound, detail)
    })
}
