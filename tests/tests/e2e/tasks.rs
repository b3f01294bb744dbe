//! A background task that panics ends its process: the log names the task, and
//! the exit code is not 0. Meanwhile `/readyz` and a metric name it.

use exodrive_tests::{API, Answer, WORKER, World, eventually};
use exodrive_workers::WORKERS;
use futures::future::join_all;
use reqwest::Method;

/// Variable that names a task which must panic (see `exodrive_runtime::tasks`).
const DRILL: &str = "EXODRIVE_PANIC_DRILL";

/// True if the process has logged that this task has ended it.
fn names_the_end(printed: &str, task: &str) -> bool {
    let end = format!("The background task `{task}` panicked");
    printed.lines().any(|line| line.contains(&end) && line.contains("ERROR"))
}

async fn ends_badly(world: &World, process: &str, task: &str) {
    let status = world.ended(process).await;
    assert_eq!(status.code(), Some(1), "{process}: {}", world.printed(process));
    assert!(names_the_end(&world.printed(process), task), "{}", world.printed(process));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_task_of_the_api_ends_its_process_and_readiness_names_it() {
    let world = World::start().await;
    let tasks = [
        "metrics",
        "log-store",
        "view-cache-inbox",
        "view-cache-cars",
        "view-cache-calendar",
        "blocked-keys",
        "erasure-gate",
        "credentials",
        "access-log",
    ];
    join_all(tasks.map(async |task| {
        let process = format!("api-{task}");
        world.start_with(&process, API, &[(DRILL, task)]);
        let readiness = eventually(&format!("readiness names {task}"), async || {
            let request = world.request_to(&process, Method::GET, "/readyz");
            let answer = Answer::of(request).await.ok()?;
            let readiness = answer.json();
            let problem = readiness["checks"]["tasks"]["problem"].as_str()?;
            problem.contains(task).then(|| (answer.status, readiness.clone()))
        })
        .await;
        assert_eq!(readiness.0, 503, "{}", readiness.1);
        assert_eq!(readiness.1["status"], "not_ready");
        if task != "metrics" {
            let metric = format!("exodrive_task_ended_total{{task=\"{task}\"}} 1");
            let metrics = world.metrics(&process).await;
            assert!(metrics.lines().any(|line| line == metric), "{metrics}");
        }
        ends_badly(&world, &process, task).await;
    }))
    .await;
    let readiness = world.wait_until("ready").await;
    assert_eq!(readiness["checks"]["tasks"]["ok"], true, "another process goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_task_of_a_worker_process_ends_it_and_readiness_names_the_worker() {
    let world = World::without_processes(&[]).await;
    world.migrate().await;
    world.start_api();
    let workers = WORKERS.iter().map(|worker| worker.name);
    let tasks: Vec<_> = workers.chain(["metrics", "projections", "worker-status"]).collect();
    join_all(tasks.iter().map(async |task| {
        let process = format!("worker-{task}");
        world.start_with(&process, WORKER, &[(DRILL, task)]);
        ends_badly(&world, &process, task).await;
    }))
    .await;

    let readiness = eventually("readiness names each worker", async || {
        let answer = Answer::of(world.request(Method::GET, "/readyz")).await.ok()?.json();
        let checks = answer["checks"]["workers"].as_array()?.clone();
        let named = |check: &&serde_json::Value| {
            check["ok"] == false
                && check["problem"].as_str().is_some_and(|it| it.contains("has panicked"))
        };
        (checks.iter().filter(named).count() == WORKERS.len()).then_some(checks)
    })
    .await;
    for (check, worker) in readiness.iter().zip(WORKERS) {
        assert_eq!(check["name"], worker.name);
    }
    let listed = world.exodrive(&["workers", "list", "--json"]).await;
    assert_eq!(listed.status.code(), Some(1), "a worker that runs nowhere fails the command");

    world.start_worker(WORKER);
    let ready = world.wait_until("ready").await;
    assert!(ready["checks"]["workers"].as_array().unwrap().iter().all(|it| it["ok"] == true));
}
