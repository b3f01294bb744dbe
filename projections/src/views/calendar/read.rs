//! Queries of a car's calendar.

use super::{CalendarRow, CalendarView, Entry};
use crate::{Error, Projection, ReadTransaction};

/// The taken days of a car, and the position that last changed them; nothing for a car that was
/// never booked or blocked.
///
/// # Errors
/// When the database fails.
pub async fn entries(
    reader: &mut ReadTransaction,
    car_id: &str,
) -> Result<(Vec<Entry>, u64), Error> {
    let reader = reader.over(&[CalendarView::NAME])?;
    let found = sqlx::query!(
        r#"select position as "position!", data as "data!" from calendar where key = $1"#,
        car_id
    )
    .fetch_optional(&mut **reader)
    .await?;
    let Some(found) = found else { return Ok((Vec::new(), 0)) };
    let row: CalendarRow = serde_json::from_value(found.data).map_err(|source| Error::Row {
        table: CalendarView::NAME,
        key: car_id.to_owned(),
        source,
    })?;
    Ok((row.entries, u64::try_from(found.position).unwrap_or(0)))
}
