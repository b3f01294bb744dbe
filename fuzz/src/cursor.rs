//! Cursors of lists: what is accepted is what a list wrote.

#[allow(dead_code, unreachable_pub, reason = "a file of another crate")]
#[path = "../../projections/src/views/cursor.rs"]
mod list;
#[allow(dead_code, unreachable_pub, reason = "a file of another crate")]
#[path = "../../audit/src/evidence/pages.rs"]
mod pages;

use list::{Place, RowPlace, SortedPlace, parse_position};
use pages::Resume;

pub(crate) fn holds(input: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(input) else { return false };
    let place = Place::parse(text);
    if let Some(place) = &place {
        assert_eq!(place.cursor(), text);
        assert!(place.at.is_empty() || is_time(&place.at), "times of rows are compared as texts");
    }
    let row = RowPlace::parse(text);
    if let Some(row) = &row {
        assert_eq!(row.cursor(), text);
        assert!(is_time(&row.at), "times of rows are compared as texts");
        assert!(!row.key.contains('\0'), "Postgres takes no NUL");
    }
    let sorted = SortedPlace::parse(text, "name");
    if let Some(sorted) = &sorted {
        assert_eq!(sorted.cursor(), text);
        assert!(!sorted.text.contains('\0'), "Postgres takes no NUL");
    }
    let resume = Resume::parse(text);
    if let Some(resume) = &resume {
        assert_eq!(resume.cursor(), text);
    }
    let position = parse_position(text);
    if let Some(position) = position {
        assert_eq!(position.to_string(), text);
        assert!(position.checked_add(1).is_some(), "a page begins after it");
    }
    place.is_some() || row.is_some() || sorted.is_some() || resume.is_some() || position.is_some()
}

fn is_time(text: &str) -> bool {
    exodrive_domain::time::parse(text)
        .is_some_and(|time| exodrive_domain::time::format(&time) == text)
}
