//! What the contract promises of every answer: a position that is asked for holds in all views that
//! were joined, `Location` leads to what was made, and what the description does not name is
//! refused.

use crate::in_process::InProcess;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use exodrive_tests::{
    Answer, Client, Delivery, System, WORKER, World, booking_body, car_body, day, email_body,
    eventually,
};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

/// Pauses or resumes a projection.
async fn order(world: &System, projection: &str, command: &str) {
    let path = format!("/v1/operator/projections/{projection}/{command}");
    let operator = world.user("operator-user", "operator");
    let done = operator.post(&path, &json!({"reason": "a test"})).await.expect(200);
    assert_eq!(done["applied"], true, "{done}");
}

/// True if this view has not reached a position once all others have.
async fn stands_alone_behind(world: &System, view: &str, position: u64) -> bool {
    let sql = "select min(position) filter (where projection <> $1) >= $2,
                      min(position) filter (where projection = $1) < $2
               from checkpoints
               join projections on name = projection and generation = active_generation";
    let position = i64::try_from(position).unwrap();
    eventually("all other views reach a position", async || {
        let asked = sqlx::query_as(sql).bind(view).bind(position).fetch_one(world.database()).await;
        let (others_have, it_has_not): (bool, bool) = asked.unwrap();
        others_have.then_some(it_has_not)
    })
    .await
}

#[tokio::test]
async fn an_answer_has_the_position_in_every_view_that_it_joins() {
    let world = InProcess::start().await;
    let (admin, auditor) = (world.admin(), world.user("auditor-user", "auditor"));
    let car = admin.add_car("one", 10_000).await;
    let booking = admin.booked(&car, day(0), day(1)).await;
    let (id, customer) =
        (booking["id"].as_str().unwrap(), booking["customer_id"].as_str().unwrap());
    let body = email_body("sent", "em-1", "2026-11-20T09:00:00Z", "");
    world.stored(&Delivery::new("msg_1", body)).await;
    world.settled().await;
    let of = |path: &str, views: &[&'static str]| (path.to_owned(), views.to_vec());
    let reads = [
        of("/v1/dashboard", &["payments", "bookings", "cars", "calendar", "customers"]),
        of("/v1/cars", &["cars"]),
        of(
            &format!("/v1/cars?available_from={}&available_to={}", day(0), day(1)),
            &["cars", "calendar"],
        ),
        of(&format!("/v1/cars/{car}"), &["cars"]),
        of(&format!("/v1/cars/{car}/calendar"), &["cars", "calendar"]),
        of("/v1/bookings", &["bookings"]),
        of(&format!("/v1/bookings/{id}"), &["bookings"]),
        of(&format!("/v1/bookings/{id}/timeline"), &["booking_timeline", "inbox"]),
        of("/v1/customers", &["customers"]),
        of(&format!("/v1/customers/{customer}"), &["customers"]),
        of("/v1/inbox", &["inbox"]),
        of("/v1/inbox/em-1", &["inbox"]),
        of("/v1/inbox/em-1/timeline", &["email_timeline"]),
        of("/v1/inbox/em-1/deliveries", &["deliveries", "inbox"]),
        of("/v1/audit/accesses", &["accesses"]),
        of("/v1/audit/history?email=em-1", &["accesses"]),
        of("/v1/audit/history?address=guest@example.com", &["inbox", "accesses"]),
        of(&format!("/v1/audit/history?booking={id}"), &["booking_timeline", "inbox", "accesses"]),
    ];
    for view in exodrive_projections::names() {
        order(&world, view, "pause").await;
        // A writer that is folding learns of it a moment later.
        let position = eventually("the view stands", async || {
            let noted = admin.act(&booking, "notes", json!({"text": view})).await;
            let position: u64 = noted.header("exodrive-position").parse().unwrap();
            // It may only be slower than the others.
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            stands_alone_behind(&world, view, position).await.then_some(position)
        })
        .await;
        let asked = reads.iter().map(async |(path, views)| {
            let answer = auditor.get_once_from(position, path).await;
            let expected = if views.contains(&view) { 503 } else { 200 };
            assert_eq!(answer.status, expected, "{path} while {view} stands: {:?}", answer.body);
            if expected == 503 {
                assert!(
                    answer.problem(503, "view_behind")["detail"].as_str().unwrap().contains(view)
                );
            }
        });
        join_all(asked).await;
        order(&world, view, "resume").await;
    }
    world.settled().await;
    let end = world.log().await.last_position().await.unwrap();
    for (path, _) in &reads {
        auditor.get_from(end, path).await.expect(200);
    }
}

#[tokio::test]
async fn a_position_beyond_the_end_of_the_log_is_refused_at_once() {
    let world = InProcess::start().await;
    let car = world.admin().add_car("one", 10_000).await;
    let end = world.log().await.last_position().await.unwrap();
    let visitor = world.visitor();
    for path in
        ["/v1/cars".to_owned(), format!("/v1/cars/{car}"), format!("/v1/cars/{car}/calendar")]
    {
        for beyond in [end + 1, 9_999_999, u64::MAX] {
            let answer = visitor.get_once_from(beyond, &path).await;
            let problem = answer.problem(400, "invalid_request");
            assert_eq!(problem["errors"][0]["pointer"], "ExoDrive-Min-Position");
            assert!(answer.took < Duration::from_secs(1), "{path}: {:?}", answer.took);
        }
        visitor.get_from(end, &path).await.expect(200);
    }
}

#[tokio::test]
async fn a_location_leads_to_what_was_made() {
    let world = InProcess::start().await;
    let admin = world.admin();
    let car = admin.add_car("one", 10_000).await;
    let operator = world.user("operator-user", "operator");
    let block = json!({"start_date": day(20), "end_date": day(21), "reason": "tyres"});
    let erasure = json!({"email_address": "dana@example.com", "reason": "asked for"});
    let rebuild = "/v1/operator/projections/{name}/rebuild";
    let because = json!({"reason": "a test"});
    let key = json!({"name": "website", "scopes": ["fleet:read"]});
    let mut followed = BTreeSet::new();
    for (client, route, body, status) in [
        (&admin, "/v1/cars", car_body("two"), 201),
        (&admin, "/v1/bookings", booking_body(&car, day(0), day(0)), 201),
        (&world.visitor(), "/v1/bookings", booking_body(&car, day(1), day(1)), 201),
        (&world.user("ada", "customer"), "/v1/bookings", booking_body(&car, day(2), day(2)), 201),
        (&admin, "/v1/cars/{id}/blocks", block, 201),
        (&admin, "/v1/service-keys", key, 201),
        (&operator, "/v1/operator/erasures", erasure, 202),
        (&operator, rebuild, because.clone(), 202),
    ] {
        let path = route.replace("{id}", &car).replace("{name}", "payments");
        let made = client.post(&path, &body).await;
        let detail = made.expect(status);
        let reader = match detail["access_link"]["token"].as_str() {
            Some(token) => client.with_link(token),
            None => client.clone(),
        };
        // At once: nobody has waited for a view.
        let found = reader.get(made.header("location")).await;
        assert_eq!(found.expect(200)["id"], detail["id"], "{route}");
        if status == 201 {
            assert_eq!(found.header("etag"), made.header("etag"), "{route}");
        }
        followed.insert(route.to_owned());
    }
    // It needs a generation to go back to.
    followed.insert("/v1/operator/projections/{name}/rollback".to_owned());
    let description = world.get("/v1/openapi.json").await.expect(200);
    let making = description["paths"].as_object().unwrap().iter().filter(|(_, item)| {
        ["201", "202"].iter().any(|status| item["post"]["responses"][status].is_object())
    });
    assert_eq!(followed, making.map(|(path, _)| path.clone()).collect());
}

#[tokio::test]
async fn a_rebuild_is_found_while_no_worker_runs() {
    let world = World::start().await;
    world.kill(WORKER);
    let operator = world.user("operator-user", "operator");
    let path = "/v1/operator/projections/payments/rebuild";
    let made = operator.post(path, &json!({"reason": "a test"})).await;
    let detail = made.expect(202);
    assert_eq!(detail["state"], "recorded");
    let found = operator.get(made.header("location")).await.expect(200);
    assert_eq!(found, detail);
    operator
        .get("/v1/operator/rebuilds/0198f3a6-c1f0-7d5a-b0c4-00000000000a")
        .await
        .problem(404, "not_found");
}

#[tokio::test]
async fn a_block_is_read_until_it_is_deleted() {
    let world = InProcess::start().await;
    let admin = world.admin();
    let car = admin.add_car("one", 10_000).await;
    let body = json!({"start_date": day(2), "end_date": day(3), "reason": "tyres"});
    let made = admin.post(&format!("/v1/cars/{car}/blocks"), &body).await;
    let path = made.header("location").to_owned();
    let by_slug = path.replace(&car, "one");
    assert_eq!(admin.get(&by_slug).await.expect(200), made.expect(201));
    world.visitor().get(&path).await.problem(401, "unauthenticated");
    world.user("ada", "customer").get(&path).await.problem(403, "forbidden");
    let unchanged = admin.request(Method::GET, &path).header("if-none-match", made.header("etag"));
    assert_eq!(Answer::of(unchanged).await.unwrap().status, 304);

    let delete = || Answer::of(admin.request(Method::DELETE, &path));
    let deleted = delete().await.unwrap();
    let position: u64 = deleted.header("exodrive-position").parse().unwrap();
    let expected = json!({
        "object": "block", "id": made.json()["id"], "car_id": car, "deleted": true,
        "position": position,
    });
    assert_eq!(deleted.expect(200), expected);
    admin.get(&path).await.problem(404, "not_found");
    delete().await.unwrap().problem(404, "not_found");
}

/// A path with something that fits in place of each variable.
fn filled(path: &str) -> String {
    let step = |step: &str| match step {
        "{position}" | "{level}" => "1".to_owned(),
        "{view}" => "inbox".to_owned(),
        "{name}" => "payments".to_owned(),
        step if step.starts_with('{') => "4ef9a417-02e9-4d39-ad75-9611e0fcc33c".to_owned(),
        step => step.to_owned(),
    };
    path.split('/').map(step).collect::<Vec<_>>().join("/")
}

/// Somebody who is admitted, and what they are answered.
async fn admitted(clients: &[Client], send: impl AsyncFn(&Client) -> Answer) -> Answer {
    for client in clients {
        let answer = send(client).await;
        if !matches!(answer.status, 401 | 403) {
            return answer;
        }
    }
    panic!("nobody is admitted")
}

/// Every body that an operation takes, as it is described: a value that fits its schema.
pub(crate) fn example(schema: &Value, document: &Value) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return example(document.pointer(&reference[1..]).unwrap(), document);
    }
    if let Some(alternatives) = schema["oneOf"].as_array() {
        let value = alternatives.iter().find(|it| it["type"] != "null").unwrap();
        return example(value, document);
    }
    let kind = schema["type"].as_str().or(schema["type"][0].as_str());
    match kind.unwrap() {
        "string" if schema["format"] == "date" => json!(day(0)),
        "string" => json!("x".repeat(length(schema))),
        "integer" => json!(1),
        "boolean" => json!(false),
        "array" => json!([example(&schema["items"], document)]),
        "object" => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            fields.map(|(name, it)| (name.clone(), example(it, document))).collect()
        }
        other => panic!("{other}"),
    }
}

/// The least length of a text.
fn length(schema: &Value) -> usize {
    schema["minLength"].as_u64().map_or(1, |least| usize::try_from(least).unwrap().max(1))
}

/// The pointers of all objects in a value.
fn objects(value: &Value, pointer: &str) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            let inner =
                fields.iter().flat_map(|(name, it)| objects(it, &format!("{pointer}/{name}")));
            std::iter::once(pointer.to_owned()).chain(inner).collect()
        }
        Value::Array(items) => {
            let inner = (0..).zip(items);
            inner.flat_map(|(n, it): (usize, _)| objects(it, &format!("{pointer}/{n}"))).collect()
        }
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn what_is_not_described_is_refused_everywhere() {
    let world = InProcess::start().await;
    let document = world.get("/v1/openapi.json").await.expect(200);
    let clients = [
        world.visitor(),
        world.admin(),
        world.user("auditor-user", "auditor"),
        world.user("operator-user", "operator"),
    ];
    let events = world.events().await.len();
    let (mut operations, mut inner) = (0, 0);
    for (path, item) in document["paths"].as_object().unwrap() {
        // The provider decides what it sends, and to which address somebody has told it.
        if path.starts_with("/v1/webhooks/") {
            continue;
        }
        for (method, operation) in item.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let what = format!("{method} {path}");
            operations += 1;
            let answer = admitted(&clients, async |client| {
                let target = format!("{}?colour=red", filled(path));
                Answer::of(client.request(method.clone(), &target)).await.unwrap()
            })
            .await;
            let problem = answer.problem(400, "invalid_request");
            assert_eq!(problem["errors"][0]["pointer"], "?colour", "{what}");

            let content = &operation["requestBody"]["content"]["application/json"];
            if method == Method::GET {
                continue;
            }
            let fits = match content["schema"].is_object() {
                true => example(&content["schema"], &document),
                false => json!({}),
            };
            let refused = async |body: &Value| {
                let answer = admitted(&clients, async |client| {
                    let request = client.request(method.clone(), &filled(path)).json(body);
                    Answer::of(request).await.unwrap()
                })
                .await;
                let problem = answer.problem(400, "invalid_request");
                let errors = problem["errors"].as_array().unwrap();
                let pointers = errors.iter().map(|it| it["pointer"].as_str().unwrap().to_owned());
                pointers.collect::<Vec<_>>()
            };
            for body in [json!([]), json!([fits]), json!(null), json!("x"), json!(1)] {
                assert_eq!(refused(&body).await, [""], "{what} {body}");
            }
            for pointer in objects(&fits, "") {
                inner += 1;
                let mut body = fits.clone();
                let object = body.pointer_mut(&pointer).unwrap();
                object["surprise/~"] = json!(1);
                assert_eq!(refused(&body).await, [format!("{pointer}/surprise~1~0")], "{what}");
                if !pointer.is_empty() {
                    *body.pointer_mut(&pointer).unwrap() = json!(["an", "array"]);
                    assert_eq!(refused(&body).await, [pointer], "{what}");
                }
            }
        }
    }
    assert!(operations > 80 && inner > 50, "{operations} operations, {inner} objects");
    assert_eq!(world.events().await.len(), events, "nothing was executed");
}

#[tokio::test]
async fn what_is_missing_is_named_at_once_and_in_words_of_json() {
    let world = InProcess::start().await;
    let visitor = world.visitor();
    let send = async |body: &str| {
        let request = visitor.request(Method::POST, "/v1/bookings").body(body.to_owned());
        let answer = Answer::of(request.header("content-type", "application/json")).await.unwrap();
        answer.problem(400, "invalid_request")
    };
    let faults = |problem: &Value| -> Vec<(String, String)> {
        let text = |it: &Value, name: &str| it[name].as_str().unwrap().to_owned();
        let errors = problem["errors"].as_array().unwrap();
        errors.iter().map(|it| (text(it, "pointer"), text(it, "detail"))).collect()
    };
    let missing = ["/car_id", "/start_date", "/end_date", "/customer"]
        .map(|it| (it.into(), "is missing".into()));
    assert_eq!(faults(&send("{}").await), missing);
    assert_eq!(faults(&send("").await), missing);
    for (body, pointer, detail) in [
        ("null", "", "must be an object"),
        (r#"{"car_id":"#, "", "is not JSON: EOF while parsing a value at line 1 column 10"),
    ] {
        assert_eq!(faults(&send(body).await), [(pointer.to_owned(), detail.to_owned())]);
    }
    let valid = booking_body("one", day(0), day(1));
    for (name, value, detail) in [
        ("hold_minutes", json!(-1), "must be a whole number from 1 or null"),
        ("hold_minutes", json!(1.5), "must be a whole number from 1 or null"),
        ("start_date", json!("2026-02-30"), "must be a date (YYYY-MM-DD)"),
        ("expected_total_cents", json!(u64::MAX), "must be a whole number from 0 or null"),
    ] {
        let mut body = valid.clone();
        body[name] = value;
        assert_eq!(
            faults(&send(&body.to_string()).await),
            [(format!("/{name}"), detail.to_owned())]
        );
    }
    // To JSON Schema it is an integer.
    let admin = world.admin();
    let mut whole = booking_body(&admin.add_car("one", 10_000).await, day(0), day(1));
    whole["hold_minutes"] = json!(60.0);
    assert!(whole.to_string().contains("60.0"));
    admin.post("/v1/bookings", &whole).await.expect(201);
    let twice = valid.to_string().replacen('{', r#"{"car_id":"two","#, 1);
    let problem = send(&twice).await;
    assert!(problem["detail"].as_str().unwrap().contains("duplicate field"), "{problem}");
}

/// The query of the page after the first one of a list; `None` if there is no other.
async fn next_of(world: &System, path: &str) -> Option<String> {
    let page = world.admin().get(path).await.expect(200);
    let next = &page["next_cursor"];
    next.as_str()
        .or(page["next"].as_str())
        .map(str::to_owned)
        .or(page["next"].as_u64().map(|it| it.to_string()))
}

#[tokio::test]
async fn a_cursor_has_one_spelling() {
    let world = InProcess::with(&[("EXODRIVE_ACCESS_INTERVAL", "100ms")]).await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let cars = [admin.add_car("one", 10_000).await, admin.add_car("two", 20_000).await];
    for (n, car) in cars.iter().enumerate() {
        let mut body = booking_body(car, day(0), day(1));
        body["customer"]["email"] = json!(format!("guest-{n}@example.com"));
        let id = visitor.post("/v1/bookings", &body).await.expect(201)["id"].clone();
        let tag = format!(r#","tags":{{"booking_id":{id}}}"#);
        for kind in ["sent", "delivered"] {
            let mail = email_body(kind, &format!("em-{n}"), "2026-11-20T09:00:01Z", &tag);
            world.stored(&Delivery::new(format!("msg_{kind}_{n}"), mail)).await;
        }
    }
    world.settled().await;
    let booking = admin.get("/v1/bookings?limit=1").await.expect(200)["data"][0]["id"].clone();
    let timeline = format!("/v1/bookings/{}/timeline?limit=1", booking.as_str().unwrap());
    let of_times = [
        "/v1/inbox?limit=1",
        "/v1/inbox/em-0/timeline?limit=1",
        "/v1/bookings?limit=1",
        "/v1/customers?limit=1",
        timeline.as_str(),
    ];
    let of_positions = ["/v1/audit/events?limit=1", "/v1/replay/inbox/em-0?limit=1"];
    let other =
        ["/v1/cars?limit=1", "/v1/cars?limit=1&sort=price", "/v1/inbox/em-0/deliveries?limit=1"];
    let read =
        |cursor: &str| String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(cursor).unwrap()).unwrap();
    let written = |plain: &str| BASE64_URL_SAFE_NO_PAD.encode(plain);
    for path in of_times.into_iter().chain(of_positions).chain(other) {
        let next = next_of(&world, path).await.unwrap_or_else(|| panic!("{path} has another page"));
        admin.get(&format!("{path}&after={next}")).await.expect(200);
        let mut spellings = vec![format!("{next}="), format!("%20{next}"), format!("{next}%0A")];
        if of_times.contains(&path) {
            let plain = read(&next);
            let (time, rest) = plain.split_once('\n').unwrap();
            let seconds = time.split_once('.').unwrap().0;
            for time in [
                format!("{seconds}Z"),
                time.replace('Z', "+00:00"),
                time.to_lowercase(),
                format!(" {time}"),
            ] {
                spellings.push(written(&format!("{time}\n{rest}")));
            }
        } else if of_positions.contains(&path) {
            spellings.extend([format!("0{next}"), format!("%2B{next}"), format!("{next}.0")]);
        } else if path.contains("price") {
            spellings.push(written(&read(&next).replace(" 0", " ")));
        } else if path.contains("deliveries") {
            spellings.push(written(&read(&next).replace('\n', "\n0")));
        }
        for spelt in spellings {
            let refused = admin.get(&format!("{path}&after={spelt}")).await;
            let problem = refused.problem(400, "invalid_request");
            assert_eq!(problem["errors"][0]["pointer"], "?after", "{path} {spelt}: {problem}");
        }
    }
}
