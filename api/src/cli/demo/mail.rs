//! Mail in the demo: the sample deliveries through the webhook, the inbox, a
//! replay.

use super::{Demo, Failure};
use crate::{
    cli::{replay::print_history, table},
    http::auth::{tokens, tokens::Role},
};
use chrono::Utc;
use exodrive_audit::webhook_signature::Secrets;
use exodrive_domain::Delivery;
use exodrive_log::Log;
use exodrive_projections::views::inbox::read::EmailSummary;
use exodrive_replays::{self as replays, Order, Until};
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::Deserialize;
use std::{collections::BTreeMap, time::Duration};

/// Sample deliveries: file name and body, byte for byte.
const PAYLOADS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/payloads.rs"));

/// Emails shown.
const SHOWN: usize = 20;
/// Deliveries in flight at a time.
const IN_FLIGHT: usize = 8;

#[derive(Deserialize)]
struct Receipt {
    position: u64,
    duplicate: bool,
}

#[derive(Deserialize)]
struct Inbox {
    data: Vec<EmailSummary>,
    counts: BTreeMap<String, u64>,
}

impl Demo {
    /// Sends the samples, shows the inbox and the history of one email.
    pub(super) async fn tour_of_mail(
        &self,
        client: &reqwest::Client,
        url: &str,
    ) -> Result<(), Failure> {
        let last = self.send(client, url).await?;
        let inbox = self.inbox(client, url, last).await?;
        print_inbox(&inbox);
        self.replay_the_fullest().await
    }

    /// Sends every sample once and every third again, shuffled, as Resend
    /// would. Returns the last position.
    async fn send(&self, client: &reqwest::Client, url: &str) -> Result<u64, Failure> {
        let secrets = self.http.webhook_secrets(&self.connections)?;
        let mut queue: Vec<_> = PAYLOADS.iter().chain(PAYLOADS.iter().step_by(3)).collect();
        queue.shuffle(&mut StdRng::seed_from_u64(self.seed));
        say!(
            "Sending {} signed deliveries in a shuffled order, {} of them twice.",
            queue.len(),
            queue.len() - PAYLOADS.len()
        );
        let bar = ProgressBar::new(queue.len() as u64)
            .with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}")?);
        let receipts: Vec<Receipt> = stream::iter(queue)
            .map(|(name, body)| send(client, url, &secrets, name, body))
            .buffer_unordered(IN_FLIGHT)
            .inspect_ok(|_| bar.inc(1))
            .try_collect()
            .await?;
        bar.finish_and_clear();
        let duplicates = receipts.iter().filter(|receipt| receipt.duplicate).count();
        say!(
            "All answered 2xx: {} stored, {duplicates} recognised as repeats.\n",
            receipts.len() - duplicates
        );
        Ok(receipts.iter().map(|receipt| receipt.position).max().unwrap_or(0))
    }

    async fn inbox(
        &self,
        client: &reqwest::Client,
        url: &str,
        position: u64,
    ) -> Result<Inbox, Failure> {
        let secret = self.http.tokens.token_secret(&self.connections)?;
        let lifetime = Duration::from_secs(300);
        let rules = self.http.tokens.token_rules();
        let token = tokens::issue(&secret, "demo", Role::Auditor, lifetime, &rules)?;
        let answer = client
            .get(format!("{url}/v1/inbox?limit=100"))
            .bearer_auth(token)
            .header("ExoDrive-Min-Position", position)
            .send()
            .await?;
        let status = answer.status();
        if !status.is_success() {
            return Err(format!("GET /v1/inbox answered {status}: {}", answer.text().await?).into());
        }
        Ok(answer.json().await?)
    }

    async fn replay_the_fullest(&self) -> Result<(), Failure> {
        let mut reports: BTreeMap<_, usize> = BTreeMap::new();
        for (_, body) in PAYLOADS {
            if let Some(id) = Delivery::parse(body).email_id() {
                *reports.entry(id.clone()).or_default() += 1;
            }
        }
        let Some((id, _)) = reports.into_iter().max_by_key(|(_, count)| *count) else {
            return Ok(());
        };
        let (log_url, _) = self.connections.resolve_log()?;
        let log = Log::open(&self.connections.reading_config(log_url)?).await?;
        say!("\nThe history of one of them (exodrive replay email {id}):\n");
        let frames = replays::email(&log, &id, Until::Now, Order::Received).await?;
        print_history(&frames, Order::Received);
        Ok(())
    }
}

async fn send(
    client: &reqwest::Client,
    url: &str,
    secrets: &Secrets,
    name: &str,
    body: &'static [u8],
) -> Result<Receipt, Failure> {
    // The id is the same in every run: a second demo adds nothing to the log.
    let id = format!("msg_demo_{}", name.trim_end_matches(".json").replace('.', "_"));
    let now = Utc::now().timestamp();
    let answer = client
        .post(format!("{url}/v1/webhooks/resend"))
        .header("svix-id", &id)
        .header("svix-timestamp", now)
        .header("svix-signature", secrets.sign(&id, now, body))
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await?;
    let status = answer.status();
    if !status.is_success() {
        return Err(
            format!("the webhook answered {status} to {name}: {}", answer.text().await?).into()
        );
    }
    Ok(answer.json().await?)
}

fn print_inbox(inbox: &Inbox) {
    let mut table = table::table(&["status", "", "from", "to", "subject", "last event"]);
    for email in inbox.data.iter().take(SHOWN) {
        let to = match email.to.as_slice() {
            [] => String::new(),
            [one] => table::short(one, 26),
            [first, rest @ ..] => format!("{} +{}", table::short(first, 22), rest.len()),
        };
        table.add_row([
            email.status.clone(),
            if email.direction == "inbound" { "←" } else { "→" }.to_owned(),
            table::cell(email.from.as_deref().map(|from| table::short(sender_name(from), 22))),
            to,
            table::cell(email.subject.as_deref().map(|subject| table::short(subject, 30))),
            email.last_event_at.format("%d %b %H:%M").to_string(),
        ]);
    }
    say!("{table}");
    let counts: Vec<_> =
        inbox.counts.iter().map(|(status, count)| format!("{count} {status}")).collect();
    let all: u64 = inbox.counts.values().sum();
    say!("The newest {SHOWN} of {all} emails: {}.", counts.join(", "));
}

/// Name of a sender: `Name <a@b>` is shown as `Name`.
fn sender_name(from: &str) -> &str {
    match from.split_once('<') {
        Some((name, _)) if !name.trim().is_empty() => name.trim(),
        _ => from,
    }
}
