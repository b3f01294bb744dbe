//! Operators' commands on projections: every command is an event with actor and
//! reason, which a worker applies once. It is the same from the terminal and
//! over HTTP.

use crate::in_process::InProcess;
use chrono::Utc;
use exodrive_domain::{
    Envelope, Payload, Recorded, Subject, WEBHOOK_RECEIVED, decode,
    operation::{Operation, OperationEvent},
};
use exodrive_log::NewEvent;
use exodrive_runtime::services::Signal;
use exodrive_tests::{
    Answer, Delivery, Process, System, WORKER, World, email_body, eventually, key, program,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::process::Output;

/// A version of a fold that no worker has: a rebuild of it stays queued.
const FUTURE: u32 = 99;

fn new_event(subject: Subject, id: &str, kind: &str, version: u32, body: Vec<u8>) -> NewEvent {
    let envelope = Envelope {
        id: id.to_owned(),
        kind: kind.to_owned(),
        version,
        source: "test".to_owned(),
        time: Utc::now(),
        traceparent: None,
        causation: None,
        correlation: None,
        actor: Some("operator:newer-release".to_owned()),
    };
    NewEvent { subject, envelope, provider_headers: Vec::new(), body: body.into() }
}

async fn append(world: &System, event: &NewEvent) -> u64 {
    world.log().await.append_fact(event).await.unwrap().position
}

/// Requests a rebuild as a newer release would.
async fn rebuild_of_the_future(world: &System, projection: &str, id: &str) -> u64 {
    let operation = Operation::RebuildRequested {
        version: FUTURE,
        key: None,
        from_position: None,
        partitions: None,
        accept_differences: false,
    };
    let kind = operation.kind();
    let (projection, reason) = (projection.to_owned(), "a newer fold".to_owned());
    let event = OperationEvent { projection, reason, operation };
    let subject = Subject::Projection(event.projection.clone());
    append(world, &new_event(subject, id, kind, 1, serde_json::to_vec(&event).unwrap())).await
}

/// Makes an email whose second event this release cannot read. Returns the
/// position at which it is parked.
async fn parked_email(world: &System) -> u64 {
    let body =
        |kind: &str, n: u32| email_body(kind, "em-1", &format!("2026-11-20T09:{n:02}:00Z"), "");
    world.stored(&Delivery::new("msg_1", body("sent", 1))).await;
    let subject = Subject::Email("em-1".parse().unwrap());
    let newer = new_event(subject, "msg_newer", WEBHOOK_RECEIVED, FUTURE, body("failed", 2).into());
    let position = append(world, &newer).await;
    world.stored(&Delivery::new("msg_3", body("delivered", 3))).await;
    world.settled().await;
    position
}

/// Makes a generation that readers saw once, of a fold that no worker has.
async fn earlier_generation(world: &System, projection: &str) {
    let table = "insert into generations (projection, generation, version, state)
                 values ($1, 0, 99, 'previous')";
    sqlx::query(table).bind(projection).execute(world.database()).await.unwrap();
    let part = "insert into checkpoints (projection, generation, partition) values ($1, 0, 0)";
    sqlx::query(part).bind(projection).execute(world.database()).await.unwrap();
    let schema = sqlx::AssertSqlSafe(format!("create schema {projection}_g0"));
    sqlx::query(schema).execute(world.database()).await.unwrap();
}

async fn operations(world: &System) -> Vec<(Recorded, OperationEvent)> {
    let events = world.events().await.into_iter();
    let operation = |recorded: Recorded| match decode(&recorded) {
        Ok(Payload::Operation(event)) => Some((recorded, event)),
        _ => None,
    };
    events.filter_map(operation).collect()
}

/// The last command in the log: its event, and its actor.
async fn last_command(world: &System) -> (OperationEvent, String) {
    let (recorded, event) = operations(world).await.pop().unwrap();
    assert_eq!(recorded.subject, format!("exo.projection.{}", event.projection));
    assert_eq!(recorded.envelope.kind, event.operation.kind());
    (event, recorded.envelope.actor.unwrap())
}

async fn one<T>(world: &System, sql: &'static str) -> T
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    sqlx::query_scalar(sql).fetch_one(world.database()).await.unwrap()
}

async fn run(world: &System, args: &[&str]) -> Output {
    world.exodrive(&[&["projections"], args].concat()).await
}

async fn prints(world: &System, args: &[&str]) -> Value {
    let printed = world.exodrive_prints(&[&["projections"], args, &["--json"]].concat()).await;
    serde_json::from_str(&printed).unwrap()
}

/// Runs a command that fails, and returns what the terminal prints.
async fn rejected(world: &System, args: &[&str], code: i32) -> String {
    let done = run(world, args).await;
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(code), "{args:?}: {said}");
    assert_eq!(done.stdout, b"", "{args:?}");
    said
}

async fn post(world: &System, path: &str, body: &Value) -> Answer {
    post_as(world, "operator", path, body).await
}

async fn post_as(world: &System, role: &str, path: &str, body: &Value) -> Answer {
    let path = format!("/v1/operator/{path}");
    let request = world.request(Method::POST, &path).bearer_auth(world.token(role)).json(body);
    Answer::of(request).await.unwrap()
}

async fn get(world: &System, path: &str) -> Value {
    world.get_as("operator", &format!("/v1/operator/{path}")).await.expect(200)
}

#[tokio::test]
async fn a_projection_is_paused_and_resumed_from_the_terminal_and_over_http() {
    let mut world = InProcess::start().await;
    world.set("USER", "grace");
    let done = prints(&world, &["pause", "inbox", "--reason", "the disk is full"]).await;
    assert_eq!((&done["object"], &done["applied"]), (&json!("command"), &json!(true)));
    assert_eq!(done["type"], "exodrive.projection.paused");
    let (event, actor) = last_command(&world).await;
    assert_eq!((event.projection.as_str(), event.operation), ("inbox", Operation::Paused {}));
    assert_eq!((event.reason.as_str(), actor.as_str()), ("the disk is full", "operator:grace@cli"));
    let paused = "select name || ', ' || pause_reason || ', ' || paused_by
                  from projections where paused";
    let found: String = one(&world, paused).await;
    assert_eq!(found, "inbox, the disk is full, operator:grace@cli");
    let shown = get(&world, "projections/inbox").await;
    assert_eq!((&shown["state"], &shown["paused"]), (&json!("paused"), &json!(true)));

    // A paused projection cannot be paused again; the answer has the reason.
    let again = rejected(&world, &["pause", "inbox", "--reason", "again"], 1).await;
    assert!(again.contains("already paused by operator:grace@cli: the disk is full"), "{again}");
    let again = post(&world, "projections/inbox/pause", &json!({"reason": "again"})).await;
    again.problem(409, "operation_rejected");

    // A repeat under one key is one event.
    let key = key();
    for replayed in [false, true] {
        let request = world
            .request(Method::POST, "/v1/operator/projections/inbox/resume")
            .bearer_auth(world.token("operator"))
            .header("idempotency-key", &key)
            .json(&json!({"reason": "there is room"}));
        let answer = Answer::of(request).await.unwrap();
        assert_eq!(answer.expect(200)["applied"], true);
        assert_eq!(answer.header("idempotent-replayed") == "true", replayed);
    }
    let (event, actor) = last_command(&world).await;
    assert_eq!(
        (event.operation, actor.as_str()),
        (Operation::Resumed {}, "operator:operator-user")
    );
    assert_eq!(event.reason, "there is room");
    assert_eq!(operations(&world).await.len(), 2);
    assert_eq!(one::<i64>(&world, "select count(*) from projections where paused").await, 0);
    assert!(rejected(&world, &["resume", "inbox"], 1).await.contains("not paused"));
}

#[tokio::test]
async fn one_rebuild_at_a_time_and_it_is_followed_and_cancelled() {
    let world = InProcess::start().await;
    let id = "0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b6";
    rebuild_of_the_future(&world, "cars", id).await;
    let path = format!("rebuilds/{id}");
    eventually("it is applied", async || {
        let sql = "select count(*) from rebuilds";
        (one::<i64>(&world, sql).await == 1).then_some(())
    })
    .await;
    let job = get(&world, &path).await;
    assert_eq!((&job["object"], &job["kind"]), (&json!("rebuild"), &json!("rebuild")));
    assert_eq!((&job["state"], &job["projection"]), (&json!("queued"), &json!("cars")));
    assert_eq!((&job["reason"], &job["version"]), (&json!("a newer fold"), &json!(FUTURE)));
    assert_eq!(job["actor"], "operator:newer-release");
    assert_eq!(job["progress"]["done"], 0);
    assert_eq!(get(&world, "rebuilds").await["data"], json!([job]));
    assert_eq!(get(&world, "rebuilds?projection=inbox").await["data"], json!([]));
    // Its worker may not have given a sign of life yet.
    eventually("the list says that it is being rebuilt", async || {
        let status = prints(&world, &["status"]).await;
        let cars = status.as_array().unwrap().iter().find(|it| it["name"] == "cars").unwrap();
        let seen = (&cars["state"], &cars["rebuild"]) == (&json!("rebuilding"), &json!(id));
        seen.then_some(()).ok_or_else(|| cars.to_string())
    })
    .await;

    // It is rejected, and the answer has the id of the other. If the event is
    // appended all the same, the rebuild fails and says why.
    let end = world.log().await.last_position().await.unwrap();
    let said = rejected(&world, &["rebuild", "cars", "--reason", "me too"], 1).await;
    assert!(said.contains(id) && said.contains("--cancel"), "{said}");
    let answer = post(&world, "projections/cars/rebuild", &json!({"reason": "me too"})).await;
    assert_eq!(answer.problem(409, "rebuild_in_progress")["rebuild"], id);
    let answer = post(&world, "projections/cars/rollback", &json!({"reason": "back"})).await;
    answer.problem(409, "rebuild_in_progress");
    let all = rejected(&world, &["rebuild", "--all", "--reason", "all"], 1).await;
    assert!(all.contains(id), "no rebuild begins if one is rejected: {all}");
    assert_eq!(world.log().await.last_position().await.unwrap(), end);
    let second = "0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b7";
    rebuild_of_the_future(&world, "cars", second).await;
    let failed = eventually("the second one is applied", async || {
        let path = format!("/v1/operator/rebuilds/{second}");
        let answer = world.get_as("operator", &path).await;
        (answer.json()["state"] != "recorded").then(|| answer.json())
    })
    .await;
    assert_eq!(failed["state"], "failed");
    assert!(failed["error"].as_str().unwrap().contains(id), "{failed}");
    post(&world, &format!("rebuilds/{second}/cancel"), &json!({}))
        .await
        .problem(409, "operation_rejected");
    post(&world, &format!("rebuilds/{id}/accept"), &json!({}))
        .await
        .problem(409, "operation_rejected");
    post(&world, "rebuilds/nonsense/cancel", &json!({})).await.problem(404, "not_found");

    // The rebuild is watched from the terminal: Ctrl-C leaves it to the worker.
    let output = tempfile::NamedTempFile::new().unwrap();
    let args = ["projections", "rebuild", "cars", "--watch"];
    let mut watching = Process::start(&program("exodrive"), &args, world.env(), output.path());
    let printed = || std::fs::read_to_string(output.path()).unwrap();
    eventually("it shows the state", async || printed().contains("cars: queued").then_some(()))
        .await;
    watching.signal(Signal::SIGINT);
    let ended = eventually("it ends", async || watching.ended()).await;
    assert_eq!(ended.code(), Some(130), "{}", printed());
    assert!(printed().contains("goes on in the worker"), "{}", printed());
    assert!(!one::<bool>(&world, "select bool_or(cancel_wanted) from rebuilds").await);

    // The rebuild is followed over HTTP: an event for each change.
    let request = world.request(Method::GET, &format!("/v1/operator/{path}/events"));
    let mut followed = request.bearer_auth(world.token("operator")).send().await.unwrap();
    assert_eq!(followed.headers()["content-type"], "text/event-stream");
    let mut seen = String::new();
    while !seen.contains("\n\n") {
        seen += std::str::from_utf8(&followed.chunk().await.unwrap().unwrap()).unwrap();
    }
    assert!(seen.starts_with("event: rebuild\ndata: {") && seen.contains(id), "{seen}");
    assert!(seen.contains("\"cancel_requested\":false"), "{seen}");
    let answer = post(&world, &format!("{path}/cancel"), &json!({})).await.expect(200);
    assert_eq!(answer["type"], "exodrive.projection.rebuild_cancelled");
    let (event, _) = last_command(&world).await;
    assert_eq!(event.operation, Operation::RebuildCancelled { rebuild: id.parse().unwrap() });
    assert_eq!(get(&world, &path).await["cancel_requested"], true);
    while !seen.contains("\"cancel_requested\":true") {
        seen += std::str::from_utf8(&followed.chunk().await.unwrap().unwrap()).unwrap();
    }
}

#[tokio::test]
async fn a_rebuild_carries_what_was_asked_for() {
    let world = InProcess::start().await;
    world
        .stored(&Delivery::new("msg_1", email_body("sent", "em-1", "2026-11-20T09:01:00Z", "")))
        .await;
    world.settled().await;
    let args = ["rebuild", "inbox", "--reason", "as a test", "--from", "1", "--partitions", "3"];
    let job = prints(&world, &[&args[..], &["--accept-differences", "--no-wait"]].concat()).await;
    assert_eq!((&job["object"], &job["kind"]), (&json!("rebuild"), &json!("rebuild")));
    assert_eq!((&job["from_position"], &job["partitions"]), (&json!(1), &json!(3)));
    assert_eq!((&job["accepted"], &job["reason"]), (&json!(true), &json!("as a test")));
    let (recorded, event) = operations(&world).await.pop().unwrap();
    assert_eq!(job["id"], recorded.envelope.id);
    let Operation::RebuildRequested { from_position, partitions, .. } = event.operation else {
        panic!("another command: {event:?}")
    };
    assert_eq!((from_position, partitions), (Some(1), Some(3)));
    let key = json!({"reason": "one row", "key": "em-9"});
    let answer = post(&world, "projections/email_timeline/rebuild", &key).await;
    let job = answer.expect(202);
    let path = format!("/v1/operator/rebuilds/{}", job["id"].as_str().unwrap());
    assert_eq!(answer.header("location"), path);
    assert_eq!((&job["kind"], &job["key"]), (&json!("key"), &json!("em-9")));
    let found = world.get_as("operator", &path).await.expect(200);
    assert_eq!((&found["id"], &found["reason"]), (&job["id"], &json!("one row")));
    assert_eq!(found["actor"], "operator:operator-user");
}

#[tokio::test]
async fn a_parked_key_is_shown_retried_and_skipped() {
    let world = World::start().await;
    let position = parked_email(&world).await;
    let shown = get(&world, "projections/inbox").await;
    let parked = shown["parked_events"].as_array().unwrap();
    assert_eq!(parked.len(), 2);
    assert_eq!(
        (&parked[0]["key"], &parked[0]["position"]),
        (&json!("exo.email.em-1"), &json!(position))
    );
    assert!(parked[0]["error"].as_str().unwrap().contains("newer than this release"));
    assert_eq!(parked[1]["error"], "");
    let of_key = prints(&world, &["show", "inbox", "--key", "exo.email.em-1"]).await;
    let event = &of_key["parked_events"][0]["event"];
    assert_eq!((&event["type"], &event["version"]), (&json!(WEBHOOK_RECEIVED), &json!(FUTURE)));
    assert_eq!(event["body"]["data"]["email_id"], "em-1");
    let of_row = prints(&world, &["show", "inbox", "--key", "em-1"]).await;
    assert_eq!(of_row["row"]["data"]["status"], "sent", "the state before it");
    let people = world.exodrive_prints(&["projections", "show", "inbox"]).await;
    assert!(people.contains("exo.email.em-1") && people.contains("newer than this release"));

    // Only a parked event can be skipped, and only the first one.
    let end = world.log().await.last_position().await.unwrap();
    let skip = |key: &'static str, position: u64| json!({"key": key, "position": position, "reason": "a test"});
    for (key, position) in [("em-1", position), ("exo.email.em-1", position + 1)] {
        post(&world, "projections/inbox/skip", &skip(key, position))
            .await
            .problem(409, "operation_rejected");
        let at = position.to_string();
        let args = ["skip", "inbox", "--key", key, "--position", &at, "--reason", "a test"];
        rejected(&world, &args, 1).await;
    }
    let retry = json!({"key": "em-2"});
    post(&world, "projections/inbox/retry", &retry).await.problem(409, "operation_rejected");
    let said = rejected(&world, &["retry", "cars"], 1).await;
    assert!(said.contains("nothing is parked in cars"), "{said}");
    assert_eq!(world.log().await.last_position().await.unwrap(), end);

    let done = prints(&world, &["retry", "inbox", "--key", "exo.email.em-1"]).await;
    assert_eq!(
        (&done["type"], &done["applied"]),
        (&json!("exodrive.projection.retry_requested"), &json!(true))
    );
    let (event, _) = last_command(&world).await;
    let key = Some("exo.email.em-1".to_owned());
    assert_eq!(event.operation, Operation::RetryRequested { key });
    eventually("it is tried, and parked again", async || {
        let printed = world.printed(WORKER);
        printed.contains("Retried parked events").then_some(())
    })
    .await;
    let done = post(&world, "projections/inbox/skip", &skip("exo.email.em-1", position)).await;
    assert_eq!(done.expect(200)["applied"], true);
    let (event, actor) = last_command(&world).await;
    let key = "exo.email.em-1".to_owned();
    assert_eq!(event.operation, Operation::EventSkipped { key, position });
    assert_eq!(actor, "operator:operator-user");
    let skipped = "select key || ' ' || position || ' ' || actor || ' ' || reason
                   from skipped_events where projection = 'inbox'";
    let expected = format!("exo.email.em-1 {position} operator:operator-user a test");
    assert_eq!(one::<String>(&world, skipped).await, expected);
}

#[tokio::test]
async fn old_generations_are_rolled_back_to_and_pruned() {
    let world = InProcess::start().await;
    let said = rejected(&world, &["rollback", "cars", "--reason", "back"], 1).await;
    assert!(said.contains("no earlier generation"), "{said}");
    let prune = post(&world, "projections/cars/prune", &json!({})).await;
    prune.problem(409, "operation_rejected");
    assert_eq!(prints(&world, &["prune"]).await, json!([]));
    earlier_generation(&world, "cars").await;
    earlier_generation(&world, "customers").await;
    let job = prints(&world, &["rollback", "cars", "--reason", "back", "--no-wait"]).await;
    assert_eq!((&job["kind"], &job["generation"]), (&json!("rollback"), &json!(0)));
    let (event, _) = last_command(&world).await;
    assert_eq!(event.operation, Operation::RollbackRequested { version: FUTURE, generation: 0 });
    let answer = post(&world, "projections/customers/prune", &json!({"reason": "room"})).await;
    assert_eq!(answer.expect(200)["applied"], true);
    let (event, _) = last_command(&world).await;
    assert_eq!(event.operation, Operation::PruneRequested { generations: vec![0] });
    let left = "select count(*) from generations where projection = 'customers'
                  and generation = 0 and state <> 'dropping'";
    assert_eq!(one::<i64>(&world, left).await, 0);
    let saved =
        "select count(*) from generations where projection = 'customers' and state = 'active'";
    assert_eq!(one::<i64>(&world, saved).await, 1);
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let world = InProcess::start().await;
    let position = parked_email(&world).await.to_string();
    earlier_generation(&world, "cars").await;
    let end = world.log().await.last_position().await.unwrap();
    let why = ["--reason", "to see"];
    let key = ["--key", "exo.email.em-1"];
    let skip = [&["skip", "inbox", "--position", &position][..], &key, &why].concat();
    for args in [
        [&["rebuild", "inbox"][..], &why].concat(),
        [&["rebuild", "inbox", "--key", "em-1"][..], &why].concat(),
        [&["rollback", "cars"][..], &why].concat(),
        [&["pause", "inbox"][..], &why].concat(),
        [&["retry", "inbox"][..], &key].concat(),
        skip,
        vec!["prune", "cars"],
    ] {
        let said = prints(&world, &[&args[..], &["--dry-run"]].concat()).await;
        assert_eq!(
            (&said["object"], &said["dry_run"]),
            (&json!("command"), &json!(true)),
            "{args:?}"
        );
        assert!(said["position"].is_null() && said["effect"].as_str().unwrap().len() > 10);
    }
    let all = prints(&world, &["rebuild", "--all", "--reason", "to see", "--dry-run"]).await;
    assert_eq!(all.as_array().unwrap().len(), exodrive_projections::names().len());
    for (path, body) in [
        ("inbox/rebuild", json!({"reason": "to see", "dry_run": true})),
        ("cars/rollback", json!({"reason": "to see", "dry_run": true})),
        ("inbox/pause", json!({"reason": "to see", "dry_run": true})),
        ("inbox/retry", json!({"dry_run": true})),
        ("cars/prune", json!({"dry_run": true})),
    ] {
        let said = post(&world, &format!("projections/{path}"), &body).await.expect(200);
        assert_eq!(said["dry_run"], true, "{path}");
    }
    assert_eq!(world.log().await.last_position().await.unwrap(), end);
    for table in [
        "select count(*) from rebuilds",
        "select count(*) from skipped_events",
        "select count(*) from projections where paused",
        "select count(*) from generations where state = 'dropping'",
        "select position from operations",
    ] {
        assert_eq!(one::<i64>(&world, table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn the_terminal_and_http_report_the_same_and_only_operators_are_reported() {
    let world = InProcess::start().await;
    world.settled().await;
    let terminal = prints(&world, &["status"]).await;
    let http = get(&world, "projections").await;
    assert_eq!(http["object"], "list");
    let stable = |all: &Value| -> Vec<Value> {
        let one = |it: &Value| {
            let mut one = it.clone();
            one["heartbeat_age_seconds"] =
                json!(it["heartbeat_age_seconds"].as_f64().unwrap() < 10.0);
            one
        };
        all.as_array().unwrap().iter().map(one).collect()
    };
    assert_eq!(stable(&terminal), stable(&http["data"]));
    for it in terminal.as_array().unwrap() {
        for field in ["name", "version", "generation", "state", "position", "lag_events"] {
            assert!(!it[field].is_null(), "{field} of {it}");
        }
        assert_eq!((&it["state"], &it["parked"]), (&json!("level"), &json!(0)));
        assert_eq!((&it["lag_events"], &it["lag_seconds"]), (&json!(0), &json!(0.0)));
    }
    let shown = prints(&world, &["show", "inbox"]).await;
    assert_eq!((&shown["object"], &shown["name"]), (&json!("projection"), &json!("inbox")));
    assert_eq!(shown["subjects"], json!(["exo.email."]));
    assert_eq!(shown["generations"][0]["state"], "active");

    let end = world.log().await.last_position().await.unwrap();
    let id = "0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b6";
    let reads = [
        "projections",
        "projections/inbox",
        "rebuilds",
        &format!("rebuilds/{id}"),
        &format!("rebuilds/{id}/events"),
    ];
    let acts =
        ["rebuild", "rollback", "pause", "skip"].map(|act| format!("projections/inbox/{act}"));
    let lesser = ["resume", "retry", "prune"].map(|act| format!("projections/inbox/{act}"));
    let ends = ["accept", "cancel"].map(|act| format!("rebuilds/{id}/{act}"));
    let body = json!({"reason": "because"});
    for role in ["admin", "auditor", "customer"] {
        for path in reads {
            let path = format!("/v1/operator/{path}");
            world.get_as(role, &path).await.problem(403, "forbidden");
        }
        for path in acts.iter().filter(|path| !path.ends_with("skip")).chain(&lesser) {
            post_as(&world, role, path, &body).await.problem(403, "forbidden");
        }
        let skip = json!({"reason": "because", "key": "a", "position": 1});
        post_as(&world, role, &acts[3], &skip).await.problem(403, "forbidden");
        for path in &ends {
            post_as(&world, role, path, &json!({})).await.problem(403, "forbidden");
        }
    }
    let anybody = world.request(Method::GET, "/v1/operator/projections");
    Answer::of(anybody).await.unwrap().problem(401, "unauthenticated");
    let anybody = world.request(Method::POST, "/v1/operator/projections/inbox/pause").json(&body);
    Answer::of(anybody).await.unwrap().problem(401, "unauthenticated");
    assert_eq!(world.log().await.last_position().await.unwrap(), end);

    // A request that cannot be understood is rejected before anything is
    // recorded.
    let unknown = post(&world, "projections/nothing/pause", &body).await;
    assert!(unknown.problem(404, "not_found")["detail"].as_str().unwrap().contains("inbox"));
    let blank = post(&world, "projections/inbox/pause", &json!({"reason": " "})).await;
    assert_eq!(blank.problem(422, "validation_failed")["errors"][0]["pointer"], "/reason");
    let many = json!({"reason": "because", "partitions": 65});
    post(&world, "projections/inbox/rebuild", &many).await.problem(422, "validation_failed");
    rejected(&world, &["rebuild", "inbox"], 2).await;
    rejected(&world, &["rebuild", "nothing", "--reason", "because"], 2).await;
    rejected(&world, &["skip", "inbox", "--key", "a", "--reason", "because"], 2).await;
    rejected(&world, &["pause", "inbox", "--reason", " "], 1).await;
    assert_eq!(world.log().await.last_position().await.unwrap(), end);
}

#[tokio::test]
async fn a_command_without_a_worker_is_recorded_and_takes_effect_when_one_starts() {
    let world = World::start().await;
    let paused = "select count(*) from projections where paused";
    // A worker hangs, and is killed before it has applied anything.
    world.signal(WORKER, Signal::SIGSTOP);
    let done = run(&world, &["pause", "inbox", "--reason", "no worker"]).await;
    assert_eq!(done.status.code(), Some(0));
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(said.contains("Recorded; no worker is running"), "{said}");
    let done = post(&world, "projections/cars/pause", &json!({"reason": "no worker"})).await;
    assert_eq!(done.expect(200)["applied"], false);
    let body = json!({"reason": "no worker"});
    let job = post(&world, "projections/bookings/rebuild", &body).await.expect(202);
    assert_eq!(job["state"], "recorded");
    assert_eq!(one::<i64>(&world, paused).await, 0);
    // Workers skip an event that no release can read.
    let subject = Subject::Projection("inbox".to_owned());
    let kind = Operation::Paused {}.kind();
    append(&world, &new_event(subject.clone(), &key(), kind, FUTURE, b"{}".to_vec())).await;
    append(&world, &new_event(subject.clone(), &key(), kind, 1, b"nonsense".to_vec())).await;
    let gone = Subject::Projection("gone".to_owned());
    let body = br#"{"projection":"gone","reason":"","type":"paused"}"#.to_vec();
    let last = append(&world, &new_event(gone, &key(), kind, 1, body)).await;
    world.kill(WORKER);
    assert_eq!(one::<i64>(&world, paused).await, 0);
    world.start_worker("work-1");
    world.start_worker("work-2");
    eventually("they are applied", async || {
        let applied: i64 = one(&world, "select position from operations").await;
        (applied == i64::try_from(last).unwrap()).then_some(())
    })
    .await;
    assert_eq!(one::<i64>(&world, paused).await, 2);
    let id = job["id"].as_str().unwrap();
    let path = format!("rebuilds/{id}");
    assert_eq!(get(&world, &path).await["reason"], "no worker");
    let applied =
        ["work-1", "work-2"].map(|it| world.printed(it).matches("Applied exodrive").count());
    assert_eq!(applied.iter().sum::<usize>(), 4, "each once: {applied:?}");
}

#[tokio::test]
async fn a_database_made_again_keeps_what_lasts_and_begins_nothing_old() {
    let world = InProcess::start().await;
    // The database looks as if it had been made after what follows.
    let made = "update _sqlx_migrations set installed_on = now() + interval '1 hour'";
    sqlx::query(made).execute(world.database()).await.unwrap();
    let id = "0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b6";
    rebuild_of_the_future(&world, "cars", id).await;
    let done = prints(&world, &["pause", "inbox", "--reason", "for good"]).await;
    assert_eq!(done["applied"], true);
    assert_eq!(one::<i64>(&world, "select count(*) from rebuilds").await, 0);
    assert_eq!(one::<i64>(&world, "select count(*) from projections where paused").await, 1);
}

#[tokio::test]
async fn differences_wait_for_a_decision_and_a_swap_is_reported_to_the_log_once() {
    let world = World::start().await;
    let id = "0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b6";
    rebuild_of_the_future(&world, "cars", id).await;
    let applied = "select count(*) from rebuilds";
    eventually("it is applied", async || (one::<i64>(&world, applied).await == 1).then_some(()))
        .await;
    // Rows in the state in which the worker of the newer release leaves them.
    let comparison = json!({
        "from_generation": 1, "to_generation": 2, "from_version": 1, "to_version": 99,
        "position": 7, "rows": 3, "digest": "abcd", "difference_count": 2,
        "differences": [{"key": "car-1", "change": "changed"}, {"key": "car-2", "change": "added"}],
    });
    let waits = "update rebuilds set state = 'waiting', comparison = $1";
    sqlx::query(waits).bind(&comparison).execute(world.database()).await.unwrap();
    let said = rejected(&world, &["rebuild", "cars", "--watch"], 1).await;
    for reported in ["car-1", "changed", "car-2", "added", "--accept", "--cancel"] {
        assert!(said.contains(reported), "{reported}: {said}");
    }
    assert_eq!(get(&world, &format!("rebuilds/{id}")).await["comparison"], comparison);
    let done = prints(&world, &["rebuild", "cars", "--accept", "--no-wait"]).await;
    assert_eq!(done["type"], "exodrive.projection.rebuild_accepted");
    let (event, _) = last_command(&world).await;
    assert_eq!(event.operation, Operation::RebuildAccepted { rebuild: id.parse().unwrap() });
    assert!(one::<bool>(&world, "select accepted from rebuilds").await);

    world.start_worker("work-2");
    let swapped = "update rebuilds set state = 'done', finished_at = now()";
    sqlx::query(swapped).execute(world.database()).await.unwrap();
    let reported = "select count(*) from rebuilds where told";
    eventually("the swap is recorded", async || {
        (one::<i64>(&world, reported).await == 1).then_some(())
    })
    .await;
    let (event, actor) = last_command(&world).await;
    let Operation::Swapped { rebuild, to_generation, rows, digest, differences, .. } =
        event.operation
    else {
        panic!("another command: {event:?}")
    };
    assert_eq!((rebuild.to_string().as_str(), to_generation), (id, 2));
    assert_eq!((rows, digest.as_str(), differences), (3, "abcd", 2));
    assert_eq!((event.reason.as_str(), actor.as_str()), ("a newer fold", "operator:newer-release"));
    // The swap is recorded again, as by a worker that died before it had noted
    // it.
    sqlx::query("update rebuilds set told = false").execute(world.database()).await.unwrap();
    eventually("it is noted", async || (one::<i64>(&world, reported).await == 1).then_some(()))
        .await;
    let swaps = operations(&world).await.into_iter().map(|(_, event)| event.operation);
    assert_eq!(swaps.filter(|it| matches!(it, Operation::Swapped { .. })).count(), 1);
}
