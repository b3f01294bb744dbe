//! JetStream without any of our code: the ceiling of every appender.

use crate::{
    Failure,
    load::{IN_FLIGHT, Outcome, closed_loop},
    system::{DUPLICATE_WINDOW, System, client},
};
use async_nats::jetstream::{
    self,
    message::PublishMessage,
    stream::{Config, DiscardPolicy, StorageType},
};
use bytes::Bytes;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// A stream with the log's settings, on the same server.
pub(crate) struct Raw {
    context: jetstream::Context,
}

impl Raw {
    pub(crate) async fn connect(system: &System) -> Result<Self, Failure> {
        let context = jetstream::new(client(&system.urls().nats_operator).await?);
        let config = Config {
            name: "RAW".to_owned(),
            subjects: vec!["raw.>".to_owned()],
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            deny_delete: true,
            deny_purge: true,
            allow_direct: true,
            allow_atomic_publish: true,
            duplicate_window: DUPLICATE_WINDOW,
            num_replicas: 1,
            ..Config::default()
        };
        context.get_or_create_stream(config).await?;
        Ok(Self { context })
    }

    /// A round of publishes, each the first of its subject.
    pub(crate) async fn round(
        &self,
        round: Duration,
        messages: Vec<(String, Bytes)>,
    ) -> Result<Outcome, Failure> {
        let context = self.context.clone();
        closed_loop(messages, round, move |(subject, body)| {
            let context = context.clone();
            async move { publish(&context, subject, body, 0).await.map(|_| ()) }
        })
        .await
    }

    /// A round of publishes of one body: each caller goes round its own of
    /// these subjects, and each publish is guarded by the one before on its
    /// subject. Of one subject there is one caller.
    pub(crate) async fn round_over(
        &self,
        round: Duration,
        subjects: &[String],
        body: &Bytes,
    ) -> Result<Outcome, Failure> {
        let began = Instant::now();
        let mut callers = JoinSet::new();
        for own in subjects.chunks(subjects.len().div_ceil(IN_FLIGHT).max(1)) {
            let (context, body) = (self.context.clone(), body.clone());
            let mut own: Vec<_> = own.iter().map(|subject| (subject.clone(), 0)).collect();
            callers.spawn(async move {
                let mut latencies = Vec::new();
                for n in (0..own.len()).cycle() {
                    if began.elapsed() >= round {
                        break;
                    }
                    let (subject, last) = &mut own[n];
                    let sent = Instant::now();
                    *last = publish(&context, subject.clone(), body.clone(), *last).await?;
                    latencies.push(sent.elapsed());
                }
                Ok::<_, Failure>(latencies)
            });
        }
        let mut outcome = Outcome::default();
        while let Some(caller) = callers.join_next().await {
            outcome.latencies.extend(caller??);
        }
        outcome.elapsed = began.elapsed();
        Ok(outcome)
    }
}

async fn publish(
    context: &jetstream::Context,
    subject: String,
    body: Bytes,
    last: u64,
) -> Result<u64, Failure> {
    let message = PublishMessage::build().payload(body).expected_last_subject_sequence(last);
    Ok(context.send_publish(subject, message).await?.await?.sequence)
}
