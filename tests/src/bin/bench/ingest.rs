//! Webhooks through the whole API, against the same bodies published straight
//! to JetStream.

use crate::{
    Failure, Scale,
    load::{self, Load, Outcome, Requests, closed_loop},
    mail,
    raw::Raw,
    report::{Detail, Row, Series, Target},
    system::{Cpu, System, Watch, progress},
};
use chrono::Utc;
use exodrive_log::Log;
use exodrive_runtime::services::SyncMode;
use std::{sync::Arc, time::Duration};

/// Bodies made for a round; fewer are needed on the machines of today.
const MOST: usize = 200_000;

pub(crate) async fn measure(sync: SyncMode, scale: Scale) -> Result<Row, Failure> {
    let (name, target) = match sync {
        SyncMode::Always | SyncMode::Unchecked => ("webhook ingest, sync always", 0.5),
        SyncMode::Default => ("webhook ingest, sync default", 0.35),
    };
    progress(&format!("{name}: starting a system"));
    let mut system = System::start(sync).await?;
    let database = system.database().to_owned();
    system.migrate(&database).await?;
    system.serve(&database).await?;
    let log = system.log().await?;
    let raw = Raw::connect(&system).await?;

    let mut figure = Series::default();
    let mut ceiling = Series::default();
    let mut appended = Series::default();
    let (mut posted, mut published) = (Outcome::default(), Outcome::default());
    let mut cpu = Vec::new();
    let warm_up = scale.round / 4;
    let watch = Watch::begin();
    let mut expected = (
        publish(&raw, warm_up, 20_000).await?.rate(),
        post(&system, warm_up, 20_000).await?.0.rate(),
    );
    for round in 1..=scale.rounds {
        let enough =
            |rate: f64| ((rate * scale.round.as_secs_f64() * 1.5) as usize + 1_000).min(MOST);
        let outcome = publish(&raw, scale.round, enough(expected.0)).await?;
        ceiling.add(outcome.rate());
        expected.0 = expected.0.max(outcome.rate());
        published.latencies.extend(&outcome.latencies);

        appended.add(append(&log, scale.round / 2, enough(expected.0) / 2).await?.rate());

        let before = log.last_position().await?;
        let (outcome, used) = post(&system, scale.round, enough(expected.1)).await?;
        let stored = log.last_position().await? - before;
        if stored != outcome.count() as u64 {
            return Err(format!("{} deliveries taken, {stored} stored", outcome.count()).into());
        }
        figure.add(outcome.rate());
        expected.1 = expected.1.max(outcome.rate());
        posted.latencies.extend(&outcome.latencies);
        cpu.push(used);
        progress(&format!(
            "{name}: round {round} of {}: {:.0}/s, raw publish {:.0}/s",
            scale.rounds,
            figure.last(),
            ceiling.last()
        ));
    }
    let mut details = vec![
        Detail::ms("p50", posted.percentile_ms(0.5)),
        Detail::ms("p99", posted.percentile_ms(0.99)),
        Detail::ms("p50 of raw publish", published.percentile_ms(0.5)),
        Detail::ms("p99 of raw publish", published.percentile_ms(0.99)),
    ];
    details.push(Detail::new("appends by exodrive-log alone", appended.median(), "/s"));
    details.extend(Detail::cpu(&cpu));
    Ok(Row {
        name: name.to_owned(),
        figure,
        ceiling_name: "raw guarded publish".to_owned(),
        ceiling,
        target: Target::Ratio(target),
        others: watch.others(),
        details,
    })
}

/// A round of webhooks, each signed beforehand, each about an email of its
/// own; and the processor time that each took.
async fn post(system: &System, round: Duration, most: usize) -> Result<(Outcome, Cpu), Failure> {
    let requests = (0..most).map(|_| mail::webhook("delivered", &mail::uuid())).collect();
    let requests = Requests { bytes: Arc::new(requests), again: false };
    let before = system.cpu();
    let outcome = load::http(system.address, requests, round, Load::default()).await?;
    let used = system.cpu().since(&before, outcome.count());
    Ok((outcome, used))
}

/// A round of publishes, each the first of its subject.
async fn publish(raw: &Raw, round: Duration, most: usize) -> Result<Outcome, Failure> {
    let message = |_| {
        let id = mail::uuid();
        let body = mail::body("delivered", &id, Utc::now());
        (format!("raw.email.{id}"), body)
    };
    raw.round(round, (0..most).map(message).collect()).await
}

/// A round of appends by the log crate; the rest of the time is the API's.
async fn append(log: &Log, round: Duration, most: usize) -> Result<Outcome, Failure> {
    let events: Vec<_> =
        (0..most).map(|_| mail::new_event("delivered", &mail::uuid(), Utc::now())).collect();
    let log = log.clone();
    closed_loop(events, round, move |event| {
        let log = log.clone();
        async move { Ok(log.append_fact(&event).await.map(|_| ())?) }
    })
    .await
}
