//! The API's own description as the rule at the door: a query parameter or a field of a body that
//! an operation does not describe is refused, at any depth, and what it requires must be there.
//!
//! There is one rule for all operations, so none can forget it. What a schema does not say (that a
//! date exists, that an amount is in bounds) is checked where the value is read.

use super::{
    SERVICE_KEY,
    layers::request::Identity,
    problem::{ApiError, Code, FieldError},
};
use axum::{
    extract::Query,
    http::{Method, request::Parts},
};
use exodrive_domain::credential::Scope;
use serde_json::Value;
use std::{collections::HashMap, sync::LazyLock};
use utoipa::ToSchema;

/// Code points of a query parameter, if its schema does not say how many it may have.
pub(super) const LONGEST_PARAMETER: u64 = 200;
/// Code points of a cursor: it may hold a name of 100 characters, encoded.
pub(super) const LONGEST_CURSOR: u64 = 1_000;
/// Faults of a body that are reported at once.
const REPORTED: usize = 50;

/// The description of every operation.
static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::to_value(super::openapi()).unwrap_or(Value::Null));

/// The query parameters of an operation: their names, and the code points that each may have.
type Parameters = Vec<(String, usize)>;

/// The query parameters of each operation, by its method and the pattern of its path.
static QUERIES: LazyLock<HashMap<(String, String), Parameters>> = LazyLock::new(|| {
    let operations =
        DOCUMENT["paths"].as_object().into_iter().flatten().flat_map(|(path, item)| {
            let methods = item.as_object().into_iter().flatten();
            methods.map(move |(method, it)| ((method.to_uppercase(), path.clone()), parameters(it)))
        });
    operations.collect()
});

/// The scope of each operation that has one, likewise.
static SCOPES: LazyLock<HashMap<(String, String), Scope>> = LazyLock::new(|| {
    let operations =
        DOCUMENT["paths"].as_object().into_iter().flatten().flat_map(|(path, item)| {
            let methods = item.as_object().into_iter().flatten();
            methods.filter_map(move |(method, operation)| {
                Some(((method.to_uppercase(), path.clone()), scope(operation)?))
            })
        });
    operations.collect()
});

fn scope(operation: &Value) -> Option<Scope> {
    let mut ways = operation["security"].as_array()?.iter();
    let scopes = ways.find_map(|way| way.get(SERVICE_KEY))?;
    scopes[0].as_str()?.parse().ok()
}

fn parameters(operation: &'static Value) -> Parameters {
    let described = operation["parameters"].as_array().into_iter().flatten().map(resolved);
    let in_query = described.filter(|it| it["in"] == "query");
    let parameter = |it: &Value| {
        let longest = it["schema"]["maxLength"].as_u64().unwrap_or(LONGEST_PARAMETER);
        Some((it["name"].as_str()?.to_owned(), usize::try_from(longest).unwrap_or(usize::MAX)))
    };
    in_query.filter_map(parameter).collect()
}

/// A part of the description, or the component that it refers to.
fn resolved(part: &'static Value) -> &'static Value {
    let target = part["$ref"].as_str().and_then(|it| it.strip_prefix('#'));
    target.and_then(|it| DOCUMENT.pointer(it)).unwrap_or(part)
}

/// Refuses a query with a parameter that the operation does not describe, that is there twice, is
/// too long, or contains NUL.
///
/// # Errors
/// 400, which names the parameter.
pub(super) fn check_query(parts: &Parts) -> Result<(), ApiError> {
    if parts.uri.query().is_none() {
        return Ok(());
    }
    // There is nothing at other paths, and that is the answer.
    let known = operation_of(parts).and_then(|operation| QUERIES.get(&operation));
    let Some(known) = known else { return Ok(()) };
    let given = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
    let given = given.map_err(|_| ApiError::parameter("", "the query cannot be read"))?.0;
    check_parameters(known, &given)
}

/// Method and path, as the description has them, of the operation that a request asks for.
fn operation_of(parts: &Parts) -> Option<(String, String)> {
    let identity = parts.extensions.get::<Identity>()?;
    // Whatever answers a GET answers a HEAD.
    let method = if parts.method == Method::HEAD { &Method::GET } else { &parts.method };
    Some((method.to_string(), identity.route().replace("{*", "{")))
}

/// The scope that a service key needs for what a request asks for. `None`: no key may do it.
pub(super) fn scope_of(parts: &Parts) -> Option<Scope> {
    SCOPES.get(&operation_of(parts)?).copied()
}

fn check_parameters(known: &[(String, usize)], given: &[(String, String)]) -> Result<(), ApiError> {
    for (place, (name, value)) in given.iter().enumerate() {
        let refused = |detail: String| Err(ApiError::parameter(name, detail));
        let Some((_, longest)) = known.iter().find(|(known, _)| known == name) else {
            let names: Vec<_> = known.iter().map(|(name, _)| name.as_str()).collect();
            return refused(format!("it is not known here; {}", listed(&names)));
        };
        // Postgres stores no NUL.
        if value.contains('\0') {
            return refused("it must not contain NUL".to_owned());
        }
        if value.chars().count() > *longest {
            return refused(format!("it must have at most {longest} characters"));
        }
        if given[..place].iter().any(|(before, _)| before == name) {
            return refused("it is given twice".to_owned());
        }
    }
    Ok(())
}

fn listed(names: &[&str]) -> String {
    match names {
        [] => "nothing is".to_owned(),
        names => format!("known are {}", names.join(", ")),
    }
}

/// The schema of a request's body.
///
/// # Errors
/// 500 if the description lacks it: the operation does not name its body.
pub(super) fn schema_of<T: ToSchema>() -> Result<&'static Value, ApiError> {
    let schema = DOCUMENT["components"]["schemas"].get(&*T::name());
    schema.ok_or_else(|| {
        let lacking = ApiError::new(Code::Internal, "The request could not be executed.");
        ApiError { cause: Some(format!("{} is not described", T::name())), ..lacking }
    })
}

/// What a body lacks, has too much, or has of another type than its schema says, each with its
/// pointer. The most that are reported at once are 50.
pub(super) fn faults(schema: &'static Value, body: &Value) -> Vec<FieldError> {
    let mut faults = Vec::new();
    compare(schema, body, &mut String::new(), &mut faults);
    faults
}

fn compare(
    schema: &'static Value,
    value: &Value,
    pointer: &mut String,
    faults: &mut Vec<FieldError>,
) {
    if faults.len() >= REPORTED {
        return;
    }
    let schema = resolved(schema);
    if let Some(alternatives) = schema["oneOf"].as_array() {
        let fitting = alternatives.iter().find(|it| fits(resolved(it), value));
        match fitting {
            Some(schema) => compare(schema, value, pointer, faults),
            None => faults.push(fault(pointer, format!("must be {}", expected(schema)))),
        }
        return;
    }
    if !fits(schema, value) {
        faults.push(fault(pointer, format!("must be {}", expected(schema))));
        return;
    }
    match value {
        Value::Object(fields) => compare_fields(schema, fields, pointer, faults),
        Value::Array(items) if schema["items"].is_object() => {
            for (index, item) in items.iter().enumerate() {
                within(pointer, &index.to_string(), |pointer| {
                    compare(&schema["items"], item, pointer, faults);
                });
            }
        }
        _ => {}
    }
}

fn compare_fields(
    schema: &'static Value,
    fields: &serde_json::Map<String, Value>,
    pointer: &mut String,
    faults: &mut Vec<FieldError>,
) {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for name in required.filter(|name| !fields.contains_key(*name)) {
        within(pointer, name, |pointer| faults.push(fault(pointer, "is missing".to_owned())));
    }
    let known = schema["properties"].as_object();
    // An object of any fields names none.
    if known.is_none() && schema["additionalProperties"] != false {
        return;
    }
    for (name, value) in fields {
        within(pointer, name, |pointer| match known.and_then(|known| known.get(name)) {
            Some(schema) => compare(schema, value, pointer, faults),
            None => {
                let names: Vec<_> =
                    known.into_iter().flat_map(|it| it.keys()).map(String::as_str).collect();
                let detail = format!("is not known here; {}", listed(&names));
                faults.push(fault(pointer, detail));
            }
        });
    }
}

fn fault(pointer: &str, detail: String) -> FieldError {
    FieldError { pointer: pointer.to_owned(), detail }
}

/// Goes one step down a pointer (RFC 6901).
fn within(pointer: &mut String, step: &str, act: impl FnOnce(&mut String)) {
    let length = pointer.len();
    pointer.push('/');
    pointer.push_str(&step.replace('~', "~0").replace('/', "~1"));
    act(pointer);
    pointer.truncate(length);
}

/// The types that a schema names.
fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// True if a value is of a type that a schema names, or if it names none.
fn fits(schema: &Value, value: &Value) -> bool {
    let types = types(schema);
    let is = |kind: &&str| match (*kind, value) {
        ("null", Value::Null)
        | ("boolean", Value::Bool(_))
        | ("string", Value::String(_))
        | ("array", Value::Array(_))
        | ("object", Value::Object(_))
        | ("number", Value::Number(_)) => true,
        ("integer", Value::Number(number)) => !number.is_f64() || whole(number).is_some(),
        _ => false,
    };
    types.is_empty() || types.iter().any(is)
}

/// A number with a fraction of zero, as an integer. Beyond 2^53 a fraction cannot be seen.
pub(super) fn whole(number: &serde_json::Number) -> Option<i64> {
    let float = number.as_f64().filter(|it| number.is_f64() && it.abs() < 9e15)?;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and in the range of i64")]
    (float.fract() == 0.0).then_some(float as i64)
}

/// What a schema asks for, in JSON's words.
fn expected(schema: &'static Value) -> String {
    let schema = resolved(schema);
    if let Some(alternatives) = schema["oneOf"].as_array() {
        return alternatives.iter().map(expected).collect::<Vec<_>>().join(" or ");
    }
    let name = |kind| match kind {
        "string" if schema["format"] == "date" => "a date (YYYY-MM-DD)".to_owned(),
        "string" => "a string".to_owned(),
        "integer" => match schema["minimum"].as_i64() {
            Some(least) => format!("a whole number from {least}"),
            None => "a whole number".to_owned(),
        },
        "boolean" => "true or false".to_owned(),
        "array" => "a list".to_owned(),
        "null" => "null".to_owned(),
        kind => format!("an {kind}"),
    };
    types(schema).into_iter().map(name).collect::<Vec<_>>().join(" or ")
}

/// Texts with which serde and its formats begin what they say: they name types of this program.
const OF_SERDE: [&str; 6] = [
    "invalid type",
    "invalid value",
    "invalid length",
    "missing field",
    "unknown ",
    "data did not match",
];

/// What is wrong with a value that has the type of its schema and that serde does not read.
pub(super) fn detail(schema: &'static Value, pointer: &str, said: &str) -> String {
    let mut schema = resolved(schema);
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        let inner = if schema["items"].is_object() {
            &schema["items"]
        } else {
            &schema["properties"][step]
        };
        schema = resolved(inner);
    }
    let asked = expected(schema);
    let foreign = OF_SERDE.iter().any(|it| said.starts_with(it)) || schema["format"] == "date";
    if foreign && !asked.is_empty() { format!("must be {asked}") } else { said.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{bookings::BookingRequest, fleet::PriceRequest};
    use serde_json::json;

    fn pointers<T: ToSchema>(body: &Value) -> Vec<(String, String)> {
        let faults = faults(schema_of::<T>().unwrap(), body);
        faults.into_iter().map(|it| (it.pointer, it.detail)).collect()
    }

    fn only_pointers<T: ToSchema>(body: &Value) -> Vec<String> {
        pointers::<T>(body).into_iter().map(|(pointer, _)| pointer).collect()
    }

    #[test]
    fn everything_that_is_missing_is_named_at_once() {
        let all = ["/car_id", "/start_date", "/end_date", "/customer"];
        assert_eq!(only_pointers::<BookingRequest>(&json!({})), all);
        let body = json!({"car_id": "a", "start_date": "b", "end_date": "c", "customer": {}});
        assert_eq!(only_pointers::<BookingRequest>(&body), ["/customer/email"]);
    }

    #[test]
    fn a_wrong_type_is_named_in_words_of_json() {
        let said = |body: Value| pointers::<BookingRequest>(&body).remove(0).1;
        for body in [json!(null), json!([]), json!("x"), json!(7)] {
            assert_eq!(said(body), "must be an object");
        }
        let with = |name: &str, value: Value| {
            let mut body = json!({"car_id": "a", "start_date": "b", "end_date": "c", "customer":
                {"email": "e", "first_name": "f", "last_name": "l"}});
            body[name] = value;
            said(body)
        };
        assert_eq!(with("car_id", json!(7)), "must be a string");
        assert_eq!(with("start_date", json!(null)), "must be a date (YYYY-MM-DD)");
        assert_eq!(with("hold_minutes", json!(1.5)), "must be a whole number from 1 or null");
        assert_eq!(with("fees", json!({})), "must be a list");
        assert_eq!(with("hold_minutes", json!(1e30)), "must be a whole number from 1 or null");
        assert_eq!(with("customer", json!(["e", "f", "l"])), "must be an object");
    }

    #[test]
    fn what_is_unknown_is_refused_at_any_depth() {
        let fee = json!({"id": "a", "name": "A", "amount_cents": 1, "mandatory": true, "typo": 1});
        let body = json!({"base_per_day_cents": 1, "fees": [fee], "a/b": 1});
        let mut found = only_pointers::<PriceRequest>(&body);
        found.sort();
        assert_eq!(found, ["/a~1b", "/fees/0/typo"]);
        let many: Vec<_> = (0..1_000).map(|_| json!({})).collect();
        let body = json!({"base_per_day_cents": 1, "fees": many});
        assert!(pointers::<PriceRequest>(&body).len() < 2 * REPORTED);
    }

    #[test]
    fn what_serde_says_names_no_type_of_this_program() {
        let schema = schema_of::<BookingRequest>().unwrap();
        let said = "invalid value: integer `-1`, expected u32";
        let least = "must be a whole number from 1 or null";
        assert_eq!(detail(schema, "/hold_minutes", said), least);
        let date = "must be a date (YYYY-MM-DD)";
        assert_eq!(detail(schema, "/start_date", "input is out of range"), date);
        assert_eq!(detail(schema, "/customer/email", "must have an @"), "must have an @");
    }

    #[test]
    fn every_schema_of_a_request_is_understood() {
        // A keyword that `compare` does not know would be no rule at all.
        let known = [
            "type",
            "description",
            "properties",
            "required",
            "additionalProperties",
            "items",
            "oneOf",
            "format",
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "uniqueItems",
            "pattern",
            "example",
            "examples",
            "default",
            "enum",
            "$ref",
            "title",
        ];
        fn walk(schema: &'static Value, known: &[&str], seen: &mut Vec<*const Value>) {
            for keyword in schema.as_object().unwrap().keys() {
                assert!(known.contains(&keyword.as_str()), "{keyword} in {schema}");
            }
            let schema = resolved(schema);
            if seen.contains(&std::ptr::from_ref(schema)) {
                return;
            }
            seen.push(schema);
            let inner = schema["properties"].as_object().into_iter().flat_map(|it| it.values());
            let alternatives = schema["oneOf"].as_array().into_iter().flatten();
            let items = schema.get("items").filter(|it| it.is_object());
            for schema in inner.chain(alternatives).chain(items) {
                walk(schema, known, seen);
            }
        }
        let mut seen = Vec::new();
        let items = DOCUMENT["paths"].as_object().unwrap().iter();
        for (path, item) in items.filter(|(path, _)| !path.starts_with("/v1/webhooks/")) {
            for operation in item.as_object().unwrap().values() {
                let content = &operation["requestBody"]["content"]["application/json"];
                if let Some(schema) = content.get("schema") {
                    assert!(schema["$ref"].is_string(), "{path}: a body has a named schema");
                    walk(schema, &known, &mut seen);
                }
            }
        }
        assert!(seen.len() > 30, "{} schemas", seen.len());
    }

    #[test]
    fn a_query_has_the_parameters_of_its_operation_and_no_others() {
        let known = &QUERIES[&("GET".to_owned(), "/v1/inbox".to_owned())];
        let refused = |given: &[(&str, &str)]| {
            let given: Vec<_> =
                given.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            let refused = check_parameters(known, &given).err()?;
            Some(refused.errors[0].pointer.clone())
        };
        assert_eq!(refused(&[("q", "a b"), ("status", "sent")]), None);
        for given in [("kind", "x"), ("q", "\0"), ("Q", "x"), ("", "")] {
            assert_eq!(refused(&[given]), Some(format!("?{}", given.0)), "{given:?}");
        }
        assert_eq!(refused(&[("q", "1"), ("q", "2")]), Some("?q".to_owned()));
        assert_eq!(refused(&[("q", &"ä".repeat(200))]), None);
        assert_eq!(refused(&[("q", &"ä".repeat(201))]), Some("?q".to_owned()));
        assert_eq!(refused(&[("after", &"a".repeat(1_000))]), None);
        assert_eq!(refused(&[("after", &"a".repeat(1_001))]), Some("?after".to_owned()));
    }

    #[test]
    fn every_scope_lets_in_somewhere_and_only_what_changes_needs_one_that_writes() {
        for ((method, path), scope) in SCOPES.iter() {
            // A quote changes nothing: it is asked for by a body.
            let reads = method == "GET" || path == "/v1/quotes";
            assert_eq!(scope.writes(), !reads, "{method} {path}: {scope}");
        }
        for scope in Scope::ALL {
            assert!(SCOPES.values().any(|it| *it == scope), "no operation needs {scope}");
        }
        // Whoever has a key makes no other one, and does not run the system.
        let closed = ["/v1/operator/", "/v1/service-keys", "/v1/users/"];
        for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let ways = operation["security"].as_array().unwrap();
                let by_token = ways.iter().any(|way| way.get("token").is_some());
                let by_key = ways.iter().any(|way| way.get(SERVICE_KEY).is_some());
                let open = by_token && !closed.iter().any(|it| path.starts_with(it));
                assert_eq!(by_key, open, "{method} {path}");
                assert_eq!(by_key, scope(operation).is_some(), "{method} {path}");
            }
        }
    }

    #[test]
    fn every_text_in_a_query_is_described_with_its_bound() {
        for ((method, path), _) in QUERIES.iter() {
            let operation = &DOCUMENT["paths"][path][method.to_lowercase()];
            for it in operation["parameters"].as_array().into_iter().flatten().map(resolved) {
                let schema = &it["schema"];
                let bound = schema["maxLength"].is_u64()
                    || schema["enum"].is_array()
                    || schema["oneOf"].is_array()
                    || schema["format"].is_string()
                    || !types(schema).contains(&"string");
                assert!(it["in"] != "query" || bound, "{method} {path}: {it}");
            }
        }
    }
}
