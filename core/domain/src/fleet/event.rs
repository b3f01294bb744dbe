//! The events of a car: its description, prices, images and slug.

use crate::{id::CarId, price::PriceList};
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantNames};

/// A change of a car, on `exo.fleet.<car id>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FleetEvent {
    /// The car.
    pub car_id: CarId,
    /// Hash of the command's request. It tells a retry from another request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_hash: Option<String>,
    /// The change.
    #[serde(flatten)]
    pub change: FleetChange,
}

/// A change of a car. Each variant holds the complete new values, not a
/// difference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case", prefix = "exodrive.car.")]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum FleetChange {
    Added {
        slug: String,
        profile: Profile,
    },
    Described {
        profile: Profile,
    },
    Priced {
        prices: PriceList,
    },
    ImagesSet {
        images: Vec<Image>,
    },
    Listed {},
    Hidden {},
    Featured {},
    Unfeatured {},
    Archived {
        reason: Option<String>,
    },
    Restored {},
    /// On `exo.slug.<slug>`: no other car may have the slug.
    SlugClaimed {
        slug: String,
    },
}

impl FleetChange {
    /// Every event type (`ce-type`).
    pub const KINDS: &'static [&'static str] = <Self as VariantNames>::VARIANTS;

    /// The event's type (`ce-type`).
    pub fn kind(&self) -> &'static str {
        self.into()
    }
}

/// The description of a car.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// The name that customers see.
    pub name: String,
    /// For example `Supercar`.
    pub category: String,
    /// The long text.
    #[serde(default)]
    pub description: String,
    /// The short text.
    #[serde(default)]
    pub short_description: String,
    /// The facts, in the order shown.
    #[serde(default)]
    pub specifications: Vec<NamedText>,
    /// The features, in the order shown.
    #[serde(default)]
    pub features: Vec<NamedText>,
    /// The time zone of the car's place (IANA): a day of a rental is a calendar
    /// day there.
    pub time_zone: String,
}

/// A specification (`text` is its value) or a feature (`text` describes it).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamedText {
    /// For example `Top speed`.
    pub name: String,
    /// For example `325 km/h`.
    #[serde(default)]
    pub text: String,
    /// True if it is shown first.
    #[serde(default)]
    pub highlighted: bool,
}

/// A picture of a car; its bytes are elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// The address of the image.
    pub url: String,
    /// Text for people who cannot see the image.
    #[serde(default)]
    pub alt: String,
    /// True for the image that represents the car in lists.
    #[serde(default)]
    pub primary: bool,
}
