//! The command path: a decision is based on the log, whatever is cached of a state and whatever
//! other processes decide at the same time.

use crate::{
    append::{decision, log_of},
    in_process::take_system,
};
use exodrive_domain::{Envelope, KnownEvent, Subject, WEBHOOK_RECEIVED};
use exodrive_log::{
    AppendError, ClaimError, CommandError, Commands, DecisionState, Log, NewEvent, redis::Redis,
};
use exodrive_runtime::services::{Options, PrivateServices, Service, ServiceUrls, Signal};
use exodrive_tests::eventually;
use futures::future::join_all;
use redis::Cmd;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// Servers that the test signals, and their log.
async fn start() -> (PrivateServices, Log, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let services = PrivateServices::start(Options {
        // With an address of its own, the service is not started.
        database: Some("unused://".to_owned()),
        ..Options::for_tests(folder.path().join("data"))
    })
    .await
    .unwrap();
    let log = log_of(services.urls(), ACK_TIMEOUT).await;
    (services, log, folder)
}

/// A purse: each event's body is an amount that comes in, or goes out if negative.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Purse {
    balance: i64,
    events: usize,
}

impl DecisionState for Purse {
    const NAME: &'static str = "test-purse";
    const VERSION: u32 = 3;

    fn evolve(&mut self, event: &KnownEvent<'_>) {
        let amount: i64 = serde_json::from_slice(&event.event().recorded.body).unwrap();
        self.balance += amount;
        self.events += 1;
    }
}

#[derive(Debug, PartialEq)]
struct TooLittle;

fn purse(name: &str) -> Subject {
    Subject::Email(name.parse().unwrap())
}

/// A command appends only what its own release can read.
fn known(body: String, event: NewEvent) -> NewEvent {
    let envelope = Envelope { kind: WEBHOOK_RECEIVED.to_owned(), ..event.envelope };
    NewEvent { body: body.into(), envelope, ..event }
}

fn change(name: &str, id: &str, amount: i64) -> NewEvent {
    known(amount.to_string(), decision(name, id))
}

/// Takes one out of a purse that is not empty.
fn take<'a>(name: &'a str, id: &'a str) -> impl FnMut(&Purse) -> Result<NewEvent, TooLittle> + 'a {
    move |purse| if purse.balance > 0 { Ok(change(name, id, -1)) } else { Err(TooLittle) }
}

async fn put(commands: &Commands, name: &str, id: &str, amount: i64) -> u64 {
    let decide = |_: &Purse| Ok::<_, Infallible>(change(name, id, amount));
    commands.execute(&purse(name), decide).await.unwrap().position
}

/// Each represents a process.
fn process(urls: &ServiceUrls, log: &Log) -> Commands {
    let redis = Redis::new(&urls.redis).unwrap();
    Commands::new(log.clone(), Some(redis))
}

fn without_redis(log: &Log) -> Commands {
    Commands::new(log.clone(), None)
}

async fn contend(log: &Log, processes: &[Commands]) {
    put(&processes[0], "p", "start", 100).await;
    let ids: Vec<_> = (0..200).map(|n| format!("take-{n}")).collect();
    let subject = purse("p");
    let attempts = ids.iter().enumerate().map(|(n, id)| {
        let commands = &processes[n % processes.len()];
        let subject = &subject;
        async move { (id.clone(), commands.execute(subject, take("p", id)).await) }
    });
    let mut accepted = BTreeSet::new();
    let mut refused = 0;
    for (id, outcome) in join_all(attempts).await {
        match outcome {
            Ok(executed) => assert!(accepted.insert((executed.position, id))),
            Err(CommandError::Rejected(TooLittle)) => refused += 1,
            Err(error) => panic!("{id}: {error:?}"),
        }
    }
    assert_eq!((accepted.len(), refused), (100, 100));
    let stored = log.history(&subject).await.unwrap();
    let stored: BTreeSet<_> =
        stored[1..].iter().map(|event| (event.position, event.envelope.id.clone())).collect();
    assert_eq!(stored, accepted);
    for commands in processes {
        let loaded = commands.load::<Purse>(&subject).await.unwrap();
        assert_eq!(*loaded.state, Purse { balance: 0, events: 101 });
        assert_eq!(loaded.position, log.last_position().await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn as_many_contenders_are_accepted_as_there_is_room_for() {
    let urls = take_system();
    let log = log_of(&urls, ACK_TIMEOUT).await;
    let processes: Vec<_> = (0..4).map(|_| process(&urls, &log)).collect();
    contend(&log, &processes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn contenders_need_no_redis() {
    let log = log_of(&take_system(), ACK_TIMEOUT).await;
    let processes: Vec<_> = (0..4).map(|_| without_redis(&log)).collect();
    contend(&log, &processes).await;
}

#[tokio::test]
async fn a_wrong_snapshot_never_leads_to_a_wrong_decision() {
    let urls = take_system();
    let log = log_of(&urls, ACK_TIMEOUT).await;
    let redis = Redis::new(&urls.redis).unwrap();
    let first = put(&process(&urls, &log), "p", "first", 1).await;
    let key = eventually("the snapshot is written", async || {
        let keys: Vec<String> =
            redis.query(Cmd::new().arg("KEYS").arg("exo:state:*")).await.ok()?;
        keys.into_iter().next()
    })
    .await;
    assert!(key.starts_with("exo:state:test-purse:v3:") && key.ends_with(":exo.email.p"), "{key}");
    let old: String = redis.query(&Cmd::get(&key)).await.unwrap();
    let [position, mac, sealed, json]: [&str; 4] =
        old.splitn(4, '\n').collect::<Vec<_>>().try_into().unwrap();
    assert_eq!([position, sealed], [first.to_string(), first.to_string()]);
    assert_eq!((mac.len(), json), (64, "{\"balance\":1,\"events\":1}"));
    // Whoever can write there keeps the MAC, and the position if it is to be the subject's last one.
    let rich = |position| format!("{position}\n{mac}\n{position}\n{{\"balance\":9,\"events\":9}}");
    let poor = |position| format!("{position}\n{mac}\n{position}\n{{\"balance\":0,\"events\":9}}");
    let (mut events, mut last) = (1, first);
    // The purse holds one before each round, and nothing after it.
    for (n, edited) in [
        old.clone(),
        String::new(),
        "rubbish".to_owned(),
        format!("{first}"),
        format!("{first}\n{{"),
        "999999999\n{\"other\":1}".to_owned(),
        "99999999999999999999999999\n{}".to_owned(),
        rich("1000000"),
        poor("1000000"),
        rich("LAST"),
        poor("LAST"),
        format!("LAST\n{mac}\n{first}\n{json}"),
        "LAST\n{\"balance\":9,\"events\":9}".to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        if n > 0 {
            last = put(&without_redis(&log), "p", &format!("put-{n}"), 1).await;
            events += 1;
        }
        let wrong = edited.replace("LAST", &last.to_string());
        let overwrite = Cmd::set(&key, &wrong);
        redis.query::<()>(&overwrite).await.unwrap();
        let loaded = process(&urls, &log).load::<Purse>(&purse("p")).await.unwrap();
        assert_eq!(*loaded.state, Purse { balance: 1, events }, "{wrong}");
        redis.query::<()>(&overwrite).await.unwrap();
        let id = format!("take-{n}");
        let taken = process(&urls, &log).execute(&purse("p"), take("p", &id)).await;
        events += 1;
        let taken = taken.unwrap_or_else(|error| panic!("{wrong}: {error:?}"));
        assert_eq!(*taken.state, Purse { balance: 0, events }, "{wrong}");
        let overwrite = Cmd::set(&key, edited.replace("LAST", &taken.position.to_string()));
        redis.query::<()>(&overwrite).await.unwrap();
        let again = process(&urls, &log).execute(&purse("p"), take("p", "never")).await;
        assert!(matches!(again, Err(CommandError::Rejected(TooLittle))), "{wrong}: {again:?}");
    }
    assert_eq!(log.history(&purse("p")).await.unwrap().len(), events);
}

#[tokio::test]
async fn a_decision_on_a_stale_state_is_corrected() {
    let log = log_of(&take_system(), ACK_TIMEOUT).await;
    let [one, other] = [without_redis(&log), without_redis(&log)];
    let asked = AtomicUsize::new(0);
    let counted = |id| {
        asked.store(0, Ordering::Relaxed);
        let (asked, mut decide) = (&asked, take("p", id));
        move |purse: &Purse| {
            asked.fetch_add(1, Ordering::Relaxed);
            decide(purse)
        }
    };
    one.load::<Purse>(&purse("p")).await.unwrap();
    put(&one, "p", "a", 0).await;
    put(&other, "p", "b", 1).await;
    // Its state of the purse is empty, but there is one in it.
    let taken = one.execute(&purse("p"), counted("c")).await.unwrap();
    assert_eq!(*taken.state, Purse { balance: 0, events: 3 });
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    // Its state of the purse has one, which is gone.
    let outcome = other.execute(&purse("p"), counted("d")).await;
    assert!(matches!(outcome, Err(CommandError::Rejected(TooLittle))), "{outcome:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert_eq!(log.last_position().await.unwrap(), 3);
}

/// Moves one from a purse that is not empty to another.
async fn transfer(
    commands: &Commands,
    [from, to]: [&str; 2],
    id: &str,
) -> Result<(), CommandError<TooLittle>> {
    let decide = |source: &Purse, _: &Purse| match source.balance {
        1.. => Ok([change(from, id, -1), change(to, id, 1)]),
        _ => Err(TooLittle),
    };
    commands.execute_both([&purse(from), &purse(to)], decide).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_transfer_changes_both_subjects_or_neither() {
    let urls = take_system();
    let log = log_of(&urls, ACK_TIMEOUT).await;
    let processes = [process(&urls, &log), process(&urls, &log), without_redis(&log)];
    put(&processes[0], "p", "start", 20).await;
    put(&processes[0], "q", "start", 0).await;
    let ids: Vec<_> = (0..120).map(|n| format!("move-{n}")).collect();
    let attempts = ids.iter().enumerate().map(|(n, id)| {
        let pair = if n % 4 < 3 { ["p", "q"] } else { ["q", "p"] };
        let commands = &processes[n % 3];
        async move { (n, transfer(commands, pair, id).await) }
    });
    let mut accepted = 0;
    for (n, outcome) in join_all(attempts).await {
        match outcome {
            Ok(()) => accepted += 1,
            Err(CommandError::Rejected(TooLittle)) => {}
            Err(error) => panic!("{n}: {error:?}"),
        }
    }
    assert!(accepted >= 20, "{accepted}");
    let [p, q] = [log.history(&purse("p")).await.unwrap(), log.history(&purse("q")).await.unwrap()];
    assert_eq!([p.len(), q.len()], [accepted + 1; 2]);
    for (out, into) in p[1..].iter().zip(&q[1..]) {
        assert_eq!(out.envelope.id, into.envelope.id);
        assert_eq!(out.position.abs_diff(into.position), 1);
    }
    for commands in &processes {
        let p = commands.load::<Purse>(&purse("p")).await.unwrap().state.balance;
        let q = commands.load::<Purse>(&purse("q")).await.unwrap().state.balance;
        assert!(p >= 0 && q >= 0 && p + q == 20, "{p} + {q}");
    }
    let itself = transfer(&processes[0], ["p", "p"], "itself").await;
    let Err(CommandError::Append(AppendError::Rejected(_))) = itself else {
        panic!("{itself:?}");
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_claim_is_given_once_and_distinguished_from_a_lost_race() {
    let urls = take_system();
    let log = log_of(&urls, ACK_TIMEOUT).await;
    let processes = [process(&urls, &log), process(&urls, &log)];
    let claim = |n: usize, main: String, claimed: String| {
        let commands = &processes[n % 2];
        async move {
            let decide = |state: &Purse| match state.events {
                0..30 => {
                    let id = format!("{n}");
                    Ok((change(&main, &id, 1), change(&claimed, &id, 1)))
                }
                _ => Err(TooLittle),
            };
            commands.execute_claiming(&purse(&main), decide).await
        }
    };
    let same_claim = (0..20).map(|n| claim(n, format!("main-{n}"), "wanted".to_owned()));
    let outcomes = join_all(same_claim).await;
    let taken = |outcome: &&Result<_, _>| matches!(outcome, Err(ClaimError::Taken));
    assert_eq!(outcomes.iter().filter(taken).count(), 19, "{outcomes:?}");
    let winner = outcomes.iter().position(Result::is_ok).unwrap();
    for n in 0..20 {
        let events = log.history(&purse(&format!("main-{n}"))).await.unwrap().len();
        assert_eq!(events, usize::from(n == winner));
    }
    let same_main = (0..30).map(|n| claim(n, "busy".to_owned(), format!("own-{n}")));
    for outcome in join_all(same_main).await {
        outcome.unwrap();
    }
    let full = claim(0, "busy".to_owned(), "free".to_owned()).await;
    let Err(ClaimError::Command(CommandError::Rejected(TooLittle))) = full else {
        panic!("{full:?}");
    };
    assert!(log.history(&purse("free")).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn redis_may_hang_or_die_at_any_time() {
    let (services, log, _folder) = start().await;
    let processes = [process(services.urls(), &log), process(services.urls(), &log)];
    let done: [AtomicUsize; 6] = Default::default();
    let over = AtomicBool::new(false);
    let workers = done.iter().enumerate().map(|(worker, done)| {
        let (commands, over) = (&processes[worker % 2], &over);
        async move {
            while !over.load(Ordering::Relaxed) {
                let count = done.load(Ordering::Relaxed);
                // Every tenth command is about a subject that has no state yet.
                let name = match count % 10 {
                    0 => format!("new-{worker}-{count}"),
                    _ => format!("p-{}", worker % 3),
                };
                put(commands, &name, &format!("{worker}-{count}"), 1).await;
                done.store(count + 1, Ordering::Relaxed);
            }
        }
    });
    let counts = || done.each_ref().map(|done| done.load(Ordering::Relaxed));
    let go_on = async |redis: &str| {
        let before = counts();
        eventually(&format!("every worker goes on while Redis {redis}"), async || {
            counts().iter().zip(before).all(|(now, before)| *now >= before + 12).then_some(())
        })
        .await;
    };
    let faults = async {
        go_on("runs").await;
        services.signal(Service::Redis, Signal::SIGSTOP).unwrap();
        go_on("hangs").await;
        services.signal(Service::Redis, Signal::SIGCONT).unwrap();
        go_on("runs again").await;
        services.signal(Service::Redis, Signal::SIGKILL).unwrap();
        go_on("is gone").await;
        over.store(true, Ordering::Relaxed);
    };
    futures::join!(join_all(workers), faults);
    let accepted: usize = counts().iter().sum();
    assert_eq!(log.last_position().await.unwrap(), u64::try_from(accepted).unwrap());
    let mut balance = 0;
    for n in 0..3 {
        let loaded = processes[0].load::<Purse>(&purse(&format!("p-{n}"))).await.unwrap();
        let history = log.history(&purse(&format!("p-{n}"))).await.unwrap();
        assert_eq!(loaded.state.events, history.len());
        balance += loaded.state.balance;
    }
    assert!(balance > 0);
}

#[tokio::test]
async fn an_event_whose_acknowledgement_is_lost_is_stored_once() {
    let (services, log, _folder) = start().await;
    let commands = without_redis(&log);
    put(&commands, "p", "a", 5).await;
    put(&commands, "q", "a", 0).await;
    for (n, both) in [false, true].into_iter().enumerate() {
        services.signal(Service::Nats, Signal::SIGSTOP).unwrap();
        // A process continues for a moment.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let id = format!("hung-{n}");
        let command = async {
            if both {
                transfer(&commands, ["p", "q"], &id).await.unwrap();
            } else {
                commands.execute(&purse("p"), take("p", &id)).await.unwrap();
            }
        };
        // Longer than an append waits, so that it is sent twice; other appends come in between.
        let resume = async {
            tokio::time::sleep(Duration::from_millis(2_080)).await;
            services.signal(Service::Nats, Signal::SIGCONT).unwrap();
            for name in ["p", "q"] {
                log.append_fact(&change(name, &format!("fact-{name}-{n}"), 10)).await.unwrap();
            }
        };
        futures::join!(command, resume);
        let stored = log.history(&purse("p")).await.unwrap();
        assert_eq!(stored.iter().filter(|event| event.envelope.id == id).count(), 1);
    }
    let loaded = commands.load::<Purse>(&purse("p")).await.unwrap();
    assert_eq!(*loaded.state, Purse { balance: 23, events: 5 });
    assert_eq!(commands.load::<Purse>(&purse("q")).await.unwrap().state.balance, 21);
}

#[tokio::test]
async fn a_panic_in_a_decision_leaves_the_subject_usable() {
    let urls = take_system();
    let log = log_of(&urls, ACK_TIMEOUT).await;
    let commands = process(&urls, &log);
    put(&commands, "p", "a", 1).await;
    let panicking = commands.clone();
    let task = tokio::spawn(async move {
        let decide = |_: &Purse| -> Result<NewEvent, Infallible> { panic!("in a decision") };
        panicking.execute(&purse("p"), decide).await.map(|_| ())
    });
    assert!(task.await.unwrap_err().is_panic());
    // A body that the fold cannot read: it panics after the append.
    let panicking = commands.clone();
    let task = tokio::spawn(async move {
        let decide = |_: &Purse| Ok::<_, Infallible>(known("?".to_owned(), decision("q", "bad")));
        panicking.execute(&purse("q"), decide).await.map(|_| ())
    });
    assert!(task.await.unwrap_err().is_panic());
    let taken = commands.execute(&purse("p"), take("p", "b")).await.unwrap();
    assert_eq!(*taken.state, Purse { balance: 0, events: 2 });
}
