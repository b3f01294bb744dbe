//! Pages that the queries of several projections share.

pub use super::cursor::Place;
pub(crate) use super::cursor::{decode_cursor, encode_cursor};
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
