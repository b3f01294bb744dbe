//! Old versions of events, lifted to the newest on raw JSON before they are
//! typed, so that the types know only the newest shape.

use serde_json::Value;

/// One step: the body of `kind` at version `from` becomes that of `from + 1`.
pub(crate) struct Upcaster {
    pub(crate) kind: &'static str,
    pub(crate) from: u32,
    pub(crate) lift: fn(Value) -> Value,
}

/// Every step there is. A retired version stays here for ever: the log is
/// never edited.
pub(crate) const UPCASTERS: &[Upcaster] = &[];

/// Applies the steps of `kind` from `version` upwards.
pub(crate) fn lift(steps: &[Upcaster], kind: &str, version: u32, body: Value) -> Value {
    let step = steps.iter().find(|step| step.kind == kind && step.from == version);
    match step {
        Some(step) => lift(steps, kind, version + 1, (step.lift)(body)),
        None => body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn steps_are_applied_from_the_version_found() {
        let steps = [
            Upcaster {
                kind: "car.priced",
                from: 1,
                lift: |body| json!({"cents": body["euros"].as_i64().unwrap() * 100}),
            },
            Upcaster {
                kind: "car.priced",
                from: 2,
                lift: |body| json!({"amount": body["cents"], "currency": "EUR"}),
            },
            Upcaster { kind: "car.listed", from: 1, lift: |_| json!(null) },
        ];
        let newest = json!({"amount": 300, "currency": "EUR"});
        assert_eq!(lift(&steps, "car.priced", 1, json!({"euros": 3})), newest);
        assert_eq!(lift(&steps, "car.priced", 2, json!({"cents": 300})), newest);
        assert_eq!(lift(&steps, "car.priced", 3, newest.clone()), newest);
    }
}
