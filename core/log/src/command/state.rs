//! The states that decisions are made on.

use exodrive_domain::{KnownEvent, Recorded, UnreadableEvent};
use serde::{Serialize, de::DeserializeOwned};
use std::sync::Arc;

/// A state that decisions about one subject are made on: a fold of its events.
/// Holds no personal data, since snapshots of it are stored in Redis.
pub trait DecisionState:
    Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Names its snapshots; no two states share it.
    const NAME: &'static str;
    /// Raised when the fold or the shape changes: older snapshots are then not
    /// read. A new type or version of event needs no raise: no snapshot is read
    /// by a release that reads other events than the release that wrote it.
    const VERSION: u32;

    /// Folds the next event of the subject. It is never one that this
    /// release cannot read: [`KnownEvent::read`] stops at the first of those.
    /// Must not rest on `stored_at`, which is a guess for an event that this
    /// process has just appended.
    fn evolve(&mut self, event: &KnownEvent<'_>);
}

/// A subject's state.
#[derive(Clone, Debug)]
pub struct Loaded<S> {
    /// The fold of its events.
    pub state: Arc<S>,
    /// The position of the last folded event; 0 when there is no event.
    pub position: u64,
}

impl<S: Default> Default for Loaded<S> {
    fn default() -> Self {
        Self { state: Arc::default(), position: 0 }
    }
}

impl<S: DecisionState> Loaded<S> {
    /// Takes in the next events of the subject, in log order. After an error
    /// the state holds the events before the one that cannot be read, and
    /// `position` is theirs: an append that is guarded by it fails.
    ///
    /// # Errors
    /// [`UnreadableEvent`]: an event that a newer release wrote, or a malformed
    /// one.
    pub fn apply_batch(&mut self, events: &[Recorded]) -> Result<(), UnreadableEvent> {
        let state = Arc::make_mut(&mut self.state);
        for recorded in events {
            state.evolve(&KnownEvent::read(recorded)?);
            self.position = recorded.position;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use exodrive_domain::{DECISION_VERSION, Envelope, NewerRelease, time};
    use serde::Deserialize;
    use serde_json::json;

    /// The types of the events taken in.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Kinds(Vec<String>);

    impl DecisionState for Kinds {
        const NAME: &'static str = "kinds";
        const VERSION: u32 = 1;

        fn evolve(&mut self, event: &KnownEvent<'_>) {
            self.0.push(event.event().recorded.envelope.kind.clone());
        }
    }

    fn event(position: u64, kind: &str, version: u32) -> Recorded {
        let id = uuid::Uuid::from_u128(7);
        let now = time::parse("2026-11-20T09:00:00Z").unwrap();
        let change = kind.rsplit('.').next().unwrap();
        let body = json!({ "car_id": id, "type": change });
        Recorded {
            position,
            subject: format!("exo.fleet.{id}"),
            stored_at: now,
            envelope: Envelope { version, ..Envelope::decision(kind, position.to_string(), now) },
            provider_headers: Vec::new(),
            body: serde_json::to_vec(&body).unwrap().into(),
            protection: None,
        }
    }

    /// The position never passes what cannot be read: the guard of an append
    /// stays before it.
    fn stops_at(second: Recorded) {
        let Envelope { kind, version, .. } = second.envelope.clone();
        let mut loaded = Loaded::<Kinds>::default();
        let events =
            [event(3, "exodrive.car.listed", 1), second, event(9, "exodrive.car.hidden", 1)];
        let refused = loaded.apply_batch(&events);
        assert_eq!(refused, Err(NewerRelease { kind, version, position: 7 }.into()));
        assert_eq!(loaded.position, 3);
        assert_eq!(loaded.state.0, ["exodrive.car.listed"]);
        assert!(loaded.apply_batch(&events[1..]).is_err(), "and again");
    }

    #[test]
    fn given_an_event_of_an_unknown_type_then_the_state_stops_before_it() {
        stops_at(event(7, "exodrive.car.lent", 1));
    }

    #[test]
    fn given_an_event_of_a_newer_version_then_the_state_stops_before_it() {
        stops_at(event(7, "exodrive.car.featured", DECISION_VERSION + 1));
    }

    #[test]
    fn given_events_that_are_known_then_all_are_taken_in() {
        let mut loaded = Loaded::<Kinds>::default();
        let events = [event(3, "exodrive.car.listed", 1), event(9, "exodrive.car.hidden", 1)];
        loaded.apply_batch(&events).unwrap();
        assert_eq!(loaded.position, 9);
        assert_eq!(loaded.state.0.len(), 2);
    }
}
