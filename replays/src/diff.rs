//! Differences between two states, field by field.

use serde::Serialize;
use serde_json::Value;
use std::cmp::Ordering;

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

/// Called with a field that differs: its pointer, its value before and its value after.
type Found<'a> = &'a mut dyn FnMut(String, Option<&Value>, Option<&Value>);

/// The fields in which two states differ, in the order of their names. A value that is in only one
/// state is reported as a whole. Items of arrays are compared by index; sets (arrays of texts in
/// ascending order) by their members: one that is gone has its place before, a new one its place
/// after.
pub fn diff(before: Option<&Value>, after: Option<&Value>) -> Vec<Change> {
    let mut changes = Vec::new();
    for_each_change(before, after, &mut |pointer, old, new| {
        changes.push(Change { pointer, old: old.cloned(), new: new.cloned() });
    });
    changes
}

/// Calls `found` with each field in which two states differ, as [`diff`] reports them.
pub(crate) fn for_each_change(before: Option<&Value>, after: Option<&Value>, found: Found<'_>) {
    compare(String::new(), before, after, found);
}

fn compare(pointer: String, before: Option<&Value>, after: Option<&Value>, found: Found<'_>) {
    match (before, after) {
        (before, after) if before == after => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let added = new.keys().filter(|name| !old.contains_key(*name));
            let mut names: Vec<_> = old.keys().chain(added).collect();
            names.sort_unstable();
            for name in names {
                let step = name.replace('~', "~0").replace('/', "~1");
                compare(format!("{pointer}/{step}"), old.get(name), new.get(name), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => match (members(old), members(new)) {
            (Some(before), Some(after)) => {
                compare_sets(&pointer, (old, &before), (new, &after), found);
            }
            _ => {
                for place in 0..old.len().max(new.len()) {
                    compare(format!("{pointer}/{place}"), old.get(place), new.get(place), found);
                }
            }
        },
        (old, new) => found(pointer, old, new),
    }
}

/// The members of a set: texts in ascending order.
fn members(array: &[Value]) -> Option<Vec<&str>> {
    let members: Vec<_> = array.iter().map(Value::as_str).collect::<Option<_>>()?;
    members.is_sorted_by(|one, next| one < next).then_some(members)
}

fn compare_sets(
    pointer: &str,
    (old, before): (&[Value], &[&str]),
    (new, after): (&[Value], &[&str]),
    found: Found<'_>,
) {
    let (mut gone, mut added) = (0, 0);
    while gone < before.len() || added < after.len() {
        let order = match (before.get(gone), after.get(added)) {
            (Some(one), Some(other)) => one.cmp(other),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match order {
            Ordering::Less => found(format!("{pointer}/{gone}"), old.get(gone), None),
            Ordering::Greater => found(format!("{pointer}/{added}"), None, new.get(added)),
            Ordering::Equal => {}
        }
        gone += usize::from(order != Ordering::Greater);
        added += usize::from(order != Ordering::Less);
    }
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
    fn members_of_sets_are_compared_and_not_their_places() {
        let before = json!({"set": ["b", "c", "e"], "list": ["b", "a"]});
        let after = json!({"set": ["a", "b", "d", "e"], "list": ["c", "b", "a"]});
        assert_eq!(
            reported(&before, &after),
            [
                ("/list/0".to_owned(), Some(json!("b")), Some(json!("c"))),
                ("/list/1".to_owned(), Some(json!("a")), Some(json!("b"))),
                ("/list/2".to_owned(), None, Some(json!("a"))),
                ("/set/0".to_owned(), None, Some(json!("a"))),
                ("/set/1".to_owned(), Some(json!("c")), None),
                ("/set/2".to_owned(), None, Some(json!("d"))),
            ]
        );
    }
}
