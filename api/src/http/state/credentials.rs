//! The service keys and sign-outs that this process knows. One task follows them in the log, and
//! requests ask what it has found: so a revocation takes effect in every process within a second.

use crate::http::{
    auth::tokens::Caller,
    problem::{ApiError, Code},
};
use exodrive_commands::credentials::KnownCredentials;
use exodrive_log::{Log, ReadError};
use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// Time for which service keys are let in though nobody knows whether one was revoked.
const KEYS_BELIEVED: Duration = Duration::from_secs(10);
/// The same for the tokens of users. Longer, since a token ends by itself, and while the log is away
/// for all, nobody can be signed out.
const TOKENS_BELIEVED: Duration = Duration::from_secs(15 * 60);
/// Interval at which the log is asked for news.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Interval at which its leader is asked whether it still leads.
const LEADER_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit of an attempt.
const ATTEMPT: Duration = Duration::from_secs(3);

/// The credentials that this process knows. Cheap to clone.
#[derive(Clone, Default)]
pub struct Credentials(Arc<Shared>);

#[derive(Default)]
struct Shared {
    learning: Mutex<KnownCredentials>,
    known: RwLock<Option<Known>>,
}

/// What the log has said.
#[derive(Clone)]
struct Known {
    credentials: Arc<KnownCredentials>,
    /// When its leader was last asked, and was followed by most of its servers: one that is cut off
    /// from the others knows of no news.
    asked: Instant,
}

impl Credentials {
    /// Takes in what the log has now, if it answers soon; else [`Credentials::follow`] does it later.
    /// Until there was a first answer, requests with a credential get 503.
    pub async fn refresh(&self, log: &Log) {
        let _: Result<_, _> = timeout(ATTEMPT, self.learn(log)).await;
    }

    /// Asks the log for news every 200 ms, until `stop`.
    pub async fn follow(self, log: Log, stop: CancellationToken) {
        let mut failing = false;
        loop {
            let failed = match timeout(ATTEMPT, self.learn(&log)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(exodrive_runtime::error_chain(&error)),
                Err(_) => Some(format!("no answer within {ATTEMPT:?}")),
            };
            if let Some(error) = &failed
                && !failing
            {
                tracing::warn!(
                    error,
                    "Cannot find out which credentials were revoked; will retry. Service keys are \
                     refused from {KEYS_BELIEVED:?} on, tokens from {TOKENS_BELIEVED:?} on"
                );
            }
            failing = failed.is_some();
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Takes in what the log has now.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn learn(&self, log: &Log) -> Result<(), ReadError> {
        let mut learning = self.0.learning.lock().await;
        let now = Instant::now();
        let before = {
            let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
            known.as_ref().map(|known| known.asked)
        };
        let asked = match before.filter(|before| now - *before < LEADER_INTERVAL) {
            Some(before) => before,
            None => {
                // Refuses such a leader.
                log.last_position().await?;
                now
            }
        };
        learning.learn(log).await?;
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        let same = known.take().filter(|it| it.credentials.position() == learning.position());
        let credentials =
            same.map_or_else(|| Arc::new(learning.clone()), |known| known.credentials);
        *known = Some(Known { credentials, asked });
        Ok(())
    }

    /// What is known, if it was asked for no longer ago than this.
    fn within(&self, longest: Duration) -> Result<Arc<KnownCredentials>, ApiError> {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        let fresh = known.as_ref().filter(|known| known.asked.elapsed() <= longest);
        fresh.map(|known| known.credentials.clone()).ok_or_else(|| {
            let detail = "Sorry, it cannot be found out now whether the credential was revoked.";
            ApiError::new(Code::IdentityUnavailable, detail)
        })
    }

    /// What is known of service keys.
    ///
    /// # Errors
    /// 503 if that is too old to let a key in.
    pub(crate) fn for_keys(&self) -> Result<Arc<KnownCredentials>, ApiError> {
        self.within(KEYS_BELIEVED)
    }

    /// Refuses a caller by a token who was signed out since it was issued.
    ///
    /// # Errors
    /// 401; 503 if what is known is too old.
    pub(crate) fn check_signed_in(&self, caller: &Caller) -> Result<(), ApiError> {
        let known = self.within(TOKENS_BELIEVED)?;
        if known.is_signed_out(&caller.subject, caller.issued_at) {
            let detail = "Sorry, the user was signed out after the token was issued.";
            return Err(ApiError::new(Code::Unauthenticated, detail));
        }
        Ok(())
    }

    /// Returns when a caller by a token is not let in any more.
    pub(crate) async fn signed_out(&self, caller: &Caller) {
        while self.check_signed_in(caller).is_ok() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::auth::tokens::Role;

    #[tokio::test(start_paused = true)]
    async fn what_is_not_known_for_too_long_lets_nobody_in() {
        let credentials = Credentials::default();
        let caller = Caller {
            subject: "ada".to_owned(),
            role: Role::Admin,
            ends: u64::MAX,
            issued_at: None,
            key: None,
        };
        let refused = |by: Result<(), ApiError>| by.err().map(|error| error.code);
        let key = |it: &Credentials| refused(it.for_keys().map(|_| ()));
        assert_eq!(key(&credentials), Some(Code::IdentityUnavailable), "nothing is known yet");
        let asked = Instant::now();
        let known = Known { credentials: Arc::default(), asked };
        *credentials.0.known.write().unwrap() = Some(known);
        for (seconds, keys, tokens) in [
            (0, None, None),
            (10, None, None),
            (11, Some(Code::IdentityUnavailable), None),
            (900, Some(Code::IdentityUnavailable), None),
            (901, Some(Code::IdentityUnavailable), Some(Code::IdentityUnavailable)),
        ] {
            tokio::time::advance(Duration::from_secs(seconds) - asked.elapsed()).await;
            assert_eq!(key(&credentials), keys, "{seconds} s");
            assert_eq!(refused(credentials.check_signed_in(&caller)), tokens, "{seconds} s");
        }
    }
}
