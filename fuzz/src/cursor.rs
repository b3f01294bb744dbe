//! Cursors of lists: what is accepted is what a list wrote.

#[allow(dead_code, unreachable_pub, reason = "a file of another crate")]
#[path = "../../projections/src/views/cursor.rs"]
mod list;
#[allow(dead_code, unreachable_pub, reason = "a file of another crate")]
#[path = "../../audit/src/evidence/pages.rs"]
mod pages;

use list::{Place, decode_cursor, encode_cursor};
use pages::{Resume, position_after};

pub(crate) fn holds(input: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(input) else { return false };
    parts::<2>(text);
    parts::<3>(text);
    let place = Place::parse(text);
    if let Some(place) = &place {
        assert_eq!(Place::cursor(&place.at, place.position), text);
        let time = exodrive_domain::time::parse(&place.at);
        let time = time.map(|time| exodrive_domain::time::format(&time)).unwrap_or_default();
        assert_eq!(time, place.at, "times of rows are compared as texts");
    }
    let resume = Resume::parse(text);
    if let Some(resume) = &resume {
        assert_eq!(resume.cursor(), text);
    }
    let position = position_after(text);
    if let Some(position) = position {
        assert_eq!((position - 1).to_string(), text);
    }
    place.is_some() || resume.is_some() || position.is_some()
}

fn parts<const N: usize>(text: &str) {
    let Some(parts) = decode_cursor::<N>(text) else { return };
    assert_eq!(encode_cursor(&parts.each_ref().map(String::as_str)), text);
    assert!(parts.iter().all(|part| !part.contains('\0')), "Postgres takes no NUL");
}
