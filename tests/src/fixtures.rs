//! The recorded deliveries of the provider, and small ones made for tests.

use crate::Delivery;
use bytes::Bytes;
use exodrive_domain::email::ReportIds;
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::PathBuf};

/// One body as Resend sends it.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// The file's name without its ending.
    pub name: String,
    /// The bytes.
    pub body: Bytes,
}

/// Every body under `fixtures/resend/payloads`, by name.
pub fn fixtures() -> Vec<Fixture> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/resend/payloads");
    let mut all: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            Fixture { name, body: fs::read(path).unwrap().into() }
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// A small body of type `email.<kind>`; `more` goes into `data`, with a comma
/// before it.
pub fn email_body(kind: &str, email_id: &str, created_at: &str, more: &str) -> String {
    format!(
        r#"{{"type":"email.{kind}","created_at":"{created_at}","data":{{"email_id":"{email_id}","created_at":"2026-11-20T09:00:00.000Z","from":"desk@exodrive.example","to":["guest@example.com"],"subject":"Your booking"{more}}}}}"#
    )
}

/// The number of reports that a row of the inbox has counted.
pub fn reports(row: &Value) -> usize {
    let ids: ReportIds = serde_json::from_value(row["email"]["event_ids"].clone()).unwrap();
    ids.len()
}

/// The email, rank and status that a body reports, by the table of Resend's
/// statuses; `None` if it reports no status. This reading is independent of the
/// code that it tests.
pub fn reported_status(body: &[u8]) -> Option<(String, u8, &'static str)> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let data = body.get("data")?;
    let (rank, status) = match body["type"].as_str()? {
        "email.received" => (0, "received"),
        "email.scheduled" => (10, "scheduled"),
        "email.sent" => (20, "sent"),
        "email.delivery_delayed" => (30, "delivery_delayed"),
        "email.bounced" => match data["bounce"]["type"].as_str() {
            Some("Transient" | "Temporary" | "Undetermined") => (35, "bounced"),
            _ => (90, "bounced"),
        },
        "email.delivered" => (40, "delivered"),
        "email.opened" => (50, "opened"),
        "email.clicked" => (60, "clicked"),
        "email.suppressed" => (70, "suppressed"),
        "email.failed" => (80, "failed"),
        "email.complained" => (100, "complained"),
        _ => return None,
    };
    Some((data["email_id"].as_str()?.to_owned(), rank, status))
}

/// The status of every email that deliveries report, independent of their
/// order.
pub fn status_by_rank<'a>(
    deliveries: impl IntoIterator<Item = &'a Delivery>,
) -> BTreeMap<String, &'static str> {
    let mut highest: BTreeMap<String, (u8, &'static str)> = BTreeMap::new();
    for (email, rank, status) in
        deliveries.into_iter().filter_map(|delivery| reported_status(&delivery.body))
    {
        let known = highest.entry(email).or_insert((rank, status));
        *known = (*known).max((rank, status));
    }
    highest.into_iter().map(|(email, (_, status))| (email, status)).collect()
}
