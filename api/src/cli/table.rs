//! Tables and values in a form for people.

use chrono::{DateTime, Utc};
use comfy_table::{ContentArrangement, LineStyle, Table, presets};

/// Makes a table with these headings, as wide as the terminal.
pub(super) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING.header_separator(LineStyle::none().fill('─').junction('─')))
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(headings.iter().map(|heading| heading.to_uppercase()));
    if !table.is_tty() {
        table.set_width(140);
    }
    table
}

/// Formats a time for people: UTC, to the second.
pub(super) fn time(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// Cuts a text to a length, with an ellipsis. Control characters are replaced,
/// so that they cannot reach the terminal.
pub(super) fn short(text: &str, length: usize) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    if text.chars().count() <= length {
        return text.chars().map(clean).collect();
    }
    text.chars().take(length.saturating_sub(1)).map(clean).chain(['…']).collect()
}

/// The text of a cell: an empty one for a value that is absent.
pub(super) fn cell(text: Option<String>) -> String {
    text.unwrap_or_default()
}

/// Formats a value as JSON on one line, cut to a length; a dash for none.
pub(super) fn json(value: Option<&serde_json::Value>, length: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| short(&value.to_string(), length))
}

/// A name of a list as people read it, for example `catching up`.
pub(super) fn words(name: impl Into<&'static str>) -> String {
    name.into().replace('_', " ")
}

/// Formats a number with separators, for example `1,284,906`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
