//! The fleet: a car's description, its prices, and if it is offered.

mod decide;
mod event;

pub(crate) use decide::is_slug;
pub use decide::{
    FleetCommand, FleetRejection, MOST_FEATURES, MOST_IMAGES, MOST_SPECIFICATIONS, Slug, decide,
};
pub use event::{FleetChange, FleetEvent, Image, NamedText, Profile};

use crate::{
    CommandRecord, Recorded, command::remember, id::CarId, price::PriceList, time::serde_micros,
};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

/// A car, folded from its events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Car {
    /// Its id.
    pub id: CarId,
    /// Its name in URLs: unique, and never changed.
    pub slug: String,
    /// The description.
    pub profile: Profile,
    /// The price list; a car without one cannot be booked.
    pub prices: Option<PriceList>,
    /// In the order shown. Exactly one is primary if there are any.
    pub images: Vec<Image>,
    /// True if the public sees it and can book it.
    pub listed: bool,
    /// True if it is shown first.
    pub featured: bool,
    /// Out of the fleet: the car cannot be booked.
    pub archived: bool,
    /// The time at which it was added.
    #[serde(with = "serde_micros")]
    pub created_at: DateTime<Utc>,
    /// The time of its last change.
    #[serde(with = "serde_micros")]
    pub updated_at: DateTime<Utc>,
    /// The position that last changed it.
    pub position: u64,
    /// The executed commands that are remembered.
    pub commands: Vec<CommandRecord>,
}

impl Car {
    /// The calendar day that it is where the car is.
    pub fn today(&self, now: DateTime<Utc>) -> NaiveDate {
        today(&self.profile.time_zone, now)
    }
}

/// The calendar day in a time zone (IANA); in UTC if there is no such zone.
pub fn today(time_zone: &str, now: DateTime<Utc>) -> NaiveDate {
    match time_zone.parse::<chrono_tz::Tz>() {
        Ok(zone) => now.with_timezone(&zone).date_naive(),
        Err(_) => now.date_naive(),
    }
}

/// The car after an event.
pub fn evolve(car: Option<Car>, event: &FleetEvent, recorded: &Recorded) -> Option<Car> {
    let at = recorded.envelope.time;
    let mut car = match (car, &event.change) {
        (None, FleetChange::Added { slug, profile }) => Car {
            id: event.car_id,
            slug: slug.clone(),
            profile: profile.clone(),
            prices: None,
            images: Vec::new(),
            listed: false,
            featured: false,
            archived: false,
            created_at: at,
            updated_at: at,
            position: 0,
            commands: Vec::new(),
        },
        (car, _) => car?,
    };
    match &event.change {
        FleetChange::Added { .. } => {}
        FleetChange::Described { profile } => car.profile.clone_from(profile),
        FleetChange::Priced { prices } => car.prices = Some(prices.clone()),
        FleetChange::ImagesSet { images } => car.images.clone_from(images),
        FleetChange::Listed {} => car.listed = true,
        FleetChange::Hidden {} => car.listed = false,
        FleetChange::Featured {} => car.featured = true,
        FleetChange::Unfeatured {} => car.featured = false,
        FleetChange::Archived { .. } => car.archived = true,
        FleetChange::Restored {} => car.archived = false,
        FleetChange::SlugClaimed { .. } => return Some(car),
    }
    car.updated_at = at;
    car.position = recorded.position;
    remember(&mut car.commands, event.request_hash.as_deref(), recorded);
    Some(car)
}
