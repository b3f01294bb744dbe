//! The price of a rental: one pure function, [`quote`].
//!
//! Amounts are whole cents. **Rounding**: a share of an amount (a multiplier,
//! a discount, a tax) is rounded to the cent, half a cent upwards, once, where
//! its line is made; everything after that is addition.

use crate::{
    days::Days,
    value::{ChoiceId, Faults, Rules, check_currency, rules},
};
use chrono::{Datelike, NaiveDate};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The longest rental, in days.
pub const LONGEST_RENTAL: u32 = 365;
/// The deposit where a price list names none: this share of the total.
const DEPOSIT_SHARE: u32 = 3_000;
/// 100 %, in basis points.
const WHOLE: u32 = 10_000;

/// The price list of a car. Shares are in basis points: 10,000 are 100 %.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceList {
    /// Counts the car's price lists, from 1.
    #[serde(default)]
    pub version: u32,
    /// The currency by ISO 4217, for example `USD`.
    pub currency: String,
    /// A day, in cents.
    pub base_per_day_cents: i64,
    /// The discount on days and fees.
    #[serde(default)]
    pub discount_basis_points: u32,
    /// The text about the discount that customers see.
    #[serde(default)]
    pub offer_text: Option<String>,
    /// Held while the car is out, and not part of the price; 30 % of the total
    /// if left out.
    #[serde(default)]
    pub deposit_cents: Option<i64>,
    /// The shortest rental.
    #[serde(default = "one")]
    pub minimum_days: u32,
    /// Fees, mandatory and optional.
    #[serde(default)]
    pub fees: Vec<Fee>,
    /// Days that cost more.
    #[serde(default)]
    pub peaks: Vec<Peak>,
    /// The places where the car can be picked up and left.
    #[serde(default)]
    pub locations: Vec<Location>,
    /// The fee for leaving the car at another place than the pick-up.
    #[serde(default)]
    pub one_way_fee_cents: i64,
    /// The tax on all of it, after the discount.
    #[serde(default)]
    pub tax_basis_points: u32,
}

fn one() -> u32 {
    1
}

/// A fee for a whole rental.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fee {
    /// Names it in a request; unique within the price list.
    pub id: String,
    /// The name that people see.
    pub name: String,
    /// The amount in cents.
    pub amount_cents: i64,
    /// True if it is charged even when it is not chosen.
    pub mandatory: bool,
}

/// Days that cost more. Of several that match a day the highest counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peak {
    /// The name that people see.
    pub name: String,
    /// Only these weekdays, 0 is Sunday; any if empty.
    #[serde(default)]
    pub weekdays: BTreeSet<u8>,
    /// Only these days; any if left out.
    #[serde(default)]
    pub days: Option<Days>,
    /// A day's price becomes this share of it, 10,000 to 50,000.
    pub multiplier_basis_points: u32,
}

impl Peak {
    fn matches(&self, day: NaiveDate) -> bool {
        let weekday = u8::try_from(day.weekday().num_days_from_sunday()).unwrap_or(0);
        (self.weekdays.is_empty() || self.weekdays.contains(&weekday))
            && self.days.is_none_or(|days| days.contains(day))
    }
}

/// A place to pick up or leave the car.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// Names it in a request; unique within the price list.
    pub id: String,
    /// The name that people see.
    pub name: String,
    /// The fee for the pick-up there.
    #[serde(default)]
    pub pick_up: LocationFee,
    /// The fee for leaving it there.
    #[serde(default)]
    pub drop_off: LocationFee,
}

/// A fixed amount and a share of the days' price; either may be 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocationFee {
    /// The amount in cents.
    #[serde(default)]
    pub fixed_cents: i64,
    /// The share of the days' price.
    #[serde(default)]
    pub basis_points: u32,
}

/// The customer's choices besides the days.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choices {
    /// Ids of optional fees.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub fees: BTreeSet<String>,
    /// Id of the location of the pick-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pick_up: Option<String>,
    /// Id of the location where it is left; the pick-up's if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_off: Option<String>,
}

/// A price, line by line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// Version of the price list that it was made by.
    pub price_list_version: u32,
    /// The currency by ISO 4217.
    pub currency: String,
    /// The parts of the total.
    pub lines: Vec<Line>,
    /// The sum of the lines, in cents. Never negative.
    pub total_cents: i64,
    /// Held apart from the total while the car is out, in cents.
    pub deposit_cents: i64,
}

/// A part of a price: `amount_cents` is `quantity` times `unit_cents`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The subject of the line.
    pub kind: LineKind,
    /// A text for people.
    pub label: String,
    /// The quantity.
    pub quantity: u32,
    /// The amount of one, in cents.
    pub unit_cents: i64,
    /// The amount of all, in cents; negative for a discount.
    pub amount_cents: i64,
}

/// The subject of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LineKind {
    Days,
    MandatoryFee,
    OptionalFee,
    PickUp,
    DropOff,
    OneWay,
    Discount,
    Tax,
    /// A booking imported from the present product, which stores no lines.
    Imported,
}

/// Reason why there is no price.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// Fewer days than the car is rented for.
    #[error("this car is rented for {minimum} days or more")]
    TooShort {
        /// The least.
        minimum: u32,
    },
    /// More days than any car is rented for.
    #[error("a rental has at most {LONGEST_RENTAL} days")]
    TooLong,
    /// An optional fee that the price list does not have.
    #[error("the car has no optional fee {0:?}")]
    UnknownFee(String),
    /// A location to have the car at that the price list does not have.
    #[error("the car cannot be picked up at {0:?}")]
    UnknownPickUp(String),
    /// The same, to leave it.
    #[error("the car cannot be left at {0:?}")]
    UnknownDropOff(String),
}

/// `basis_points` of an amount that is not negative, half a cent upwards.
fn share(amount_cents: i64, basis_points: u32) -> i64 {
    let whole = i64::from(WHOLE);
    (amount_cents * i64::from(basis_points) + whole / 2) / whole
}

/// The price of a rental by a price list that keeps its [`Rules`].
///
/// # Errors
/// [`QuoteError`].
pub fn quote(prices: &PriceList, days: Days, choices: &Choices) -> Result<Quote, QuoteError> {
    let count = days.count();
    if count < prices.minimum_days {
        return Err(QuoteError::TooShort { minimum: prices.minimum_days });
    }
    if count > LONGEST_RENTAL {
        return Err(QuoteError::TooLong);
    }
    let mut lines = day_lines(prices, days);
    let of_days: i64 = lines.iter().map(|line| line.amount_cents).sum();
    lines.extend(fee_lines(prices, choices)?);
    lines.extend(location_lines(prices, choices, of_days)?);
    let before: i64 = lines.iter().map(|line| line.amount_cents).sum();
    let discount = share(before, prices.discount_basis_points);
    if discount > 0 {
        let label = format!("Discount {}", percent(prices.discount_basis_points));
        lines.push(Line::single(LineKind::Discount, label, -discount));
    }
    let tax = share(before - discount, prices.tax_basis_points);
    if tax > 0 {
        let label = format!("Tax {}", percent(prices.tax_basis_points));
        lines.push(Line::single(LineKind::Tax, label, tax));
    }
    let total_cents = lines.iter().map(|line| line.amount_cents).sum();
    Ok(Quote {
        price_list_version: prices.version,
        currency: prices.currency.clone(),
        lines,
        total_cents,
        deposit_cents: prices.deposit_cents.unwrap_or(share(total_cents, DEPOSIT_SHARE)),
    })
}

/// One line for the days of each multiplier.
fn day_lines(prices: &PriceList, days: Days) -> Vec<Line> {
    let mut groups: BTreeMap<u32, (u32, Option<&str>)> = BTreeMap::new();
    for day in days.iter() {
        let peak = prices
            .peaks
            .iter()
            .filter(|peak| peak.matches(day) && peak.multiplier_basis_points > WHOLE)
            .max_by_key(|peak| peak.multiplier_basis_points);
        let multiplier = peak.map_or(WHOLE, |peak| peak.multiplier_basis_points);
        let group = groups.entry(multiplier).or_insert((0, peak.map(|peak| peak.name.as_str())));
        group.0 += 1;
    }
    let line = |(multiplier, (quantity, name)): (u32, (u32, Option<&str>))| {
        let unit_cents = share(prices.base_per_day_cents, multiplier);
        let label = name.map_or_else(|| "Days".to_owned(), |name| format!("Days, {name}"));
        let amount_cents = unit_cents * i64::from(quantity);
        Line { kind: LineKind::Days, label, quantity, unit_cents, amount_cents }
    };
    groups.into_iter().map(line).collect()
}

fn fee_lines(prices: &PriceList, choices: &Choices) -> Result<Vec<Line>, QuoteError> {
    let optional = |id: &str| prices.fees.iter().any(|fee| fee.id == id);
    if let Some(unknown) = choices.fees.iter().find(|id| !optional(id)) {
        return Err(QuoteError::UnknownFee(unknown.clone()));
    }
    let charged = prices.fees.iter().filter(|fee| fee.mandatory || choices.fees.contains(&fee.id));
    let line = |fee: &Fee| {
        let kind = if fee.mandatory { LineKind::MandatoryFee } else { LineKind::OptionalFee };
        Line::single(kind, fee.name.clone(), fee.amount_cents)
    };
    Ok(charged.map(line).collect())
}

fn location_lines(
    prices: &PriceList,
    choices: &Choices,
    of_days: i64,
) -> Result<Vec<Line>, QuoteError> {
    let find = |id: &String, unknown: fn(String) -> QuoteError| {
        let found = prices.locations.iter().find(|location| location.id == *id);
        found.ok_or_else(|| unknown(id.clone()))
    };
    let pick_up =
        choices.pick_up.as_ref().map(|id| find(id, QuoteError::UnknownPickUp)).transpose()?;
    let drop_off =
        choices.drop_off.as_ref().map(|id| find(id, QuoteError::UnknownDropOff)).transpose()?;
    let drop_off = drop_off.or(pick_up);
    let amount = |fee: LocationFee| fee.fixed_cents + share(of_days, fee.basis_points);
    let mut lines = Vec::new();
    if let Some(location) = pick_up {
        let label = format!("Pick-up, {}", location.name);
        lines.push(Line::single(LineKind::PickUp, label, amount(location.pick_up)));
    }
    if let Some(location) = drop_off {
        let label = format!("Drop-off, {}", location.name);
        lines.push(Line::single(LineKind::DropOff, label, amount(location.drop_off)));
    }
    if drop_off.map(|location| &location.id) != pick_up.map(|location| &location.id) {
        let fee = prices.one_way_fee_cents;
        lines.push(Line::single(LineKind::OneWay, "One way".to_owned(), fee));
    }
    lines.retain(|line| line.amount_cents != 0);
    Ok(lines)
}

impl Line {
    fn single(kind: LineKind, label: String, amount_cents: i64) -> Self {
        Self { kind, label, quantity: 1, unit_cents: amount_cents, amount_cents }
    }
}

/// Basis points as people read them, for example `12.5 %`.
fn percent(basis_points: u32) -> String {
    let (whole, part) = (basis_points / 100, basis_points % 100);
    match part {
        0 => format!("{whole} %"),
        part if part % 10 == 0 => format!("{whole}.{} %", part / 10),
        part => format!("{whole}.{part:02} %"),
    }
}

impl Rules for PriceList {
    fn apply(&mut self, faults: &mut Faults) {
        faults.take("/currency", check_currency(&self.currency));
        let base = (1..100_000_000).contains(&self.base_per_day_cents);
        faults.check(base, "/base_per_day_cents", "must be from 1 to 99999999");
        let discount = self.discount_basis_points <= WHOLE;
        faults.check(discount, "/discount_basis_points", "must be from 0 to 10000 (100 %)");
        let tax = self.tax_basis_points <= WHOLE;
        faults.check(tax, "/tax_basis_points", "must be from 0 to 10000 (100 %)");
        let amount = |cents: i64| (0..=10_000_000).contains(&cents);
        let deposit = self.deposit_cents.is_none_or(|cents| (0..100_000_000).contains(&cents));
        faults.check(deposit, "/deposit_cents", "must be from 0 to 99999999");
        let one_way = amount(self.one_way_fee_cents);
        faults.check(one_way, "/one_way_fee_cents", "must be from 0 to 10000000");
        let minimum = (1..=LONGEST_RENTAL).contains(&self.minimum_days);
        faults.check(minimum, "/minimum_days", "must be from 1 to 365");
        faults.optional_text::<rules::OfferText>("/offer_text", &mut self.offer_text);
        faults.check(self.fees.len() <= MOST_ENTRIES, "/fees", "must be at most 50");
        faults.check(self.peaks.len() <= MOST_ENTRIES, "/peaks", "must be at most 50");
        faults.check(self.locations.len() <= MOST_ENTRIES, "/locations", "must be at most 50");
        for (index, fee) in self.fees.iter_mut().enumerate() {
            let at = |field| format!("/fees/{index}/{field}");
            let detail = "must be from 0 to 10000000";
            faults.check(amount(fee.amount_cents), &at("amount_cents"), detail);
            faults.text::<rules::ChoiceId>(&at("id"), &mut fee.id);
            faults.text::<rules::Label>(&at("name"), &mut fee.name);
        }
        for (index, peak) in self.peaks.iter_mut().enumerate() {
            let at = |field| format!("/peaks/{index}/{field}");
            let multiplier = (WHOLE..=5 * WHOLE).contains(&peak.multiplier_basis_points);
            let detail = "must be from 10000 (unchanged) to 50000 (five times)";
            faults.check(multiplier, &at("multiplier_basis_points"), detail);
            let weekdays = peak.weekdays.iter().all(|day| *day <= 6);
            faults.check(weekdays, &at("weekdays"), "must be 0 (Sunday) to 6");
            faults.text::<rules::Label>(&at("name"), &mut peak.name);
        }
        for (index, location) in self.locations.iter_mut().enumerate() {
            let at = |field: &str| format!("/locations/{index}/{field}");
            for (side, fee) in [("pick_up", location.pick_up), ("drop_off", location.drop_off)] {
                let cents = format!("{side}_cents");
                faults.check(amount(fee.fixed_cents), &at(&cents), "must be from 0 to 10000000");
                let share = format!("{side}_basis_points");
                faults.check(fee.basis_points <= WHOLE, &at(&share), "must be from 0 to 10000");
            }
            faults.text::<rules::ChoiceId>(&at("id"), &mut location.id);
            faults.text::<rules::Label>(&at("name"), &mut location.name);
        }
        // Last: two spellings may be one id once they are normalised.
        let unique_fees = unique(self.fees.iter().map(|fee| &fee.id));
        faults.check(unique_fees, "/fees", "each id may occur once");
        let unique_locations = unique(self.locations.iter().map(|location| &location.id));
        faults.check(unique_locations, "/locations", "each id may occur once");
    }
}

impl Rules for Choices {
    fn apply(&mut self, faults: &mut Faults) {
        let fees: Option<BTreeSet<String>> =
            self.fees.iter().map(|id| ChoiceId::parse(id).ok().map(String::from)).collect();
        let fees = fees.filter(|fees| fees.len() <= MOST_ENTRIES);
        faults.check(fees.is_some(), "/fees", "must be ids of at most 50 optional fees");
        self.fees = fees.unwrap_or_default();
        faults.optional_text::<rules::ChoiceId>("/pick_up", &mut self.pick_up);
        faults.optional_text::<rules::ChoiceId>("/drop_off", &mut self.drop_off);
    }
}

impl Rules for Quote {
    fn apply(&mut self, faults: &mut Faults) {
        faults.take("/currency", check_currency(&self.currency));
        faults.amount("/total_cents", self.total_cents);
        faults.amount("/deposit_cents", self.deposit_cents);
    }
}

/// The most entries of a list of a price list, and of a choice.
const MOST_ENTRIES: usize = 50;

fn unique<'a>(mut ids: impl Iterator<Item = &'a String>) -> bool {
    let mut seen = BTreeSet::new();
    ids.all(|id| seen.insert(id))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::value::Valid;
    use proptest::prelude::*;

    fn days(first: &str, last: &str) -> Days {
        Days::inclusive(first.parse().unwrap(), last.parse().unwrap()).unwrap()
    }

    fn prices() -> PriceList {
        PriceList {
            version: 3,
            currency: "USD".into(),
            base_per_day_cents: 99_999,
            minimum_days: 1,
            ..PriceList::default()
        }
    }

    #[test]
    fn every_part_has_its_line() {
        let prices = PriceList {
            discount_basis_points: 1_000,
            tax_basis_points: 875,
            one_way_fee_cents: 5_000,
            fees: vec![
                Fee {
                    id: "clean".into(),
                    name: "Cleaning".into(),
                    amount_cents: 7_500,
                    mandatory: true,
                },
                Fee {
                    id: "seat".into(),
                    name: "Child seat".into(),
                    amount_cents: 2_000,
                    mandatory: false,
                },
                Fee {
                    id: "wifi".into(),
                    name: "Wi-Fi".into(),
                    amount_cents: 999,
                    mandatory: false,
                },
            ],
            peaks: vec![Peak {
                name: "weekend".into(),
                weekdays: [0, 6].into(),
                days: None,
                multiplier_basis_points: 11_500,
            }],
            locations: vec![
                Location {
                    id: "airport".into(),
                    name: "Airport".into(),
                    pick_up: LocationFee { fixed_cents: 2_500, basis_points: 0 },
                    drop_off: LocationFee::default(),
                },
                Location {
                    id: "city".into(),
                    name: "City".into(),
                    pick_up: LocationFee::default(),
                    drop_off: LocationFee { fixed_cents: 0, basis_points: 100 },
                },
            ],
            ..prices()
        };
        assert!(Valid::new(prices.clone()).is_ok());
        let choices = Choices {
            fees: ["seat".to_owned()].into(),
            pick_up: Some("airport".into()),
            drop_off: Some("city".into()),
        };
        // Friday to Monday: two plain days and a weekend.
        let quote = quote(&prices, days("2027-01-08", "2027-01-11"), &choices).unwrap();
        let lines: Vec<_> = quote
            .lines
            .iter()
            .map(|line| (line.label.as_str(), line.quantity, line.unit_cents, line.amount_cents))
            .collect();
        assert_eq!(
            lines,
            [
                ("Days", 2, 99_999, 199_998),
                ("Days, weekend", 2, 114_999, 229_998),
                ("Cleaning", 1, 7_500, 7_500),
                ("Child seat", 1, 2_000, 2_000),
                ("Pick-up, Airport", 1, 2_500, 2_500),
                ("Drop-off, City", 1, 4_300, 4_300),
                ("One way", 1, 5_000, 5_000),
                ("Discount 10 %", 1, -45_130, -45_130),
                ("Tax 8.75 %", 1, 35_540, 35_540),
            ]
        );
        assert_eq!((quote.total_cents, quote.deposit_cents), (441_706, 132_512));
        assert_eq!((quote.price_list_version, quote.currency.as_str()), (3, "USD"));
    }

    #[test]
    fn a_same_day_rental_is_one_day_and_limits_apply() {
        let one = quote(&prices(), days("2027-01-08", "2027-01-08"), &Choices::default());
        assert_eq!(one.unwrap().total_cents, 99_999);
        let long = PriceList { minimum_days: 3, ..prices() };
        let short = quote(&long, days("2027-01-08", "2027-01-09"), &Choices::default());
        assert_eq!(short, Err(QuoteError::TooShort { minimum: 3 }));
        let year = quote(&prices(), days("2027-01-01", "2028-01-01"), &Choices::default());
        assert_eq!(year, Err(QuoteError::TooLong));
        let choices = Choices { fees: ["seat".into()].into(), ..Choices::default() };
        let unknown = quote(&prices(), days("2027-01-08", "2027-01-08"), &choices);
        assert_eq!(unknown, Err(QuoteError::UnknownFee("seat".into())));
    }

    pub(crate) fn any_prices() -> impl Strategy<Value = PriceList> {
        let fee = (0..=10_000_000_i64, any::<bool>());
        let peak = (proptest::collection::btree_set(0..=6_u8, 0..7), 10_000..=50_000_u32);
        (
            1..100_000_000_i64,
            0..=10_000_u32,
            0..=10_000_u32,
            proptest::collection::vec(fee, 0..5),
            proptest::collection::vec(peak, 0..4),
            (0..=10_000_000_i64, 0..=10_000_u32, 0..=10_000_000_i64),
        )
            .prop_map(|(base, discount, tax, fees, peaks, (fixed, share, one_way))| {
                PriceList {
                    base_per_day_cents: base,
                    discount_basis_points: discount,
                    tax_basis_points: tax,
                    fees: fees
                        .into_iter()
                        .enumerate()
                        .map(|(n, (amount_cents, mandatory))| Fee {
                            id: n.to_string(),
                            name: format!("fee {n}"),
                            amount_cents,
                            mandatory,
                        })
                        .collect(),
                    peaks: peaks
                        .into_iter()
                        .map(|(weekdays, multiplier_basis_points)| Peak {
                            name: "peak".into(),
                            weekdays,
                            days: None,
                            multiplier_basis_points,
                        })
                        .collect(),
                    locations: vec![Location {
                        id: "here".into(),
                        name: "Here".into(),
                        pick_up: LocationFee { fixed_cents: fixed, basis_points: share },
                        drop_off: LocationFee::default(),
                    }],
                    one_way_fee_cents: one_way,
                    ..prices()
                }
            })
    }

    pub(crate) fn any_days() -> impl Strategy<Value = Days> {
        (0..3_000_u64, 1..=300_u64).prop_map(|(start, count)| {
            let first = NaiveDate::from_ymd_opt(2026, 1, 1).unwrap() + Count::new(start);
            Days::inclusive(first, first + Count::new(count - 1)).unwrap()
        })
    }
    use chrono::Days as Count;

    proptest! {
        #[test]
        fn lines_add_up_and_no_total_is_negative(
            prices in any_prices(), days in any_days(), chosen in any::<bool>(), here in any::<bool>()
        ) {
            prop_assert!(Valid::new(prices.clone()).is_ok());
            let fees = prices.fees.iter().filter(|_| chosen).map(|fee| fee.id.clone()).collect();
            let pick_up = here.then(|| "here".to_owned());
            let quote = quote(&prices, days, &Choices { fees, pick_up, drop_off: None }).unwrap();
            for line in &quote.lines {
                prop_assert_eq!(line.amount_cents, line.unit_cents * i64::from(line.quantity));
            }
            let sum: i64 = quote.lines.iter().map(|line| line.amount_cents).sum();
            prop_assert_eq!(sum, quote.total_cents);
            prop_assert!(quote.total_cents >= 0 && quote.deposit_cents >= 0);
            let counted: u32 = quote.lines.iter()
                .filter(|line| line.kind == LineKind::Days).map(|line| line.quantity).sum();
            prop_assert_eq!(counted, days.count());
        }

        #[test]
        fn more_days_never_cost_less(prices in any_prices(), days in any_days(), cut in 0..300_u64) {
            let last = days.first() + Count::new(cut.min(u64::from(days.count()) - 1));
            let fewer = quote(&prices, days.cut_after(last), &Choices::default()).unwrap();
            let all = quote(&prices, days, &Choices::default()).unwrap();
            prop_assert!(fewer.total_cents <= all.total_cents);
        }
    }
}
