//! The HTTP API: its state, its routes, and the layers around every request.
//!
//! A handler returns a value or an [`ApiError`]. The outermost layer
//! ([`layers::request`]) adds the request's id, renders errors, counts and
//! logs.

mod accesses;
pub mod auth;
mod body;
mod booking_actions;
mod bookings;
mod cars;
mod command;
mod components;
mod conditional;
mod connection;
mod contract;
mod customers;
mod deliveries;
mod erasures;
mod events;
mod fleet;
mod given;
mod headers;
pub mod health;
mod history;
mod inbox;
pub mod layers;
mod media;
mod operator;
pub mod problem;
mod proofs;
mod read_answer;
mod readings;
mod refusals;
mod replay;
mod service_keys;
pub(crate) mod serving;
mod shows;
pub mod state;
mod webhooks;

use super::http::{
    auth::tokens::Tokens,
    layers::{
        erasure_gate::ErasureGate,
        load::{Bounds, Load},
    },
    problem::{ApiError, Code, Problem},
    shows::{ReadRecords, Routes},
    state::{
        blocked_keys::BlockedKeys, credentials::Credentials, limits::Limiter, places::Places,
        rebuild_feeds::RebuildFeeds, view_cache::ViewCache,
    },
};
use axum::{
    Router,
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use chrono::TimeDelta;
use exodrive_audit::store::SealStore;
use exodrive_audit::webhook_signature::Secrets;
use exodrive_commands::{
    access_log::AccessLog,
    credentials::CredentialCommands,
    erasure::Erasures,
    operations::Operator,
    rental::{BookingSecret, RentalCommands},
};
use exodrive_log::Log;
use exodrive_projections::{Database, engine::cache::Cache};
use exodrive_runtime::tasks::Tasks;
use ipnet::IpNet;
use std::sync::{Arc, LazyLock};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

/// State that handlers share.
pub struct Api {
    /// The event log.
    pub log: Log,
    /// The views, through a role that only reads.
    pub database: Database,
    /// Seals of the log.
    pub seals: SealStore,
    /// Redis.
    pub redis: Cache,
    /// Email details, cached in this process and in Redis.
    pub emails: ViewCache,
    /// Cars, cached likewise.
    pub cars: ViewCache,
    /// Calendars, cached likewise.
    pub calendars: ViewCache,
    /// Keys whose rows wait behind a parked event.
    pub blocked: BlockedKeys,
    /// Command handlers for cars and bookings.
    pub rental: RentalCommands,
    /// Derives customers' ids and the tokens of bookings' links.
    pub booking_secret: BookingSecret,
    /// Time for which an unpaid booking holds its days.
    pub hold_period: TimeDelta,
    /// Operators' commands and reads.
    pub operator: Operator,
    /// Erasure commands and reads.
    pub erasures: Erasures,
    /// Origins whose pages may ask from a browser.
    pub cors_origins: Vec<HeaderValue>,
    /// Gate that is shut while the database may hold erased data.
    pub gate: ErasureGate,
    /// Signing secrets of the webhook.
    pub webhook_secrets: Secrets,
    /// Checks tokens.
    pub tokens: Tokens,
    /// Service keys, and who was signed out.
    pub credentials: Credentials,
    /// Command handlers for both.
    pub credential_commands: CredentialCommands,
    /// Records reads of personal data by staff.
    pub accesses: AccessLog,
    /// Rate limits.
    pub limiter: Limiter,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// The background tasks of this process.
    pub tasks: Tasks,
    /// Cancelled when this process begins to leave.
    pub closing: CancellationToken,
    /// Last findings of the readiness check.
    pub health: health::Latest,
    /// The exports in progress.
    pub exports: Places,
    /// Who follows rebuilds.
    pub followers: Places,
    /// The rebuilds that are followed.
    pub rebuild_feeds: RebuildFeeds,
    /// How much of the log may be read at a time.
    pub readings: Readings,
    /// Limits how many webhooks of senders that fail too often are looked at at a time.
    pub suspects: tokio::sync::Semaphore,
    /// Room for the bodies of webhooks, in bytes.
    pub webhook_bodies: tokio::sync::Semaphore,
    /// Room for the bodies of commands, in bytes.
    pub command_bodies: tokio::sync::Semaphore,
    /// How much may be in progress.
    pub bounds: Bounds,
}

pub(crate) type App = State<Arc<Api>>;

pub use body::BODY_BYTES;
pub(crate) use fleet::TIME_ZONE;
pub use operator::FOLLOWED;
pub use readings::Readings;
pub(crate) use service_keys::{KeyDetail, NewKeyDetail};
pub use serving::{ConnectionLimits, Phases};
pub use webhooks::SUSPECTS;

/// Largest body of a request, in bytes.
pub const MAX_BODY: usize = 1 << 20;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "ExoDrive",
        description = "Exotic-car rental on an event log. Answers are open-ended: new fields and new values of `status`, `type` and `code` may appear at any time. Requests are not: a field or a parameter that is not described here is refused. A list whose views have rows that wait behind an event that could not be folded says how many, in `ExoDrive-Blocked-Rows`.",
        license(name = "MIT", identifier = "MIT"),
    ),
    components(schemas(Problem)),
    modifiers(&Bearer),
    tags(
        (name = "cars", description = "The fleet for the public, and quotes."),
        (name = "bookings", description = "Bookings: made by customers and visitors, managed by staff. `allowed_actions` lists the actions that are possible."),
        (name = "fleet", description = "Changes of the fleet, by admins."),
        (name = "business", description = "The business. For admins and auditors."),
        (name = "inbox", description = "Email, in and out. For admins and auditors."),
        (name = "deliveries", description = "The webhook deliveries about email, byte for byte. For admins and auditors."),
        (name = "replay", description = "Time travel: any row of any view at an earlier position or time. For admins and auditors."),
        (name = "audit", description = "Evidence that needs no trust in us. Public: checkpoints, proofs and tiles. For auditors: events, exports, the history of email with all its evidence, reads by staff, and rejected webhooks."),
        (name = "access", description = "Service keys, by which programs ask, and the sign-out of users. For admins."),
        (name = "operator", description = "The projections: their status, and rebuild, rollback, pause, retry, skip, prune. For operators."),
        (name = "webhooks", description = "Webhooks of providers."),
        (name = "documentation", description = "The API's description, and pages about errors."),
        (name = "health", description = "For load balancers and operators."),
    ),
)]
struct Documentation;

struct Bearer;

/// The way in by a service key, as the description names it.
const SERVICE_KEY: &str = "service_key";

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = |format: &str, description: &str| {
            let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format(format);
            SecurityScheme::Http(scheme.description(Some(description)).build())
        };
        if let Some(components) = &mut document.components {
            let token = "A person signed in: their role says what they may do.";
            components.add_security_scheme("token", scheme("JWT", token));
            let key = "A program: `exo_sk_…` of `POST /v1/service-keys`. It may do what needs a scope that it has; what needs none is closed to it.";
            components.add_security_scheme(SERVICE_KEY, scheme("exo_sk", key));
        }
    }
}

/// Every route: a line with what it shows, and its handlers.
fn documented() -> Routes {
    use shows::Shows::{Command, NotedByHandler, Nothing, Personal};
    Routes::new(Documentation::openapi())
        .add(Nothing, routes!(cars::list_cars, fleet::create_car))
        .add(Nothing, routes!(cars::get_car))
        .add(Nothing, routes!(cars::get_calendar))
        .add(Command, routes!(cars::create_quote))
        .add(Command, routes!(fleet::describe_car))
        .add(Command, routes!(fleet::price_car))
        .add(Command, routes!(fleet::set_car_images))
        .add(Command, routes!(fleet::list_car))
        .add(Command, routes!(fleet::hide_car))
        .add(Command, routes!(fleet::feature_car))
        .add(Command, routes!(fleet::unfeature_car))
        .add(Command, routes!(fleet::archive_car))
        .add(Command, routes!(fleet::restore_car))
        .add(Command, routes!(fleet::create_block))
        .add(Nothing, routes!(fleet::get_block, fleet::delete_block))
        .add(Personal("booking"), routes!(bookings::list_bookings, bookings::create_booking))
        .add(Personal("booking"), routes!(bookings::get_booking))
        .add(Personal("booking"), routes!(bookings::get_booking_timeline))
        .add_all(Command, booking_actions::routes())
        .add(Nothing, routes!(customers::get_dashboard))
        .add(Personal("customer"), routes!(customers::list_customers))
        .add(Personal("customer"), routes!(customers::get_customer))
        .add(Nothing, routes!(service_keys::list_service_keys, service_keys::create_service_key))
        .add(Nothing, routes!(service_keys::get_service_key))
        .add(Command, routes!(service_keys::revoke_service_key))
        .add(Command, routes!(service_keys::sign_out_user))
        .add(Nothing, routes!(operator::list_projections))
        .add(Nothing, routes!(operator::get_projection))
        .add(Command, routes!(operator::rebuild_projection))
        .add(Command, routes!(operator::rollback_projection))
        .add(Command, routes!(operator::pause_projection))
        .add(Command, routes!(operator::resume_projection))
        .add(Command, routes!(operator::retry_parked))
        .add(Command, routes!(operator::skip_event))
        .add(Command, routes!(operator::prune_generations))
        .add(Nothing, routes!(operator::list_rebuilds))
        .add(Nothing, routes!(operator::get_rebuild))
        .add(Command, routes!(operator::accept_rebuild))
        .add(Command, routes!(operator::cancel_rebuild))
        .add(Nothing, routes!(operator::follow_rebuild))
        .add(Nothing, routes!(erasures::list_erasures, erasures::request_erasure))
        .add(Nothing, routes!(erasures::get_erasure))
        .add(Command, routes!(erasures::approve_erasure))
        .add(Command, routes!(erasures::cancel_erasure))
        .add(Command, routes!(erasures::set_hold))
        .add(Command, routes!(webhooks::receive_resend))
        .add(Personal("inbox"), routes!(inbox::list_emails))
        .add(Personal("email"), routes!(inbox::get_email))
        .add(Personal("email"), routes!(inbox::get_timeline))
        .add(Personal("email"), routes!(inbox::get_deliveries))
        .add(Personal("delivery"), routes!(deliveries::get_raw))
        .add(NotedByHandler, routes!(replay::get_replay))
        .add(Personal("access"), routes!(accesses::list_accesses))
        .add(Nothing, routes!(accesses::get_rejected_webhooks))
        .add(NotedByHandler, routes!(history::get_history))
        .add(NotedByHandler, routes!(history::get_history_diff))
        .add(Nothing, routes!(proofs::get_checkpoint))
        .add(Nothing, routes!(proofs::get_keys))
        .add(Nothing, routes!(proofs::get_inclusion))
        .add(Nothing, routes!(proofs::get_consistency))
        .add(Nothing, routes!(proofs::get_tile))
        .add(Nothing, routes!(proofs::get_receipt))
        .add(Personal("log"), routes!(events::list_events))
        .add(Personal("log"), routes!(events::get_event))
        .add(Personal("log"), routes!(events::get_export))
        .add(Nothing, routes!(health::livez))
        .add(Nothing, routes!(health::readyz))
        .add(Nothing, routes!(describe))
        .add(Nothing, routes!(explain))
}

/// The OpenAPI 3.1 description of every route.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = documented().into_parts().0.split_for_parts().1;
    // The router needs the pattern for paths with slashes; the document does
    // not.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths =
        paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    components::complete(&mut document);
    components::share(&mut document);
    document
}

/// Every route, with the layers around it.
pub fn router(api: Arc<Api>) -> Router {
    let gate = api.gate.clone();
    let tasks = api.tasks.clone();
    let load = Arc::new(Load::within(api.bounds));
    let (routes, shown) = documented().into_parts();
    let shown = Arc::new(shown);
    let cors = layers::safe_headers::cors(&api.cors_origins);
    let records = ReadRecords { accesses: api.accesses.clone(), shown: shown.clone() };
    let router = routes
        .split_for_parts()
        .0
        .fallback(not_found)
        .with_state(api)
        .merge(SwaggerUi::new("/docs").config(
            utoipa_swagger_ui::Config::from("/v1/openapi.json").persist_authorization(false),
        ))
        .layer(axum::middleware::from_fn_with_state(gate, ErasureGate::pass))
        // Inside of what runs a command to its end: it is in progress until then.
        .layer(axum::middleware::from_fn_with_state(load, Load::admit))
        .layer(axum::middleware::from_fn_with_state(tasks, layers::detach::run_to_its_end))
        .layer(axum::middleware::from_fn(layers::accept::check_representation))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn(layers::head::check_head))
        .layer(axum::middleware::from_fn_with_state(records, layers::request::trace_request));
    // A browser asks whether it may ask: that is no request of anybody yet.
    let router = match cors {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router.layer(axum::middleware::from_fn_with_state(shown, layers::safe_headers::add))
}

async fn not_found(_: auth::extract::Anyone, _: Request) -> ApiError {
    ApiError::of_status(StatusCode::NOT_FOUND)
}

/// Gives this description.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "documentation",
    responses((status = 200, description = "OpenAPI 3.1", body = inline(serde_json::Value)), Problem),
)]
async fn describe(_: auth::extract::Anyone) -> Result<Response, ApiError> {
    static DOCUMENT: LazyLock<serde_json::Result<String>> = LazyLock::new(|| openapi().to_json());
    let document = DOCUMENT
        .as_ref()
        .map_err(|error| ApiError::of_status(StatusCode::INTERNAL_SERVER_ERROR).caused_by(error))?;
    Ok(([(CONTENT_TYPE, "application/json")], document.as_str()).into_response())
}

/// Explains a problem code. A problem's `type` links to this page.
#[utoipa::path(
    get, path = "/problems/{code}", tag = "documentation",
    params(("code" = Code, Path, description = "The problem's code")),
    responses(
        (status = 200, description = "The meaning of the code, and advice", content_type = "text/plain", body = inline(String)),
        Problem,
    ),
)]
async fn explain(_: auth::extract::Anyone, Path(code): Path<String>) -> Result<Response, ApiError> {
    let code = Code::ALL.into_iter().find(|known| known.name() == code);
    let code = code.ok_or_else(|| ApiError::new(Code::NotFound, "There is no such problem."))?;
    let page = format!(
        "{} ({})\n\n{}.\n\nWhat to do: {}\n",
        code.name(),
        code.status(),
        code.title(),
        code.next()
    );
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], page).into_response())
}

fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    ApiError::of_status(StatusCode::INTERNAL_SERVER_ERROR).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{
        Json,
        body::{Body, to_bytes},
        routing::get,
    };
    use serde_json::Value;
    use std::collections::BTreeSet;
    use tower::ServiceExt;

    /// The layers that turn any failure into a problem, around handlers that
    /// fail in every way.
    fn failing() -> Router {
        Router::new()
            .route(
                "/panic",
                get(|| async { std::hint::black_box(None::<u8>).unwrap().to_string() }),
            )
            .route("/json", axum::routing::post(|_: Json<u32>| async {}))
            .route("/plain", get(|| async { (StatusCode::BAD_GATEWAY, "secret internals") }))
            .layer(CatchPanicLayer::custom(panicked))
            .layer(DefaultBodyLimit::max(16))
            .layer(axum::middleware::from_fn_with_state(
                ReadRecords::default(),
                layers::request::trace_request,
            ))
    }

    async fn problem(request: Request) -> (StatusCode, serde_json::Value) {
        let response = failing().oneshot(request).await.unwrap();
        let status = response.status();
        assert_eq!(response.headers()[CONTENT_TYPE], super::problem::PROBLEM_JSON);
        let id = response.headers()["request-id"].to_str().unwrap().to_owned();
        let body = to_bytes(response.into_body(), 4096).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["status"], status.as_u16());
        assert_eq!(body["request_id"], id);
        assert_eq!(body["type"], format!("/problems/{}", body["code"].as_str().unwrap()));
        (status, body)
    }

    #[tokio::test]
    async fn every_failure_is_a_problem_and_tells_nothing_internal() {
        let post = |kind: &str, body: &'static str| {
            Request::post("/json").header(CONTENT_TYPE, kind).body(Body::from(body)).unwrap()
        };
        let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
        for (request, status, code) in [
            (get("/nowhere"), 404, "not_found"),
            (get("/json"), 405, "method_not_allowed"),
            (get("/panic"), 500, "internal"),
            (get("/plain"), 500, "internal"),
            (post("text/plain", "1"), 415, "unsupported_media_type"),
            (post("application/json", "nonsense"), 400, "invalid_request"),
            (post("application/json", "[1,2,3,4,5,6,7,8,9,0]"), 413, "body_too_large"),
        ] {
            let name = request.uri().to_string();
            let (found, body) = problem(request).await;
            assert_eq!((found.as_u16(), body["code"].as_str().unwrap()), (status, code), "{name}");
            assert!(!body.to_string().contains("internals"));
        }
    }

    #[test]
    fn every_route_that_is_read_says_what_it_shows() {
        let (mut routes, shown) = documented().into_parts();
        for (path, item) in routes.to_openapi().paths.paths {
            let command = shown[&path] == shows::Shows::Command;
            assert_eq!(command, item.get.is_none(), "{path} is `Command` only without a GET");
        }
        assert_eq!(shown["/v1/inbox/{email_id}/timeline"], shows::Shows::Personal("email"));
        assert_eq!(shown["/v1/cars/{id}"], shows::Shows::Nothing);
    }

    #[test]
    fn every_action_on_a_booking_has_its_route() {
        use exodrive_domain::booking::Action;
        let shown = documented().into_parts().1;
        // The system alone ends holds.
        for action in Action::ALL.iter().filter(|action| **action != Action::Expire) {
            let path = format!("/v1/bookings/{{id}}/{}", action.name());
            assert!(shown.contains_key(&path), "there is no {path}");
        }
    }

    /// Paths of the strings without a bound in a schema.
    fn unbounded(document: &Value, schema: &Value, path: &str, found: &mut BTreeSet<String>) {
        if let Some(name) = schema["$ref"].as_str() {
            let pointer = name.trim_start_matches('#');
            let target = document.pointer(pointer).unwrap();
            return unbounded(document, target, pointer, found);
        }
        let text = schema["type"] == "string"
            || schema["type"].as_array().is_some_and(|types| types.iter().any(|it| it == "string"));
        if text && ["maxLength", "enum", "format"].iter().all(|bound| schema[*bound].is_null()) {
            found.insert(path.to_owned());
        }
        for list in ["allOf", "oneOf", "anyOf"] {
            for part in schema[list].as_array().into_iter().flatten() {
                unbounded(document, part, path, found);
            }
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            unbounded(document, property, &format!("{path}/{name}"), found);
        }
        if schema["items"].is_object() {
            unbounded(document, &schema["items"], &format!("{path}[]"), found);
        }
    }

    #[test]
    fn every_text_of_a_request_has_a_bound() {
        let document = serde_json::to_value(openapi()).unwrap();
        let mut found = BTreeSet::new();
        let mut bodies = 0;
        for (path, item) in document["paths"].as_object().unwrap() {
            for operation in item.as_object().unwrap().values() {
                let Some(content) = operation["requestBody"]["content"].as_object() else {
                    continue;
                };
                // The provider's body is kept as it is.
                for body in content.values().filter(|_| !path.starts_with("/v1/webhooks/")) {
                    bodies += 1;
                    unbounded(&document, &body["schema"], path, &mut found);
                }
            }
        }
        assert!(bodies > 20, "{bodies}");
        assert_eq!(found, BTreeSet::new());
    }

    #[test]
    fn the_checked_in_description_is_that_of_the_routes() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        let checked_in = std::fs::read_to_string(file).unwrap_or_default();
        let generated = openapi().to_pretty_json().unwrap() + "\n";
        assert!(checked_in == generated, "api/openapi.json is stale: run `make openapi`");
    }
}
