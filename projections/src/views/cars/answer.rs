//! Answers about the fleet. Redis holds a [`CarDetail`] as it is sent.

use chrono::{DateTime, NaiveDate, Utc};
use exodrive_domain::{
    fleet::{Car, Image, NamedText},
    price::{Location, Peak, PriceList},
    time::serde_micros,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A car in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CarSummary {
    /// Always `car`.
    pub object: String,
    /// A UUID.
    pub id: String,
    /// Its name in URLs: unique, never changed.
    #[schema(example = "ferrari-296-gtb")]
    pub slug: String,
    /// For people.
    pub name: String,
    /// For example `Supercar`.
    pub category: String,
    /// The short text.
    pub short_description: String,
    /// Names of its features.
    pub features: Vec<String>,
    /// The picture that represents it.
    pub primary_image: Option<ImageDetail>,
    /// Its price; null only for cars that the public does not see.
    pub price: Option<PriceSummary>,
    /// Shown first.
    pub featured: bool,
    /// Shown to the public and bookable by it.
    pub listed: bool,
    /// Out of the fleet.
    pub archived: bool,
    /// The position in the log that last changed this.
    pub position: u64,
}

/// A car's price, in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PriceSummary {
    /// ISO 4217.
    #[schema(example = "USD")]
    pub currency: String,
    /// A day, in cents, before peaks, fees, discount and tax.
    pub base_per_day_cents: i64,
    /// Off the days and fees; 10,000 are 100 %.
    pub discount_basis_points: u32,
    /// Text about the discount, for customers.
    pub offer_text: Option<String>,
    /// The shortest rental.
    pub minimum_days: u32,
}

/// All details of a car.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CarDetail {
    /// Always `car`.
    pub object: String,
    /// A UUID.
    pub id: String,
    /// Its name in URLs: unique, never changed.
    #[schema(example = "ferrari-296-gtb")]
    pub slug: String,
    /// For people.
    pub name: String,
    /// For example `Supercar`.
    pub category: String,
    /// The long text.
    pub description: String,
    /// The short text.
    pub short_description: String,
    /// Facts, in the order to be shown.
    pub specifications: Vec<NamedTextDetail>,
    /// Its features, in the order to be shown.
    pub features: Vec<NamedTextDetail>,
    /// In the order to be shown; exactly one is primary, unless the list is empty.
    pub images: Vec<ImageDetail>,
    /// Its price; null only for cars that the public does not see.
    pub price: Option<PriceDetail>,
    /// The time zone of the car's place (IANA): a day of a rental is a calendar day there.
    #[schema(example = "America/New_York")]
    pub time_zone: String,
    /// Shown first.
    pub featured: bool,
    /// Shown to the public and bookable by it.
    pub listed: bool,
    /// Out of the fleet.
    pub archived: bool,
    /// Time that it was added.
    #[serde(with = "serde_micros")]
    pub created_at: DateTime<Utc>,
    /// Time that it last changed.
    #[serde(with = "serde_micros")]
    pub updated_at: DateTime<Utc>,
    /// The position in the log that last changed this.
    pub position: u64,
}

/// A specification (`text` is its value) or a feature (`text` describes it).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedTextDetail {
    /// For example `Top speed`.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    /// For example `325 km/h`. At most 200 characters; 500 of a feature.
    #[serde(default)]
    #[schema(max_length = 500)]
    pub text: String,
    /// To be shown first.
    #[serde(default)]
    pub highlighted: bool,
}

/// A picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageDetail {
    /// Its address, with `https`.
    #[schema(min_length = 1, max_length = 2000, pattern = "^https://")]
    pub url: String,
    /// Description of the picture, for people who cannot see it.
    #[serde(default)]
    #[schema(max_length = 200)]
    pub alt: String,
    /// True for the one that represents the car.
    #[serde(default)]
    pub primary: bool,
}

/// A car's price. Shares are in basis points: 10,000 are 100 %.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PriceDetail {
    /// Counts the car's price lists, from 1.
    pub version: u32,
    /// ISO 4217.
    #[schema(example = "USD")]
    pub currency: String,
    /// A day, in cents.
    pub base_per_day_cents: i64,
    /// Off the days and fees.
    pub discount_basis_points: u32,
    /// Text about the discount, for customers.
    pub offer_text: Option<String>,
    /// Held while the car is out, apart from the price; 30 % of the total if
    /// null.
    pub deposit_cents: Option<i64>,
    /// The shortest rental.
    pub minimum_days: u32,
    /// Fees for a whole rental.
    pub fees: Vec<FeeDetail>,
    /// Days that cost more.
    pub peaks: Vec<PeakDetail>,
    /// Places to pick the car up and to leave it.
    pub locations: Vec<LocationDetail>,
    /// Fee for leaving the car at another place than it was picked up.
    pub one_way_fee_cents: i64,
    /// On everything, after the discount.
    pub tax_basis_points: u32,
}

/// A fee for a whole rental.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeeDetail {
    /// Id by which a booking chooses it.
    #[schema(min_length = 1, max_length = 100)]
    pub id: String,
    /// For people.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    /// In cents.
    #[schema(minimum = 0, maximum = 10_000_000)]
    pub amount_cents: i64,
    /// True if it is charged without being chosen.
    pub mandatory: bool,
}

/// Days that cost more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeakDetail {
    /// For people.
    pub name: String,
    /// Only these weekdays, 0 is Sunday; any if empty.
    pub weekdays: Vec<u8>,
    /// The first day; any if null.
    pub start_date: Option<NaiveDate>,
    /// The last day; any if null.
    pub end_date: Option<NaiveDate>,
    /// A day's price becomes this share of it.
    pub multiplier_basis_points: u32,
}

/// A place to pick up or leave the car.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LocationDetail {
    /// Id by which a booking chooses it.
    #[schema(min_length = 1, max_length = 100)]
    pub id: String,
    /// For people.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    /// For picking the car up there: a fixed amount in cents …
    #[schema(minimum = 0, maximum = 10_000_000)]
    pub pick_up_cents: i64,
    /// … and a share of the price of the days.
    #[schema(maximum = 10_000)]
    pub pick_up_basis_points: u32,
    /// For leaving it there: a fixed amount in cents …
    #[schema(minimum = 0, maximum = 10_000_000)]
    pub drop_off_cents: i64,
    /// … and a share of the price of the days.
    #[schema(maximum = 10_000)]
    pub drop_off_basis_points: u32,
}

impl From<&NamedText> for NamedTextDetail {
    fn from(it: &NamedText) -> Self {
        Self { name: it.name.clone(), text: it.text.clone(), highlighted: it.highlighted }
    }
}

impl From<&Image> for ImageDetail {
    fn from(image: &Image) -> Self {
        Self { url: image.url.clone(), alt: image.alt.clone(), primary: image.primary }
    }
}

impl From<&Peak> for PeakDetail {
    fn from(peak: &Peak) -> Self {
        Self {
            name: peak.name.clone(),
            weekdays: peak.weekdays.iter().copied().collect(),
            start_date: peak.days.map(|days| days.first()),
            end_date: peak.days.map(|days| days.last()),
            multiplier_basis_points: peak.multiplier_basis_points,
        }
    }
}

impl From<&Location> for LocationDetail {
    fn from(location: &Location) -> Self {
        Self {
            id: location.id.clone(),
            name: location.name.clone(),
            pick_up_cents: location.pick_up.fixed_cents,
            pick_up_basis_points: location.pick_up.basis_points,
            drop_off_cents: location.drop_off.fixed_cents,
            drop_off_basis_points: location.drop_off.basis_points,
        }
    }
}

impl From<&PriceList> for PriceDetail {
    fn from(prices: &PriceList) -> Self {
        let fee = |fee: &exodrive_domain::price::Fee| FeeDetail {
            id: fee.id.clone(),
            name: fee.name.clone(),
            amount_cents: fee.amount_cents,
            mandatory: fee.mandatory,
        };
        Self {
            version: prices.version,
            currency: prices.currency.clone(),
            base_per_day_cents: prices.base_per_day_cents,
            discount_basis_points: prices.discount_basis_points,
            offer_text: prices.offer_text.clone(),
            deposit_cents: prices.deposit_cents,
            minimum_days: prices.minimum_days,
            fees: prices.fees.iter().map(fee).collect(),
            peaks: prices.peaks.iter().map(PeakDetail::from).collect(),
            locations: prices.locations.iter().map(LocationDetail::from).collect(),
            one_way_fee_cents: prices.one_way_fee_cents,
            tax_basis_points: prices.tax_basis_points,
        }
    }
}

impl CarDetail {
    /// A car's detail; `position` last changed the car.
    pub fn of(car: &Car, position: u64) -> Self {
        let profile = &car.profile;
        Self {
            object: "car".to_owned(),
            id: car.id.to_string(),
            slug: car.slug.clone(),
            name: profile.name.clone(),
            category: profile.category.clone(),
            description: profile.description.clone(),
            short_description: profile.short_description.clone(),
            specifications: profile.specifications.iter().map(NamedTextDetail::from).collect(),
            features: profile.features.iter().map(NamedTextDetail::from).collect(),
            images: car.images.iter().map(ImageDetail::from).collect(),
            price: car.prices.as_ref().map(PriceDetail::from),
            time_zone: profile.time_zone.clone(),
            featured: car.featured,
            listed: car.listed,
            archived: car.archived,
            created_at: car.created_at,
            updated_at: car.updated_at,
            position,
        }
    }
}

impl CarSummary {
    pub(super) fn of(car: &Car, position: u64) -> Self {
        let profile = &car.profile;
        let price = |prices: &PriceList| PriceSummary {
            currency: prices.currency.clone(),
            base_per_day_cents: prices.base_per_day_cents,
            discount_basis_points: prices.discount_basis_points,
            offer_text: prices.offer_text.clone(),
            minimum_days: prices.minimum_days,
        };
        Self {
            object: "car".to_owned(),
            id: car.id.to_string(),
            slug: car.slug.clone(),
            name: profile.name.clone(),
            category: profile.category.clone(),
            short_description: profile.short_description.clone(),
            features: profile.features.iter().map(|feature| feature.name.clone()).collect(),
            primary_image: car.images.iter().find(|image| image.primary).map(ImageDetail::from),
            price: car.prices.as_ref().map(price),
            featured: car.featured,
            listed: car.listed,
            archived: car.archived,
            position,
        }
    }
}
