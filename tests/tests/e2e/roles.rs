//! Who is let in where: every operation of the contract by every caller, as `fixtures/roles.txt`
//! says.

use crate::{contract::example, in_process::InProcess, seal::sealed};
use exodrive_tests::{Answer, Client, Delivery, System, booking_body, day, email_body, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const TABLE: &str = include_str!("../../fixtures/roles.txt");

/// What is there to be asked about.
struct Things {
    booking: String,
    car: String,
    block: String,
    /// Another one, since it can be deleted once.
    other_block: String,
    customer: String,
    erasure: String,
    rebuild: String,
    key: String,
    delivery: u64,
    sealed: u64,
}

impl Things {
    async fn new(world: &System) -> Self {
        let (admin, operator) = (world.admin(), world.user("operator-user", "operator"));
        let car = admin.add_car("one", 10_000).await;
        let booking = world.user("ada", "customer").booked(&car, day(0), day(1)).await;
        let blocks = format!("/v1/cars/{car}/blocks");
        let block = |first| json!({"start_date": first, "end_date": first, "reason": "tyres"});
        let other_block = admin.post(&blocks, &block(day(22))).await.expect(201);
        let block = admin.post(&blocks, &block(day(20))).await.expect(201);
        let erasure = json!({"email_address": "gone@example.com", "reason": "asked for"});
        let erasure = operator.post("/v1/operator/erasures", &erasure).await.expect(202);
        let rebuild = "/v1/operator/projections/deliveries/rebuild";
        let rebuild = operator.post(rebuild, &json!({"reason": "a test"})).await.expect(202);
        let body = email_body("sent", "em-1", "2026-11-20T09:00:00Z", "");
        let delivery = world.stored(&Delivery::new("msg_1", body)).await;
        let key = json!({"name": "a test", "scopes": ["fleet:read"]});
        let key = admin.post("/v1/service-keys", &key).await.expect(201);
        let id = |thing: &Value| thing["id"].as_str().unwrap().to_owned();
        let things = Self {
            booking: id(&booking),
            customer: booking["customer_id"].as_str().unwrap().to_owned(),
            block: id(&block),
            other_block: id(&other_block),
            erasure: id(&erasure),
            rebuild: id(&rebuild),
            key: id(&key),
            sealed: sealed(world, delivery).await.1.size,
            car,
            delivery,
        };
        let path = format!("/v1/operator/rebuilds/{}", things.rebuild);
        eventually("the rebuild is over", async || {
            let shown = operator.get(&path).await.expect(200);
            (shown["state"] == "done").then_some(()).ok_or(shown)
        })
        .await;
        world.settled().await;
        things
    }

    /// The address of an operation on these things.
    fn path(&self, path: &str, operation: &Value) -> String {
        let whose = |path: &str| path.split('/').nth(2).unwrap_or_default().to_owned();
        let id = match whose(path).as_str() {
            "bookings" => self.booking.clone(),
            "cars" => self.car.clone(),
            "customers" => self.customer.clone(),
            "service-keys" => self.key.clone(),
            _ if path.contains("/erasures/") => self.erasure.clone(),
            _ => self.rebuild.clone(),
        };
        let delivery = self.delivery.to_string();
        let path = path
            .replace("{id}", &id)
            .replace("{block_id}", &self.block)
            .replace("{email_id}", "em-1")
            .replace("{user_id}", "nobody")
            .replace("{position}", &delivery)
            .replace("{name}", "payments")
            .replace("{view}/{key}", "inbox/em-1")
            .replace("{code}", "not_found")
            .replace("{level}/{path}", &format!("0/000.p/{}", self.sealed % 256));
        let query = match operation["operationId"].as_str().unwrap() {
            "get_history" => "?email=em-1".to_owned(),
            "get_history_diff" => format!("?email=em-1&from={delivery}&to={delivery}"),
            "get_consistency" => "?from=1".to_owned(),
            "get_inclusion" => "?position=1".to_owned(),
            _ => String::new(),
        };
        path + &query
    }

    /// What an operation takes.
    fn body(&self, operation: &Value, document: &Value) -> Value {
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        match operation["operationId"].as_str().unwrap() {
            // Nothing is signed here.
            "receive_resend" => json!({}),
            "move_booking" => json!({"car_id": self.car}),
            "create_service_key" => json!({"name": "another", "scopes": ["fleet:read"]}),
            "create_booking" => booking_body(&self.car, day(40), day(40)),
            "create_quote" => {
                json!({"car_id": self.car, "start_date": day(40), "end_date": day(40)})
            }
            "request_erasure" | "set_hold" => {
                let mut body = example(schema, document);
                body["email_address"] = json!("gone@example.com");
                body
            }
            _ if schema.is_object() => example(schema, document),
            _ => json!({}),
        }
    }
}

/// Every scope of a service key.
const SCOPES: [&str; 7] = [
    "fleet:read",
    "fleet:write",
    "bookings:read",
    "bookings:write",
    "customers:read",
    "inbox:read",
    "audit:read",
];

/// The scope that the contract asks of a key for an operation.
fn scope_of(operation: &Value) -> Option<&str> {
    let ways = operation["security"].as_array()?.iter();
    ways.filter_map(|way| way["service_key"][0].as_str()).next()
}

/// Asks for an operation; `+` if the caller is let in, else the status.
async fn ask(client: &Client, method: &Method, path: &str, body: &Value, what: &str) -> String {
    let request = client.request(method.clone(), path);
    let request = if *method == Method::GET { request } else { request.json(body) };
    let answer = Answer::of(request).await.unwrap();
    let said = String::from_utf8_lossy(&answer.body);
    match answer.status {
        status @ (401 | 403 | 404) => status.to_string(),
        status if *method == Method::GET => {
            assert_eq!(status, 200, "{what}: {said}");
            "+".to_owned()
        }
        status => {
            assert!([200, 201, 202, 400, 409, 422].contains(&status), "{what}: {status} {said}");
            "+".to_owned()
        }
    }
}

/// The rows of the table: the cells of each operation.
fn rows() -> (Vec<&'static str>, BTreeMap<&'static str, Vec<&'static str>>) {
    let lines = TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut rows = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let callers = rows.next().unwrap()[1..].to_vec();
    (callers, rows.map(|row| (row[0], row[1..].to_vec())).collect())
}

#[tokio::test]
async fn every_operation_lets_in_whom_it_should_and_nobody_else() {
    let world = InProcess::start().await;
    let things = Things::new(&world).await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let link_of = async |booking: &str| {
        let path = format!("/v1/bookings/{booking}/access-link");
        let link = admin.post(&path, &json!({})).await;
        let position = link.header("exodrive-position").parse().unwrap();
        let token = link.expect(200)["token"].as_str().unwrap().to_owned();
        let linked = visitor.with_link(&token);
        linked.get_from(position, &format!("/v1/bookings/{booking}")).await.expect(200);
        linked
    };
    let key_with = async |scopes: &[&str]| {
        let body = json!({"name": "a test", "scopes": scopes});
        let key = admin.post("/v1/service-keys", &body).await.expect(201);
        visitor.with_token(key["secret"].as_str().unwrap())
    };
    let mut other_keys = BTreeMap::new();
    for scope in SCOPES {
        let others: Vec<_> = SCOPES.into_iter().filter(|other| *other != scope).collect();
        other_keys.insert(scope, key_with(&others).await);
    }
    let others = visitor.booked(&things.car, day(9), day(9)).await;
    let (callers, rows) = rows();
    let mut clients = Vec::new();
    for caller in &callers {
        clients.push(match *caller {
            "visitor" => visitor.clone(),
            "link" => link_of(&things.booking).await,
            "other-link" => link_of(others["id"].as_str().unwrap()).await,
            "no-role" => world.user("somebody", "none"),
            "customer" => world.user("ada", "customer"),
            "other-customer" => world.user("ben", "customer"),
            // The contract names the scope; a key without it is made for each.
            "scope" => visitor.clone(),
            "key" | "other-key" => key_with(&SCOPES).await,
            role => world.user(&format!("{role}-user"), role),
        });
    }
    let document = world.get("/v1/openapi.json").await.expect(200);
    let paths = document["paths"].as_object().unwrap().iter();
    let mut asked: Vec<(&str, &str, &Value)> = paths
        .flat_map(|(path, item)| {
            let operations = item.as_object().unwrap().iter();
            operations.map(move |(method, operation)| (&**path, &**method, operation))
        })
        .collect();
    // What is read may be changed next.
    asked.sort_by_key(|(_, method, _)| *method != "get");
    let (mut wrong, mut operations) = (Vec::new(), BTreeSet::new());
    for (path, method, operation) in asked {
        let name = operation["operationId"].as_str().unwrap();
        let method: Method = method.to_uppercase().parse().unwrap();
        let (target, body) = (things.path(path, operation), things.body(operation, &document));
        let mut outcome = Vec::new();
        let scope = scope_of(operation);
        for (caller, client) in callers.iter().zip(&clients) {
            if *caller == "scope" {
                outcome.push(scope.unwrap_or("-").to_owned());
                continue;
            }
            let client = match (*caller, scope) {
                ("other-key", Some(scope)) => &other_keys[scope],
                _ => client,
            };
            let target = match *caller {
                "key" if name == "delete_block" => {
                    target.replace(&things.block, &things.other_block)
                }
                _ => target.clone(),
            };
            let what = format!("{method} {target} by {caller}");
            outcome.push(ask(client, &method, &target, &body, &what).await);
        }
        if rows.get(name).is_none_or(|row| *row != outcome) {
            wrong.push(format!("{name} {}", outcome.join(" ")));
        }
        operations.insert(name);
    }
    assert!(wrong.is_empty(), "the table says otherwise, or has no row:\n{}", wrong.join("\n"));
    let gone: Vec<_> = rows.keys().filter(|name| !operations.contains(*name)).collect();
    assert!(gone.is_empty(), "rows of operations that are not there: {gone:?}");
}
