//! Parameters, headers and responses that many routes share. The description has
//! them once, under `components`, and each route refers to them.
//!
//! A route declares its parameters, headers and responses in full. [`share`] puts a
//! reference wherever one of them equals a component. A test finds parts that are
//! repeated and have no name here. [`complete`] adds what holds for every operation of a kind.

use super::{
    contract::{LONGEST_CURSOR, LONGEST_PARAMETER},
    problem::{PROBLEM_JSON, Problem},
};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use utoipa::{
    IntoResponses, PartialSchema,
    openapi::{
        Content, Header, KnownFormat, ObjectBuilder, OpenApi, Ref, RefOr, Required, Response,
        ResponseBuilder, Schema, SchemaFormat, Type,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem},
        schema::SchemaType,
        security::SecurityRequirement,
    },
};

type Named<T> = BTreeMap<String, RefOr<T>>;

/// Adds the shared components to a description, and replaces equal parts of it by
/// references to them.
pub(super) fn share(document: &mut OpenApi) {
    let (parameters, headers, responses) = (parameters(), headers(), responses());
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        for parameter in operation.parameters.iter_mut().flatten() {
            refer(parameter, &parameters, "parameters");
        }
        for response in operation.responses.responses.values_mut() {
            if let RefOr::T(response) = response {
                for header in response.headers.values_mut() {
                    refer(header, &headers, "headers");
                }
            }
            refer(response, &responses, "responses");
        }
    }
    let components = document.components.get_or_insert_default();
    components.parameters.extend(parameters);
    components.headers.extend(headers);
    components.responses.extend(responses);
}

/// Adds what no route says for itself: how long a text in a query may be, that whoever may act on a
/// booking without a token may send its link, and that a route without security is open.
pub(super) fn complete(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let of_booking = path.starts_with("/v1/bookings/{id}");
        for operation in operations(item) {
            let security = serde_json::to_value(&operation.security).unwrap_or_default();
            if of_booking && security.as_array().is_some_and(|it| it.contains(&json!({}))) {
                operation.parameters.get_or_insert_default().extend(link().map(RefOr::T));
            }
            // Nobody has to say who they are: that is said too.
            operation.security.get_or_insert_with(|| vec![SecurityRequirement::default()]);
            if let Some(RefOr::T(body)) = &mut operation.request_body
                && serde_json::to_string(body).is_ok_and(|it| it.contains("/EmptyBody\""))
            {
                body.required = Some(Required::False);
            }
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter {
                    never_null(parameter);
                    bound(parameter);
                }
            }
        }
    }
}

/// The token of a booking's link, which may come in the query or in a header.
fn link() -> [Parameter; 2] {
    let place = |place, name: &str, description| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(place)
            .description(Some(description))
            .required(Required::False)
            .schema(Some(text_of(LONGEST_PARAMETER)))
            .build()
    };
    [
        place(ParameterIn::Query, "token", "The token of the booking's link"),
        place(ParameterIn::Header, "ExoDrive-Booking-Token", "The same"),
    ]
}

/// A text without NUL, as a regular expression.
const NO_NUL: &str = "^[^\\u0000]*$";

/// A text of at most this many characters.
fn text_of(longest: u64) -> RefOr<Schema> {
    let text = ObjectBuilder::new().schema_type(Type::String);
    text.max_length(usize::try_from(longest).ok()).pattern(Some(NO_NUL)).into()
}

/// A parameter that is not given is absent: there is no null in a URL or a header.
fn never_null(parameter: &mut Parameter) {
    let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema else { return };
    if let SchemaType::Array(kinds) = &schema.schema_type
        && let [kind] = &*kinds.iter().filter(|kind| **kind != Type::Null).collect::<Vec<_>>()
    {
        schema.schema_type = SchemaType::Type((*kind).clone());
    }
}

/// Says how long a text in a query may be, and that it has no NUL.
fn bound(parameter: &mut Parameter) {
    let is_text = |kind: &SchemaType| match kind {
        SchemaType::Type(kind) => *kind == Type::String,
        SchemaType::Array(kinds) => kinds.contains(&Type::String),
        SchemaType::AnyValue => false,
    };
    let longest = if parameter.name == "after" { LONGEST_CURSOR } else { LONGEST_PARAMETER };
    if parameter.parameter_in == ParameterIn::Query
        && let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema
        && is_text(&schema.schema_type)
        && schema.enum_values.is_none()
        && schema.max_length.is_none()
        && schema.format.is_none()
    {
        schema.max_length = usize::try_from(longest).ok();
        schema.pattern.get_or_insert_with(|| NO_NUL.to_owned());
    }
    // What is read before a request's body: a key, and the tags of a condition.
    if parameter.name == "Idempotency-Key"
        && let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema
    {
        (schema.min_length, schema.max_length) = (Some(1), Some(255));
    }
}

/// The operations of a path.
fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut path.get, &mut path.put, &mut path.post, &mut path.delete, &mut path.patch]
        .into_iter()
        .flatten()
}

/// Replaces a part by a reference to the component that is equal to it, if there
/// is one.
fn refer<T: Serialize>(part: &mut RefOr<T>, components: &Named<T>, section: &str) {
    let Ok(written) = serde_json::to_value(&*part) else { return };
    let same = |component| serde_json::to_value(component).is_ok_and(|it| it == written);
    if let Some((name, _)) = components.iter().find(|(_, component)| same(*component)) {
        *part = RefOr::Ref(Ref::new(format!("#/components/{section}/{name}")));
    }
}

fn parameters() -> Named<Parameter> {
    let parameter = |place, name: &str, description: &str, required, schema| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(place)
            .description(Some(description))
            .required(required)
            .schema(Some::<RefOr<_>>(schema))
            .build()
    };
    let in_path = |name, description| {
        parameter(ParameterIn::Path, name, description, Required::True, String::schema())
    };
    let in_header = |name, description, schema| {
        parameter(ParameterIn::Header, name, description, Required::False, schema)
    };
    let in_query = |name, description, schema| {
        parameter(ParameterIn::Query, name, description, Required::False, schema)
    };
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let int64 = || Some(SchemaFormat::KnownFormat(KnownFormat::Int64));
    let position = ObjectBuilder::new().schema_type(Type::Integer).format(int64()).minimum(Some(0));
    let limit = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(int64())
        .minimum(Some(1))
        .maximum(Some(100));
    let [token_in_query, token_in_header] = link();
    named([
        ("BookingToken", token_in_query),
        ("BookingTokenHeader", token_in_header),
        ("BookingId", in_path("id", "The booking's id")),
        ("CarId", in_path("id", "The car's id or slug")),
        ("EmailId", in_path("email_id", "The provider's id")),
        ("ErasureId", in_path("id", "The erasure's id")),
        ("ProjectionName", in_path("name", "The projection")),
        ("RebuildId", in_path("id", "The rebuild's id")),
        (
            "IdempotencyKey",
            in_header(
                "Idempotency-Key",
                "A repeat under the same key gets the first answer",
                text().min_length(Some(1)).max_length(Some(255)).into(),
            ),
        ),
        (
            "IfBookingMatches",
            in_header(
                "If-Match",
                "Only if the booking still has this `ETag`; else 412 with `current`",
                text().into(),
            ),
        ),
        (
            "IfCarMatches",
            in_header(
                "If-Match",
                "Only if the car still has this `ETag`; else 412 with `current`",
                text().into(),
            ),
        ),
        (
            "IfNoneMatch",
            in_header(
                "If-None-Match",
                "An `ETag` that you hold: answered 304 while it is current",
                text().into(),
            ),
        ),
        (
            "MinPosition",
            in_header(
                "ExoDrive-Min-Position",
                "Wait (at most 2 s) until the view has reached this position",
                position.into(),
            ),
        ),
        (
            "Cursor",
            in_query("after", "`next_cursor` of the previous page.", text_of(LONGEST_CURSOR)),
        ),
        ("Limit", in_query("limit", "Rows on the page, 1 to 100. 20 if not given.", limit.into())),
    ])
}

fn headers() -> Named<Header> {
    let header = |description: &str| {
        let mut header = Header::new(String::schema());
        header.description = Some(description.to_owned());
        header
    };
    named([
        ("ETag", header("For `If-Match` and `If-None-Match`")),
        ("XCache", header("`L1` from this process, `L2` from Redis, `MISS` from Postgres")),
    ])
}

fn responses() -> Named<Response> {
    let response = |description: &str, media_type: &str, schema: &str| {
        let content = Content::new(Some(Ref::from_schema_name(schema)));
        ResponseBuilder::new().description(description).content(media_type, content).build()
    };
    let json = |description, schema| response(description, "application/json", schema);
    let problem = |description| response(description, PROBLEM_JSON, "Problem");
    let mut responses = named([
        ("BookingAfter", json("The booking after the command", "BookingDetail")),
        (
            "BookingRejected",
            problem(
                "`action_not_allowed` with `allowed_actions`; `dates_unavailable`; `too_early`; `price_changed`; `request_in_flight`",
            ),
        ),
        ("CarAfter", json("The car after the command", "CarDetail")),
        ("CarConflict", problem("`car_conflict`")),
        ("OperationRejected", problem("`operation_rejected`")),
        ("DryRun", json("Of a dry run", "CommandReceipt")),
        ("ProjectionCommandRejected", problem("`rebuild_in_progress` or `operation_rejected`")),
        ("Recorded", json("Recorded; or what a dry run would do", "CommandReceipt")),
        ("Stale", problem("`stale`, with `current`")),
        ("Unchanged", ResponseBuilder::new().description("Unchanged").build()),
    ]);
    let default = Problem::responses().into_values().next();
    responses.extend(default.map(|response| ("Problem".to_owned(), response)));
    responses
}

fn named<T, const N: usize>(components: [(&str, T); N]) -> Named<T> {
    components.into_iter().map(|(name, it)| (name.to_owned(), RefOr::T(it))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use std::collections::BTreeMap;

    /// Counts how often each part is written where a route could refer to it.
    fn written() -> BTreeMap<String, usize> {
        let document = serde_json::to_value(super::super::openapi()).unwrap();
        let mut written = BTreeMap::new();
        let mut note = |section: &str, name: &str, it: &Value| {
            let text = match it["$ref"].as_str() {
                Some(reference) => reference.to_owned(),
                None => format!("{section} {name} {it}"),
            };
            *written.entry(text).or_insert(0) += 1;
        };
        let paths = document["paths"].as_object().unwrap().values();
        for operation in paths.flat_map(|path| path.as_object().unwrap().values()) {
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                note("parameter", "", parameter);
            }
            for response in operation["responses"].as_object().unwrap().values() {
                note("response", "", response);
                for (name, header) in response["headers"].as_object().into_iter().flatten() {
                    note("header", name, header);
                }
            }
        }
        written
    }

    #[test]
    fn what_routes_share_is_a_component() {
        for (text, times) in written() {
            let shared = text.starts_with("#/components/");
            assert!(shared || times < 3, "{times} times, and not in components.rs: {text}");
        }
    }

    #[test]
    fn each_component_is_shared() {
        let written = written();
        let components = super::super::openapi().components.unwrap();
        let of = |section, names: Vec<&String>| -> Vec<String> {
            names.into_iter().map(|name| format!("#/components/{section}/{name}")).collect()
        };
        let all = [
            of("parameters", components.parameters.keys().collect()),
            of("headers", components.headers.keys().collect()),
            of("responses", components.responses.keys().collect()),
        ];
        for reference in all.concat() {
            let times = written.get(&reference).copied().unwrap_or_default();
            assert!(
                times > 1,
                "{reference} is written {times} times: is its wording that of the routes?"
            );
        }
    }
}
