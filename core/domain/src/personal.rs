//! Personal data, marked where it stands.

use std::fmt;

/// Personal data: no `Debug` shows it and nothing serialises it by itself. A
/// field of an event says `#[serde(with = "personal::marked")]`, which writes
/// it under [`MARK`], so that whatever stores events can find all of it in the
/// JSON and need not know the types.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Personal<T>(pub T);

/// The one key of a JSON object that holds personal data.
pub const MARK: &str = "$personal";

impl<T> fmt::Debug for Personal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(personal)")
    }
}

/// Serde adapter: `{"$personal": …}`.
pub mod marked {
    use super::Personal;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Marked<T> {
        #[serde(rename = "$personal")]
        value: T,
    }

    /// Writes the value under the mark.
    pub fn serialize<T: Serialize, S: Serializer>(
        personal: &Personal<T>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        Marked { value: &personal.0 }.serialize(out)
    }

    /// Reads what [`serialize`] wrote.
    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        input: D,
    ) -> Result<Personal<T>, D::Error> {
        Marked::deserialize(input).map(|marked| Personal(marked.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Note {
        #[serde(with = "marked")]
        text: Personal<String>,
    }

    #[test]
    fn it_is_marked_in_json_and_hidden_in_debug() {
        let note = Note { text: Personal("call Dana".into()) };
        let json = serde_json::to_value(&note).unwrap();
        assert_eq!(json, serde_json::json!({"text": {MARK: "call Dana"}}));
        assert_eq!(serde_json::from_value::<Note>(json).unwrap(), note);
        assert!(!format!("{note:?}").contains("Dana"));
    }
}
