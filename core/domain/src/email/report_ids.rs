//! The set of reports that an email has counted.

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use sha2::{Digest, Sha256};

/// Bytes that are kept of an id.
const KEPT: usize = 8;

/// A set of reports' ids. Of each it keeps 8 bytes: anybody who opens a mail again and again makes
/// its set grow, and the set is a part of the email's row. That two of a million ids are taken for
/// one has a chance of one in 37 million.
///
/// In JSON it is one text: the kept bytes of all ids, in their order, as base64 without padding. A
/// list of whole ids, as older rows have it, is read as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportIds(Vec<u64>);

impl ReportIds {
    /// Adds an id; false if it is there already.
    pub fn insert(&mut self, id: &str) -> bool {
        let kept = kept(id);
        match self.0.binary_search(&kept) {
            Ok(_) => false,
            Err(place) => {
                self.0.insert(place, kept);
                true
            }
        }
    }

    /// The number of ids.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The first bytes of the id's SHA-256.
fn kept(id: &str) -> u64 {
    let digest = Sha256::digest(id.as_bytes());
    digest.iter().take(KEPT).fold(0, |kept, byte| kept << 8 | u64::from(*byte))
}

impl<'a> FromIterator<&'a str> for ReportIds {
    fn from_iter<I: IntoIterator<Item = &'a str>>(ids: I) -> Self {
        let mut all: Vec<_> = ids.into_iter().map(kept).collect();
        all.sort_unstable();
        all.dedup();
        Self(all)
    }
}

impl Serialize for ReportIds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|kept| kept.to_be_bytes()).collect();
        serializer.serialize_str(&BASE64_STANDARD_NO_PAD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for ReportIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Kept(String),
            Whole(Vec<String>),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Kept(text) => text,
            Written::Whole(ids) => return Ok(ids.iter().map(String::as_str).collect()),
        };
        let bytes = BASE64_STANDARD_NO_PAD.decode(text).map_err(D::Error::custom)?;
        let (all, rest) = bytes.as_chunks::<KEPT>();
        let all: Vec<_> = all.iter().map(|kept| u64::from_be_bytes(*kept)).collect();
        if !rest.is_empty() || !all.is_sorted_by(|one, next| one < next) {
            return Err(D::Error::custom("it is no set of ids"));
        }
        Ok(Self(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_id_is_in_the_set_once_whatever_the_order() {
        let mut set = ReportIds::default();
        let added: Vec<_> = ["b", "a", "b", "c"].iter().map(|id| set.insert(id)).collect();
        assert_eq!(added, [true, true, false, true]);
        assert_eq!(set, ["c", "a", "b"].into_iter().collect());
        assert_eq!(set.len(), 3);
    }

    #[test]
    fn it_is_one_text_and_lists_of_older_rows_are_read() {
        let set: ReportIds = ["msg_1", "msg_2"].into_iter().collect();
        let written = serde_json::to_value(&set).unwrap();
        assert_eq!(written.as_str().map(str::len), Some(22));
        assert_eq!(serde_json::from_value::<ReportIds>(written).unwrap(), set);
        let older = json!(["msg_1", "msg_2"]);
        assert_eq!(serde_json::from_value::<ReportIds>(older).unwrap(), set);
        let none = serde_json::from_value::<ReportIds>(json!("")).unwrap();
        assert!(none.is_empty() && serde_json::from_value::<ReportIds>(json!([])).unwrap() == none);
        for broken in [json!("AA"), json!("%"), json!(1), json!("AAAAAAAAAAEAAAAAAAAAAQ")] {
            assert!(serde_json::from_value::<ReportIds>(broken.clone()).is_err(), "{broken}");
        }
    }
}
