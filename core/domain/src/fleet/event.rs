use crate::{id::CarId, price::PriceList};
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantNames};

/// Something that became of a car, on `exo.fleet.<car id>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FleetEvent {
    /// Which car.
    pub car_id: CarId,
    /// What the command asked for, to tell a retry from another request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_hash: Option<String>,
    /// What became of it.
    #[serde(flatten)]
    pub change: FleetChange,
}

/// What became of a car. The whole of what changed, not a difference.
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
    /// On `exo.slug.<slug>`: nobody else may have the slug.
    SlugClaimed {
        slug: String,
    },
}

impl FleetChange {
    /// Every type (`ce-type`).
    pub const KINDS: &'static [&'static str] = <Self as VariantNames>::VARIANTS;

    /// The event's type (`ce-type`).
    pub fn kind(&self) -> &'static str {
        self.into()
    }
}

/// What a car is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// For people.
    pub name: String,
    /// For example `Supercar`.
    pub category: String,
    /// The long text.
    #[serde(default)]
    pub description: String,
    /// The short text.
    #[serde(default)]
    pub short_description: String,
    /// Facts, in the order shown.
    #[serde(default)]
    pub specifications: Vec<NamedText>,
    /// What it offers, in the order shown.
    #[serde(default)]
    pub features: Vec<NamedText>,
    /// Where the car is (IANA): a day of a rental is a calendar day there.
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
    /// Shown first.
    #[serde(default)]
    pub highlighted: bool,
}

/// A picture of a car; its bytes are elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Where it is.
    pub url: String,
    /// What it shows, for who cannot see it.
    #[serde(default)]
    pub alt: String,
    /// The one that stands for the car.
    #[serde(default)]
    pub primary: bool,
}
