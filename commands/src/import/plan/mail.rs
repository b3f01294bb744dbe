//! Plan for emails.

use super::{CellError, HISTORY, ImportCommand, Plan, Step, moment, row_ref, word};
use crate::import::tables::{EmailColumns, Tables};
use chrono::{DateTime, Utc};
use exodrive_domain::{email::EmailId, time};
use serde_json::{Value, json};
use std::collections::HashMap;

/// Plans the emails. One about a booking that is in no file is taken too: like a
/// webhook, it reports what happened to the mail.
pub(super) fn plan_emails(tables: &Tables, plan: &mut Plan) {
    let mut first_of_email: HashMap<EmailId, u64> = HashMap::new();
    for row in &tables.inbox_emails {
        let reports = reports(&row.columns).and_then(|(email_id, reports)| {
            let first = *first_of_email.entry(email_id.clone()).or_insert(row.line);
            if first == row.line {
                Ok((email_id, reports))
            } else {
                Err(format!("line {first} has the same resend_email_id"))
            }
        });
        match reports {
            Ok((email_id, reports)) => {
                for (name, at, body) in reports {
                    let step = Step {
                        id: format!("inbox_emails-{}-{name}", row.columns.id.trim()),
                        rows: vec![row_ref("inbox_emails", row)],
                        needs: None,
                        part: None,
                        source: json!(row.columns),
                        happened_at: Some(at),
                        actor: None,
                        command: ImportCommand::Email(email_id.clone(), body),
                    };
                    plan.push(HISTORY, email_id.to_string(), step);
                }
            }
            Err(why) => plan.refuse("inbox_emails", row, &row.columns.id, why),
        }
    }
}

/// An event of an email: its type, its time, and the body that reports it.
type ReportedEvent = (String, DateTime<Utc>, Value);

/// Events of an email in the form that its provider would send: the last event,
/// and the times at which it was opened and clicked.
fn reports(it: &EmailColumns) -> Result<(EmailId, Vec<ReportedEvent>), CellError> {
    let email_id: EmailId = it.resend_email_id.parse().map_err(|_| {
        format!("resend_email_id is not an id of an email: {:?}", it.resend_email_id)
    })?;
    let created_at = moment("created_at", it.created_at.as_deref())?;
    let last_at = moment("last_event_at", it.last_event_at.as_deref())?
        .or(created_at)
        .ok_or("has neither last_event_at nor created_at")?;
    let kind = word("last_event_type", it.last_event_type.trim().trim_start_matches("email."))?;
    let kind = if kind == "delivery_failed" { "failed" } else { kind };
    let raw = it.raw_payload.as_deref().map(serde_json::from_str::<Value>);
    let raw = raw.transpose().map_err(|error| format!("raw_payload is not JSON: {error}"))?;
    let mut data = raw
        .as_ref()
        .and_then(|raw| raw.get("data").cloned())
        .filter(Value::is_object)
        .unwrap_or_else(|| json!({}));
    let mut tags = match it.tags.as_deref().map(serde_json::from_str::<Value>) {
        Some(Ok(tags)) => tags,
        Some(Err(error)) => return Err(format!("tags is not JSON: {error}")),
        None => data.get("tags").cloned().unwrap_or_else(|| json!({})),
    };
    if let (Some(booking_id), Some(tags)) = (&it.booking_id, tags.as_object_mut()) {
        tags.entry("booking_id").or_insert_with(|| booking_id.clone().into());
    }
    data["email_id"] = it.resend_email_id.clone().into();
    data["tags"] = tags;
    for (field, value) in [("from", &it.sender_email), ("subject", &it.subject)] {
        if data.get(field).is_none_or(Value::is_null) {
            data[field] = json!(value);
        }
    }
    if data.get("to").is_none_or(Value::is_null) {
        data["to"] = json!(it.recipient_email.iter().collect::<Vec<_>>());
    }
    if data.get("created_at").is_none_or(Value::is_null) {
        data["created_at"] = json!(created_at.as_ref().map(time::format));
    }
    if kind == "bounced" && data.get("bounce").is_none_or(Value::is_null) {
        let bounce = match it.bounce_type.as_deref() {
            Some("hard") => "Permanent",
            Some("soft") => "Transient",
            _ => "Undetermined",
        };
        data["bounce"] = json!({"type": bounce, "message": it.bounce_description});
    }
    let mut reports = Vec::new();
    let mut report = |kind: &str, at: DateTime<Utc>| {
        let name = format!("email.{kind}");
        let body = json!({"type": name, "created_at": time::format(&at), "data": data});
        reports.push((kind.to_owned(), at, body));
    };
    report(kind, last_at);
    for (name, at) in [("opened", &it.opened_at), ("clicked", &it.clicked_at)] {
        if let Some(at) = moment(&format!("{name}_at"), at.as_deref())?
            && kind != name
        {
            report(name, at);
        }
    }
    Ok((email_id, reports))
}
