//! The guarded append: of those who decide on the same state, one is stored.

use exodrive_domain::{Envelope, Subject};
use exodrive_log::{AppendError, Appended, Log, LogConfig, NewEvent};
use exodrive_runtime::services::{Options, PrivateServices};
use std::time::Duration;

async fn log() -> (PrivateServices, Log, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    // An address of its own keeps a service from being started.
    let elsewhere = Some("unused://".to_owned());
    let services = PrivateServices::start(Options {
        database: elsewhere.clone(),
        redis: elsewhere,
        ..Options::for_tests(folder.path().join("data"))
    })
    .await
    .unwrap();
    let config = LogConfig {
        url: services.urls().nats.clone(),
        monitor_url: None,
        require_sync: false,
        duplicate_window: Duration::from_secs(60),
        replicas: 1,
        ack_timeout: Duration::from_secs(4),
        patience: Duration::from_secs(10),
    };
    let log = Log::connect(&config).await.unwrap();
    (services, log, folder)
}

fn decision(email: &str, id: &str) -> NewEvent {
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
    let (_services, log, _folder) = log().await;
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
async fn a_retry_after_a_lost_acknowledgement_is_no_conflict() {
    let (_services, log, _folder) = log().await;
    let first = decision("em-1", "first");
    let Appended { position, duplicate } = log.append_decision(&first, 0).await.unwrap();
    assert!(!duplicate);
    let again = log.append_decision(&first, 0).await.unwrap();
    assert_eq!(again, Appended { position, duplicate: true });
    let stale = log.append_decision(&decision("em-1", "second"), 0).await;
    assert!(matches!(stale, Err(AppendError::Conflict)), "{stale:?}");
    let fresh = log.append_decision(&decision("em-1", "second"), position).await.unwrap();
    assert!(!fresh.duplicate && fresh.position > position);
}
