//! What a process knows of credentials: all service keys, and who was signed out. It follows the
//! log, not a view: a row that waits behind a parked event must not let a revoked key in.

use super::{sign_in_id, text::KeyText};
use chrono::{DateTime, Utc};
use exodrive_domain::{
    Payload, Recorded, Subject,
    credential::{CREDENTIAL_SUBJECTS, ServiceKey, SignIns},
    decode,
    id::{KeyId, SignInId},
};
use exodrive_log::{Log, ReadError};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

/// Events that are read at a time.
const BATCH: usize = 1_000;
/// Time to wait for the next of them.
const WAIT: Duration = Duration::from_secs(1);

/// Reason why a service key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// There is no such key, or it has another secret: nobody learns which.
    #[error("the service key is not valid for this system")]
    Unknown,
    /// It was revoked.
    #[error("the service key was revoked")]
    Revoked,
    /// It has expired.
    #[error("the service key has expired")]
    Expired,
    /// The log has an event about it that this release cannot read, and that may have revoked it.
    #[error("the service key was changed by a newer release")]
    Unreadable,
}

/// All service keys, and who was signed out when, as of an event of the log.
#[derive(Clone, Debug, Default)]
pub struct KnownCredentials {
    /// Position of the newest event that is taken in.
    position: u64,
    keys: BTreeMap<KeyId, ServiceKey>,
    sign_ins: HashMap<SignInId, SignIns>,
    /// Keys with an event that this release cannot read.
    unreadable: BTreeSet<KeyId>,
}

impl KnownCredentials {
    /// Position of the newest event that is taken in; 0 if there is none.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Takes in the events that came since. One small request if there are none.
    ///
    /// # Errors
    /// When the log does not answer. What was read stays.
    pub async fn learn(&mut self, log: &Log) -> Result<(), ReadError> {
        let last = log.last_position_under(CREDENTIAL_SUBJECTS).await?.unwrap_or(0);
        if last < self.position {
            // A log that came back from a backup has other events from there on; or a leader has
            // not heard of the newest ones. What was taken back stays so.
            self.position = 0;
        }
        if last == self.position {
            return Ok(());
        }
        let mut reader = log.reader_of(&[CREDENTIAL_SUBJECTS.to_owned()], self.position + 1);
        while self.position < last {
            for recorded in reader.next_batch(BATCH, WAIT).await?.events {
                self.apply(&recorded);
            }
        }
        Ok(())
    }

    fn apply(&mut self, recorded: &Recorded) {
        match decode(recorded) {
            Ok(Payload::ServiceKey(event)) => {
                let known = self.keys.remove(&event.key_id);
                let key = ServiceKey::evolve(known, &event, recorded);
                self.keys.extend(key.map(|key| (key.id, key)));
            }
            Ok(Payload::Sessions(event)) => {
                let sign_ins = self.sign_ins.entry(sign_in_id(&event.user_id)).or_default();
                sign_ins.evolve(&event, recorded);
            }
            // It may have taken something back: until a release reads it, it has.
            _ => match recorded.subject.parse() {
                Ok(Subject::ServiceKey(id)) => {
                    self.unreadable.insert(id);
                }
                Ok(Subject::SignIns(id)) => {
                    let sign_ins = self.sign_ins.entry(id).or_default();
                    sign_ins.issued_before =
                        sign_ins.issued_before.max(Some(recorded.envelope.time));
                }
                _ => {}
            },
        }
        self.position = recorded.position;
    }

    /// The service key that somebody has shown.
    ///
    /// # Errors
    /// Why it is refused. Only who has the secret learns more than that it is.
    pub fn check_key(&self, shown: &KeyText, now: DateTime<Utc>) -> Result<&ServiceKey, KeyFault> {
        let key = self.keys.get(&shown.id());
        // Compared in any case: how long it takes says nothing about what there is.
        let right = shown.has_hash(key.map_or("", |key| &key.hash));
        let key = key.filter(|_| right).ok_or(KeyFault::Unknown)?;
        if key.revoked.is_some() {
            Err(KeyFault::Revoked)
        } else if self.unreadable.contains(&key.id) {
            Err(KeyFault::Unreadable)
        } else if key.is_expired(now) {
            Err(KeyFault::Expired)
        } else {
            Ok(key)
        }
    }

    /// True if a token of a user is refused: they were signed out after it was issued, in seconds
    /// since 1970.
    pub fn is_signed_out(&self, user_id: &str, issued_at: Option<u64>) -> bool {
        // Nobody ever was, in most systems: then there is nothing to hash.
        !self.sign_ins.is_empty()
            && self.sign_ins.get(&sign_in_id(user_id)).is_some_and(|it| it.refuse(issued_at))
    }

    /// Every service key, the newest first.
    pub fn keys(&self) -> Vec<&ServiceKey> {
        let mut keys: Vec<_> = self.keys.values().collect();
        keys.sort_by_key(|key| std::cmp::Reverse((key.created_at, key.id)));
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use exodrive_domain::{DECISION_VERSION, Envelope};
    use serde_json::{Value, json};
    use uuid::Uuid;

    fn now() -> DateTime<Utc> {
        exodrive_domain::time::parse("2026-11-24T12:00:00Z").unwrap()
    }

    fn text(id: u128, secret: u8) -> KeyText {
        KeyText::new(Uuid::from_u128(id).into(), [secret; 32])
    }

    fn event(position: u64, subject: Subject, kind: &str, body: &Value) -> Recorded {
        Recorded {
            position,
            subject: subject.to_string(),
            stored_at: now(),
            envelope: Envelope::decision(kind, position.to_string(), now()),
            provider_headers: Vec::new(),
            body: serde_json::to_vec(body).unwrap().into(),
            protection: None,
        }
    }

    fn of_key(position: u64, change: &str, more: &Value) -> Recorded {
        let key_id = Uuid::from_u128(1);
        let mut body = json!({"key_id": key_id, "type": change});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let kind = format!("exodrive.service_key.{change}");
        event(position, Subject::ServiceKey(key_id.into()), &kind, &body)
    }

    fn creation() -> Recorded {
        let end = "2026-11-25T12:00:00Z";
        let scopes = ["fleet:read", "of:later"];
        let body = json!({
            "name": "Website", "scopes": scopes, "hash": text(1, 7).hash(), "expires_at": end,
        });
        of_key(1, "created", &body)
    }

    fn created() -> KnownCredentials {
        let mut known = KnownCredentials::default();
        known.apply(&creation());
        known
    }

    #[test]
    fn only_who_has_the_secret_learns_what_became_of_a_key() {
        let mut known = created();
        let check = |known: &KnownCredentials, shown: KeyText, later| {
            known.check_key(&shown, now() + TimeDelta::hours(later)).map(|_| ())
        };
        assert_eq!(check(&known, text(1, 7), 0), Ok(()));
        assert_eq!(check(&known, text(1, 7), 24), Err(KeyFault::Expired));
        known.apply(&of_key(2, "revoked", &json!({"reason": "leaked"})));
        assert_eq!(check(&known, text(1, 7), 0), Err(KeyFault::Revoked));
        assert_eq!(check(&known, text(1, 7), 24), Err(KeyFault::Revoked));
        for (id, secret) in [(1, 8), (2, 7)] {
            assert_eq!(check(&known, text(id, secret), 0), Err(KeyFault::Unknown));
        }
        assert_eq!(known.position(), 2);
        // A log from a backup that has not the revocation gives nothing back.
        known.apply(&creation());
        assert_eq!((known.position(), check(&known, text(1, 7), 0)), (1, Err(KeyFault::Revoked)));
    }

    #[test]
    fn what_cannot_be_read_takes_back() {
        let mut known = created();
        let changed = of_key(2, "suspended", &json!({}));
        known.apply(&changed);
        let refused = known.check_key(&text(1, 7), now()).map(|_| ());
        assert_eq!(refused, Err(KeyFault::Unreadable));
        let subject = Subject::SignIns(sign_in_id("ada"));
        let mut newer = event(3, subject, "exodrive.sessions.revoked", &json!({}));
        newer.envelope.version = DECISION_VERSION + 1;
        known.apply(&newer);
        let then = u64::try_from(now().timestamp()).unwrap();
        assert!(known.is_signed_out("ada", Some(then - 1)));
        assert!(!known.is_signed_out("ada", Some(then)) && !known.is_signed_out("ben", None));
    }
}
