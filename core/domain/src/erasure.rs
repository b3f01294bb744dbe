//! Erasure of a person's data: requested, approved by a second person, executed
//! by destroying the data keys, and completed. The events are on
//! `exo.erasure.<erasure id>`. Also holds: while a person is under a hold, none
//! of their data may be erased. Those events are on `exo.hold.<hold id>`.

use crate::{
    id::{ErasureId, HoldId},
    personal::{Personal, marked},
};
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantNames};

/// The end of an actor's name that is not proven: somebody at a terminal with the system's
/// secrets, who has shown no token.
pub const UNPROVEN: &str = "@cli";

/// Every subject of erasures.
pub const ERASURE_SUBJECTS: &str = "exo.erasure.>";

/// A step of an erasure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErasureEvent {
    /// The erasure.
    pub erasure_id: ErasureId,
    /// The step.
    #[serde(flatten)]
    pub change: ErasureChange,
}

/// A step of an erasure, with its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case", prefix = "exodrive.erasure.")]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ErasureChange {
    /// An actor requests that a person's data is erased.
    Requested {
        /// The person's email address, lower case. Encrypted with a key of the
        /// erasure's own, which is destroyed with the others.
        #[serde(with = "marked")]
        address: Personal<String>,
        /// The hold that would forbid it.
        hold_id: HoldId,
        /// True to erase also data that only mentions the address: mail to
        /// others, other customers' bookings.
        #[serde(default)]
        include_mentions: bool,
        /// Reason, as the requester wrote it.
        reason: String,
    },
    /// A second actor approved it: execution begins.
    Approved {
        /// True if one person may have asked for it and approved it: somebody with the system's
        /// secrets has said that there is no second one. Not in older events.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        single_handed: bool,
    },
    /// It will not be executed.
    Cancelled {
        /// Reason, as the actor wrote it.
        reason: String,
    },
    /// These data keys are destroyed from now on. Recorded before the first is
    /// destroyed, so that a worker can go on after a crash, and so that the keys
    /// can be removed from a backup that still has them.
    Started {
        /// Their names: ids, no personal data.
        keys: Vec<String>,
        /// The number of events that the keys encrypted.
        events: u64,
    },
    /// No view, cache or parked copy holds the data any more.
    Completed {
        /// The number of destroyed data keys.
        keys: u64,
        /// The number of events that cannot be read any more.
        events: u64,
        /// The number of rows rebuilt, over all projections.
        rows: u64,
    },
}

/// A hold was placed or lifted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldEvent {
    /// The hold.
    pub hold_id: HoldId,
    /// The change.
    #[serde(flatten)]
    pub change: HoldChange,
}

/// A change of a hold, with its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case", prefix = "exodrive.hold.")]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum HoldChange {
    /// The hold begins: none of this person's data may be erased.
    Placed {
        /// Reason, as the actor wrote it.
        reason: String,
    },
    /// The hold ends.
    Lifted {
        /// Reason, as the actor wrote it.
        reason: String,
    },
}

impl ErasureChange {
    /// Every event type (`ce-type`).
    pub const KINDS: &'static [&'static str] = <Self as VariantNames>::VARIANTS;

    /// The event's type (`ce-type`).
    pub fn kind(&self) -> &'static str {
        self.into()
    }
}

impl HoldChange {
    /// Every event type (`ce-type`).
    pub const KINDS: &'static [&'static str] = <Self as VariantNames>::VARIANTS;

    /// The event's type (`ce-type`).
    pub fn kind(&self) -> &'static str {
        self.into()
    }
}

/// Progress of an erasure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ErasureStatus {
    /// Waits for an approval.
    Requested,
    /// In execution.
    Approved,
    /// Will not be executed.
    Cancelled,
    /// Data keys are being destroyed, then views and caches cleaned.
    Started,
    /// Completed.
    Completed,
}

impl ErasureStatus {
    /// The status as JSON spells it.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// An erasure, folded from its events. Holds no personal data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// The progress.
    pub status: ErasureStatus,
    /// The actor who requested it.
    pub requested_by: String,
    /// The actor who approved it.
    pub approved_by: Option<String>,
    /// True if it was approved without a second person.
    #[serde(default)]
    pub single_handed: bool,
    /// The hold that would forbid it.
    pub hold_id: HoldId,
    /// True to erase also data that only mentions the address.
    pub include_mentions: bool,
    /// The reason given in the request.
    pub reason: String,
    /// The names of the destroyed data keys.
    pub keys: Vec<String>,
    /// The number of events that the keys encrypted.
    pub events: u64,
    /// The number of rows rebuilt.
    pub rows: u64,
}

/// Reason why a step of an erasure is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ErasureRejection {
    /// There is no such erasure.
    #[error("there is no erasure of this id")]
    NotFound,
    /// Its progress does not allow the step any more.
    #[error("the erasure is {0:?} already")]
    Already(ErasureStatus),
    /// The requester cannot approve it.
    #[error("{0} requested the erasure, so another person must approve it")]
    SamePerson(String),
    /// Nobody knows who one of the two is.
    #[error(
        "{0} has shown nobody who they are: both people need a token (--as), or somebody approves it with --single-handed"
    )]
    Unproven(String),
    /// A hold forbids it.
    #[error("a legal hold forbids it: {0}")]
    Held(String),
}

impl Erasure {
    /// The erasure after one more event, by `actor`.
    pub fn evolve(state: Option<Self>, change: &ErasureChange, actor: &str) -> Option<Self> {
        if let ErasureChange::Requested { hold_id, include_mentions, reason, .. } = change {
            return state.or(Some(Self {
                status: ErasureStatus::Requested,
                requested_by: actor.to_owned(),
                approved_by: None,
                single_handed: false,
                hold_id: *hold_id,
                include_mentions: *include_mentions,
                reason: reason.clone(),
                keys: Vec::new(),
                events: 0,
                rows: 0,
            }));
        }
        let mut state = match (state, change) {
            (Some(state), _) => state,
            // A log that was restored from a backup may have lost the earlier
            // events.
            (None, ErasureChange::Started { .. }) => Self {
                status: ErasureStatus::Started,
                requested_by: actor.to_owned(),
                approved_by: None,
                single_handed: false,
                hold_id: HoldId::from(uuid::Uuid::nil()),
                include_mentions: false,
                reason: "begun before the log was restored from a backup".to_owned(),
                keys: Vec::new(),
                events: 0,
                rows: 0,
            },
            (None, _) => return None,
        };
        match change {
            ErasureChange::Requested { .. } => {}
            ErasureChange::Approved { single_handed } => {
                state.status = ErasureStatus::Approved;
                state.single_handed = *single_handed;
                state.approved_by = Some(actor.to_owned());
            }
            ErasureChange::Cancelled { .. } => state.status = ErasureStatus::Cancelled,
            ErasureChange::Started { keys, events } => {
                state.status = ErasureStatus::Started;
                for key in keys {
                    if !state.keys.contains(key) {
                        state.keys.push(key.clone());
                    }
                }
                state.events += events;
            }
            ErasureChange::Completed { rows, .. } => {
                state.status = ErasureStatus::Completed;
                state.rows = *rows;
            }
        }
        Some(state)
    }

    /// Decides if `actor` may approve the erasure now. `hold` is the reason of
    /// a hold on the person, if there is one. Unless it is `single_handed`, somebody else must
    /// have requested it, and both must have shown who they are.
    ///
    /// # Errors
    /// [`ErasureRejection`].
    pub fn approve(
        state: Option<&Self>,
        actor: &str,
        hold: Option<&str>,
        single_handed: bool,
    ) -> Result<ErasureChange, ErasureRejection> {
        let state = state.ok_or(ErasureRejection::NotFound)?;
        if state.status != ErasureStatus::Requested {
            return Err(ErasureRejection::Already(state.status));
        }
        if !single_handed {
            if state.requested_by == actor {
                return Err(ErasureRejection::SamePerson(state.requested_by.clone()));
            }
            let mut both = [state.requested_by.as_str(), actor].into_iter();
            if let Some(unproven) = both.find(|who| who.ends_with(UNPROVEN)) {
                return Err(ErasureRejection::Unproven(unproven.to_owned()));
            }
        }
        match hold {
            Some(reason) => Err(ErasureRejection::Held(reason.to_owned())),
            None => Ok(ErasureChange::Approved { single_handed }),
        }
    }

    /// Decides if it can still be cancelled.
    ///
    /// # Errors
    /// [`ErasureRejection`].
    pub fn cancel(state: Option<&Self>, reason: &str) -> Result<ErasureChange, ErasureRejection> {
        let state = state.ok_or(ErasureRejection::NotFound)?;
        match state.status {
            ErasureStatus::Requested => Ok(ErasureChange::Cancelled { reason: reason.to_owned() }),
            status => Err(ErasureRejection::Already(status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requested() -> ErasureChange {
        ErasureChange::Requested {
            address: Personal("dana@example.com".into()),
            hold_id: uuid::Uuid::nil().into(),
            include_mentions: false,
            reason: "asked for".into(),
        }
    }

    fn given(changes: &[(ErasureChange, &str)]) -> Option<Erasure> {
        changes.iter().fold(None, |state, (change, actor)| Erasure::evolve(state, change, actor))
    }

    #[test]
    fn given_a_request_then_another_person_approves_it_once() {
        let state = given(&[(requested(), "ann")]);
        let same = Erasure::approve(state.as_ref(), "ann", None, false);
        assert_eq!(same, Err(ErasureRejection::SamePerson("ann".into())));
        let approved = Erasure::approve(state.as_ref(), "ben", None, false).unwrap();
        let state = given(&[(requested(), "ann"), (approved, "ben")]);
        assert_eq!(state.as_ref().unwrap().approved_by.as_deref(), Some("ben"));
        let again = Erasure::approve(state.as_ref(), "cai", None, false);
        assert_eq!(again, Err(ErasureRejection::Already(ErasureStatus::Approved)));
        assert!(Erasure::cancel(state.as_ref(), "no").is_err());
    }

    #[test]
    fn given_a_name_that_is_not_proven_then_only_a_single_handed_approval_counts() {
        for (asked, approves) in [("ann@cli", "ben"), ("ann", "ben@cli"), ("ann@cli", "ann@cli")] {
            let state = given(&[(requested(), asked)]);
            let approve = |alone| Erasure::approve(state.as_ref(), approves, None, alone);
            assert!(approve(false).is_err(), "{asked} {approves}");
            let approved = approve(true).unwrap();
            let state = given(&[(requested(), asked), (approved, approves)]).unwrap();
            assert!(state.single_handed);
        }
    }

    #[test]
    fn given_a_hold_then_nothing_is_erased() {
        let state = given(&[(requested(), "ann")]);
        let held = Erasure::approve(state.as_ref(), "ben", Some("a lawsuit"), true);
        assert_eq!(held, Err(ErasureRejection::Held("a lawsuit".into())));
        assert_eq!(Erasure::approve(None, "ben", None, true), Err(ErasureRejection::NotFound));
    }

    #[test]
    fn given_keys_named_twice_then_each_counts_once() {
        let destroyed = |keys: &[&str]| ErasureChange::Started {
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            events: 1,
        };
        let state = given(&[
            (requested(), "ann"),
            (ErasureChange::Approved { single_handed: false }, "ben"),
            (destroyed(&["a", "b"]), "system"),
            (destroyed(&["b", "c"]), "system"),
        ]);
        assert_eq!(state.unwrap().keys, ["a", "b", "c"]);
    }
}
