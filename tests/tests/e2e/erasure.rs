//! A person is erased and cannot be found afterwards, while all other people, the log and its
//! proofs do not change.

use crate::in_process::InProcess;
use exodrive_domain::{Envelope, Subject, personal::ERASED};
use exodrive_log::NewEvent;
use exodrive_projections::{Projection, names, views::accesses::Accesses};
use exodrive_runtime::services::{Service, Signal};
use exodrive_tests::{
    API, Delivery, System, WORKER, World, booking_body, day, email_body, eventually, key,
};
use serde_json::{Value, json};
use sqlx::Row;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

const ADDRESS: &str = "canary.d7e1@example.com";
/// A word in all personal data of the canary.
const CANARY: &str = "canary.d7e1";

fn delivery(id: &str, kind: &str, email: &str, to: &str, more: &str) -> Delivery {
    let body =
        email_body(kind, email, "2026-11-20T09:15:05.118Z", more).replace("guest@example.com", to);
    Delivery { id: id.to_owned(), body: body.into() }
}

fn email(n: u32) -> String {
    format!("4ef9a417-02e9-4d39-ad75-9611e000{n:04}")
}

/// Mail and bookings of the canary and of others.
async fn live(world: &System) -> (Value, Value) {
    let subject = r#","subject":"canary.d7e1, your booking""#;
    for n in 1..=3 {
        for kind in ["sent", "delivered", "clicked"] {
            let more = format!(
                r#"{},"click":{{"link":"https://x.example/{CANARY}","ipAddress":"192.0.2.{n}"}}"#,
                if kind == "sent" { subject } else { "" }
            );
            let to = if n == 1 { ADDRESS.to_uppercase() } else { ADDRESS.to_owned() };
            world.stored(&delivery(&format!("own-{n}-{kind}"), kind, &email(n), &to, &more)).await;
        }
    }
    for n in 10..=12 {
        for kind in ["sent", "delivered"] {
            let id = format!("other-{n}-{kind}");
            world.stored(&delivery(&id, kind, &email(n), "bo@example.com", "")).await;
        }
    }
    // Not about an email: a contact.
    let contact = format!(
        r#"{{"type":"contact.created","created_at":"2026-11-20T09:15:05Z","data":{{"id":"c1","email":"{ADDRESS}","first_name":"{CANARY}"}}}}"#
    );
    world.stored(&Delivery { id: "own-contact".to_owned(), body: contact.into() }).await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 10_000).await;
    let mut body = booking_body(&car, day(0), day(1));
    body["customer"] = json!({
        "email": ADDRESS, "first_name": format!("{CANARY} Ada"),
        "last_name": format!("{CANARY} Byron"), "phone": format!("{CANARY} 555"),
    });
    body["notes"] = json!(format!("{CANARY} note"));
    let own = visitor.post_as(&key(), "/v1/bookings", &body).await.expect(201);
    for (action, more) in [
        ("notes", json!({"text": format!("{CANARY} text")})),
        ("authorize-payment", json!({"reference": format!("{CANARY} ref")})),
        ("cancel", json!({"reason": format!("{CANARY} reason")})),
    ] {
        admin.act(&own, action, more).await.expect(200);
    }
    let other = visitor.post_as(&key(), "/v1/bookings", &booking_body(&car, day(5), day(6))).await;
    (own, other.expect(201))
}

/// Rows of every view by key, without those that are about the canary.
async fn others(world: &System, own_booking: &str) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    // The test's own reads change who read what.
    for view in names().into_iter().filter(|view| *view != Accesses::NAME) {
        for (key, (position, data)) in world.rows(view).await {
            let row = format!("{position} {data:?}");
            let own = [&*email(1), &*email(2), &*email(3), "own-", own_booking];
            let tells = own.iter().any(|own| row.contains(own) || key.contains(own));
            if !tells && !row.to_lowercase().contains(CANARY) {
                rows.insert(format!("{view} {key}"), row);
            }
        }
    }
    rows
}

/// Places of the canary in files, tables, Redis, log lines and the decrypted log.
async fn traces(world: &World) -> Vec<String> {
    let mut traces = Vec::new();
    let holds = |bytes: &[u8]| String::from_utf8_lossy(bytes).to_lowercase().contains(CANARY);
    for event in world.events().await {
        let text = format!("{:?} {:?}", event.envelope, event.provider_headers);
        if holds(&event.body) || holds(text.as_bytes()) {
            traces.push(format!("event {}", event.position));
        }
    }
    for name in [API, WORKER] {
        if holds(world.printed(name).as_bytes()) {
            traces.push(format!("lines of {name}"));
        }
    }
    for file in files(&world.data_dir().join("nats")) {
        if holds(&fs::read(&file).unwrap_or_default()) {
            traces.push(format!("{}", file.display()));
        }
    }
    let dump = std::process::Command::new("pg_dump").arg(world.superuser()).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    // Lists are searched by words.
    let is_found = |line: &&[u8]| holds(line) || String::from_utf8_lossy(line).contains(" canary ");
    for line in dump.stdout.split(|byte| *byte == b'\n').filter(is_found) {
        traces.push(format!("dump: {}", String::from_utf8_lossy(line)));
    }
    let client = redis::Client::open(world.redis()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    for name in keys {
        let dump: Vec<u8> =
            redis::cmd("DUMP").arg(&name).query_async(&mut connection).await.unwrap();
        let held = redis::cmd("GET").arg(&name).query_async(&mut connection).await;
        if holds(&held.unwrap_or(dump)) || holds(name.as_bytes()) {
            traces.push(format!("Redis {name}"));
        }
    }
    traces
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).map(|entries| entries.flatten().collect()).unwrap_or_default();
    let entries: Vec<fs::DirEntry> = entries;
    entries
        .into_iter()
        .flat_map(|entry| {
            let path = entry.path();
            if path.is_dir() { files(&path) } else { vec![path] }
        })
        .collect()
}

/// Requests the canary's erasure and approves it; returns it when it is done.
async fn erase(world: &System) -> Value {
    let reason = "--reason=request of 3 May";
    let asked = ["audit", "erase", "--email-address", ADDRESS, reason, "--json"];
    let asked: Value = serde_json::from_str(&world.exodrive_prints(&asked).await).unwrap();
    let id = asked["id"].as_str().unwrap();
    let done = world.exodrive_prints(&["audit", "approve", id, "--single-handed", "--json"]).await;
    serde_json::from_str(&done).unwrap()
}

#[tokio::test]
async fn an_erased_person_is_nowhere_to_be_found() {
    let world = World::with(&[("EXODRIVE_LOG", crate::telemetry::LOUD)]).await;
    let (own, other) = live(&world).await;
    world.settled().await;
    let own_booking = own["id"].as_str().unwrap();
    let before = others(&world, own_booking).await;
    assert!(before.keys().any(|key| key.starts_with("inbox")), "{before:?}");
    let found = traces(&world).await;
    assert!(found.iter().any(|trace| trace.starts_with("event")), "it can be found");
    assert!(found.iter().any(|trace| trace.starts_with("dump")), "{found:?}");
    assert!(found.iter().any(|trace| trace.starts_with("Redis")), "{found:?}");
    let in_files = |trace: &&String| trace.starts_with('/');
    assert_eq!(found.iter().filter(in_files).count(), 0, "the log is encrypted: {found:?}");
    let admin = world.admin();
    let booking = format!("/v1/bookings/{}", own["id"].as_str().unwrap());
    let mail = format!("/v1/inbox/{}", email(1));
    let tag = world.get(&mail).await.headers["etag"].clone();

    let dry_run =
        ["audit", "erase", "--email-address", ADDRESS, "--reason=x", "--dry-run", "--json"];
    let plan: Value = serde_json::from_str(&world.exodrive_prints(&dry_run).await).unwrap();
    assert_eq!(plan["emails"], 3);
    assert_eq!(plan["customers"].as_array().unwrap().len(), 1);
    assert_eq!(plan["events"], 9 + 1 + 4);
    assert_eq!(traces(&world).await, found, "a dry run changes nothing");

    let erased = erase(&world).await;
    assert_eq!((&erased["status"], &erased["events"]), (&json!("completed"), &json!(14)));
    world.settled().await;
    assert_eq!(traces(&world).await, Vec::<String>::new());
    let after = others(&world, own_booking).await;
    for (key, row) in &before {
        assert_eq!(after.get(key), Some(row), "{key}");
    }

    // The remaining data says that it is erased, and is true.
    let shown = world.get(&mail).await;
    assert_ne!(shown.headers["etag"], tag, "a client with the old answer gets the new one");
    let shown = shown.expect(200);
    assert_eq!((&shown["from"], &shown["subject"]), (&json!(ERASED), &json!(ERASED)));
    assert_eq!((&shown["status"], &shown["erased"]), (&json!("clicked"), &json!(true)));
    let conditional = world.request(reqwest::Method::GET, &mail).header("if-none-match", tag);
    let conditional = conditional.bearer_auth(world.token("auditor")).send().await.unwrap();
    assert_eq!(conditional.status(), 200);
    let shown = admin.get(&booking).await.expect(200);
    assert_eq!(shown["customer"]["email"], ERASED);
    assert_eq!(shown["status"], "cancelled");
    let deliveries = world.get(&format!("{mail}/deliveries")).await.expect(200);
    let position = &deliveries["data"][0]["position"];
    world.get(&format!("/v1/deliveries/{position}/raw")).await.problem(410, "erased");
    let other = format!("/v1/bookings/{}", other["id"].as_str().unwrap());
    assert_eq!(admin.get(&other).await.expect(200)["customer"]["email"], "ada@example.com");

    // Rebuilds and replays give the same rows.
    world.views_equal_a_fresh_fold().await;
    let verified = world.exodrive(&["projections", "verify", "--all"]).await;
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    for view in ["inbox", "customers", "bookings"] {
        let args = ["projections", "rebuild", view, "--reason=after an erasure"];
        world.exodrive_prints(&args).await;
    }
    assert_eq!(traces(&world).await, Vec::<String>::new());
    world.views_equal_a_fresh_fold().await;

    // Late events about an erased email are erased as they come; the person may come back as a
    // customer, with a new key.
    world.stored(&delivery("own-late", "complained", &email(2), ADDRESS, "")).await;
    world.settled().await;
    assert_eq!(traces(&world).await, Vec::<String>::new());
    let shown = world.get(&format!("/v1/inbox/{}", email(2))).await.expect(200);
    assert_eq!((&shown["status"], &shown["subject"]), (&json!("complained"), &json!(ERASED)));
    let car = admin.get("/v1/cars").await.expect(200)["data"][0]["id"].clone();
    let mut body = booking_body(car.as_str().unwrap(), day(20), day(21));
    body["customer"]["email"] = json!(ADDRESS);
    let again = world.visitor().post_as(&key(), "/v1/bookings", &body).await.expect(201);
    world.settled().await;
    let shown = admin.get(&format!("/v1/bookings/{}", again["id"].as_str().unwrap())).await;
    assert_eq!(shown.expect(200)["customer"]["email"], ADDRESS);
    assert_eq!(admin.get(&booking).await.expect(200)["customer"]["email"], ERASED);
    erase(&world).await;
    world.settled().await;
    assert_eq!(traces(&world).await, Vec::<String>::new());
    world.views_equal_a_fresh_fold().await;
}

#[tokio::test]
async fn a_hold_forbids_an_erasure_and_no_operator_approves_their_own_request() {
    let world = InProcess::start().await;
    world.stored(&delivery("own", "sent", &email(1), ADDRESS, "")).await;
    let hold = ["audit", "hold", "--email-address", ADDRESS, "--reason=case 12"];
    let erase = ["audit", "erase", "--email-address", ADDRESS, "--reason=asked"];
    world.exodrive_prints(&hold).await;
    let refused = world.exodrive(&erase).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("case 12"));
    world.exodrive_prints(&[&hold[..], &["--lift"]].concat()).await;

    let (ann, ben) = (world.token_of("ann", "operator"), world.token_of("ben", "operator"));
    let post = async |token: &str, path: &str, body: &Value| {
        let request = world.request(reqwest::Method::POST, path).bearer_auth(token).json(body);
        exodrive_tests::Answer::of(request).await.unwrap()
    };
    let request = json!({"email_address": ADDRESS, "reason": "asked"});
    let asked = post(&ann, "/v1/operator/erasures", &request).await.expect(202);
    let path = format!("/v1/operator/erasures/{}", asked["id"].as_str().unwrap());
    let approve = format!("{path}/approve");
    post(&ann, &approve, &json!({})).await.problem(409, "operation_rejected");
    let auditor = world.token("auditor");
    post(&auditor, &approve, &json!({})).await.problem(403, "forbidden");
    // A hold that comes in between still forbids it.
    let held = json!({"email_address": ADDRESS, "reason": "case 13"});
    post(&ben, "/v1/operator/holds", &held).await.expect(200);
    post(&ben, &approve, &json!({})).await.problem(409, "operation_rejected");
    let lifted = json!({"email_address": ADDRESS, "reason": "closed", "held": false});
    post(&ben, "/v1/operator/holds", &lifted).await.expect(200);
    post(&ben, &approve, &json!({})).await.expect(200);
    let done = eventually("it is executed", async || {
        let now = world.get_as("operator", &path).await.expect(200);
        (now["status"] == "completed").then_some(now)
    })
    .await;
    assert_eq!(
        (&done["requested_by"], &done["approved_by"]),
        (&json!("operator:ann"), &json!("operator:ben"))
    );
    assert_eq!(done["reason"], "asked");
    let text = world.get_as("operator", "/v1/operator/erasures").await.expect(200).to_string();
    assert!(!text.contains(CANARY));
    post(&ben, &format!("{path}/cancel"), &json!({"reason": "no"}))
        .await
        .problem(409, "operation_rejected");
}

#[tokio::test]
async fn another_worker_finishes_the_erasure_of_one_that_dies() {
    let world = World::start().await;
    live(&world).await;
    world.settled().await;
    let asked = ["audit", "erase", "--email-address", ADDRESS, "--reason=asked", "--json"];
    let asked: Value = serde_json::from_str(&world.exodrive_prints(&asked).await).unwrap();
    let id = asked["id"].as_str().unwrap().to_owned();
    world.exodrive_prints(&["audit", "approve", &id, "--single-handed", "--no-wait"]).await;
    let status = async || {
        let path = format!("/v1/operator/erasures/{id}");
        world.get_as("operator", &path).await.expect(200)["status"].clone()
    };
    eventually("it begins", async || (status().await == "started").then_some(())).await;
    world.kill(WORKER);
    world.start_worker(WORKER);
    eventually("another worker continues", async || (status().await == "completed").then_some(()))
        .await;
    world.settled().await;
    assert_eq!(traces(&world).await, Vec::<String>::new());
    world.views_equal_a_fresh_fold().await;
}

#[tokio::test]
async fn a_missing_key_halts_and_an_unreachable_store_is_retried() {
    let world = World::start().await;
    world.stored(&delivery("m1", "sent", &email(1), "bo@example.com", "")).await;
    world.settled().await;
    // Unreachable: nothing is lost, nothing counts as erased.
    world.services.signal(Service::Nats, Signal::SIGSTOP).unwrap();
    let late = delivery("m2", "delivered", &email(2), "bo@example.com", "");
    assert_eq!(world.post(&late).await.status, 503);
    world.services.signal(Service::Nats, Signal::SIGCONT).unwrap();
    world.post_until_taken(&late).await;
    world.settled().await;
    let shown = world.get(&format!("/v1/inbox/{}", email(2))).await.expect(200);
    assert_eq!(shown["subject"], "Your booking");

    // Missing without a tombstone: the key was removed by other means.
    let client = world.jetstream().await;
    let keys = client.get_stream("EXODRIVE_KEYS").await.unwrap();
    let name = format!("exo-keys.email.{}", email(1));
    let stored = keys.get_last_raw_message_by_subject(&name).await.unwrap();
    keys.delete_message(stored.sequence).await.unwrap();
    tokio::time::sleep(exodrive_log::KEY_CACHE).await;
    let replay = world.exodrive(&["replay", "email", &email(1)]).await;
    assert_eq!(replay.status.code(), Some(1));
    let error = String::from_utf8_lossy(&replay.stderr).into_owned();
    assert!(error.contains("is missing, and was not erased"), "{error}");
    // A rebuild stops there and shows no row as erased.
    let position = world.stored(&delivery("m3", "sent", &email(3), "bo@example.com", "")).await;
    world.settled().await;
    assert!(position > 0);
    let args = ["projections", "rebuild", "inbox", "--reason=x", "--no-wait"];
    world.exodrive_prints(&args).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let shown = world.get(&format!("/v1/inbox/{}", email(1))).await.expect(200);
    assert_eq!(shown["subject"], "Your booking", "the live row is unchanged");
    assert!(world.printed(WORKER).contains("is missing, and was not erased"));
    // After the key is restored, it continues.
    client.publish(name, stored.payload).await.unwrap().await.unwrap();
    eventually("the rebuild continues", async || {
        let sql = "select count(*) from rebuilds where state = 'done'";
        let done: i64 = sqlx::query(sql).fetch_one(world.database()).await.unwrap().get(0);
        (done == 1).then_some(())
    })
    .await;
    world.views_equal_a_fresh_fold().await;
}

#[tokio::test]
async fn a_destroyed_key_is_overwritten_on_disk_and_restored_backups_are_erased_again() {
    let world = World::start().await;
    live(&world).await;
    world.settled().await;
    let client = world.jetstream().await;
    let keys = client.get_stream("EXODRIVE_KEYS").await.unwrap();
    let name = format!("exo-keys.email.{}", email(1));
    let stored = keys.get_last_raw_message_by_subject(&name).await.unwrap();
    let on_disk = || {
        let held = |file: &PathBuf| {
            let bytes = fs::read(file).unwrap_or_default();
            bytes.windows(stored.payload.len()).any(|window| window == stored.payload)
        };
        files(&world.data_dir().join("nats")).iter().any(held)
    };
    eventually("the key is on disk", async || on_disk().then_some(())).await;
    let dump = std::process::Command::new("pg_dump")
        .args(["--clean", "--if-exists"])
        .arg(world.superuser())
        .output()
        .unwrap();
    assert!(dump.status.success());
    erase(&world).await;
    assert!(!on_disk(), "the wrapped key is overwritten, not only unlinked");
    assert_eq!(traces(&world).await, Vec::<String>::new());

    // The key store and the database come back from backups made before.
    world.kill(WORKER);
    world.kill(API);
    client.publish(name.clone(), stored.payload.clone()).await.unwrap().await.unwrap();
    let mut restore = std::process::Command::new("psql");
    restore.args(["--quiet", "--no-psqlrc"]).arg(world.superuser());
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &dump.stdout).unwrap();
    let restored = restore.arg("--file").arg(file.path()).output().unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    assert!(!traces(&world).await.is_empty(), "the person is back");
    world.start_api();
    let path = format!("/v1/inbox/{}", email(1));
    let shut = eventually("the API answers", async || {
        let request =
            world.request(reqwest::Method::GET, &path).bearer_auth(world.token("auditor"));
        exodrive_tests::Answer::of(request).await.ok()
    })
    .await;
    shut.problem(503, "view_unavailable");
    let taken = world.post(&delivery("m9", "sent", &email(9), "bo@example.com", "")).await;
    assert_eq!(taken.status, 200, "webhooks are accepted");
    world.start_worker(WORKER);
    // Keys are destroyed again, and every process forgets its copies first.
    let mut shown = world.get(&path).await;
    for _ in 0..600 {
        if shown.status == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        shown = world.get(&path).await;
    }
    assert_eq!(shown.status, 200, "{}\n{}", world.printed(WORKER), world.printed(API));
    let shown = shown.json();
    assert_eq!(shown["subject"], ERASED);
    world.settled().await;
    assert_eq!(traces(&world).await, Vec::<String>::new());
}

/// Requests the erasure of a person; returns its id.
async fn requested(world: &System, address: &str) -> String {
    let asked = ["audit", "erase", "--email-address", address, "--reason=asked", "--json"];
    let asked: Value = serde_json::from_str(&world.exodrive_prints(&asked).await).unwrap();
    asked["id"].as_str().unwrap().to_owned()
}

/// Requests the erasure of a person and approves it; returns its id.
async fn approved(world: &System, address: &str) -> String {
    let id = requested(world, address).await;
    world.exodrive_prints(&["audit", "approve", &id, "--single-handed", "--no-wait"]).await;
    id
}

async fn status_of(world: &System, id: &str) -> String {
    let path = format!("/v1/operator/erasures/{id}");
    let shown = world.get_as("operator", &path).await.expect(200);
    shown["status"].as_str().unwrap().to_owned()
}

async fn until_status(world: &System, id: &str, expected: &str) {
    eventually(&format!("the erasure is {expected}"), async || {
        let status = status_of(world, id).await;
        if status == expected { Ok(()) } else { Err(status) }
    })
    .await;
}

/// Waits until the worker says that it fails, and why.
async fn until_it_fails_with(world: &System, texts: &[&str]) {
    eventually("the worker says what keeps it", async || {
        let shown = world.exodrive(&["workers", "status", "erasure", "--json"]).await.stdout;
        let shown: Value = serde_json::from_slice(&shown).map_err(|error| error.to_string())?;
        let error = shown[0]["last_error"].as_str().unwrap_or_default();
        let says = shown[0]["state"] == "failing" && texts.iter().all(|text| error.contains(text));
        if says { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
}

async fn execute(world: &System, sql: &str) {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    sqlx::query(sql).execute(world.database()).await.unwrap();
}

#[tokio::test]
async fn a_person_is_erased_whatever_the_views_have_of_them_and_of_others() {
    let world = InProcess::start().await;
    let people = ["parked@example.com", "missing@example.com", "stuck@example.com"];
    // Postgres takes no row of the first person.
    let odd = "alter table bookings_g1.bookings add constraint";
    let refuse = format!("{odd} odd check (data -> 'customer' ->> 'email' <> '{}')", people[0]);
    execute(&world, &refuse).await;
    let car = world.admin().add_car("one", 10_000).await;
    let mut bookings = Vec::new();
    for (n, address) in people.iter().enumerate() {
        let first = i64::try_from(n).unwrap() * 3;
        let mut body = booking_body(&car, day(first), day(first));
        body["customer"]["email"] = json!(address);
        let made = world.visitor().post_as(&key(), "/v1/bookings", &body).await.expect(201);
        bookings.push(made["id"].as_str().unwrap().to_owned());
    }
    world.settled().await;
    let rows = world.rows("bookings").await;
    assert!(!rows.contains_key(&bookings[0]), "its row is parked");
    // The second person's rows are lost, and the third one's cannot be changed.
    for view in ["bookings", "customers"] {
        let lose = format!("delete from {view}_g1.{view} where data::text like '%{}%'", people[1]);
        execute(&world, &lose).await;
    }
    let stuck = format!("{odd} stuck check (key <> '{}') not valid", bookings[2]);
    execute(&world, &stuck).await;

    let stuck = approved(&world, people[2]).await;
    until_status(&world, &stuck, "started").await;
    let parked = approved(&world, people[0]).await;
    until_it_fails_with(&world, &["bookings", "Postgres rejected the row's value"]).await;
    let missing = approved(&world, people[1]).await;
    until_status(&world, &parked, "completed").await;
    until_status(&world, &missing, "completed").await;
    assert_eq!(status_of(&world, &stuck).await, "started");

    execute(&world, "alter table bookings_g1.bookings drop constraint stuck").await;
    until_status(&world, &stuck, "completed").await;
    // What Postgres refused is erased: the event is folded when it is tried again.
    eventually("the parked row is folded", async || {
        world.rows("bookings").await.contains_key(&bookings[0]).then_some(())
    })
    .await;
    let events = world.rows_equal_a_fresh_fold().await;
    let mut texts: Vec<_> =
        events.iter().map(|event| String::from_utf8_lossy(&event.body).into_owned()).collect();
    for view in names() {
        texts.extend(world.rows(view).await.into_iter().map(|row| format!("{row:?}")));
    }
    for address in people {
        let found: Vec<_> = texts.iter().filter(|text| text.contains(address)).collect();
        assert!(found.is_empty(), "{found:?}");
    }
}

#[tokio::test]
async fn no_erasure_passes_an_event_of_a_newer_release_about_the_person() {
    let world = InProcess::start().await;
    world.stored(&delivery("own", "sent", &email(1), ADDRESS, "")).await;
    let car = world.admin().add_car("one", 10_000).await;
    let body = json!({"customer_id": "0190a0b1-0000-7000-8000-000000000001", "reason": ADDRESS});
    let newer = NewEvent {
        subject: Subject::Booking(car.parse().unwrap()),
        envelope: Envelope::decision("exodrive.booking.lent_out", key(), chrono::Utc::now()),
        provider_headers: Vec::new(),
        body: serde_json::to_vec(&body).unwrap().into(),
    };
    let id = requested(&world, ADDRESS).await;
    world.log().await.append_decision(&newer, 0).await.unwrap();
    let plan = ["audit", "erase", "--email-address", ADDRESS, "--reason=x", "--dry-run"];
    assert_eq!(world.exodrive(&plan).await.status.code(), Some(1));
    world.exodrive_prints(&["audit", "approve", &id, "--single-handed", "--no-wait"]).await;
    until_it_fails_with(&world, &["newer release", "exodrive.booking.lent_out"]).await;
    assert_eq!(status_of(&world, &id).await, "approved", "a newer release carries it out");
    let other = "bo@example.com";
    world.stored(&delivery("other", "sent", &email(2), other, "")).await;
    let other = approved(&world, other).await;
    until_status(&world, &other, "completed").await;
}
