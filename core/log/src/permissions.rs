//! The permissions of a NATS user, tested by trial, so that no statement has to
//! be trusted. docs/nats-permissions.conf grants the permissions that this
//! module checks.
//!
//! A trial changes nothing, even where it is allowed: the requests are invalid,
//! name a stream that does not exist, or expect another stream than the one of
//! their subject.

use crate::topology::{self, ConnectError, LogConfig};
use async_nats::{Client, Event, HeaderMap, client::RequestErrorKind, header};
use std::time::Duration;
use tokio::{
    sync::mpsc::{self, UnboundedReceiver},
    time::timeout,
};

/// The user that a process is to the NATS server. Each may do all that those
/// before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// Serves the API, reads, appends.
    Api,
    /// Stores seals too, and destroys data keys.
    Worker,
    /// Makes streams and changes their settings.
    Operator,
}

/// The difference between a user's permissions and the required ones, as
/// subjects.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Deviations {
    /// Subjects that it may use and must not.
    pub excess: Vec<&'static str>,
    /// Subjects that it must be able to use and may not.
    pub missing: Vec<&'static str>,
}

/// A name that no stream has.
const NOWHERE: &str = "EXODRIVE_DOCTOR";
/// No request for JetStream is valid with this body.
const INVALID: &str = "doctor";
/// The timeout for the server's answer or refusal.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// The trials, each with the least powerful user who may do it. Deleting and
/// purging work without a body, so they name a stream that does not exist.
const TRIALS: [(&str, User); 37] = [
    ("exo.doctor", User::Api),
    ("exo-canary", User::Api),
    ("exo-keys.doctor", User::Api),
    ("exo-refusals.doctor", User::Api),
    ("$JS.API.STREAM.INFO.EXODRIVE", User::Api),
    ("$JS.API.STREAM.INFO.EXODRIVE_CANARY", User::Api),
    ("$JS.API.STREAM.INFO.EXODRIVE_KEYS", User::Api),
    ("$JS.API.STREAM.INFO.EXODRIVE_SEALS", User::Api),
    ("$JS.API.STREAM.INFO.EXODRIVE_REFUSALS", User::Api),
    ("$JS.API.STREAM.MSG.GET.EXODRIVE", User::Api),
    ("$JS.API.STREAM.MSG.GET.EXODRIVE_KEYS", User::Api),
    ("$JS.API.STREAM.MSG.GET.EXODRIVE_SEALS", User::Api),
    ("$JS.API.DIRECT.GET.EXODRIVE", User::Api),
    ("$JS.API.DIRECT.GET.EXODRIVE_KEYS.exo-keys.doctor", User::Api),
    ("$JS.API.DIRECT.GET.EXODRIVE_SEALS.exo-seals.doctor", User::Api),
    ("$JS.API.CONSUMER.CREATE.EXODRIVE.doctor", User::Api),
    ("$JS.API.CONSUMER.CREATE.EXODRIVE_REFUSALS.doctor", User::Api),
    ("$JS.API.CONSUMER.MSG.NEXT.EXODRIVE.doctor", User::Api),
    ("$JS.API.CONSUMER.MSG.NEXT.EXODRIVE_REFUSALS.doctor", User::Api),
    ("exo-seals.doctor", User::Worker),
    ("$JS.API.STREAM.MSG.DELETE.EXODRIVE_KEYS", User::Worker),
    ("$JS.API.STREAM.CREATE.EXODRIVE", User::Operator),
    ("$JS.API.STREAM.CREATE.EXODRIVE_DOCTOR", User::Operator),
    ("$JS.API.STREAM.UPDATE.EXODRIVE", User::Operator),
    ("$JS.API.STREAM.UPDATE.EXODRIVE_CANARY", User::Operator),
    ("$JS.API.STREAM.UPDATE.EXODRIVE_KEYS", User::Operator),
    ("$JS.API.STREAM.UPDATE.EXODRIVE_SEALS", User::Operator),
    ("$JS.API.STREAM.UPDATE.EXODRIVE_REFUSALS", User::Operator),
    ("$JS.API.STREAM.UPDATE.EXODRIVE_DOCTOR", User::Operator),
    ("$JS.API.STREAM.DELETE.EXODRIVE_DOCTOR", User::Operator),
    ("$JS.API.STREAM.PURGE.EXODRIVE_DOCTOR", User::Operator),
    ("$JS.API.STREAM.MSG.DELETE.EXODRIVE", User::Operator),
    ("$JS.API.STREAM.MSG.DELETE.EXODRIVE_SEALS", User::Operator),
    ("$JS.API.STREAM.MSG.DELETE.EXODRIVE_REFUSALS", User::Operator),
    ("$JS.API.STREAM.SNAPSHOT.EXODRIVE", User::Operator),
    ("$JS.API.STREAM.RESTORE.EXODRIVE", User::Operator),
    ("$JS.API.CONSUMER.DELETE.EXODRIVE.doctor", User::Operator),
];

/// Tries, as the user of the configuration's address, everything that `must`
/// has to be able to do and everything that is forbidden to `may`.
///
/// # Errors
/// When the server cannot be reached, or neither answers nor refuses.
pub async fn check(config: &LogConfig, must: User, may: User) -> Result<Deviations, ConnectError> {
    let (sender, mut refusals) = mpsc::unbounded_channel();
    let client = topology::reach(config, |options| {
        let sender = sender.clone();
        options.event_callback(move |event| {
            if let Event::ServerError(error) = event {
                // The send fails only after the trials are over.
                let _ = sender.send(error.to_string());
            }
            std::future::ready(())
        })
    })
    .await?;
    let mut deviations = Deviations::default();
    for (subject, least) in TRIALS {
        let allowed = is_allowed(&client, &mut refusals, subject).await?;
        if allowed && least > may {
            deviations.excess.push(subject);
        }
        if !allowed && least <= must {
            deviations.missing.push(subject);
        }
    }
    Ok(deviations)
}

async fn is_allowed(
    client: &Client,
    refusals: &mut UnboundedReceiver<String>,
    subject: &'static str,
) -> Result<bool, ConnectError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::NATS_EXPECTED_STREAM, NOWHERE);
    let asked = client.request_with_headers(subject, headers, INVALID.into());
    let quoted = format!("\"{subject}\"");
    let refused = async {
        while let Some(error) = refusals.recv().await {
            if error.contains(&quoted) {
                return;
            }
        }
        std::future::pending().await
    };
    let outcome = timeout(PROBE_TIMEOUT, async {
        tokio::select! {
            answer = asked => match answer {
                Ok(_) => Some(true),
                // The request was let through, and there was no responder.
                Err(error) if error.kind() == RequestErrorKind::NoResponders => Some(true),
                Err(_) => None,
            },
            () = refused => Some(false),
        }
    });
    outcome.await.ok().flatten().ok_or(ConnectError::Silent { subject })
}
