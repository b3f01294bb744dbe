//! The states that the domain decides on.

use super::state::DecisionState;
use exodrive_domain::{
    KnownEvent, Payload,
    booking::Calendar,
    credential::{ServiceKey, SignIns},
    fleet::{self, Car},
};
use serde::{Deserialize, Serialize};

/// The car of a fleet subject, if it was added.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CarState(pub Option<Car>);

impl DecisionState for CarState {
    const NAME: &'static str = "car";
    const VERSION: u32 = 1;

    fn evolve(&mut self, event: &KnownEvent<'_>) {
        let event = event.event();
        if let Payload::Fleet(change) = event.payload {
            self.0 = fleet::evolve(self.0.take(), change, event.recorded);
        }
    }
}

impl DecisionState for Calendar {
    const NAME: &'static str = "calendar";
    const VERSION: u32 = 2;

    fn evolve(&mut self, event: &KnownEvent<'_>) {
        Calendar::evolve(self, &event.event());
    }
}

/// The service key of a subject, if it was created.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeyState(pub Option<ServiceKey>);

impl DecisionState for KeyState {
    const NAME: &'static str = "service-key";
    const VERSION: u32 = 1;

    fn evolve(&mut self, event: &KnownEvent<'_>) {
        let event = event.event();
        if let Payload::ServiceKey(change) = event.payload {
            self.0 = ServiceKey::evolve(self.0.take(), change, event.recorded);
        }
    }
}

impl DecisionState for SignIns {
    const NAME: &'static str = "sign-ins";
    const VERSION: u32 = 1;

    fn evolve(&mut self, event: &KnownEvent<'_>) {
        let event = event.event();
        if let Payload::Sessions(change) = event.payload {
            Self::evolve(self, change, event.recorded);
        }
    }
}
