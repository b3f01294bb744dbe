//! What may be exported in a day: by each user, and by all of them together. It is counted as
//! requests are ([`Limiter`](super::limits::Limiter)), in MiB, over all processes.
//!
//! An export begins while something is left, and then comes to its end, however large it is: what
//! it took beyond the budget is owed, at most so much that another one may begin within a day.

use super::limits::{Limit, Verdict};
use crate::http::{
    Api,
    layers::request::Identity,
    problem::{ApiError, Code},
};
use chrono::{SecondsFormat, TimeDelta, Utc};
use std::sync::Arc;

const MIB: u64 = 1 << 20;
/// Who counts for the budget of all.
const ALL: &str = "";

/// What an export in progress takes of the budgets.
pub(crate) struct Spending {
    api: Arc<Api>,
    user: String,
    /// Bytes that are paid for and not sent yet.
    left: u64,
}

impl Spending {
    /// Begins an export of this user. It counts as 1 MiB at least.
    ///
    /// # Errors
    /// 429 if nothing is left, with the time at which there is.
    pub(crate) async fn begin(api: &Arc<Api>, identity: &Identity) -> Result<Self, ApiError> {
        let user = identity.user();
        let own = api.limiter.check(Limit::Export, &user).await;
        identity.verdicts.add(own);
        if !own.allowed {
            return Err(spent(&own, "You have exported"));
        }
        let all = api.limiter.check(Limit::AllExports, ALL).await;
        if !all.allowed {
            identity.verdicts.add(all);
            api.limiter.give_back(Limit::Export, &user).await;
            return Err(spent(&all, "All users together have exported"));
        }
        Ok(Self { api: api.clone(), user, left: MIB })
    }

    /// Counts bytes that are about to be sent.
    pub(crate) async fn spend(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        if let Some(more @ 1..) = bytes.checked_sub(self.left) {
            let units = more.div_ceil(MIB);
            let mib = u32::try_from(units).unwrap_or(u32::MAX);
            self.api.limiter.charge(Limit::Export, &self.user, mib).await;
            self.api.limiter.charge(Limit::AllExports, ALL, mib).await;
            self.left += units * MIB;
        }
        self.left -= bytes;
    }
}

fn spent(verdict: &Verdict, who: &str) -> ApiError {
    let seconds = verdict.retry_after_secs();
    let wait = i64::try_from(seconds).ok().and_then(TimeDelta::try_seconds).unwrap_or_default();
    let free = (Utc::now() + wait).to_rfc3339_opts(SecondsFormat::Secs, true);
    let budget = verdict.rate.amount();
    let detail = format!(
        "{who} as much as may be in a day ({budget} MiB). The next export may begin at {free}."
    );
    let mut error = ApiError::new(Code::RateLimited, detail);
    error.retry_after = Some(seconds);
    error
}
