//! `cars`: one row for each car of the fleet, as the public and staff see it.

mod answer;
pub mod read;

use crate::{
    PersonalData, Projection, Sources,
    views::search::{OLDER_WORDS, fold, text_of, typos_of},
};
use exodrive_domain::{
    Event, Payload, Subject,
    fleet::{self, Car},
};
use serde::{Deserialize, Serialize};

/// The view of the fleet.
pub struct Cars;

/// A car, and the columns that lists search, filter and sort by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CarRow {
    /// The car as folded.
    pub car: Car,
    /// True if the public sees it.
    pub shown: bool,
    /// The words that it is found by, those of its name also with typos.
    pub search: String,
    /// Names of features, folded.
    pub features: Vec<String>,
    /// Featured cars first, then by name.
    pub by_featured: String,
    /// By name.
    pub by_name: String,
    /// By currency, and the price of a day in it.
    pub by_price: String,
}

/// A price, so that the texts of one currency are in the order of their amounts.
fn price_text(currency: &str, cents: i64) -> String {
    format!("{currency} {cents:013}")
}

impl CarRow {
    fn of(mut car: Car) -> Self {
        // Only decisions use them.
        car.commands.clear();
        let profile = &car.profile;
        let texts = [&profile.name, &car.slug, &profile.category, &profile.short_description];
        let features = profile.features.iter().map(|feature| &feature.name);
        let words = text_of(texts.into_iter().chain(features).map(String::as_str));
        let search = format!("{words} {}", typos_of(&profile.name));
        let name = profile.name.to_lowercase();
        let prices = car.prices.as_ref();
        let price = prices.map_or(0, |prices| prices.base_per_day_cents);
        let currency = prices.map_or("", |prices| &prices.currency);
        Self {
            shown: car.listed && !car.archived && car.prices.is_some(),
            search,
            features: profile.features.iter().map(|it| fold(&it.name)).collect(),
            by_featured: format!("{} {name} {}", u8::from(!car.featured), car.id),
            by_name: format!("{name} {}", car.id),
            by_price: format!("{} {}", price_text(currency, price), car.id),
            car,
        }
    }
}

impl Projection for Cars {
    const NAME: &'static str = "cars";
    const ABOUT: &'static str = "A car, by its id";
    const KEY_EXAMPLE: &'static str = "0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4";
    const VERSION: u32 = 2;
    const SUBJECTS: &'static [&'static str] = &["exo.fleet."];
    const SCHEMA: &'static str = include_str!("schema.sql");
    const NEWER_COLUMNS: &'static [(&'static str, &'static str)] = &[OLDER_WORDS];
    const CACHED: bool = true;
    const READERS: &'static str =
        "shown or current_setting('exodrive.identity', true) in ('admin', 'auditor', 'system')";
    type Row = CarRow;

    fn personal(_key: &str) -> PersonalData<'_> {
        PersonalData::Nothing
    }

    fn keys(event: &Event<'_>) -> Vec<String> {
        match event.payload {
            Payload::Fleet(event) => vec![event.car_id.to_string()],
            _ => Vec::new(),
        }
    }

    fn evolve(_key: &str, row: Option<CarRow>, event: &Event<'_>) -> Option<CarRow> {
        let Payload::Fleet(change) = event.payload else { return row };
        fleet::evolve(row.map(|row| row.car), change, event.recorded).map(CarRow::of)
    }

    fn sources(key: &str, _row: Option<&CarRow>) -> Sources {
        Sources::subject(key.parse().ok().map(Subject::Fleet))
    }

    /// `null` for a car that the public does not see.
    fn cached(row: &CarRow, position: u64) -> Option<String> {
        let shown = row.shown.then(|| answer::CarDetail::of(&row.car, position));
        serde_json::to_string(&shown).ok()
    }

    fn aliases(row: &CarRow) -> Vec<String> {
        vec![row.car.slug.clone()]
    }
}
