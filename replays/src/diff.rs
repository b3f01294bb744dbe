//! Differences between two states, field by field.

use serde::Serialize;
use serde_json::Value;

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The field: a JSON pointer (RFC 6901), empty for the whole state.
    pub pointer: String,
    /// Its value before; `None` if it was absent.
    pub old: Option<Value>,
    /// Its value after; `None` if it is gone.
    pub new: Option<Value>,
}

/// The fields in which two states differ, in the order of their names. A value that is in only one
/// state is reported as a whole. Items of arrays are compared by index.
pub fn diff(before: Option<&Value>, after: Option<&Value>) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(String::new(), before, after, &mut changes);
    changes
}

fn compare(
    pointer: String,
    before: Option<&Value>,
    after: Option<&Value>,
    changes: &mut Vec<Change>,
) {
    match (before, after) {
        (before, after) if before == after => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let added = new.keys().filter(|name| !old.contains_key(*name));
            let mut names: Vec<_> = old.keys().chain(added).collect();
            names.sort_unstable();
            for name in names {
                let step = name.replace('~', "~0").replace('/', "~1");
                compare(format!("{pointer}/{step}"), old.get(name), new.get(name), changes);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for place in 0..old.len().max(new.len()) {
                compare(format!("{pointer}/{place}"), old.get(place), new.get(place), changes);
            }
        }
        (old, new) => {
            changes.push(Change { pointer, old: old.cloned(), new: new.cloned() });
        }
    }
}

/// True if one pointer names a part of what the other names.
pub(crate) fn overlap(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reported(before: &Value, after: &Value) -> Vec<(String, Option<Value>, Option<Value>)> {
        let change = |it: Change| (it.pointer, it.old, it.new);
        diff(Some(before), Some(after)).into_iter().map(change).collect()
    }

    #[test]
    fn every_field_that_differs_is_named_and_no_other() {
        let before = json!({"a": 1, "same": {"x": [1, 2]}, "b/c": {"~": 1}, "list": [1, {"n": 2}], "gone": 1});
        let after = json!({"a": 2, "same": {"x": [1, 2]}, "b/c": {"~": 2}, "list": [1, {"n": 3}, 4], "new": {"deep": 1}});
        assert_eq!(
            reported(&before, &after),
            [
                ("/a".to_owned(), Some(json!(1)), Some(json!(2))),
                ("/b~1c/~0".to_owned(), Some(json!(1)), Some(json!(2))),
                ("/gone".to_owned(), Some(json!(1)), None),
                ("/list/1/n".to_owned(), Some(json!(2)), Some(json!(3))),
                ("/list/2".to_owned(), None, Some(json!(4))),
                ("/new".to_owned(), None, Some(json!({"deep": 1}))),
            ]
        );
        for change in diff(Some(&before), Some(&after)) {
            assert_eq!(before.pointer(&change.pointer), change.old.as_ref());
            assert_eq!(after.pointer(&change.pointer), change.new.as_ref());
        }
        assert_eq!(reported(&before, &before), []);
        let appeared = diff(None, Some(&after));
        assert_eq!((appeared[0].pointer.as_str(), appeared.len()), ("", 1));
    }

    #[test]
    fn pointers_overlap_by_whole_steps() {
        assert!(overlap("/a", "/a/b") && overlap("/a/b", "/a") && overlap("", "/a"));
        assert!(!overlap("/a", "/ab") && !overlap("/a/b", "/a/c"));
    }
}
