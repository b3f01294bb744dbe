//! The users of Redis: none may do more than its process needs.

use crate::in_process::InProcess;
use exodrive_tests::{Delivery, World, day, email_body};
use redis::{Cmd, ErrorKind, ServerErrorKind, aio::MultiplexedConnection};
use serde_json::json;
use std::collections::BTreeMap;

async fn connect(url: &str) -> MultiplexedConnection {
    redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// True if Redis refuses a command to this user.
async fn refused(connection: &MultiplexedConnection, words: &str) -> bool {
    let mut command = Cmd::new();
    for word in words.split(' ') {
        command.arg(word);
    }
    let outcome = command.query_async::<redis::Value>(&mut connection.clone()).await;
    outcome.is_err_and(|error| error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm))
}

#[tokio::test]
async fn the_api_and_the_worker_administer_nothing_and_touch_no_foreign_key() {
    let world = InProcess::start().await;
    let api = connect(&world.urls().redis).await;
    let worker = connect(&world.urls().redis_worker).await;
    for command in [
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "CONFIG GET maxmemory",
        "CONFIG SET maxmemory 1",
        "ACL LIST",
        "CLIENT LIST",
        "CLIENT KILL TYPE normal",
        "MONITOR",
        "SHUTDOWN NOSAVE",
        "REPLICAOF 127.0.0.1 1",
        "SCRIPT FLUSH",
        "SWAPDB 0 1",
        "GET other",
        "SET other x",
        "SUBSCRIBE other",
    ] {
        assert!(refused(&api, command).await, "the API may {command}");
        assert!(refused(&worker, command).await, "the worker may {command}");
    }
    for command in [
        "SET exo:view:inbox:1:em-1 forged",
        "DEL exo:view:inbox:1:em-1",
        "SET exo:generation:inbox:1 9",
        "PUBLISH exo:changes:0:inbox switched",
        "SCAN 0",
        "UNLINK exo:view:inbox:1:em-1",
    ] {
        assert!(refused(&api, command).await, "the API may {command}");
    }
    let mut script = redis::cmd("EVAL");
    script.arg("return redis.call('SET', 'exo:view:inbox:1:em-1', 'forged')").arg(0);
    let forged = script.query_async::<redis::Value>(&mut api.clone()).await;
    assert!(forged.is_err(), "nor by a script");
    for command in ["GET exo:view:inbox:1:em-1", "SET exo:state:x 1", "DEL exo:state:x"] {
        assert!(!refused(&api, command).await, "the API may not {command}");
    }
    for command in ["SCAN 0", "SET exo:view:inbox:1:x 1", "UNLINK exo:view:inbox:1:x"] {
        assert!(!refused(&worker, command).await, "the worker may not {command}");
    }
}

#[tokio::test]
async fn ordinary_work_meets_no_denial_of_redis() {
    let world = World::start().await;
    let body = email_body("sent", "em-1", "2026-11-20T09:00:00Z", "");
    world.stored(&Delivery::new("msg_1", body)).await;
    let admin = world.admin();
    let car = admin.add_car("one", 10_000).await;
    let booking = admin.booked(&car, day(0), day(1)).await;
    admin.act(&booking, "notes", json!({"text": "a note"})).await;
    world.settled().await;
    world.get("/v1/inbox/em-1").await.expect(200);
    for arguments in [
        &["projections", "rebuild", "inbox", "--reason", "a test"][..],
        &["projections", "verify", "--all"],
        &["projections", "rollback", "inbox", "--reason", "a test"],
        &["audit", "erase", "--email-address", "ada@example.com", "--reason", "a test"],
    ] {
        let done = world.exodrive(arguments).await;
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    let mut administrator = connect(world.redis()).await;
    let denied: Vec<BTreeMap<String, redis::Value>> =
        redis::cmd("ACL").arg("LOG").query_async(&mut administrator).await.unwrap();
    // A client says what it is called, which servers of this version do not know.
    let named = |entry: &BTreeMap<String, redis::Value>| format!("{:?}", entry.get("object"));
    let denied: Vec<_> =
        denied.iter().map(named).filter(|object| !object.contains("client")).collect();
    assert_eq!(denied, Vec::<String>::new());
}
