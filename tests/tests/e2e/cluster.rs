//! Three nats-servers, each with a copy of the log: any one of them may be away.

use exodrive_runtime::services::{NatsNode, Signal};
use exodrive_tests::{
    API, Answer, Delivery, Ledger, Namespaces, Network, WAIT_TIMEOUT, WORKER, World, email_body,
    eventually, within,
};
use futures::future::join_all;
use std::time::{Duration, Instant};

const POSTERS: usize = 4;
const BODY: usize = 2_000;
/// Deliveries that are accepted again before the next fault.
const FLOW: usize = 40;
const NODES: [u16; 3] = [1, 2, 3];

/// Leaders that are killed one after the other: more under `make chaos`.
fn kills() -> usize {
    if std::env::var_os("EXODRIVE_CHAOS").is_some() { 5 } else { 2 }
}

/// The server that leads the log's stream.
async fn leader(world: &World) -> NatsNode<'_> {
    world.services.nats_node(leads(world).await).unwrap()
}

/// Its number.
async fn leads(world: &World) -> u16 {
    let jetstream = world.jetstream().await;
    let name = eventually("the log has a leader", async || {
        let stream = jetstream.get_stream("EXODRIVE").await.map_err(|error| error.to_string())?;
        let cluster = stream.cached_info().cluster.as_ref();
        cluster.and_then(|it| it.leader.clone()).ok_or_else(|| "there is none".to_owned())
    })
    .await;
    name.rsplit('-').next().unwrap().parse().unwrap()
}

/// The server that the process of this NATS user is connected to, by what the servers say.
async fn serves(world: &World, user: &str) -> u16 {
    let monitors = world.urls().nats_monitor.clone().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (number, url) in NODES.into_iter().zip(monitors.split(',')) {
        let answer = client.get(format!("{url}/connz?auth=1")).send().await.unwrap();
        let connections: serde_json::Value = answer.json().await.unwrap();
        let mut connections = connections["connections"].as_array().unwrap().iter();
        if connections.any(|it| it["authorized_user"] == user) {
            return number;
        }
    }
    panic!("{user} is connected to no server");
}

/// Waits until every view has so many events, by what the database says: the log may not be asked.
async fn follows(world: &World, events: usize) {
    let reached = "select min(position) from checkpoints
                   join projections on name = projection and generation = active_generation";
    eventually("the views have what was acknowledged", async || {
        let reached: i64 = sqlx::query_scalar(reached)
            .fetch_one(world.database())
            .await
            .map_err(|error| error.to_string())?;
        let all = usize::try_from(reached).unwrap() >= events;
        all.then_some(()).ok_or_else(|| format!("{reached} of {events}"))
    })
    .await;
}

/// Nobody has ended or halted, and no line says that events are missing.
async fn is_calm(world: &World) {
    let ready = world.wait_until("ready").await;
    assert_eq!(ready["checks"]["seals"]["ok"], true, "{ready}");
    for process in [API, WORKER] {
        assert!(world.runs(process), "{process} has ended");
        let printed = world.printed(process);
        let alarm = |line: &&str| {
            ["deleted", "halted", "has lost events", "is missing"]
                .iter()
                .any(|it| line.contains(it))
        };
        assert_eq!(printed.lines().find(alarm), None, "{process}");
    }
}

#[tokio::test]
async fn leaders_die_hang_and_are_restarted_and_nothing_acknowledged_is_lost() {
    let world = World::clustered().await;
    let ledger = Ledger::of(BODY);
    let posters = join_all((0..POSTERS).map(|_| ledger.post(&world)));
    let gap = |what: &str, began: Instant| {
        println!("{what}: no acknowledgement for {:.1?}", ledger.gap_since(began));
    };
    let faults = async {
        ledger.flows(FLOW).await;
        for n in 1..=kills() {
            let (leader, began) = (leader(&world).await, Instant::now());
            leader.kill();
            ledger.flows(FLOW).await;
            gap(&format!("leader killed, {n}"), began);
            leader.start().await.unwrap();
        }
        let (hung, began) = (leader(&world).await, Instant::now());
        hung.signal(Signal::SIGSTOP).unwrap();
        ledger.flows(FLOW).await;
        gap("leader hangs", began);
        hung.signal(Signal::SIGCONT).unwrap();
        hung.wait_until_ready().await.unwrap();
        ledger.flows(FLOW).await;
        let began = Instant::now();
        for number in NODES {
            let node = world.services.nats_node(number).unwrap();
            node.stop().await;
            ledger.flows(FLOW).await;
            node.start().await.unwrap();
        }
        ledger.flows(FLOW).await;
        gap("each restarted in turn", began);
        ledger.end();
    };
    tokio::join!(posters, faults);
    let outcome = ledger.outcome(&world).await;
    println!("{outcome:?}");
    outcome.is_clean();
    is_calm(&world).await;
}

#[tokio::test]
async fn without_most_of_its_servers_the_log_acknowledges_nothing_and_readiness_says_so() {
    let world = World::clustered().await;
    let delivery = |n: u32| {
        let body = email_body("sent", &format!("em-{n}"), "2026-11-20T09:00:00Z", "");
        Delivery::new(format!("msg_{n}"), body)
    };
    world.stored(&delivery(1)).await;
    let [first, second] = [1, 2].map(|number| world.services.nats_node(number).unwrap());
    first.kill();
    second.kill();
    world.wait_until("not_ready").await;
    for _ in 0..4 {
        let answer = Answer::of(world.delivery(&delivery(2))).await.unwrap();
        assert!(answer.took < Duration::from_secs(5), "{:?}", answer.took);
        answer.problem(503, "log_unavailable");
    }
    let (one, other) = tokio::join!(first.start(), second.start());
    one.unwrap();
    other.unwrap();
    world.post_until_taken(&delivery(2)).await;
    world.stored(&delivery(3)).await;
    let events = world.views_equal_a_fresh_fold().await;
    let ids: Vec<_> = events.iter().map(|event| event.envelope.id.as_str()).collect();
    assert_eq!(ids, ["msg_1", "msg_2", "msg_3"]);
    is_calm(&world).await;
}

#[tokio::test]
async fn while_the_log_has_no_leader_readiness_says_so() {
    let world = World::clustered().await;
    let jetstream = world.jetstream().await;
    let lead = async |stream: &str| {
        let info = jetstream.get_stream(stream).await.map_err(|error| error.to_string())?;
        let leader = info.cached_info().cluster.as_ref().and_then(|it| it.leader.clone());
        leader.ok_or_else(|| format!("nobody leads {stream}"))
    };
    // Every other part of readiness goes on without the server that leads the log.
    let api = format!("exodrive-{}", serves(&world, "exodrive-api").await);
    let leader = within(2 * WAIT_TIMEOUT, "the log is led by a server of its own", async || {
        let (log, canary) = (lead("EXODRIVE").await?, lead("EXODRIVE_CANARY").await?);
        if log != canary && log != api {
            return Ok(log);
        }
        let step_down = "STREAM.LEADER.STEPDOWN.EXODRIVE";
        let _: Result<serde_json::Value, _> = jetstream.request(step_down, &()).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        Err(format!("the log is led by {log}, the canary by {canary}, and {api} serves the API"))
    })
    .await;
    world.wait_until("ready").await;
    let number: u16 = leader.rsplit('-').next().unwrap().parse().unwrap();
    world.services.nats_node(number).unwrap().kill();
    let unready = world.wait_until("not_ready").await;
    assert_eq!(
        unready["checks"]["log"]["problem"], "its stream has no leader, or does not answer",
        "{unready}"
    );
    world.wait_until("ready").await;
    let body = email_body("sent", "em-1", "2026-11-20T09:00:00Z", "");
    world.stored(&Delivery::new("msg_1", body)).await;
}

#[tokio::test]
async fn a_server_that_is_cut_off_holds_up_nobody() {
    let namespaces = match Namespaces::make() {
        Ok(namespaces) => namespaces,
        Err(why) => {
            println!("skipped: network namespaces cannot be made here: {why}");
            return;
        }
    };
    let world = World::clustered_at(namespaces.places()).await;
    let ledger = Ledger::of(BODY);
    let posters = join_all((0..POSTERS).map(|_| ledger.post(&world)));
    let faults = async {
        ledger.flows(FLOW).await;
        for cut_off in ["exodrive-api", "exodrive-worker", "the leader"] {
            // Clients that still reach it get answers to their pings.
            let (number, networks) = match cut_off {
                "the leader" => (leads(&world).await, &[Network::Servers, Network::Clients][..]),
                user => (serves(&world, user).await, &[Network::Servers][..]),
            };
            let (machine, began) = (u8::try_from(number).unwrap(), Instant::now());
            networks.iter().for_each(|network| namespaces.cut_off(machine, *network, true));
            ledger.flows(FLOW).await;
            let gap = ledger.gap_since(began);
            println!("server of {cut_off} cut off: no acknowledgement for {gap:.1?}");
            // The views go on too, also of a worker that was connected to it.
            follows(&world, ledger.acknowledged()).await;
            networks.iter().for_each(|network| namespaces.cut_off(machine, *network, false));
            world.services.nats_node(number).unwrap().wait_until_ready().await.unwrap();
            ledger.flows(FLOW).await;
        }
        ledger.end();
    };
    tokio::join!(posters, faults);
    let outcome = ledger.outcome(&world).await;
    println!("{outcome:?}");
    outcome.is_clean();
    is_calm(&world).await;
}
