//! Commands about a car, and the decisions on them: each gives the event of the
//! change, or the reason why it is rejected.

use super::{Car, FleetChange, FleetEvent, Image, NamedText, Profile};
use crate::{
    command::{Meta, Repeat},
    id::CarId,
    price::{InvalidField, PriceList},
};

/// A request to change a car.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum FleetCommand {
    Add { car_id: CarId, slug: String, profile: Profile },
    Describe(Profile),
    Price(PriceList),
    SetImages(Vec<Image>),
    List,
    Hide,
    Feature,
    Unfeature,
    Archive { reason: Option<String> },
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
    /// Parts of the command are invalid.
    Faulty(Vec<InvalidField>),
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
            let mut faults = check_profile(profile);
            if !is_slug(slug) {
                faults.push(InvalidField::new("/slug", "must have 1 to 100 of a-z, 0-9 and '-'"));
            }
            check_text(faults)?;
            let (slug, profile) = (slug.clone(), profile.clone());
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
            check_text(check_profile(profile))?;
            unless(*profile == car.profile, FleetChange::Described { profile: profile.clone() })
        }
        FleetCommand::Price(prices) => {
            check_text(prices.check())?;
            let version = car.prices.as_ref().map_or(0, |known| known.version);
            let same = |known: &PriceList| *known == PriceList { version, ..prices.clone() };
            let already = car.prices.as_ref().is_some_and(same);
            let prices = PriceList { version: version + 1, ..prices.clone() };
            unless(already, FleetChange::Priced { prices })
        }
        FleetCommand::SetImages(images) => {
            check_text(check_images(images))?;
            unless(*images == car.images, FleetChange::ImagesSet { images: images.clone() })
        }
        FleetCommand::List if car.prices.is_none() => Err(FleetRejection::NoPrice),
        FleetCommand::List => unless(car.listed, FleetChange::Listed {}),
        FleetCommand::Hide => unless(!car.listed, FleetChange::Hidden {}),
        FleetCommand::Feature => unless(car.featured, FleetChange::Featured {}),
        FleetCommand::Unfeature => unless(!car.featured, FleetChange::Unfeatured {}),
        FleetCommand::Archive { reason } => {
            unless(car.archived, FleetChange::Archived { reason: reason.clone() })
        }
        FleetCommand::Restore => unless(!car.archived, FleetChange::Restored {}),
    }
}

fn check_text(faults: Vec<InvalidField>) -> Result<(), FleetRejection> {
    if faults.is_empty() { Ok(()) } else { Err(FleetRejection::Faulty(faults)) }
}

pub(crate) fn is_slug(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn check_profile(profile: &Profile) -> Vec<InvalidField> {
    let mut faults = Vec::new();
    let mut text = |pointer: String, text: &str, least: usize, most: usize| {
        if !(least..=most).contains(&text.chars().count()) {
            let detail = format!("must have {least} to {most} characters");
            faults.push(InvalidField::new(pointer, detail));
        }
    };
    text("/name".into(), &profile.name, 1, 100);
    text("/category".into(), &profile.category, 1, 50);
    text("/description".into(), &profile.description, 0, 2_000);
    text("/short_description".into(), &profile.short_description, 0, 200);
    let lists =
        [("specifications", &profile.specifications, 200), ("features", &profile.features, 500)];
    for (name, list, longest) in lists {
        for (index, NamedText { name: title, text: value, .. }) in list.iter().enumerate() {
            text(format!("/{name}/{index}/name"), title, 1, 100);
            text(format!("/{name}/{index}/text"), value, 0, longest);
        }
    }
    if profile.specifications.len() > 100 {
        faults.push(InvalidField::new("/specifications", "must be at most 100"));
    }
    if profile.features.len() > 50 {
        faults.push(InvalidField::new("/features", "must be at most 50"));
    }
    if profile.time_zone.parse::<chrono_tz::Tz>().is_err() {
        let detail = "must be an IANA time zone, for example America/New_York";
        faults.push(InvalidField::new("/time_zone", detail));
    }
    faults
}

fn check_images(images: &[Image]) -> Vec<InvalidField> {
    let mut faults = Vec::new();
    if images.len() > 20 {
        faults.push(InvalidField::new("/images", "must be at most 20"));
    }
    let primary = images.iter().filter(|image| image.primary).count();
    if !images.is_empty() && primary != 1 {
        faults.push(InvalidField::new(
            "/images",
            format!("exactly one must be primary, not {primary}"),
        ));
    }
    for (index, image) in images.iter().enumerate() {
        if image.url.is_empty() || image.url.len() > 2_000 {
            faults.push(InvalidField::new(format!("/images/{index}/url"), "must be a URL"));
        }
        if image.alt.chars().count() > 200 {
            let detail = "must have at most 200 characters";
            faults.push(InvalidField::new(format!("/images/{index}/alt"), detail));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Envelope, Recorded, fleet::evolve};

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

    fn add() -> FleetCommand {
        let car_id = uuid::Uuid::from_u128(CAR).into();
        FleetCommand::Add { car_id, slug: "huracan".into(), profile: profile() }
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
        let car = given(&[add(), FleetCommand::Price(prices()), FleetCommand::List]).unwrap();
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
            FleetCommand::Price(prices()),
            FleetCommand::Price(dearer.clone()),
            FleetCommand::Describe(renamed),
        ])
        .unwrap();
        assert_eq!(car.prices.as_ref().map(|prices| prices.version), Some(2));
        assert_eq!((car.slug.as_str(), car.profile.name.as_str()), ("huracan", "Huracán EVO"));
        let again = decide(Some(&car), &FleetCommand::Price(dearer), &meta("x"));
        assert_eq!(again, Err(FleetRejection::Unchanged));
    }

    #[test]
    fn an_invalid_command_is_rejected_with_the_reason() {
        let car = given(&[add()]);
        let refused = |command| decide(car.as_ref(), &command, &meta("x")).unwrap_err();
        assert_eq!(refused(FleetCommand::List), FleetRejection::NoPrice);
        assert_eq!(refused(add()), FleetRejection::Exists);
        assert_eq!(refused(FleetCommand::Hide), FleetRejection::Unchanged);
        let image = |primary| Image { url: "https://x".into(), alt: String::new(), primary };
        let two = vec![image(true), image(true)];
        assert!(matches!(refused(FleetCommand::SetImages(two)), FleetRejection::Faulty(_)));
        let nowhere = Profile { time_zone: "Mars/Base".into(), ..profile() };
        let FleetRejection::Faulty(faults) = refused(FleetCommand::Describe(nowhere)) else {
            panic!("not faulty")
        };
        assert_eq!(faults[0].pointer, "/time_zone");
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
