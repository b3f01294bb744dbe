//! What is on a page of a history, and where the next one begins.
//!
//! This file knows nothing of its crate, so that the fuzzer can be built without it.

/// What a page has room for.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

impl Room {
    pub(super) fn is_full(&self) -> bool {
        self.entries == 0 || self.bytes == 0
    }

    /// Takes the room of an entry with a body of this size: one that does not fit is the last.
    pub(super) fn take(&mut self, bytes: usize) {
        self.entries = self.entries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Where a page begins: at this cursor of the list of what the history is about, behind so many
/// things of it, and behind so many entries of the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resume {
    pub(super) things: usize,
    pub(super) entries: usize,
    pub(super) list: Option<String>,
}

impl Resume {
    pub(super) fn cursor(&self) -> String {
        let list = self.list.as_deref().unwrap_or_default();
        format!("{}.{}.{list}", self.things, self.entries)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (things, rest) = text.split_once('.')?;
        let (entries, list) = rest.split_once('.')?;
        let list = Some(list.to_owned()).filter(|list| !list.is_empty());
        let resume = Self { things: things.parse().ok()?, entries: entries.parse().ok()?, list };
        Some(resume).filter(|resume| resume.cursor() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_where_its_cursor_says() {
        for list in [None, Some("MjAyNg".to_owned())] {
            let resume = Resume { things: 3, entries: 2_000, list };
            assert_eq!(Resume::parse(&resume.cursor()), Some(resume));
        }
        for other in ["odd", "1.2", "a.1.x", "-1.0.", "+1.0.", "01.0."] {
            assert_eq!(Resume::parse(other), None, "{other}");
        }
    }
}
