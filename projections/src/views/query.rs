//! Pages that the queries of several projections share.

pub use super::cursor::{Place, RowPlace, SortedPlace, parse_position};
use crate::{Error, Transaction};
use serde::Serialize;
use std::collections::BTreeMap;

/// A page of a list, newest first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Cursor of the next page, if there is one.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// The first `limit` of the rows that were found by asking for one more. If
    /// there is one more, the next page begins after the last that is kept, at
    /// its cursor.
    pub(crate) fn cut(mut found: Vec<T>, limit: i64, cursor: impl Fn(&T) -> String) -> Self {
        let limit = usize::try_from(limit).unwrap_or(0);
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(cursor);
        Self { rows: found, next }
    }

    /// The page of what the rows are read as.
    pub(crate) fn try_map<U, E>(self, read: impl FnMut(T) -> Result<U, E>) -> Result<Page<U>, E> {
        let rows = self.rows.into_iter().map(read).collect::<Result<_, _>>()?;
        Ok(Page { rows, next: self.next })
    }
}

/// The numbers of rows by [`Projection::COUNTED`], of the generation that this release reads.
/// `None` if they are not known, or if the reader may not see every row: then the rows are to be
/// counted.
///
/// [`Projection::COUNTED`]: crate::Projection::COUNTED
pub(crate) async fn kept_counts(
    reader: &mut Transaction,
    view: &'static str,
) -> Result<Option<BTreeMap<String, i64>>, Error> {
    let found = sqlx::query!(
        r#"select key as "name?", sum(value::bigint)::bigint as rows,
                  bool_or(counts is null) as "unknown!"
           from checkpoints left join lateral jsonb_each_text(counts) on true
           where projection = $1
             and generation = obj_description(to_regclass($1), 'pg_class')::integer
             and current_setting('exodrive.identity', true) in ('admin', 'auditor', 'system')
           group by key"#,
        view
    );
    let found = found.fetch_all(&mut **reader).await?;
    if found.is_empty() || found.iter().any(|it| it.unknown) {
        return Ok(None);
    }
    let counts = found.into_iter().filter_map(|it| Some((it.name?, it.rows?)));
    Ok(Some(counts.filter(|(_, rows)| *rows > 0).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use chrono::{DateTime, SecondsFormat, Utc};
    use exodrive_domain::time;
    use proptest::prelude::*;

    /// A text that is like a cursor of two parts.
    fn written(first: &str, last: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(format!("{first}\n{last}"))
    }

    /// A time in one of the spellings that [`time::parse`] reads.
    fn spelt(time: DateTime<Utc>, how: usize) -> String {
        match how {
            0 => time.to_rfc3339_opts(SecondsFormat::Secs, true),
            1 => time.to_rfc3339_opts(SecondsFormat::Nanos, true),
            2 => time.to_rfc3339_opts(SecondsFormat::Micros, false),
            3 => format!(" {}", time::format(&time)),
            4 => time::format(&time).to_lowercase(),
            5 => String::new(),
            _ => time::format(&time),
        }
    }

    prop_compose! {
        fn times()(micros in 0_i64..4_000_000_000_000_000) -> DateTime<Utc> {
            DateTime::from_timestamp_micros(micros).unwrap()
        }
    }

    /// What may be the last part of a cursor.
    fn texts() -> impl Strategy<Value = String> {
        prop_oneof!["[0-9]{1,3}", "[+ -]?0{0,2}[0-9]{1,20}", "[^\0]{0,12}", "(?s).{0,12}"]
    }

    /// Texts that are like cursors, and some that are not.
    fn spellings() -> impl Strategy<Value = String> {
        let first = prop_oneof![
            (times(), 0_usize..9).prop_map(|(time, how)| spelt(time, how)),
            prop_oneof!["name", "price", "-price", "NAME", " name"],
        ];
        let cursor = (first, texts()).prop_map(|(first, last)| written(&first, &last));
        prop_oneof![
            8 => (cursor, "[=A \n]?").prop_map(|(cursor, more)| cursor + &more),
            2 => texts(),
        ]
    }

    proptest! {
        #[test]
        fn a_place_is_read_back_from_its_cursor(
            time in times(), position: i64, key in "[^\0]{0,12}", order in "-?[a-z]{1,9}",
        ) {
            let at = time::format(&time);
            for at in [&at, ""] {
                let place = Place { at: at.to_owned(), position };
                prop_assert_eq!(Place::parse(&place.cursor()), Some(place));
            }
            let row = RowPlace { at, key: key.clone() };
            prop_assert_eq!(RowPlace::parse(&row.cursor()), Some(row));
            let sorted = SortedPlace { order: order.clone(), text: key };
            prop_assert_eq!(SortedPlace::parse(&sorted.cursor(), "other"), None);
            prop_assert_eq!(SortedPlace::parse(&sorted.cursor(), &order), Some(sorted));
            let position = u64::try_from(position).unwrap_or(7);
            prop_assert_eq!(parse_position(&position.to_string()), Some(position));
        }

        #[test]
        fn whatever_is_read_is_written_in_the_same_way(text in spellings()) {
            if let Some(place) = Place::parse(&text) {
                prop_assert_eq!(place.cursor(), text.clone());
            }
            if let Some(place) = RowPlace::parse(&text) {
                prop_assert_eq!(place.cursor(), text.clone());
                let read = time::parse(&place.at).unwrap();
                prop_assert_eq!(time::format(&read), place.at);
            }
            if let Some(place) = SortedPlace::parse(&text, "name") {
                prop_assert_eq!(place.cursor(), text.clone());
            }
            if let Some(position) = parse_position(&text) {
                prop_assert_eq!(position.to_string(), text);
            }
        }
    }

    #[test]
    fn a_page_ends_at_its_limit_and_says_where_the_next_begins() {
        let page = |rows: &[u32], limit| Page::cut(rows.to_vec(), limit, |last| last.to_string());
        let next = |rows: &[u32], next: Option<&str>| Page {
            rows: rows.to_vec(),
            next: next.map(str::to_owned),
        };
        assert_eq!(page(&[7, 8, 9], 2), next(&[7, 8], Some("8")));
        assert_eq!(page(&[7, 8], 2), next(&[7, 8], None));
        assert_eq!(page(&[], 2), next(&[], None));
        let failed = page(&[7], 2).try_map(|row| if row > 7 { Ok(row) } else { Err(row) });
        assert_eq!(failed, Err(7));
    }
}
