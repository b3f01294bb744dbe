//! The contract that is checked in (`api/openapi.json`), against which every answer of a test is
//! held.

use boon::{Compiler, SchemaIndex, Schemas};
use reqwest::{Method, header::HeaderMap};
use serde_json::Value;
use std::{cell::RefCell, collections::HashMap, sync::LazyLock};

const DOCUMENT: &str = "http://exodrive.example/openapi.json";

/// What an answer is an answer to.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The method.
    pub method: Method,
    /// The path, without the query.
    pub path: String,
}

/// Panics unless the contract describes the answer: its status, its type, its headers and its body.
pub(crate) fn check(asked: &Asked, status: u16, headers: &HeaderMap, body: &[u8]) {
    if let Err(why) = holds(asked, status, headers, body) {
        let Asked { method, path } = asked;
        let body = String::from_utf8_lossy(body.get(..2_000).unwrap_or(body));
        panic!("{method} {path}: {why}; the answer has the status {status} and is {body}");
    }
}

fn holds(asked: &Asked, status: u16, headers: &HeaderMap, body: &[u8]) -> Result<(), String> {
    // Metrics have a port and a format of their own.
    if asked.path == "/metrics" {
        return Ok(());
    }
    let Some(operation) = operation_of(asked) else {
        let text = "what the contract does not name is answered by a problem";
        let json = serde_json::from_slice(body).map_err(|_| text)?;
        return valid("/components/schemas/Problem", &json);
    };
    let (pointer, response) = response_of(operation, status)
        .ok_or_else(|| format!("the contract does not name the status {status}"))?;
    for (name, header) in response["headers"].as_object().into_iter().flatten() {
        if header["required"] == true && !headers.contains_key(name.as_str()) {
            return Err(format!("the header {name} is missing"));
        }
    }
    if asked.method == Method::HEAD {
        return Ok(());
    }
    let Some(types) = response["content"].as_object() else {
        return if body.is_empty() { Ok(()) } else { Err("it has a body".into()) };
    };
    let sent = headers.get("content-type").and_then(|it| it.to_str().ok()).unwrap_or_default();
    let sent = sent.split(';').next().unwrap_or_default().trim();
    if !types.contains_key(sent) {
        return Err(format!("the type {sent:?} is none of {:?}", types.keys()));
    }
    if sent != "application/json" && !sent.ends_with("+json") {
        return Ok(());
    }
    let json = serde_json::from_slice(body).map_err(|error| format!("no JSON: {error}"))?;
    valid(&format!("{pointer}/content/{}/schema", escaped(sent)), &json)
}

static CONTRACT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../api/openapi.json")).unwrap());

/// The pointer of the operation.
fn operation_of(asked: &Asked) -> Option<String> {
    let paths = CONTRACT["paths"].as_object().unwrap();
    let fits = |template: &str| {
        let (mut known, mut given) = (template.split('/'), asked.path.split('/'));
        loop {
            match (known.next(), given.next()) {
                (None, None) => return true,
                // The rest, with slashes.
                (Some("{path}"), Some(_)) => return true,
                (Some(known), Some(given)) if known.starts_with('{') && !given.is_empty() => {}
                (Some(known), Some(given)) if known == given => {}
                _ => return false,
            }
        }
    };
    let templates = paths.keys().filter(|template| fits(template));
    // A path that is written out goes before one with a parameter.
    let template = templates.min_by_key(|template| template.matches('{').count())?;
    let method = if asked.method == Method::HEAD { Method::GET } else { asked.method.clone() };
    let method = method.as_str().to_lowercase();
    paths[template].get(&method)?;
    Some(format!("/paths/{}/{method}", escaped(template)))
}

/// The pointer and the description of the response of this status.
fn response_of(operation: String, status: u16) -> Option<(String, &'static Value)> {
    let responses = format!("{operation}/responses");
    let known = CONTRACT.pointer(&responses)?.as_object()?;
    // `default` describes failures.
    let name = Some(status.to_string())
        .filter(|status| known.contains_key(status))
        .or_else(|| (status >= 400 && known.contains_key("default")).then(|| "default".into()))?;
    let pointer = format!("{responses}/{name}");
    let response = CONTRACT.pointer(&pointer)?;
    match response["$ref"].as_str() {
        None => Some((pointer, response)),
        Some(reference) => {
            let pointer = reference.strip_prefix('#')?;
            Some((pointer.to_owned(), CONTRACT.pointer(pointer)?))
        }
    }
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Schemas that were compiled, by their pointers.
struct Compiled {
    compiler: Compiler,
    schemas: Schemas,
    known: HashMap<String, SchemaIndex>,
}

thread_local! {
    static COMPILED: RefCell<Compiled> = {
        let mut compiler = Compiler::new();
        compiler.enable_format_assertions();
        compiler.add_resource(DOCUMENT, CONTRACT.clone()).unwrap();
        RefCell::new(Compiled { compiler, schemas: Schemas::new(), known: HashMap::new() })
    };
}

fn valid(pointer: &str, json: &Value) -> Result<(), String> {
    COMPILED.with_borrow_mut(|Compiled { compiler, schemas, known }| {
        let index = match known.get(pointer) {
            Some(index) => *index,
            None => {
                let place = pointer.replace('{', "%7B").replace('}', "%7D");
                let index = compiler.compile(&format!("{DOCUMENT}#{place}"), schemas);
                let index = index.map_err(|error| format!("{pointer} is no schema: {error:#}"))?;
                known.insert(pointer.to_owned(), index);
                index
            }
        };
        let valid = schemas.validate(json, index);
        valid.map_err(|error| format!("{pointer} does not hold: {error:#}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answered(path: &str, status: u16, kind: &str, body: &Value) -> Result<(), String> {
        let asked = Asked { method: Method::GET, path: path.into() };
        let mut headers = HeaderMap::new();
        headers.insert("content-type", kind.parse().unwrap());
        holds(&asked, status, &headers, body.to_string().as_bytes())
    }

    #[test]
    fn an_answer_that_breaks_the_contract_is_found() {
        let json = "application/json";
        let list = json!({"object": "list", "data": [], "has_more": false, "next_cursor": null});
        assert_eq!(answered("/v1/cars", 200, json, &list), Ok(()));
        let mut wrong = list.clone();
        wrong["has_more"] = "no".into();
        assert!(answered("/v1/cars", 200, json, &wrong).unwrap_err().contains("has_more"));
        assert!(answered("/v1/cars", 200, "text/html", &list).unwrap_err().contains("type"));
        assert!(answered("/v1/cars", 204, json, &list).unwrap_err().contains("status"));
        assert!(answered("/v1/cars/x", 304, json, &list).unwrap_err().contains("body"));
        assert!(answered("/v1/cars", 500, json, &list).is_err());
        assert!(answered("/v1/trains", 404, json, &json!({})).is_err());
    }
}
