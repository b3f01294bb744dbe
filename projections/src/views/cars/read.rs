//! Queries of the fleet.

pub use super::answer::{
    CarDetail, CarSummary, FeeDetail, ImageDetail, LocationDetail, NamedTextDetail, PeakDetail,
    PriceDetail, PriceSummary,
};

use super::{CarRow, Cars, price_text};
use crate::{
    Error, Page, Projection, ReadTransaction, Transaction,
    views::{
        calendar::{CalendarView, day_number},
        query::SortedPlace,
        search::{Search, fold},
    },
};
use exodrive_domain::days::Days;

/// Order of a list of cars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Featured cars first, then by name.
    #[default]
    Featured,
    /// By name.
    Name,
    /// By currency, and the cheapest of each first.
    Price,
    /// The same, backwards.
    PriceDescending,
}

impl Sort {
    /// Every order.
    pub const ALL: [Self; 4] = [Self::Featured, Self::Name, Self::Price, Self::PriceDescending];

    /// Its name in a query.
    pub fn name(self) -> &'static str {
        match self {
            Self::Featured => "featured",
            Self::Name => "name",
            Self::Price => "price",
            Self::PriceDescending => "-price",
        }
    }
}

/// Filter, order and page of a list of cars.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of these categories, in lower case; any if empty.
    pub categories: Vec<String>,
    /// Priced in this currency. Give it with a price: amounts of two currencies do not compare.
    pub currency: Option<String>,
    /// Costing at least this a day, in minor units.
    pub price_min: Option<i64>,
    /// Costing at most this a day, in minor units.
    pub price_max: Option<i64>,
    /// With all of these features, in any case.
    pub features: Vec<String>,
    /// With words that begin with the words of this text. If no car has them, a word of the name
    /// may have a typo. A text without a letter or digit looks for nothing.
    pub text: Option<String>,
    /// Free on all of these days.
    pub free: Option<Days>,
    /// True to include those that the public does not see, if the reader may see them.
    pub all: bool,
    /// The order.
    pub sort: Sort,
    /// End of the previous page, in the same order.
    pub after: Option<SortedPlace>,
    /// Most rows to return.
    pub limit: i64,
}

impl Filter {
    /// The views that [`find_cars`] reads.
    pub fn views(&self) -> &'static [&'static str] {
        // Without days, no calendar can leave a car out.
        if self.free.is_some() { &[Cars::NAME, CalendarView::NAME] } else { &[Cars::NAME] }
    }
}

/// The place that a cursor names, if a list has written it in this order.
pub fn parse_cursor(text: &str, sort: Sort) -> Option<SortedPlace> {
    let place = SortedPlace::parse(text, sort.name())?;
    let valid = match sort {
        Sort::Price | Sort::PriceDescending => is_price(&place.text),
        Sort::Featured => place.text.starts_with("0 ") || place.text.starts_with("1 "),
        Sort::Name => true,
    };
    valid.then_some(place)
}

/// True if a text begins with a currency and an amount as [`price_text`] writes them.
fn is_price(text: &str) -> bool {
    let mut parts = text.splitn(3, ' ');
    let (currency, amount) = (parts.next(), parts.next());
    currency.zip(amount).is_some_and(|(currency, amount)| {
        let spelt = amount.parse().map(|cents| price_text(currency, cents));
        parts.next().is_some() && spelt.is_ok_and(|spelt| spelt == format!("{currency} {amount}"))
    })
}

/// A page of the fleet.
///
/// # Errors
/// When the database fails.
pub async fn find_cars(
    reader: &mut ReadTransaction,
    filter: &Filter,
) -> Result<Page<CarSummary>, Error> {
    let reader = reader.over(filter.views())?;
    let query = match filter.text.as_deref().and_then(Search::of) {
        None => None,
        Some(search) => Some(query(reader, filter.all, &search).await?),
    };
    let features: Vec<_> = filter.features.iter().map(|feature| fold(feature)).collect();
    let free = filter.free.map(|days| (day_number(days.first()), day_number(days.until())));
    let (from, until) = free.unzip();
    let after = filter.after.as_ref().map(|after| after.text.as_str());
    struct Found {
        key: String,
        position: i64,
        data: serde_json::Value,
        place: String,
    }
    macro_rules! page {
        ($place:literal, $compare:literal, $order:literal) => {
            sqlx::query_as!(
                Found,
                r#"select key as "key!", position as "position!", data as "data!", "#
                    + $place
                    + r#" as "place!" from cars
                    where ($1 or shown)
                      and (cardinality($2::text[]) = 0 or category = any($2))
                      and ($3::bigint is null or price >= $3)
                      and ($4::bigint is null or price <= $4)
                      and (cardinality($5::text[]) = 0 or data -> 'features' ?& $5)
                      and ($6::text is null or words @@ $6::text::tsquery)
                      and ($7::int is null or not exists (
                          select from calendar where calendar.key = cars.key
                          and calendar.taken && int4range($7, $8)))
                      and ($11::text is null
                          or data -> 'car' -> 'prices' ->> 'currency' = $11)
                      and ($9::text is null or "#
                    + $compare
                    + r#") order by "#
                    + $order
                    + r#" limit $10"#,
                filter.all,
                &filter.categories,
                filter.price_min,
                filter.price_max,
                &features,
                query,
                from,
                until,
                after,
                filter.limit + 1,
                filter.currency
            )
            .fetch_all(&mut **reader)
            .await?
        };
    }
    let found = match filter.sort {
        Sort::Featured => page!("by_featured", "by_featured > $9", "by_featured"),
        Sort::Name => page!("by_name", "by_name > $9", "by_name"),
        Sort::Price => page!("by_price", "by_price > $9", "by_price"),
        Sort::PriceDescending => page!("by_price", "by_price < $9", "by_price desc"),
    };
    let page = Page::cut(found, filter.limit, |last| {
        SortedPlace { order: filter.sort.name().to_owned(), text: last.place.clone() }.cursor()
    });
    page.try_map(|found| {
        let row = row(found.key, found.data)?;
        Ok(CarSummary::of(&row.car, u64::try_from(found.position).unwrap_or(0)))
    })
}

/// The query of the cars that the reader may see and that have all words, also with typos if there
/// is no other car. Every page of a list is of the same one, unless a car is changed meanwhile.
async fn query(reader: &mut Transaction, all: bool, search: &Search) -> Result<String, Error> {
    let found = sqlx::query_scalar!(
        r#"select exists (select from cars where ($1 or shown) and words @@ $2::text::tsquery)
               as "exists!""#,
        all,
        search.query()
    );
    let found = found.fetch_one(&mut **reader).await?;
    Ok(if found { search.query() } else { search.query_with_typos() })
}

/// One car, by its id or its slug, and whether the public sees it.
///
/// # Errors
/// When the database fails.
pub async fn find_car(
    reader: &mut ReadTransaction,
    id_or_slug: &str,
) -> Result<Option<(CarDetail, bool)>, Error> {
    let reader = reader.over(&[Cars::NAME])?;
    let found = sqlx::query!(
        r#"select key as "key!", position as "position!", data as "data!" from cars
           where key = $1 or slug = $1 order by key = $1 desc limit 1"#,
        id_or_slug
    )
    .fetch_optional(&mut **reader)
    .await?;
    let Some(found) = found else { return Ok(None) };
    let position = u64::try_from(found.position).unwrap_or(0);
    let row = row(found.key, found.data)?;
    Ok(Some((CarDetail::of(&row.car, position), row.shown)))
}

fn row(key: String, data: serde_json::Value) -> Result<CarRow, Error> {
    serde_json::from_value(data).map_err(|source| Error::Row { table: Cars::NAME, key, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_of_its_order_and_spells_a_price_as_rows_do() {
        let cursor = |order: &str, text: &str| {
            SortedPlace { order: order.to_owned(), text: text.to_owned() }.cursor()
        };
        let dear = format!("{} car", price_text("USD", 129_900));
        for (sort, text, valid) in [
            (Sort::Price, dear.as_str(), true),
            (Sort::PriceDescending, &dear, true),
            (Sort::Price, " 0000000000000 car", true),
            (Sort::Price, "USD 129900 car", false),
            (Sort::Price, "USD +000000129900 car", false),
            (Sort::Price, "USD 0000000129900", false),
            (Sort::Featured, "0 zonda car", true),
            (Sort::Featured, "00 zonda car", false),
            (Sort::Name, "zonda car", true),
        ] {
            let place = parse_cursor(&cursor(sort.name(), text), sort);
            assert_eq!(place.map(|place| place.text), valid.then(|| text.to_owned()), "{text:?}");
            assert_eq!(parse_cursor(&cursor("other", text), sort), None);
        }
    }
}
