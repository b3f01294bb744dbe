//! The permissions of a NATS user, tested by trial, so that no statement has to
//! be trusted. docs/nats-permissions.conf grants the permissions that this
//! module checks.
//!
//! A trial changes nothing, even where it is allowed: the requests are invalid,
//! name a stream that does not exist, or expect another stream than the one of
//! their subject. A process that starts asks the server for its user's
//! permissions instead ([`excess`]): a denied trial is a line in the server's log,
//! where an operator looks for intruders.

use crate::{
    address::NatsAddress,
    error::ConnectError,
    topology::{self, LogConfig},
};
use async_nats::{Client, Event, HeaderMap, client::RequestErrorKind, header};
use futures::StreamExt;
use serde::Deserialize;
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
    /// It can receive answers that are meant for other users, and must not.
    pub hears_others: bool,
}

/// A name that no stream has.
const NOWHERE: &str = "EXODRIVE_DOCTOR";
/// No request for JetStream is valid with this body.
const INVALID: &str = "doctor";
/// The answers to every user.
const EVERY_ANSWER: &str = "_INBOX.>";
/// A request that every user may make.
const HARMLESS: &str = "$JS.API.STREAM.INFO.EXODRIVE";
/// The timeout for the server's answer or refusal.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// The trials, each with the least powerful user who may do it. Deleting and
/// purging work without a body, so they name a stream that does not exist.
const TRIALS: [(&str, User); 40] = [
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
    ("exo-tombstones.doctor", User::Worker),
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
    ("exo-keys.mac", User::Operator),
    ("exo-wrapped-a.doctor", User::Operator),
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
        let allowed = is_allowed(&client, &mut refusals, subject).await;
        let allowed = allowed.ok_or_else(|| silent(config, subject))?;
        if allowed && least > may {
            deviations.excess.push(subject);
        }
        if !allowed && least <= must {
            deviations.missing.push(subject);
        }
    }
    if may != User::Operator {
        deviations.hears_others = hears_others(&client, &mut refusals)
            .await
            .ok_or_else(|| silent(config, EVERY_ANSWER))?;
    }
    Ok(deviations)
}

/// What the user of the configuration's address may do and must not, if it is to be `may` only. By
/// the server's own word, or else by trial.
///
/// # Errors
/// As [`check`].
pub async fn excess(config: &LogConfig, may: User) -> Result<Vec<&'static str>, ConnectError> {
    let client = topology::reach(config, |options| options).await?;
    let asked = client.request(USER_INFO, "".into());
    let told = timeout(PROBE_TIMEOUT, asked).await.ok().and_then(Result::ok);
    let told = told.and_then(|it| serde_json::from_slice::<UserInfo>(&it.payload).ok());
    let Some(UserInfo { data: Some(user) }) = told else {
        return Ok(check(config, User::Api, may).await?.excess);
    };
    // Without permissions a user may do everything.
    let publish = user.permissions.and_then(|it| it.publish);
    let beyond = TRIALS.iter().filter(|(subject, least)| {
        *least > may && publish.as_ref().is_none_or(|publish| publish.grants(subject))
    });
    Ok(beyond.map(|(subject, _)| *subject).collect())
}

/// The request for one's own user.
const USER_INFO: &str = "$SYS.REQ.USER.INFO";

#[derive(Deserialize)]
struct UserInfo {
    data: Option<UserData>,
}

#[derive(Deserialize)]
struct UserData {
    permissions: Option<Granted>,
}

#[derive(Deserialize)]
struct Granted {
    publish: Option<Subjects>,
}

/// The subjects that a user may publish to. Without a list of those that are allowed, they are all
/// that is not denied.
#[derive(Deserialize)]
struct Subjects {
    allow: Option<Vec<String>>,
    #[serde(default)]
    deny: Option<Vec<String>>,
}

impl Subjects {
    fn grants(&self, subject: &str) -> bool {
        let any = |list: &Vec<String>| list.iter().any(|filter| matches(filter, subject));
        self.allow.as_ref().is_none_or(any) && !self.deny.as_ref().is_some_and(any)
    }
}

/// True if a filter with wildcards covers a subject.
fn matches(filter: &str, subject: &str) -> bool {
    let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
    loop {
        match (filter.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(expected), Some(found)) if expected == found => {}
            _ => return false,
        }
    }
}

fn silent(config: &LogConfig, subject: &'static str) -> ConnectError {
    match NatsAddress::parse(&config.url) {
        Ok(address) => ConnectError::Silent { subject, inbox: address.inbox().to_owned() },
        Err(error) => error.into(),
    }
}

/// Waits for the server's word that it refuses what concerns a subject.
async fn refused(refusals: &mut UnboundedReceiver<String>, subject: &str) {
    let quoted = format!("\"{subject}\"");
    while let Some(error) = refusals.recv().await {
        if error.contains(&quoted) {
            return;
        }
    }
    std::future::pending().await
}

/// True if the user may publish to a subject; `None` if the server says neither.
async fn is_allowed(
    client: &Client,
    refusals: &mut UnboundedReceiver<String>,
    subject: &'static str,
) -> Option<bool> {
    let mut headers = HeaderMap::new();
    headers.insert(header::NATS_EXPECTED_STREAM, NOWHERE);
    let asked = client.request_with_headers(subject, headers, INVALID.into());
    let outcome = timeout(PROBE_TIMEOUT, async {
        tokio::select! {
            answer = asked => match answer {
                Ok(_) => Some(true),
                // The request was let through, and there was no responder.
                Err(error) if error.kind() == RequestErrorKind::NoResponders => Some(true),
                Err(_) => None,
            },
            () = refused(refusals, subject) => Some(false),
        }
    });
    outcome.await.ok().flatten()
}

/// True if the user receives the answers to all; `None` if the server neither refuses that nor
/// sends any.
async fn hears_others(client: &Client, refusals: &mut UnboundedReceiver<String>) -> Option<bool> {
    let mut answers = client.subscribe(EVERY_ANSWER).await.ok()?;
    // Something to hear, if it may.
    let heard = async {
        let _ = client.request(HARMLESS, INVALID.into()).await;
        answers.next().await
    };
    let outcome = timeout(PROBE_TIMEOUT, async {
        tokio::select! {
            heard = heard => heard.map(|_| true),
            () = refused(refusals, EVERY_ANSWER) => Some(false),
        }
    });
    outcome.await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_granted_if_it_is_allowed_and_not_denied() {
        let list = |subjects: &[&str]| Some(subjects.iter().map(ToString::to_string).collect());
        let publish =
            Subjects { allow: list(&["exo-keys.>", "a.*.c"]), deny: list(&["exo-keys.mac"]) };
        for subject in ["exo-keys.email.a", "a.b.c"] {
            assert!(publish.grants(subject), "{subject}");
        }
        for subject in ["exo-keys", "exo-keys.mac", "a.b", "a.b.c.d", "exo-tombstones.a"] {
            assert!(!publish.grants(subject), "{subject}");
        }
        assert!(Subjects { allow: None, deny: None }.grants("anything"));
    }
}
