//! Commands about a car, and the decisions on them: each gives the event of the
//! change, or the reason why it is rejected.

use super::{Car, FleetChange, FleetEvent, Image, Profile};
use crate::{
    command::{Meta, Repeat},
    id::CarId,
    price::PriceList,
    value::{Faults, InvalidValue, Reason, Rules, Valid, check_image_url, rules},
};
use std::{fmt, str::FromStr};

/// A request to change a car.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum FleetCommand {
    Add { car_id: CarId, slug: Slug, profile: Valid<Profile> },
    Describe(Valid<Profile>),
    Price(Valid<PriceList>),
    SetImages(Valid<Vec<Image>>),
    List,
    Hide,
    Feature,
    Unfeature,
    Archive { reason: Option<Reason> },
    Restore,
}

/// Reason why a command is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FleetRejection {
    /// The event at this position already executed this command.
    AlreadyDone(u64),
    /// Another command was executed under its id.
    KeyReused,
    /// There is no such car.
    NoSuchCar,
    /// A car of this id exists.
    Exists,
    /// The car changed meanwhile: its last change is at this position.
    Stale(u64),
    /// The command would change nothing.
    Unchanged,
    /// It is archived: restore it first.
    Archived,
    /// It cannot be listed without a price.
    NoPrice,
}

/// Decides a command: gives the event that it results in.
///
/// # Errors
/// [`FleetRejection`].
pub fn decide(
    car: Option<&Car>,
    command: &FleetCommand,
    meta: &Meta,
) -> Result<FleetEvent, FleetRejection> {
    let event = |car_id, change| {
        Ok(FleetEvent { car_id, request_hash: Some(meta.request_hash.clone()), change })
    };
    if let Some(repeat) = car.and_then(|car| meta.repeats(&car.commands)) {
        return Err(match repeat {
            Repeat::Same(position) => FleetRejection::AlreadyDone(position),
            Repeat::Other => FleetRejection::KeyReused,
        });
    }
    let car = match (command, car) {
        (FleetCommand::Add { car_id, slug, profile }, None) => {
            let (slug, profile) = (slug.to_string(), profile.clone().into_inner());
            return event(*car_id, FleetChange::Added { slug, profile });
        }
        (FleetCommand::Add { .. }, Some(_)) => return Err(FleetRejection::Exists),
        (_, None) => return Err(FleetRejection::NoSuchCar),
        (_, Some(car)) => car,
    };
    if meta.is_stale(car.position) {
        return Err(FleetRejection::Stale(car.position));
    }
    if car.archived && !matches!(command, FleetCommand::Restore) {
        return match command {
            FleetCommand::Archive { .. } => Err(FleetRejection::Unchanged),
            _ => Err(FleetRejection::Archived),
        };
    }
    let unless = |already: bool, change| {
        if already { Err(FleetRejection::Unchanged) } else { event(car.id, change) }
    };
    match command {
        FleetCommand::Add { .. } => Err(FleetRejection::Exists),
        FleetCommand::Describe(profile) => {
            let profile = profile.clone().into_inner();
            unless(profile == car.profile, FleetChange::Described { profile })
        }
        FleetCommand::Price(prices) => {
            let version = car.prices.as_ref().map_or(0, |known| known.version);
            let prices = prices.clone().into_inner();
            let same = |known: &PriceList| *known == PriceList { version, ..prices.clone() };
            let already = car.prices.as_ref().is_some_and(same);
            let prices = PriceList { version: version + 1, ..prices };
            unless(already, FleetChange::Priced { prices })
        }
        FleetCommand::SetImages(images) => {
            let images = images.clone().into_inner();
            unless(images == car.images, FleetChange::ImagesSet { images })
        }
        FleetCommand::List if car.prices.is_none() => Err(FleetRejection::NoPrice),
        FleetCommand::List => unless(car.listed, FleetChange::Listed {}),
        FleetCommand::Hide => unless(!car.listed, FleetChange::Hidden {}),
        FleetCommand::Feature => unless(car.featured, FleetChange::Featured {}),
        FleetCommand::Unfeature => unless(!car.featured, FleetChange::Unfeatured {}),
        FleetCommand::Archive { reason } => {
            unless(car.archived, FleetChange::Archived { reason: reason.clone().map(String::from) })
        }
        FleetCommand::Restore => unless(!car.archived, FleetChange::Restored {}),
    }
}

/// The name of a car in URLs: 1 to 100 of a-z, 0-9 and `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slug(String);

impl FromStr for Slug {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if is_slug(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidValue("must have 1 to 100 of a-z, 0-9 and '-'".to_owned()))
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn is_slug(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The most specifications of a car.
pub const MOST_SPECIFICATIONS: usize = 100;
/// The most features of a car.
pub const MOST_FEATURES: usize = 50;
/// The most images of a car.
pub const MOST_IMAGES: usize = 20;

impl Rules for Profile {
    fn apply(&mut self, faults: &mut Faults) {
        faults.text::<rules::Label>("/name", &mut self.name);
        faults.text::<rules::Category>("/category", &mut self.category);
        faults.text::<rules::Description>("/description", &mut self.description);
        let short = &mut self.short_description;
        faults.text::<rules::ShortDescription>("/short_description", short);
        let most = self.specifications.len() <= MOST_SPECIFICATIONS;
        faults.check(most, "/specifications", "must be at most 100");
        for (index, it) in self.specifications.iter_mut().enumerate() {
            faults.text::<rules::Label>(&format!("/specifications/{index}/name"), &mut it.name);
            let pointer = format!("/specifications/{index}/text");
            faults.text::<rules::SpecificationText>(&pointer, &mut it.text);
        }
        faults.check(self.features.len() <= MOST_FEATURES, "/features", "must be at most 50");
        for (index, it) in self.features.iter_mut().enumerate() {
            faults.text::<rules::Label>(&format!("/features/{index}/name"), &mut it.name);
            faults.text::<rules::FeatureText>(&format!("/features/{index}/text"), &mut it.text);
        }
        let zone = self.time_zone.parse::<chrono_tz::Tz>().is_ok();
        let detail = "must be an IANA time zone, for example America/New_York";
        faults.check(zone, "/time_zone", detail);
    }
}

impl Rules for Vec<Image> {
    fn apply(&mut self, faults: &mut Faults) {
        faults.check(self.len() <= MOST_IMAGES, "/images", "must be at most 20");
        let primary = self.iter().filter(|image| image.primary).count();
        let detail = format!("exactly one must be primary, not {primary}");
        faults.check(self.is_empty() || primary == 1, "/images", detail);
        for (index, image) in self.iter_mut().enumerate() {
            faults.take(&format!("/images/{index}/url"), check_image_url(&image.url));
            faults.text::<rules::ImageAlt>(&format!("/images/{index}/alt"), &mut image.alt);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Envelope, Recorded,
        fleet::{NamedText, evolve},
    };

    const CAR: u128 = 7;

    fn profile() -> Profile {
        Profile {
            name: "Huracán".into(),
            category: "Supercar".into(),
            description: String::new(),
            short_description: String::new(),
            specifications: Vec::new(),
            features: Vec::new(),
            time_zone: "America/New_York".into(),
        }
    }

    fn prices() -> PriceList {
        PriceList {
            currency: "USD".into(),
            base_per_day_cents: 100_000,
            minimum_days: 1,
            ..PriceList::default()
        }
    }

    fn meta(id: &str) -> Meta {
        Meta {
            command_id: id.into(),
            request_hash: format!("hash of {id}"),
            now: crate::time::parse("2026-11-24T12:00:00Z").unwrap(),
            if_position: None,
            by_staff: true,
        }
    }

    fn valid<T: Rules + std::fmt::Debug>(value: T) -> Valid<T> {
        Valid::new(value).unwrap()
    }

    fn faulty<T: Rules + std::fmt::Debug>(value: T) -> Vec<String> {
        Valid::new(value).unwrap_err().into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn every_value_of_a_car_has_its_rule() {
        let image = |url: &str| Image { url: url.into(), alt: String::new(), primary: true };
        let two = vec![image("https://img.example/a"), image("javascript:alert(1)")];
        assert_eq!(faulty(two), ["/images", "/images/1/url"]);
        let named =
            |name: &str| NamedText { name: name.into(), text: "\0".into(), highlighted: true };
        let nowhere = Profile {
            name: "  ".into(),
            description: "a\0".into(),
            specifications: vec![named("Speed")],
            features: vec![named("")],
            time_zone: "Mars/Base".into(),
            ..profile()
        };
        assert_eq!(
            faulty(nowhere),
            [
                "/name",
                "/description",
                "/specifications/0/text",
                "/features/0/name",
                "/features/0/text",
                "/time_zone"
            ]
        );
        let spaced = Profile { description: " Fast,\r\nloud. ".into(), ..profile() };
        assert_eq!(valid(spaced).description, "Fast,\nloud.");
        let metal = PriceList { currency: "XAU".into(), base_per_day_cents: 0, ..prices() };
        assert_eq!(faulty(metal), ["/currency", "/base_per_day_cents"]);
        for slug in ["", "Huracan", "a b", &"a".repeat(101)] {
            assert!(slug.parse::<Slug>().is_err(), "{slug}");
        }
    }

    fn add() -> FleetCommand {
        let car_id = uuid::Uuid::from_u128(CAR).into();
        FleetCommand::Add { car_id, slug: "huracan".parse().unwrap(), profile: valid(profile()) }
    }

    /// The car after these commands, each with its place as id.
    fn given(commands: &[FleetCommand]) -> Option<Car> {
        let mut car = None;
        for (position, command) in (1..).zip(commands) {
            let meta = meta(&position.to_string());
            let event = decide(car.as_ref(), command, &meta).unwrap();
            let recorded = Recorded {
                position,
                subject: String::new(),
                stored_at: meta.now,
                envelope: Envelope {
                    id: meta.command_id,
                    kind: event.change.kind().into(),
                    version: 1,
                    source: String::new(),
                    time: meta.now,
                    traceparent: None,
                    causation: None,
                    correlation: None,
                    actor: None,
                },
                provider_headers: Vec::new(),
                body: serde_json::to_vec(&event).unwrap().into(),
                protection: None,
            };
            let read: FleetEvent = serde_json::from_slice(&recorded.body).unwrap();
            assert_eq!(read, event);
            car = evolve(car, &read, &recorded);
        }
        car
    }

    #[test]
    fn a_car_is_added_priced_and_listed() {
        let car =
            given(&[add(), FleetCommand::Price(valid(prices())), FleetCommand::List]).unwrap();
        assert!(car.listed && !car.archived);
        assert_eq!((car.slug.as_str(), car.position), ("huracan", 3));
        assert_eq!(car.prices.map(|prices| prices.version), Some(1));
    }

    #[test]
    fn a_price_list_counts_up_and_a_rename_keeps_the_slug() {
        let dearer = PriceList { base_per_day_cents: 200_000, ..prices() };
        let renamed = Profile { name: "Huracán EVO".into(), ..profile() };
        let car = given(&[
            add(),
            FleetCommand::Price(valid(prices())),
            FleetCommand::Price(valid(dearer.clone())),
            FleetCommand::Describe(valid(renamed)),
        ])
        .unwrap();
        assert_eq!(car.prices.as_ref().map(|prices| prices.version), Some(2));
        assert_eq!((car.slug.as_str(), car.profile.name.as_str()), ("huracan", "Huracán EVO"));
        let again = decide(Some(&car), &FleetCommand::Price(valid(dearer)), &meta("x"));
        assert_eq!(again, Err(FleetRejection::Unchanged));
    }

    #[test]
    fn an_invalid_command_is_rejected_with_the_reason() {
        let car = given(&[add()]);
        let refused = |command| decide(car.as_ref(), &command, &meta("x")).unwrap_err();
        assert_eq!(refused(FleetCommand::List), FleetRejection::NoPrice);
        assert_eq!(refused(add()), FleetRejection::Exists);
        assert_eq!(refused(FleetCommand::Hide), FleetRejection::Unchanged);
        assert_eq!(decide(None, &FleetCommand::List, &meta("x")), Err(FleetRejection::NoSuchCar));
        let stale = Meta { if_position: Some(vec![9]), ..meta("x") };
        let refusal = decide(car.as_ref(), &FleetCommand::Feature, &stale);
        assert_eq!(refusal, Err(FleetRejection::Stale(1)));
    }

    #[test]
    fn an_archived_car_takes_no_command_but_to_be_restored() {
        let archived = given(&[add(), FleetCommand::Archive { reason: None }]);
        let refused = decide(archived.as_ref(), &FleetCommand::Feature, &meta("x"));
        assert_eq!(refused, Err(FleetRejection::Archived));
        assert!(decide(archived.as_ref(), &FleetCommand::Restore, &meta("x")).is_ok());
    }

    #[test]
    fn a_retry_is_reported_apart_from_another_request_under_its_id() {
        let car = given(&[add(), FleetCommand::Feature, FleetCommand::Unfeature]);
        let retry = decide(car.as_ref(), &FleetCommand::Feature, &meta("2"));
        assert_eq!(retry, Err(FleetRejection::AlreadyDone(2)));
        let other = Meta { request_hash: "other".into(), ..meta("2") };
        let reused = decide(car.as_ref(), &FleetCommand::Feature, &other);
        assert_eq!(reused, Err(FleetRejection::KeyReused));
    }
}
