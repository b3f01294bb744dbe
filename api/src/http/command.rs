//! Parts that all commands share: the body, `Idempotency-Key` and `If-Match`.

use super::problem::{ApiError, Code, FieldError};
use super::{
    Api,
    auth::extract::Requester,
    conditional::if_position,
    contract::{self, schema_of},
    given::Day,
    headers::{header_fault, single},
    layers::request,
    media::{check_accepted, check_coding, check_json},
    proofs::{LEAF_HASH, stored_leaf},
    read_answer::POSITION,
    refusals::{key_reused, validation},
};
use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, ETAG, LOCATION},
    },
    response::{IntoResponse, Response},
};
use exodrive_commands::{
    context::{Actor, CommandContext},
    digest::keyed_request_hash,
};
use exodrive_domain::{
    days::{Days, DaysError},
    value::InvalidField,
};
use redis::Cmd;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{future::Future, sync::Arc, sync::LazyLock};
use utoipa::ToSchema;

const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Seconds for which Redis stores an answer. After that the log still
/// recognises the command.
const KEPT_SECONDS: u64 = 24 * 3_600;
/// Milliseconds for which a command may be in flight: longer than a command
/// takes, and short enough for a caller whose first attempt died with its
/// process.
const IN_FLIGHT_MS: u64 = 10_000;

/// A command as received: the body as `T`, and what its request says besides.
pub(crate) struct Command<T> {
    pub(crate) body: T,
    pub(crate) who: Requester,
    /// Context for the command handlers, made once for a request.
    pub(crate) context: CommandContext,
    /// The caller gave an `Idempotency-Key`, so the command may be repeated.
    repeatable: bool,
}

/// No body, or an empty object.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmptyBody {}

impl<T: DeserializeOwned + ToSchema> FromRequest<Arc<Api>> for Command<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let who = Requester::of(&mut parts, api).await?.checked(&parts)?;
        let identity = parts
            .extensions
            .get::<request::Identity>()
            .cloned()
            .ok_or_else(|| ApiError::of_status(StatusCode::INTERNAL_SERVER_ERROR))?;
        // The answer comes after the command, when it is too late to refuse it.
        check_accepted(&parts.headers, "application/json")?;
        let key = key(&parts.headers)?;
        let if_position = if_position(&parts.headers)?;
        if if_position.is_some() && !has_tag(identity.route()) {
            return Err(ApiError::new(Code::Stale, "Nothing here has a tag for `If-Match`."));
        }
        check_coding(&parts.headers)?;
        let body = super::body::read_body(body, &api.command_bodies).await?;
        // The hash covers the value and not the spelling: a retry may be
        // serialised differently.
        let (parsed, meant) = parse(&parts.headers, &body.bytes)?;
        let condition = condition(if_position.as_deref());
        let asked = (parts.method.as_str(), parts.uri.path(), condition, &meant);
        let request_hash = keyed_request_hash(&api.log, &asked)?;
        let actor = who.actor();
        let command_id = match &key {
            Some(key) => {
                let of_a_booking = identity.route().starts_with("/v1/bookings/{id}/");
                let email = meant.pointer("/customer/email").and_then(Value::as_str);
                let scope = who.key_scope(of_a_booking, email);
                // Keyed, since it goes into the log, and the address may be guessed.
                api.log.mac("idempotency-key", &serde_json::to_vec(&(scope, key))?)
            }
            None => format!("{:032x}", rand::random::<u128>()),
        };
        let context = CommandContext {
            if_position,
            traceparent: Some(identity.trace.traceparent()),
            correlation: Some(identity.request_id.to_string()),
            ..CommandContext::new(command_id, request_hash, actor)
        };
        Ok(Self { body: parsed, who, context, repeatable: key.is_some() })
    }
}

fn key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = single(headers, IDEMPOTENCY_KEY)? else { return Ok(None) };
    let key = value.to_str().ok().map(|key| key.trim().trim_matches('"'));
    let valid = key.filter(|key| (1..=255).contains(&key.len()));
    let key =
        valid.ok_or_else(|| header_fault(IDEMPOTENCY_KEY, "must have 1 to 255 characters"))?;
    Ok(Some(key.to_owned()))
}

/// True if what the commands of a route change has a tag: a car, a booking or a block.
fn has_tag(route: &str) -> bool {
    let one = ["/v1/bookings/{id}/", "/v1/cars/{id}/"].iter().any(|it| route.starts_with(it));
    // Blocks are made there.
    one && route != "/v1/cars/{id}/blocks"
}

/// The condition as it is hashed. One position alone is hashed as the number that it is.
fn condition(positions: Option<&[u64]>) -> Value {
    match positions {
        Some([position]) => (*position).into(),
        positions => positions.map(<[u64]>::to_vec).into(),
    }
}

/// The body as `T`, and as the value that it is.
fn parse<T: DeserializeOwned + ToSchema>(
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<(T, Value), ApiError> {
    let body: &[u8] = if body.is_empty() { b"{}" } else { body };
    // Whoever sends nothing need not say what it is.
    if body != b"{}" || headers.contains_key(CONTENT_TYPE) {
        check_json(headers)?;
    }
    let mut value: Value = serde_json::from_slice(body).map_err(|error| {
        let detail = format!("is not JSON: {error}");
        unreadable(vec![FieldError { pointer: String::new(), detail }])
    })?;
    let schema = schema_of::<T>()?;
    let faults = contract::faults(schema, &value);
    if !faults.is_empty() {
        return Err(unreadable(faults));
    }
    // Else from the text, in which a field may be there twice.
    let respelled = whole_numbers(&mut value).then(|| serde_json::to_vec(&value)).transpose()?;
    let mut json = serde_json::Deserializer::from_slice(respelled.as_deref().unwrap_or(body));
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let pointer = pointer(error.path());
        let said = without_place(&error.inner().to_string());
        let detail = contract::detail(schema, &pointer, &said);
        unreadable(vec![FieldError { pointer, detail }])
    })?;
    Ok((parsed, value))
}

/// Writes whole numbers without a fraction: to JSON Schema `3.0` is the integer 3 (draft 2020-12,
/// section 4.2.3). False if there is nothing to write.
fn whole_numbers(value: &mut Value) -> bool {
    match value {
        Value::Number(number) => {
            let Some(whole) = contract::whole(number) else { return false };
            *number = whole.into();
            true
        }
        Value::Array(items) => {
            items.iter_mut().map(whole_numbers).filter(|written| *written).count() > 0
        }
        Value::Object(fields) => {
            fields.values_mut().map(whole_numbers).filter(|written| *written).count() > 0
        }
        _ => false,
    }
}

/// A body that cannot be understood.
fn unreadable(faults: Vec<FieldError>) -> ApiError {
    let detail = match faults.as_slice() {
        [only] if only.pointer.is_empty() => format!("The body {}.", only.detail),
        [only] => format!("The body cannot be read: {} {}.", only.pointer, only.detail),
        all => format!("The body cannot be read: `errors` names {} faults.", all.len()),
    };
    let mut error = ApiError::new(Code::InvalidRequest, detail);
    error.errors = faults;
    error
}

/// A path as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { variant } => format!("/{variant}"),
        Segment::Unknown => String::new(),
    };
    path.iter().map(step).collect()
}

/// Removes the place in the text: it means nothing to a caller who sent an
/// object.
fn without_place(message: &str) -> String {
    message.split(" at line ").next().unwrap_or(message).to_owned()
}

/// An answer to a command, before it becomes a response.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) position: u64,
    pub(crate) location: Option<String>,
    /// The tag with which the resource is read now.
    #[serde(default)]
    pub(crate) etag: Option<String>,
    /// The hash of the event at that position, in hex.
    #[serde(default)]
    pub(crate) leaf_hash: Option<String>,
    #[serde(skip)]
    pub(crate) replayed: bool,
}

impl Answer {
    /// The car, booking or job after the command.
    pub(crate) fn of(body: &impl Serialize, position: u64) -> Result<Self, ApiError> {
        let body = serde_json::to_value(body)?;
        let (location, etag, leaf_hash) = (None, None, None);
        Ok(Self { status: 200, body, position, location, etag, leaf_hash, replayed: false })
    }

    /// The same answer about a resource whose representation has this tag.
    pub(crate) fn tagged(self, etag: String) -> Self {
        Self { etag: Some(etag), ..self }
    }

    /// The same answer, if it is the first one to a repeated command.
    pub(crate) fn replayed(self, replayed: bool) -> Self {
        Self { replayed, ..self }
    }

    /// A job that goes on after the answer.
    pub(crate) fn begun(self, location: String) -> Self {
        Self { status: 202, location: Some(location), ..self }
    }

    /// A resource that was created.
    pub(crate) fn made(self, location: String) -> Self {
        Self { status: 201, location: Some(location), ..self }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        let mut response = (status, axum::Json(&self.body)).into_response();
        let headers = response.headers_mut();
        headers.insert(POSITION, self.position.into());
        if let Some(hash) = self.leaf_hash.and_then(|it| HeaderValue::from_str(&it).ok()) {
            headers.insert(LEAF_HASH, hash);
        }
        if let Some(etag) = self.etag.and_then(|it| HeaderValue::from_str(&it).ok()) {
            headers.insert(ETAG, etag);
        }
        if let Some(location) = self.location.and_then(|it| HeaderValue::from_str(&it).ok()) {
            headers.insert(LOCATION, location);
        }
        if self.replayed {
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// An entry of Redis about a command, under its id.
#[derive(Serialize, Deserialize)]
struct StoredAnswer {
    hash: String,
    /// `None` while it is in flight.
    answer: Option<Answer>,
    /// Distinguishes this attempt from another one.
    attempt: u64,
}

/// Sets the key if it does not exist, or else returns its value. ARGV: the
/// value, and its lifetime in milliseconds.
static BEGIN: LazyLock<redis::Script> = LazyLock::new(|| {
    redis::Script::new(
        r"local held = redis.call('GET', KEYS[1])
        if held then return held end
        redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
        return false",
    )
});

/// Removes the key if it holds the value.
static GIVE_UP: LazyLock<redis::Script> = LazyLock::new(|| {
    redis::Script::new(
        "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end",
    )
});

impl<T> Command<T> {
    /// The same command, given by an operator; other callers are rejected.
    pub(crate) fn operator_context(&self) -> Result<CommandContext, ApiError> {
        let operator = Actor::Operator(self.who.operator()?.to_owned());
        Ok(self.context.clone().given_by(operator))
    }

    /// Executes the command once: a repeat under the same key gets the first
    /// answer.
    pub(crate) async fn once(
        &self,
        api: &Api,
        run: impl Future<Output = Result<Answer, ApiError>>,
    ) -> Result<Answer, ApiError> {
        let run = async {
            let answer = run.await?;
            // Adds the hash of the event for a receipt, if it is available. The
            // event is stored in any case.
            let leaf = stored_leaf(api, answer.position).await.ok().flatten();
            Ok(Answer { leaf_hash: leaf.map(hex::encode), ..answer })
        };
        if !self.repeatable {
            return run.await;
        }
        let CommandContext { command_id, request_hash, .. } = &self.context;
        let key = format!("exo:command:{command_id}");
        let attempt = rand::random();
        let mine = StoredAnswer { hash: request_hash.clone(), answer: None, attempt };
        let mine = api.log.seal_copy(&key, &serde_json::to_string(&mine)?);
        let mut begin = BEGIN.prepare_invoke();
        begin.key(&key).arg(&mine).arg(IN_FLIGHT_MS);
        // Without Redis the log alone recognises repeats.
        let held = api.redis.invoke::<Option<String>>(&begin).await.unwrap_or(None);
        // Nor is an entry believed that somebody has changed.
        let held = held.as_deref().and_then(|held| api.log.open_copy(&key, held));
        if let Some(saved) = held.and_then(|held| serde_json::from_str::<StoredAnswer>(held).ok()) {
            if saved.hash != *request_hash {
                return Err(key_reused());
            }
            return match saved.answer {
                Some(answer) => Ok(Answer { replayed: true, ..answer }),
                None => Err(in_flight()),
            };
        }
        let outcome = run.await;
        match &outcome {
            Ok(answer) => {
                let (hash, answer) = (request_hash.clone(), Some(answer.clone()));
                let saved = StoredAnswer { hash, answer, attempt };
                if let Ok(saved) = serde_json::to_string(&saved) {
                    let saved = api.log.seal_copy(&key, &saved);
                    let _: Result<(), _> =
                        api.redis.query(&Cmd::set_ex(&key, saved, KEPT_SECONDS)).await;
                }
            }
            Err(_) => {
                let mut give_up = GIVE_UP.prepare_invoke();
                give_up.key(&key).arg(&mine);
                let _: Result<Option<u64>, _> = api.redis.invoke(&give_up).await;
            }
        }
        outcome
    }
}

fn in_flight() -> ApiError {
    let detail = "A request with this Idempotency-Key is still in progress.";
    let mut error = ApiError::new(Code::RequestInFlight, detail);
    error.retry_after = Some(1);
    error
}

/// The days from `start_date` to `end_date`, both included.
pub(crate) fn days(start_date: Day, end_date: Day) -> Result<Days, ApiError> {
    let fault = |pointer, error: DaysError| InvalidField::new(pointer, error.to_string());
    // A day by itself first, so that the fault names the one that is wrong.
    Days::inclusive(start_date.0, start_date.0)
        .map_err(|error| fault("/start_date", error))
        .and_then(|_| {
            let days = Days::inclusive(start_date.0, end_date.0);
            days.map_err(|error| fault("/end_date", error))
        })
        .map_err(|fault| validation(vec![fault]))
}
