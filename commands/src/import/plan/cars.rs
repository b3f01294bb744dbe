//! Plan for cars with their prices, fees, images, specifications and features.

use super::{
    CARS, CellError, ImportCommand, Parents, Plan, Step, amount, basis_points, currency, flag,
    moment, optional, parent_refused, parents, parse, row_ref, text, valid,
};
use crate::import::tables::{
    CarColumns, FeatureColumns, FeeColumns, ImageColumns, PricingColumns, Row, RowRef,
    SpecificationColumns, Tables, key,
};
use chrono::{DateTime, Utc};
use exodrive_domain::{
    fleet::{
        FleetCommand, Image, MOST_FEATURES, MOST_IMAGES, MOST_SPECIFICATIONS, NamedText, Profile,
        Slug,
    },
    id::CarId,
    price::{Fee, PriceList},
    value::{DEFAULT_CURRENCY, TextRule, Valid, check_image_url, rules},
};
use serde_json::{Value, json};
use std::collections::HashMap;

/// A car that is planned.
pub(super) struct PlannedCar {
    /// The step that adds it.
    pub added_by: String,
}

/// Plans the cars. Returns what became of each.
pub(super) fn plan_cars(tables: &Tables, time_zone: &str, plan: &mut Plan) -> Parents<PlannedCar> {
    let mut cars = parents(tables, "cars", "car");
    let mut slugs: HashMap<&str, u64> = HashMap::new();
    let mut planned = Vec::new();
    for row in &tables.cars {
        let first = *slugs.entry(&row.columns.slug).or_insert(row.line);
        let car = if first == row.line {
            read_car(&row.columns, time_zone)
        } else {
            Err(format!("another car has this slug: the one at line {first}"))
        };
        let parent = match car {
            Ok(car) => {
                let added_by = step_id(&row.columns, "add");
                planned.push((row, car));
                Ok(PlannedCar { added_by })
            }
            Err(why) => {
                plan.refuse("cars", row, &row.columns.id, &why);
                Err(parent_refused("car", "cars", row.line, &why))
            }
        };
        cars.insert(row.key.clone(), parent);
    }
    macro_rules! of_cars {
        ($($table:ident)*) => {
            $(let mut $table = by_car(
                stringify!($table), &tables.$table, |it| [&it.id, &it.car_id], &cars, plan,
            );)*
            for (row, car) in planned {
                let parts = CarParts { $($table: $table.remove(&row.key).unwrap_or_default()),* };
                plan_car(row, car, &parts, plan);
            }
        };
    }
    of_cars!(car_specifications car_features car_images car_additional_fees car_pricing);
    cars
}

/// Groups the rows of a table by their cars' keys. Rows of a car stay in order;
/// rows of a car that is not planned are refused.
fn by_car<'a, T>(
    table: &'static str,
    rows: &'a [Row<T>],
    ids: impl Fn(&T) -> [&String; 2],
    cars: &Parents<PlannedCar>,
    plan: &mut Plan,
) -> HashMap<String, Vec<&'a Row<T>>> {
    let mut found: HashMap<String, Vec<&Row<T>>> = HashMap::new();
    for row in rows {
        let [id, car_id] = ids(&row.columns);
        let car_key = key(car_id);
        match cars.get(&car_key) {
            Some(Ok(_)) => found.entry(car_key).or_default().push(row),
            Some(Err(why)) => plan.refuse(table, row, id, why),
            None => plan.refuse(table, row, id, format!("cars.csv has no car {car_id}")),
        }
    }
    found
}

/// A car as its row has it.
struct Car {
    id: CarId,
    happened_at: Option<DateTime<Utc>>,
    available: bool,
    featured: bool,
    hidden: bool,
    slug: Slug,
    profile: Profile,
}

fn read_car(car: &CarColumns, time_zone: &str) -> Result<Car, CellError> {
    Ok(Car {
        id: parse("id", &car.id)?,
        happened_at: moment("created_at", car.created_at.as_deref())?,
        available: flag("available", car.available.as_deref(), true)?,
        featured: flag("featured", car.featured.as_deref(), false)?,
        hidden: flag("hidden", car.hidden.as_deref(), false)?,
        slug: car.slug.parse().map_err(|fault| format!("slug {fault}"))?,
        profile: Profile {
            name: text::<rules::Label>("name", Some(&car.name))?,
            category: text::<rules::Category>("category", Some(&car.category))?,
            description: text::<rules::Description>("description", car.description.as_ref())?,
            short_description: text::<rules::ShortDescription>(
                "short_description",
                car.short_description.as_ref(),
            )?,
            specifications: Vec::new(),
            features: Vec::new(),
            time_zone: time_zone.to_owned(),
        },
    })
}

/// Rows of one car.
struct CarParts<'a> {
    car_specifications: Vec<&'a Row<SpecificationColumns>>,
    car_features: Vec<&'a Row<FeatureColumns>>,
    car_images: Vec<&'a Row<ImageColumns>>,
    car_additional_fees: Vec<&'a Row<FeeColumns>>,
    car_pricing: Vec<&'a Row<PricingColumns>>,
}

/// Rows of which one command is made.
#[derive(Default)]
struct Sources {
    rows: Vec<RowRef>,
    source: Vec<Value>,
}

impl Sources {
    fn add<T: serde::Serialize>(&mut self, table: &'static str, row: &Row<T>) {
        self.rows.push(row_ref(table, row));
        self.source.push(json!(row.columns));
    }
}

/// Reason to refuse a row of a list that is full.
const TOO_MANY: &str = "its car has as many as it can have";

fn step_id(car: &CarColumns, what: &str) -> String {
    format!("cars-{}-{what}", car.id.trim())
}

fn plan_car(row: &Row<CarColumns>, car: Car, parts: &CarParts<'_>, plan: &mut Plan) {
    let Car { id: car_id, happened_at, available, featured, hidden, slug, mut profile } = car;
    let mut sources = Sources::default();
    sources.add("cars", row);
    fn named<R: TextRule>(
        name: &String,
        (column, cell): (&str, Option<&String>),
        highlighted: Option<&String>,
    ) -> Result<NamedText, CellError> {
        Ok(NamedText {
            name: text::<rules::Label>("name", Some(name))?,
            text: text::<R>(column, cell)?,
            highlighted: flag("is_highlighted", highlighted.map(String::as_str), false)?,
        })
    }
    for row in &parts.car_specifications {
        let it = &row.columns;
        let value = ("value", it.value.as_ref());
        match named::<rules::SpecificationText>(&it.name, value, it.is_highlighted.as_ref()) {
            Ok(_) if profile.specifications.len() == MOST_SPECIFICATIONS => {
                plan.refuse("car_specifications", row, &it.id, TOO_MANY);
            }
            Ok(named) => {
                profile.specifications.push(named);
                sources.add("car_specifications", row);
            }
            Err(why) => plan.refuse("car_specifications", row, &it.id, why),
        }
    }
    for row in &parts.car_features {
        let it = &row.columns;
        let description = ("description", it.description.as_ref());
        match named::<rules::FeatureText>(&it.name, description, it.is_highlighted.as_ref()) {
            Ok(_) if profile.features.len() == MOST_FEATURES => {
                plan.refuse("car_features", row, &it.id, TOO_MANY);
            }
            Ok(named) => {
                profile.features.push(named);
                sources.add("car_features", row);
            }
            Err(why) => plan.refuse("car_features", row, &it.id, why),
        }
    }
    let profile = match valid(profile) {
        Ok(profile) => profile,
        Err(why) => return plan.refuse("cars", row, &row.columns.id, why),
    };
    let prices = prices(parts, plan);
    let images = images(parts, plan);
    let priced = prices.is_some();
    if available && !hidden && !priced {
        let why = "has no price: it is not listed until it has one";
        plan.remark("cars", row, &row.columns.id, why);
    }
    let mut step = |what: &str, part, rows, source, command| {
        let (id, added_by) = (step_id(&row.columns, what), step_id(&row.columns, "add"));
        let needs = (what != "add").then_some(("car", added_by));
        let command = ImportCommand::Car(car_id, command);
        let step = Step { id, rows, needs, part, source, happened_at, actor: None, command };
        plan.push(CARS, car_id.to_string(), step);
    };
    let Sources { rows, source } = sources;
    step("add", None, rows, json!(source), FleetCommand::Add { car_id, slug, profile });
    if let Some((prices, Sources { rows, source })) = prices {
        step("price", None, rows, json!(source), FleetCommand::Price(prices));
    }
    if let Some((images, Sources { rows, source })) = images {
        step("images", None, rows, json!(source), FleetCommand::SetImages(images));
    }
    let mut flagged = |what: &str, part, command| {
        step(what, Some(part), vec![row_ref("cars", row)], json!(what), command);
    };
    if available && !hidden && priced {
        flagged("list", "its listing", FleetCommand::List);
    }
    if featured {
        flagged("feature", "that it is featured", FleetCommand::Feature);
    }
    if hidden {
        let reason = "hidden in the product it came from".parse().ok();
        flagged("archive", "that it is hidden", FleetCommand::Archive { reason });
    }
}

/// The price list of a car: its price with its fees, taken together or not at
/// all, since a price without one of its fees is another price.
fn prices(parts: &CarParts<'_>, plan: &mut Plan) -> Option<(Valid<PriceList>, Sources)> {
    if let Some((first, others)) = parts.car_pricing.split_first() {
        let why = format!("its car has a price already, at line {}", first.line);
        for row in others {
            plan.refuse("car_pricing", row, &row.columns.id, &why);
        }
    }
    let mut fees = Vec::new();
    let mut faulty = None;
    for row in &parts.car_additional_fees {
        match read_fee(&row.columns, &currency_of(parts)) {
            Ok(fee) => fees.push((fee, row)),
            Err(why) => {
                faulty.get_or_insert((row.line, why.clone()));
                plan.refuse("car_additional_fees", row, &row.columns.id, why);
            }
        }
    }
    let prices = match (parts.car_pricing.first(), faulty) {
        (None, _) => Err("its car has no price, which a fee is a part of".to_owned()),
        (Some(row), Some((line, why))) => {
            let whole =
                format!("its fee (car_additional_fees.csv, line {line}) was refused: {why}");
            plan.refuse("car_pricing", row, &row.columns.id, &whole);
            Err(parent_refused("price", "car_pricing", row.line, &whole))
        }
        (Some(row), None) => {
            let fees = fees.iter().map(|(fee, _)| fee.clone()).collect();
            let prices = read_prices(&row.columns, fees).and_then(valid);
            prices.map(|prices| (prices, row)).map_err(|why| {
                plan.refuse("car_pricing", row, &row.columns.id, &why);
                parent_refused("price", "car_pricing", row.line, &why)
            })
        }
    };
    match prices {
        Ok((prices, row)) => {
            let mut sources = Sources::default();
            sources.add("car_pricing", row);
            for (_, row) in fees {
                sources.add("car_additional_fees", row);
            }
            Some((prices, sources))
        }
        Err(why) => {
            for (_, row) in fees {
                plan.refuse("car_additional_fees", row, &row.columns.id, &why);
            }
            None
        }
    }
}

/// The currency of a car's price. One that cannot be read refuses the price, and
/// its fees with it.
fn currency_of(parts: &CarParts<'_>) -> String {
    let first = parts.car_pricing.first();
    let read = currency(first.and_then(|row| row.columns.currency.as_ref()));
    read.unwrap_or_else(|_| DEFAULT_CURRENCY.to_owned())
}

fn read_fee(fee: &FeeColumns, currency: &str) -> Result<Fee, CellError> {
    Ok(Fee {
        id: text::<rules::ChoiceId>("id", Some(&fee.id))?,
        name: text::<rules::Label>("name", Some(&fee.name))?,
        amount_cents: amount("amount", &fee.amount, currency)?,
        mandatory: !flag("is_optional", fee.is_optional.as_deref(), true)?,
    })
}

fn read_prices(it: &PricingColumns, fees: Vec<Fee>) -> Result<PriceList, CellError> {
    let deposit = it.deposit_amount.as_deref();
    let minimum = it.minimum_days.as_deref();
    let currency = currency(it.currency.as_ref())?;
    Ok(PriceList {
        base_per_day_cents: amount("base_price", &it.base_price, &currency)?,
        discount_basis_points: basis_points(
            "discount_percentage",
            it.discount_percentage.as_deref(),
        )?,
        offer_text: optional::<rules::OfferText>(
            "special_offer_text",
            it.special_offer_text.as_ref(),
        )?
        .map(String::from),
        deposit_cents: deposit.map(|text| amount("deposit_amount", text, &currency)).transpose()?,
        minimum_days: minimum.map(|text| parse("minimum_days", text)).transpose()?.unwrap_or(1),
        currency,
        fees,
        ..PriceList::default()
    })
}

/// The images of a car in their order, exactly one of them primary. The present
/// product does not enforce that.
fn images(parts: &CarParts<'_>, plan: &mut Plan) -> Option<(Valid<Vec<Image>>, Sources)> {
    let mut images = Vec::new();
    let mut sources = Sources::default();
    for row in &parts.car_images {
        match read_image(&row.columns) {
            Ok(_) if images.len() == MOST_IMAGES => {
                plan.refuse("car_images", row, &row.columns.id, TOO_MANY);
            }
            Ok((order, image)) => {
                images.push((order, image, *row));
                sources.add("car_images", row);
            }
            Err(why) => plan.refuse("car_images", row, &row.columns.id, why),
        }
    }
    images.sort_by_key(|(order, ..)| *order);
    let primary = images.iter().position(|(_, image, _)| image.primary);
    let primary = primary.unwrap_or(0);
    let first = images.get(primary)?.2;
    for (index, (_, image, row)) in images.iter_mut().enumerate() {
        let why = if image.primary && index != primary {
            format!("line {} is the primary image: taken as another one", first.line)
        } else if !image.primary && index == primary {
            "no image of its car is primary: taken as the primary one".to_owned()
        } else {
            continue;
        };
        image.primary = index == primary;
        plan.remark("car_images", row, &row.columns.id, why);
    }
    let rows: Vec<_> = images.iter().map(|(.., row)| *row).collect();
    let images: Vec<_> = images.into_iter().map(|(_, image, _)| image).collect();
    match valid(images) {
        Ok(images) => Some((images, sources)),
        Err(why) => {
            for row in rows {
                plan.refuse("car_images", row, &row.columns.id, &why);
            }
            None
        }
    }
}

fn read_image(it: &ImageColumns) -> Result<(i64, Image), CellError> {
    let order = it.sort_order.as_deref().map_or(Ok(0), |it| parse("sort_order", it))?;
    let primary = flag("is_primary", it.is_primary.as_deref(), false)?;
    check_image_url(&it.url).map_err(|fault| format!("url {fault}"))?;
    let alt = text::<rules::ImageAlt>("alt", it.alt.as_ref())?;
    Ok((order, Image { url: it.url.clone(), alt, primary }))
}
