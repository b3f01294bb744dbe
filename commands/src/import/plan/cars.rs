//! Plan for cars with their prices, fees, images, specifications and features.

use super::{
    CARS, CellError, ImportCommand, Plan, Rows, Step, basis_points, cents, flag, moment, parse,
    problem, text,
};
use crate::import::tables::{
    CarColumns, FeatureColumns, FeeColumns, ImageColumns, PricingColumns, Row,
    SpecificationColumns, Tables,
};
use exodrive_domain::{
    fleet::{FleetCommand, Image, NamedText, Profile},
    id::CarId,
    price::{Fee, PriceList},
};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};

/// Groups the rows of a table by car. Rows of a car stay in order.
fn by_car<T>(rows: &[Row<T>], car_id: impl Fn(&T) -> &str) -> HashMap<String, Vec<&Row<T>>> {
    let mut found: HashMap<String, Vec<&Row<T>>> = HashMap::new();
    for row in rows {
        found.entry(car_id(&row.columns).to_owned()).or_default().push(row);
    }
    found
}

pub(super) fn plan_cars(tables: &Tables, time_zone: &str, plan: &mut Plan) {
    let specifications = by_car(&tables.car_specifications, |it| &it.car_id);
    let features = by_car(&tables.car_features, |it| &it.car_id);
    let images = by_car(&tables.car_images, |it| &it.car_id);
    let fees = by_car(&tables.car_additional_fees, |it| &it.car_id);
    let pricing = by_car(&tables.car_pricing, |it| &it.car_id);
    let known: HashSet<&str> = tables.cars.iter().map(|car| car.columns.id.as_str()).collect();
    for row in &tables.cars {
        let id = &row.columns.id;
        let parts = CarParts {
            specifications: specifications.get(id).map_or(&[], Vec::as_slice),
            features: features.get(id).map_or(&[], Vec::as_slice),
            images: images.get(id).map_or(&[], Vec::as_slice),
            fees: fees.get(id).map_or(&[], Vec::as_slice),
            pricing: pricing.get(id).map_or(&[], Vec::as_slice),
        };
        if let Err(why) = plan_car(row, &parts, time_zone, plan) {
            plan.problems.push(problem("cars", row.line, id, why));
        }
    }
    macro_rules! orphans {
        ($($table:ident)*) => {$(
            for row in &tables.$table {
                if !known.contains(row.columns.car_id.as_str()) {
                    let why = format!("cars.csv has no car {}", row.columns.car_id);
                    let table = stringify!($table);
                    plan.problems.push(problem(table, row.line, &row.columns.id, why));
                }
            }
        )*};
    }
    orphans!(car_specifications car_features car_images car_additional_fees car_pricing);
}

struct CarParts<'a> {
    specifications: &'a [&'a Row<SpecificationColumns>],
    features: &'a [&'a Row<FeatureColumns>],
    images: &'a [&'a Row<ImageColumns>],
    fees: &'a [&'a Row<FeeColumns>],
    pricing: &'a [&'a Row<PricingColumns>],
}

fn plan_car(
    row: &Row<CarColumns>,
    parts: &CarParts<'_>,
    time_zone: &str,
    plan: &mut Plan,
) -> Result<(), CellError> {
    let car = &row.columns;
    let car_id: CarId = parse("id", &car.id)?;
    let happened_at = moment("created_at", car.created_at.as_deref())?;
    let available = flag("available", car.available.as_deref(), true)?;
    let featured = flag("featured", car.featured.as_deref(), false)?;
    let hidden = flag("hidden", car.hidden.as_deref(), false)?;
    let highlighted = |text: &Option<String>| flag("is_highlighted", text.as_deref(), false);
    let (mut rows, mut source) = (vec![("cars", row.line, car.id.clone())], vec![json!(car)]);
    let mut specifications = Vec::new();
    for row in parts.specifications {
        let it = &row.columns;
        let text = text(it.value.as_ref());
        let name = it.name.clone();
        specifications.push(NamedText {
            name,
            text,
            highlighted: highlighted(&it.is_highlighted)?,
        });
        rows.push(("car_specifications", row.line, it.id.clone()));
        source.push(json!(it));
    }
    let mut features = Vec::new();
    for row in parts.features {
        let it = &row.columns;
        let text = text(it.description.as_ref());
        let name = it.name.clone();
        features.push(NamedText { name, text, highlighted: highlighted(&it.is_highlighted)? });
        rows.push(("car_features", row.line, it.id.clone()));
        source.push(json!(it));
    }
    let profile = Profile {
        name: car.name.clone(),
        category: car.category.clone(),
        description: text(car.description.as_ref()),
        short_description: text(car.short_description.as_ref()),
        specifications,
        features,
        time_zone: time_zone.to_owned(),
    };
    let mut step = |what: &str, rows, source: Value, command| {
        let id = format!("cars-{}-{what}", car.id);
        let command = ImportCommand::Car(car_id, command);
        let step = Step { id, rows, source, happened_at, actor: None, command };
        plan.push(CARS, car.id.clone(), step);
    };
    let add = FleetCommand::Add { car_id, slug: car.slug.clone(), profile };
    step("add", rows, json!(source), add);
    if let Some((prices, rows, source)) = prices(parts)? {
        step("price", rows, source, FleetCommand::Price(prices));
    }
    if let Some((images, rows, source)) = pictures(parts)? {
        step("images", rows, source, FleetCommand::SetImages(images));
    }
    // Rows that these are made of are counted with the car.
    let priced = !parts.pricing.is_empty();
    if available && !hidden && priced {
        step("list", Vec::new(), json!("list"), FleetCommand::List);
    }
    if featured {
        step("feature", Vec::new(), json!("feature"), FleetCommand::Feature);
    }
    if hidden {
        let reason = Some("hidden in the product it came from".to_owned());
        step("archive", Vec::new(), json!("archive"), FleetCommand::Archive { reason });
    }
    if available && !hidden && !priced {
        let why = "has no price: it is not listed until it has one";
        plan.remarks.push(problem("cars", row.line, &car.id, why));
    }
    Ok(())
}

fn prices(parts: &CarParts<'_>) -> Result<Option<(PriceList, Rows, Value)>, CellError> {
    let Some(row) = parts.pricing.last() else { return Ok(None) };
    let it = &row.columns;
    let mut rows: Rows =
        parts.pricing.iter().map(|row| ("car_pricing", row.line, row.columns.id.clone())).collect();
    let mut source = vec![json!(it)];
    let mut fees = Vec::new();
    for row in parts.fees {
        let fee = &row.columns;
        fees.push(Fee {
            id: fee.id.clone(),
            name: fee.name.clone(),
            amount_cents: cents("amount of a fee", &fee.amount)?,
            mandatory: !flag("is_optional of a fee", fee.is_optional.as_deref(), true)?,
        });
        rows.push(("car_additional_fees", row.line, fee.id.clone()));
        source.push(json!(fee));
    }
    let deposit = it.deposit_amount.as_deref();
    let minimum = it.minimum_days.as_deref();
    let prices = PriceList {
        currency: it.currency.clone().unwrap_or_else(|| "USD".to_owned()),
        base_per_day_cents: cents("base_price", &it.base_price)?,
        discount_basis_points: basis_points(
            "discount_percentage",
            it.discount_percentage.as_deref(),
        )?,
        offer_text: it.special_offer_text.clone(),
        deposit_cents: deposit.map(|text| cents("deposit_amount", text)).transpose()?,
        minimum_days: minimum.map(|text| parse("minimum_days", text)).transpose()?.unwrap_or(1),
        fees,
        ..PriceList::default()
    };
    Ok(Some((prices, rows, json!(source))))
}

fn pictures(parts: &CarParts<'_>) -> Result<Option<(Vec<Image>, Rows, Value)>, CellError> {
    if parts.images.is_empty() {
        return Ok(None);
    }
    let mut ordered = Vec::new();
    let (mut rows, mut source) = (Rows::new(), Vec::new());
    for row in parts.images {
        let it = &row.columns;
        let order: i64 = it.sort_order.as_deref().map_or(Ok(0), |it| parse("sort_order", it))?;
        let primary = flag("is_primary", it.is_primary.as_deref(), false)?;
        let alt = text(it.alt.as_ref());
        ordered.push((order, Image { url: it.url.clone(), alt, primary }));
        rows.push(("car_images", row.line, it.id.clone()));
        source.push(json!(it));
    }
    ordered.sort_by_key(|(order, _)| *order);
    let mut images: Vec<_> = ordered.into_iter().map(|(_, image)| image).collect();
    // The present product does not enforce exactly one primary image.
    let primary = images.iter().position(|image| image.primary).unwrap_or(0);
    for (index, image) in images.iter_mut().enumerate() {
        image.primary = index == primary;
    }
    Ok(Some((images, rows, json!(source))))
}
