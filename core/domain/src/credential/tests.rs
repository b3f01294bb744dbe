//! Given events, when a command comes, then an event or a rejection.

use super::*;
use crate::{Envelope, Meta, Payload, Subject, decode, id::SignInId};
use chrono::TimeDelta;

const KEY: u128 = 7;

fn start() -> DateTime<Utc> {
    crate::time::parse("2026-11-24T12:00:00.25Z").unwrap()
}

fn meta(id: &str) -> Meta {
    Meta {
        command_id: id.into(),
        request_hash: format!("hash of {id}"),
        now: start(),
        if_position: None,
        by_staff: true,
    }
}

fn create(scopes: &[Scope], expires_at: Option<DateTime<Utc>>) -> KeyCommand {
    KeyCommand::Create {
        id: uuid::Uuid::from_u128(KEY).into(),
        name: "Website".parse().unwrap(),
        scopes: scopes.iter().copied().collect(),
        hash: "ab".repeat(32),
        expires_at,
    }
}

fn revoke(reason: &str) -> KeyCommand {
    KeyCommand::Revoke { reason: reason.parse().unwrap() }
}

fn recorded(position: u64, subject: &Subject, kind: &str, body: &impl Serialize) -> Recorded {
    let envelope = Envelope::decision(kind, position.to_string(), start()).by("admin:ada");
    Recorded {
        position,
        subject: subject.to_string(),
        stored_at: start(),
        envelope,
        provider_headers: Vec::new(),
        body: serde_json::to_vec(body).unwrap().into(),
        protection: None,
    }
}

/// The key after these commands, each with its place as id; as the log would give it back.
fn given(commands: &[KeyCommand]) -> Option<ServiceKey> {
    let subject = Subject::ServiceKey(uuid::Uuid::from_u128(KEY).into());
    let mut key = None;
    for (position, command) in (1..).zip(commands) {
        let event = decide(key.as_ref(), command, &meta(&position.to_string())).unwrap();
        let recorded = recorded(position, &subject, event.change.kind(), &event);
        assert_eq!(decode(&recorded), Ok(Payload::ServiceKey(event.clone())));
        key = ServiceKey::evolve(key, &event, &recorded);
    }
    key
}

#[test]
fn a_key_does_what_its_scopes_name_until_it_expires() {
    let end = start() + TimeDelta::days(1);
    let key = given(&[create(&[Scope::InboxRead, Scope::FleetRead], Some(end))]).unwrap();
    assert_eq!(key.scopes, ["fleet:read", "inbox:read"]);
    assert!(key.has(Scope::FleetRead) && !key.has(Scope::FleetWrite));
    assert!(!key.is_expired(end - TimeDelta::microseconds(1)) && key.is_expired(end));
    assert_eq!(key.created_by.as_deref(), Some("admin:ada"));
    assert_eq!((key.position, key.revoked), (1, None));
}

#[test]
fn a_revoked_key_stays_revoked_by_whom_and_why() {
    let key = given(&[create(&Scope::ALL, None), revoke("leaked")]).unwrap();
    let revoked = key.revoked.clone().unwrap();
    assert_eq!((revoked.reason.as_str(), revoked.by.as_deref()), ("leaked", Some("admin:ada")));
    let again = decide(Some(&key), &revoke("leaked again"), &meta("x"));
    assert_eq!(again, Err(CredentialRejection::Unchanged));
}

#[test]
fn a_key_needs_a_scope_and_an_end_that_is_to_come() {
    let refused = |command| decide(None, &command, &meta("x")).unwrap_err();
    assert_eq!(refused(create(&[], None)), CredentialRejection::NoScope);
    assert_eq!(refused(create(&Scope::ALL, Some(start()))), CredentialRejection::InThePast);
    assert_eq!(refused(revoke("x")), CredentialRejection::NoSuchKey);
    let key = given(&[create(&Scope::ALL, None)]);
    let again = decide(key.as_ref(), &create(&Scope::ALL, None), &meta("x"));
    assert_eq!(again, Err(CredentialRejection::Exists));
}

#[test]
fn a_retry_is_told_from_another_request_under_its_id() {
    let key = given(&[create(&Scope::ALL, None), revoke("leaked")]);
    let retry = decide(key.as_ref(), &create(&Scope::ALL, None), &meta("1"));
    assert_eq!(retry, Err(CredentialRejection::AlreadyDone(1)));
    let other = Meta { request_hash: "other".into(), ..meta("2") };
    assert_eq!(decide(key.as_ref(), &revoke("x"), &other), Err(CredentialRejection::KeyReused));
}

#[test]
fn a_sign_out_refuses_what_was_issued_before_it_and_what_does_not_say_when() {
    let mut sign_ins = SignIns::default();
    assert!(!sign_ins.refuse(Some(0)) && !sign_ins.refuse(None));
    let (user, reason) = ("ada".parse().unwrap(), "a lost phone".parse().unwrap());
    let event = decide_sign_out(&sign_ins, &user, &reason, &meta("1")).unwrap();
    let subject = Subject::SignIns(SignInId::from(uuid::Uuid::from_u128(1)));
    let stored = recorded(1, &subject, event.change.kind(), &event);
    assert_eq!(decode(&stored), Ok(Payload::Sessions(event.clone())));
    sign_ins.evolve(&event, &stored);
    // A token says the second only: one of the same second may be older.
    let second = u64::try_from(start().timestamp()).unwrap();
    for (issued, refused) in [
        (None, true),
        (Some(0), true),
        (Some(second - 60), true),
        (Some(second), true),
        (Some(second + 1), false),
        (Some(u64::MAX), true),
    ] {
        assert_eq!(sign_ins.refuse(issued), refused, "{issued:?}");
    }
    let retry = decide_sign_out(&sign_ins, &user, &reason, &meta("1"));
    assert_eq!(retry, Err(CredentialRejection::AlreadyDone(1)));
    let other = Meta { request_hash: "other".into(), ..meta("1") };
    let reused = decide_sign_out(&sign_ins, &user, &reason, &other);
    assert_eq!(reused, Err(CredentialRejection::KeyReused));
    assert!(decide_sign_out(&sign_ins, &user, &reason, &meta("2")).is_ok(), "once more");
}

#[test]
fn an_earlier_time_gives_no_token_back() {
    let mut sign_ins = SignIns::default();
    for at in [start(), start() - TimeDelta::hours(1)] {
        let change = SessionsChange::Revoked { issued_before: at, reason: "x".into() };
        let event = SessionsEvent { user_id: "ada".into(), request_hash: None, change };
        let subject = Subject::SignIns(SignInId::from(uuid::Uuid::from_u128(1)));
        sign_ins.evolve(&event, &recorded(1, &subject, event.change.kind(), &event));
    }
    assert_eq!(sign_ins.issued_before, Some(start()));
}

#[test]
fn scopes_are_read_back_by_their_names() {
    for scope in Scope::ALL {
        assert_eq!(scope.name().parse(), Ok(scope));
        assert_eq!(scope.writes(), scope.name().ends_with(":write"));
        assert!(UnknownScope.to_string().contains(scope.name()), "{scope} is listed");
    }
    for text in ["", "fleet", "fleet:*", "Fleet:read", "fleet:read "] {
        assert_eq!(text.parse::<Scope>(), Err(UnknownScope));
    }
}
