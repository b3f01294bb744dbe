//! The guarded append: of several decisions on the same state, one is stored.

use crate::in_process::take_system;
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use exodrive_domain::{Envelope, Subject, WEBHOOK_RECEIVED};
use exodrive_log::{
    AppendError, Appended, KeyError, Log, LogConfig, NewEvent, ReadError, WrappingKeys,
};
use exodrive_runtime::services::ServiceUrls;
use exodrive_tests::{DATA_KEYS, wrapping_keys};
use std::time::Duration;

async fn log() -> Log {
    log_of(&take_system(), Duration::from_secs(2)).await
}

/// The empty log of a system, with this limit for an append.
pub(crate) async fn log_of(urls: &ServiceUrls, ack_timeout: Duration) -> Log {
    let config = LogConfig { ack_timeout, ..config(urls, wrapping_keys()) };
    let operators = LogConfig { url: urls.nats_operator.clone(), ..config.clone() };
    Log::prepare(&operators).await.unwrap();
    Log::connect(&config).await.unwrap()
}

fn config(urls: &ServiceUrls, keys: WrappingKeys) -> LogConfig {
    LogConfig {
        url: urls.nats.clone(),
        monitor_url: None,
        require_sync: false,
        duplicate_window: Duration::from_secs(60),
        replicas: 1,
        ack_timeout: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(10),
        keys,
    }
}

pub(crate) fn decision(email: &str, id: &str) -> NewEvent {
    NewEvent {
        subject: Subject::Email(email.parse().unwrap()),
        envelope: Envelope {
            id: id.to_owned(),
            kind: "exodrive.test.decided".to_owned(),
            version: 1,
            source: "test".to_owned(),
            time: chrono::Utc::now(),
            traceparent: None,
            causation: None,
            correlation: None,
            actor: None,
        },
        provider_headers: Vec::new(),
        body: "{}".into(),
    }
}

#[tokio::test]
async fn of_many_decisions_on_the_same_state_one_is_stored() {
    let log = log().await;
    for round in 0..20 {
        let email = format!("em-{round}");
        let contenders: Vec<_> =
            (0..16).map(|n| decision(&email, &format!("{round}-{n}"))).collect();
        let attempts = contenders.iter().map(|event| log.append_decision(event, 0));
        let outcomes = futures::future::join_all(attempts).await;
        let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(stored, 1, "{outcomes:?}");
        let refused = |outcome: &&Result<_, _>| matches!(outcome, Err(AppendError::Conflict));
        assert_eq!(outcomes.iter().filter(refused).count(), 15, "{outcomes:?}");
        assert_eq!(log.history(&contenders[0].subject).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_retry_after_a_lost_acknowledgement_is_not_a_conflict() {
    let log = log().await;
    let first = decision("em-1", "first");
    let Appended { position, duplicate } = log.append_decision(&first, 0).await.unwrap();
    assert!(!duplicate);
    let again = log.append_decision(&first, 0).await.unwrap();
    assert_eq!(again, Appended { position, duplicate: true });
    let stale = log.append_decision(&decision("em-1", "second"), 0).await;
    assert!(matches!(stale, Err(AppendError::Conflict)), "{stale:?}");
    let ahead = log.append_decision(&decision("em-2", "first"), position).await;
    assert!(matches!(ahead, Err(AppendError::Conflict)), "{ahead:?}");
    let fresh = log.append_decision(&decision("em-1", "second"), position).await.unwrap();
    assert!(!fresh.duplicate && fresh.position > position);
}

fn positions(appended: &[Appended]) -> Vec<u64> {
    appended.iter().map(|appended| appended.position).collect()
}

async fn ids(log: &Log, subject: &Subject) -> Vec<(u64, String)> {
    let history = log.history(subject).await.unwrap();
    history.into_iter().map(|event| (event.position, event.envelope.id)).collect()
}

#[tokio::test]
async fn a_batch_is_stored_whole_or_not_at_all() {
    let log = log().await;
    let [one, other, third] = ["em-1", "em-2", "em-3"].map(|email| decision(email, "first"));
    let before = log.append_decision(&other, 0).await.unwrap().position;
    let batch = [
        (decision("em-1", "a"), 0),
        (decision("em-1", "b"), 0),
        (decision("em-2", "c"), before),
        (decision("em-3", "d"), 0),
    ];
    let stored = log.append_batch(&batch).await.unwrap();
    assert!(stored.iter().all(|appended| !appended.duplicate));
    assert_eq!(positions(&stored), [before + 1, before + 2, before + 3, before + 4]);
    let is = |position: u64, id: &str| (before + position, id.to_owned());
    assert_eq!(ids(&log, &one.subject).await, [is(1, "a"), is(2, "b")]);
    assert_eq!(ids(&log, &other.subject).await, [is(0, "first"), is(3, "c")]);
    assert_eq!(ids(&log, &third.subject).await, [is(4, "d")]);
    // Whichever of them is stale, none of the batch is stored.
    for stale in 0..3 {
        let mut last = [before + 2, before + 3, before + 4];
        last[stale] -= 1;
        let batch = [
            (decision("em-1", "e"), last[0]),
            (decision("em-2", "f"), last[1]),
            (decision("em-3", "g"), last[2]),
        ];
        let outcome = log.append_batch(&batch).await;
        assert!(matches!(outcome, Err(AppendError::Conflict)), "{stale}: {outcome:?}");
        assert_eq!(log.last_position().await.unwrap(), before + 4);
    }
}

#[tokio::test]
async fn a_batch_sent_again_is_recognised() {
    let log = log().await;
    let batch = [(decision("em-1", "a"), 0), (decision("em-2", "b"), 0)];
    let first = log.append_batch(&batch).await.unwrap();
    let again = log.append_batch(&batch).await.unwrap();
    assert!(again.iter().all(|appended| appended.duplicate));
    assert_eq!(positions(&again), positions(&first));
    // After one subject has moved on, the other still shows the repeat.
    let [one, other] = [first[0].position, first[1].position];
    log.append_decision(&decision("em-2", "c"), other).await.unwrap();
    let again = log.append_batch(&batch).await.unwrap();
    assert_eq!(positions(&again), [one, other]);
    log.append_decision(&decision("em-1", "d"), one).await.unwrap();
    let outcome = log.append_batch(&batch).await;
    assert!(matches!(outcome, Err(AppendError::Conflict)), "{outcome:?}");
    assert_eq!(log.last_position().await.unwrap(), 4);
}

#[tokio::test]
async fn more_batches_at_once_than_the_server_keeps_open_are_all_stored() {
    // The limit counts waiting for a place too: on a busy machine that takes
    // seconds for so many.
    let limit = exodrive_tests::WAIT_TIMEOUT;
    let log = log_of(&take_system(), limit).await;
    let batches: Vec<_> = (0..120)
        .map(|n| [format!("em-{n}-a"), format!("em-{n}-b")])
        .map(|emails| emails.map(|email| (decision(&email, &email), 0)))
        .collect();
    let outcomes = batches.iter().map(|batch| log.append_batch(batch));
    for outcome in futures::future::join_all(outcomes).await {
        let stored = positions(&outcome.unwrap());
        assert_eq!(stored[1], stored[0] + 1);
    }
    assert_eq!(log.last_position().await.unwrap(), 240);
}

#[tokio::test]
async fn the_tail_of_a_subject_is_its_events_after_a_position() {
    let log = log().await;
    let subject = decision("em-1", "").subject;
    assert!(log.events_after(&subject, 0).await.unwrap().is_empty());
    for n in 0..30 {
        log.append_fact(&decision("em-1", &format!("one-{n}"))).await.unwrap();
        log.append_fact(&decision("em-2", &format!("two-{n}"))).await.unwrap();
    }
    // The events of the subject are at the odd positions up to 59.
    for after in [0, 1, 2, 39, 40, 57, 58, 59, 60, 1_000] {
        let tail = log.events_after(&subject, after).await.unwrap();
        let found: Vec<_> = tail.iter().map(|event| event.position).collect();
        let expected: Vec<_> = (after + 1..60).filter(|position| position % 2 == 1).collect();
        assert_eq!(found, expected, "after {after}");
        assert!(tail.iter().all(|event| event.subject == "exo.email.em-1"));
    }
}

#[tokio::test]
async fn the_logs_clock_advances_and_is_right() {
    let log = log().await;
    let clone = log.clone();
    let mut last = log.now();
    for _ in 0..1_000 {
        let now = clone.now();
        assert!(now >= last);
        last = now;
    }
    let away = (chrono::Utc::now() - last).abs();
    assert!(away < chrono::TimeDelta::milliseconds(250), "{away}");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(log.now() - last >= chrono::TimeDelta::milliseconds(20));
}

/// A delivery, which is encrypted with a key of its email.
fn received(email: &str, id: &str) -> NewEvent {
    let event = decision(email, id);
    let envelope = Envelope { kind: WEBHOOK_RECEIVED.to_owned(), ..event.envelope };
    NewEvent { envelope, ..event }
}

#[tokio::test]
async fn an_event_that_is_too_large_is_not_an_outage() {
    let log = log().await;
    let large = |email: &str| NewEvent { body: vec![b' '; 3 << 20].into(), ..decision(email, "a") };
    let small = |email: &str| (decision(email, "b"), 0);
    let mut outcomes = vec![
        log.append_fact(&large("em-1")).await.map(|_| ()),
        log.append_decision(&large("em-1"), 0).await.map(|_| ()),
    ];
    for place in 0..3 {
        let mut batch = vec![small("em-1"), small("em-2")];
        batch.insert(place, (large("em-3"), 0));
        outcomes.push(log.append_batch(&batch).await.map(|_| ()));
    }
    for outcome in outcomes {
        assert!(matches!(outcome, Err(AppendError::TooLarge)), "{outcome:?}");
    }
    assert_eq!(log.last_position().await.unwrap(), 0);
}

#[tokio::test]
async fn a_wrapping_key_that_is_not_configured_is_not_an_outage() {
    let urls = take_system();
    let log = log_of(&urls, Duration::from_secs(2)).await;
    let newer = format!("{DATA_KEYS},9:{}", BASE64.encode([9; 32]));
    let theirs = config(&urls, WrappingKeys::parse(&newer).unwrap());
    let theirs = Log::connect(&theirs).await.unwrap();
    theirs.append_fact(&received("em-1", "first")).await.unwrap();
    let outcome = log.append_fact(&received("em-1", "second")).await;
    let Err(error @ AppendError::Key(KeyError::Wrapping { version: 9, .. })) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(error.outage(), None);
    let outcome = log.history(&received("em-1", "first").subject).await;
    let Err(error @ ReadError::Key(KeyError::Wrapping { version: 9, .. })) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(error.outage(), None);
    theirs.append_fact(&received("em-1", "second")).await.unwrap();
}

#[tokio::test]
async fn a_log_that_was_opened_to_be_read_takes_no_event() {
    let urls = take_system();
    let connected = log_of(&urls, Duration::from_secs(2)).await;
    let opened = Log::open(&config(&urls, wrapping_keys())).await.unwrap();
    let event = decision("em-1", "one");
    let fact = opened.append_fact(&event).await;
    assert!(matches!(fact, Err(AppendError::OpenedForReading)), "{fact:?}");
    let decided = opened.append_decision(&event, 0).await;
    assert!(matches!(decided, Err(AppendError::OpenedForReading)), "{decided:?}");
    let batch = [(decision("em-2", "two"), 0), (decision("em-3", "three"), 0)];
    let batch = opened.append_batch(&batch).await;
    assert!(matches!(batch, Err(AppendError::OpenedForReading)), "{batch:?}");
    assert_eq!(connected.last_position().await.unwrap(), 0);
    connected.append_fact(&event).await.unwrap();
}
