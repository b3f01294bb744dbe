//! `exodrive workers`: status of the background workers.

use exodrive_runtime::services::{Service, Signal};
use exodrive_tests::{WORKER, World, eventually};
use exodrive_workers::WORKERS;
use serde_json::Value;

async fn status(world: &World, worker: &str) -> Vec<Value> {
    let printed = world.exodrive(&["workers", "status", worker, "--json"]).await.stdout;
    serde_json::from_slice(&printed).unwrap()
}

#[tokio::test]
async fn every_worker_is_listed_with_its_last_step_and_its_next() {
    let world = World::start().await;
    let printed = world.exodrive_prints(&["workers", "list", "--json"]).await;
    let listed: Vec<Value> = serde_json::from_str(&printed).unwrap();
    assert_eq!(listed.len(), WORKERS.len());
    for (listed, worker) in listed.iter().zip(WORKERS) {
        assert_eq!(listed["name"], worker.name);
        assert_eq!(listed["about"], worker.about);
        assert_eq!(listed["running"], true, "{listed}");
        assert_eq!(listed["processes"], 1, "{listed}");
        assert_eq!(listed["failures"], 0, "{listed}");
        assert_eq!(listed["state"], "waiting", "{listed}");
        assert!(listed["last_step_at"].is_string(), "{listed}");
        assert!(listed["next_step_at"].is_string(), "{listed}");
    }
    let table = world.exodrive_prints(&["workers", "list"]).await;
    for worker in WORKERS {
        assert!(table.contains(worker.name), "{table}");
    }

    // A second process shares the work; when it ends, only the first is left.
    world.start_worker("second");
    eventually("both processes run the sealer", async || {
        let of = status(&world, "sealing").await;
        (of.iter().filter(|it| it["running"] == true).count() == 2).then_some(())
    })
    .await;
    world.signal("second", Signal::SIGTERM);
    eventually("one process has stopped", async || {
        let of = status(&world, "sealing").await;
        let stopped = of.iter().any(|it| it["state"] == "stopped" && it["running"] == false);
        stopped.then_some(())
    })
    .await;
    assert!(world.ended("second").await.success());
}

#[tokio::test]
async fn a_worker_whose_steps_fail_says_why_and_works_again_afterwards() {
    let world = World::start().await;
    world.services.signal(Service::Nats, Signal::SIGSTOP).unwrap();
    let failing = eventually("operators' events cannot be read", async || {
        let of = status(&world, "operations").await;
        of.into_iter().find(|it| it["state"] == "failing")
    })
    .await;
    assert!(failing["failures"].as_u64().unwrap() >= 1, "{failing}");
    assert!(failing["last_error"].as_str().is_some_and(|it| !it.is_empty()), "{failing}");
    assert!(failing["next_step_at"].is_string(), "{failing}");

    world.services.signal(Service::Nats, Signal::SIGCONT).unwrap();
    let again = eventually("its steps succeed again", async || {
        let of = status(&world, "operations").await;
        of.into_iter().find(|it| it["state"] == "waiting" && it["failures"] == 0)
    })
    .await;
    assert_eq!(again["last_error"], failing["last_error"], "the last error is remembered");
    assert!(world.printed(WORKER).contains("The worker works again"));
}
