//! Rate limits, and the one way to count (GCRA, the generic cell rate
//! algorithm): in Redis or, while Redis does not answer, in this process.

use exodrive_projections::engine::cache::Cache;
use ring::hmac;
use std::{
    collections::HashMap,
    fmt,
    num::NonZeroU32,
    str::FromStr,
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Requests without a token, per address.
    Public,
    /// Requests of a customer, per user.
    SignedIn,
    /// Requests of staff, per user.
    Admin,
    /// Webhooks that fail verification, per address.
    FailedWebhook,
    /// Bookings made by callers other than staff, per user, or per address
    /// without a token. What is refused or repeated makes none; it counts as a
    /// request, like any other.
    Booking,
    /// MiB that are exported, per user.
    Export,
    /// MiB that are exported by everybody.
    AllExports,
}

impl Limit {
    /// The limit's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::SignedIn => "signed-in",
            Self::Admin => "admin",
            Self::FailedWebhook => "failed-webhook",
            Self::Booking => "booking",
            Self::Export => "export",
            Self::AllExports => "all-exports",
        }
    }

    /// Number of the limit if none is configured.
    pub fn default_amount(self) -> NonZeroU32 {
        NonZeroU32::new(self.default_rate().amount).unwrap_or(NonZeroU32::MIN)
    }

    /// Rate of the limit if none is configured.
    pub const fn default_rate(self) -> Rate {
        let (amount, seconds) = match self {
            Self::Public => (60, 60),
            Self::SignedIn => (120, 60),
            Self::Admin => (300, 60),
            Self::FailedWebhook => (30, 60),
            Self::Booking => (10, 3_600),
            Self::Export => (20 << 10, DAY),
            Self::AllExports => (100 << 10, DAY),
        };
        Rate { amount, period: Duration::from_secs(seconds) }
    }
}

/// Seconds of a day.
const DAY: u64 = 86_400;

/// Number of requests in a period. They may come all at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    amount: u32,
    period: Duration,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid =
            || format!("{text:?} is no rate: write a number, a slash and a period, like 60/1m");
        let (amount, period) = text.split_once('/').ok_or_else(invalid)?;
        let amount = amount.trim().parse().ok().filter(|amount| *amount > 0).ok_or_else(invalid)?;
        let period = humantime::parse_duration(period.trim()).map_err(|_| invalid())?;
        let valid = (Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(&period);
        if valid { Ok(Self { amount, period }) } else { Err(invalid()) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.amount, humantime::format_duration(self.period))
    }
}

impl Rate {
    /// So many in a day.
    pub const fn a_day(amount: NonZeroU32) -> Self {
        Self { amount: amount.get(), period: Duration::from_secs(DAY) }
    }

    /// How many there may be in the period.
    pub const fn amount(self) -> u32 {
        self.amount
    }

    /// The time after which one more request is allowed.
    fn interval(self) -> Duration {
        (self.period / self.amount).max(Duration::from_micros(1))
    }
}

/// The rate of every limit.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named after the variants of Limit")]
pub struct Rates {
    pub public: Rate,
    pub signed_in: Rate,
    pub admin: Rate,
    pub failed_webhook: Rate,
    pub booking: Rate,
    pub export: Rate,
    pub all_exports: Rate,
}

/// Result of counting one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The limit that applies to it.
    pub limit: Limit,
    /// That limit's rate.
    pub rate: Rate,
    /// True if it may go on.
    pub allowed: bool,
    /// Requests that may follow at once.
    pub remaining: u32,
    /// Time until the full rate is available again.
    pub reset: Duration,
    /// Time until one more request is allowed; zero if this one was.
    pub retry_after: Duration,
}

impl Verdict {
    /// `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).
    pub fn policy(&self) -> String {
        let window = self.rate.period.as_secs().max(1);
        format!("\"{}\";q={};w={window}", self.limit.name(), self.rate.amount)
    }

    /// `RateLimit`: what is left, and the seconds until the full rate is
    /// available.
    pub fn state(&self) -> String {
        format!("\"{}\";r={};t={}", self.limit.name(), self.remaining, ceil_secs(self.reset))
    }

    /// `Retry-After` in whole seconds, at least 1.
    pub fn retry_after_secs(&self) -> u64 {
        ceil_secs(self.retry_after).max(1)
    }
}

fn ceil_secs(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// Counts requests.
///
/// Every request is counted in Redis, exactly, over all processes. The
/// exception is a limit of 100 requests a second or more, where that call would
/// cost more than the request: a tenth of what Redis says is left may be spent
/// in this process before it reports to Redis and asks again. Such a limit can
/// be exceeded by about that much, for half a second.
pub struct Limiter {
    cache: Cache,
    rates: Rates,
    /// Hashes callers.
    secret: hmac::Key,
    leases: Mutex<HashMap<String, Lease>>,
    /// Of each caller that this process has counted by itself, when nothing is
    /// owed any more.
    local: Mutex<HashMap<String, Instant>>,
    /// What this process has last refused of each caller, and until when that is remembered.
    refused: Mutex<HashMap<String, (Verdict, Instant)>>,
}

/// A lease: requests that may go on without asking Redis.
struct Lease {
    verdict: Verdict,
    left: u32,
    /// Requests that went on and that Redis has not counted yet.
    spent: u32,
    until: Instant,
}

/// Requests in a second from which a limit is leased.
const FAST: u32 = 100;
/// Lifetime of a lease.
const LEASE: Duration = Duration::from_millis(500);
/// Divisor of what is left: the part that is leased.
const LEASED: u32 = 10;

/// Number of keys beyond which the local counters of idle callers are dropped.
const LOCAL_KEYS: usize = 10_000;

/// One call, by Redis's own clock. KEYS[1]: the caller. ARGV: microseconds that
/// one request costs, the most that may be owed, the number of requests that
/// went on before this one without being counted, and the number of requests
/// that this one counts as. The key holds the time
/// at which nothing is owed any more. Answers: allowed, and what is owed now.
static GCRA: LazyLock<redis::Script> = LazyLock::new(|| {
    redis::Script::new(
        r"local time = redis.call('TIME')
        local now = time[1] * 1000000 + time[2]
        local cost, most = tonumber(ARGV[1]), tonumber(ARGV[2])
        local debt = math.max(tonumber(redis.call('GET', KEYS[1]) or '0') - now, 0)
        debt = math.min(debt + cost * ARGV[3], math.max(debt, 2 * most - cost))
        cost = cost * ARGV[4]
        local allowed = 0
        if debt + cost <= most then
            allowed, debt = 1, debt + cost
        end
        if debt > 0 then
            redis.call('SET', KEYS[1], string.format('%.0f', now + debt), 'PX', math.ceil(debt / 1000) + 1)
        end
        return {allowed, debt}",
    )
});

/// Takes one request back. KEYS[1]: the caller. ARGV[1]: microseconds that it
/// has cost. A key whose time is over owes nothing, and ends by itself.
static GIVE_BACK: LazyLock<redis::Script> = LazyLock::new(|| {
    redis::Script::new(
        r"local free = redis.call('GET', KEYS[1])
        if free then
            redis.call('SET', KEYS[1], string.format('%.0f', free - ARGV[1]), 'KEEPTTL')
        end",
    )
});

impl Limiter {
    /// A limiter with these rates, counting in `cache`. All processes of a system need the same
    /// `secret`.
    pub fn new(cache: Cache, rates: Rates, secret: &[u8]) -> Self {
        Self {
            cache,
            rates,
            secret: hmac::Key::new(hmac::HMAC_SHA256, secret),
            leases: Mutex::default(),
            local: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// The caller is hashed: Redis need not know addresses and users, and a key has the same length
    /// whoever asks. With a key of ours: there are so few addresses that all could be tried.
    fn key(&self, limit: Limit, who: &str) -> String {
        let hash = hmac::sign(&self.secret, who.as_bytes());
        format!("exo:limit:{}:{}", limit.name(), hex::encode(hash))
    }

    fn rate(&self, limit: Limit) -> Rate {
        match limit {
            Limit::Public => self.rates.public,
            Limit::SignedIn => self.rates.signed_in,
            Limit::Admin => self.rates.admin,
            Limit::FailedWebhook => self.rates.failed_webhook,
            Limit::Booking => self.rates.booking,
            Limit::Export => self.rates.export,
            Limit::AllExports => self.rates.all_exports,
        }
    }

    /// Counts one request of `who`.
    pub async fn check(&self, limit: Limit, who: &str) -> Verdict {
        self.check_as(limit, who, 1).await
    }

    /// Counts a request of `who` as so many; at most as many as the limit allows at once.
    pub async fn check_as(&self, limit: Limit, who: &str, units: u32) -> Verdict {
        let key = self.key(limit, who);
        let units = units.min(self.rate(limit).amount).max(1);
        let verdict = self.count(limit, &key, units).await;
        if limit == Limit::FailedWebhook && !verdict.allowed {
            self.remember_refusal(key, verdict);
        }
        verdict
    }

    /// What this process has last refused of `who`, until the full rate is available again. It
    /// counts nothing and asks nobody. Only failed webhooks are remembered.
    pub fn known_refusal(&self, limit: Limit, who: &str) -> Option<Verdict> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let (verdict, until) = refused.get(&self.key(limit, who))?;
        (*until > Instant::now()).then_some(*verdict)
    }

    fn remember_refusal(&self, key: String, verdict: Verdict) {
        let now = Instant::now();
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() > LOCAL_KEYS {
            refused.retain(|_, (_, until)| *until > now);
        }
        refused.insert(key, (verdict, now + verdict.reset));
    }

    async fn count(&self, limit: Limit, key: &str, units: u32) -> Verdict {
        let rate = self.rate(limit);
        let fast = rate.interval() <= Duration::from_secs(1) / FAST;
        let spent = match fast.then(|| self.spend_leased(key, units)) {
            Some(Ok(verdict)) => return verdict,
            Some(Err(spent)) => spent,
            None => 0,
        };
        let cost = micros(rate.interval());
        let most = cost.saturating_mul(rate.amount.into());
        let mut script = GCRA.prepare_invoke();
        script.key(key).arg(cost).arg(most).arg(spent).arg(units);
        let Ok((allowed, debt)) = self.cache.invoke::<(u8, u64)>(&script).await else {
            let (allowed, debt) = self.count_locally(key, rate, units);
            return verdict(limit, rate, allowed, debt, units);
        };
        let verdict = verdict(limit, rate, allowed == 1, debt, units);
        if fast {
            self.lease(key.to_owned(), verdict);
        }
        verdict
    }

    /// Counts what `who` has had already, whether or not it is allowed. What is beyond the limit is
    /// owed, at most so much that one more is allowed after a period.
    pub async fn charge(&self, limit: Limit, who: &str, units: u32) {
        let (rate, key) = (self.rate(limit), self.key(limit, who));
        let cost = micros(rate.interval());
        let most = cost.saturating_mul(rate.amount.into());
        let mut script = GCRA.prepare_invoke();
        script.key(&key).arg(cost).arg(most).arg(units).arg(0);
        if self.cache.invoke::<(u8, u64)>(&script).await.is_ok() {
            return;
        }
        let now = Instant::now();
        let mut local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        let free = local.get(&key).copied().unwrap_or(now).max(now);
        let owed = free.duration_since(now) + rate.interval().saturating_mul(units);
        let most = rate.interval() * rate.amount;
        local.insert(key, now + owed.min(most + most - rate.interval()));
    }

    /// Takes back a request of `who` that turned out not to be one of those that
    /// are limited. If Redis does not answer it stays counted there, and is
    /// taken back in this process.
    pub async fn give_back(&self, limit: Limit, who: &str) {
        let (rate, key) = (self.rate(limit), self.key(limit, who));
        let mut script = GIVE_BACK.prepare_invoke();
        script.key(&key).arg(micros(rate.interval()));
        if self.cache.invoke::<Option<String>>(&script).await.is_ok() {
            return;
        }
        let mut local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(free) = local.get_mut(&key) {
            *free = free.checked_sub(rate.interval()).unwrap_or(*free);
        }
    }

    /// Counts a request as Redis would; gives whether it is allowed, and the
    /// microseconds that are owed.
    fn count_locally(&self, key: &str, rate: Rate, units: u32) -> (bool, u64) {
        let (now, cost) = (Instant::now(), rate.interval() * units);
        let mut local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        if local.len() > LOCAL_KEYS {
            local.retain(|_, free| *free > now);
        }
        let free = local.get(key).copied().unwrap_or(now).max(now);
        let debt = free.duration_since(now);
        if debt + cost > rate.interval() * rate.amount {
            return (false, micros(debt));
        }
        local.insert(key.to_owned(), free + cost);
        (true, micros(debt + cost))
    }

    /// Spends a request of a lease, which counts as `units`. Without a lease, or
    /// if too little of it is left, returns how many requests of the last one
    /// Redis must still count.
    fn spend_leased(&self, key: &str, units: u32) -> Result<Verdict, u32> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lease) = leases.get_mut(key) else { return Err(0) };
        if lease.left < units || lease.until <= Instant::now() {
            let spent = lease.spent;
            leases.remove(key);
            return Err(spent);
        }
        lease.left -= units;
        lease.spent += units;
        lease.verdict.remaining = lease.verdict.remaining.saturating_sub(units);
        Ok(lease.verdict)
    }

    fn lease(&self, key: String, verdict: Verdict) {
        let left = verdict.remaining / LEASED;
        let until = Instant::now() + LEASE;
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        if leases.len() > LOCAL_KEYS {
            leases.retain(|_, lease| lease.until > Instant::now());
        }
        // Two requests may have asked at once: Redis must still count what went
        // on under the first one's lease.
        let spent = leases.get(&key).map_or(0, |lease| lease.spent);
        if left > 0 || spent > 0 {
            leases.insert(key, Lease { verdict, left, spent, until });
        }
    }
}

/// The verdict on a request that counts as `units`, and after which `debt` microseconds are owed.
fn verdict(limit: Limit, rate: Rate, allowed: bool, debt: u64, units: u32) -> Verdict {
    let cost = micros(rate.interval());
    let most = cost.saturating_mul(rate.amount.into());
    let asked = cost.saturating_mul(units.into());
    let wait = if allowed { 0 } else { (debt + asked).saturating_sub(most) };
    Verdict {
        limit,
        rate,
        allowed,
        remaining: u32::try_from(most.saturating_sub(debt) / cost).unwrap_or(u32::MAX),
        reset: Duration::from_micros(debt),
        retry_after: Duration::from_micros(wait),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_shown() {
        assert_eq!("1000/1m".parse::<Rate>().unwrap().to_string(), "1000/1m");
        assert_eq!("5/30s".parse::<Rate>().unwrap().to_string(), "5/30s");
        for invalid in ["", "60", "0/1m", "-1/1m", "60/", "60/soon", "1/0s", "1/2d"] {
            assert!(invalid.parse::<Rate>().is_err(), "{invalid}");
        }
    }

    #[test]
    fn the_local_limiter_allows_a_burst_and_then_refuses() {
        let rate: Rate = "3/1m".parse().unwrap();
        let rates = Rates {
            public: rate,
            signed_in: rate,
            admin: rate,
            failed_webhook: rate,
            booking: rate,
            export: rate,
            all_exports: rate,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let cache = Cache::new("redis://127.0.0.1:1").unwrap();
            let limiter = Limiter::new(cache, rates, b"a secret");
            let mut seen = Vec::new();
            for _ in 0..4 {
                let verdict = limiter.check(Limit::Public, "someone").await;
                seen.push((verdict.allowed, verdict.remaining));
            }
            assert_eq!(seen, [(true, 2), (true, 1), (true, 0), (false, 0)]);
            let refused = limiter.check(Limit::Public, "someone").await;
            assert!((1..=20).contains(&refused.retry_after_secs()), "{refused:?}");
            assert_eq!(refused.policy(), "\"public\";q=3;w=60");
            assert!(limiter.check(Limit::Public, "someone else").await.allowed);
            limiter.give_back(Limit::Public, "someone").await;
            limiter.give_back(Limit::Public, "nobody").await;
            let again = limiter.check(Limit::Public, "someone").await;
            assert_eq!((again.allowed, again.remaining), (true, 0));
            assert!(!limiter.check(Limit::Public, "someone").await.allowed);
            for expected in [false, false, false, true] {
                limiter.check(Limit::FailedWebhook, "someone").await;
                let known = limiter.known_refusal(Limit::FailedWebhook, "someone");
                assert_eq!(known.is_some(), expected);
            }
            assert_eq!(limiter.known_refusal(Limit::FailedWebhook, "someone else"), None);
            // One that counts as two, and one that counts as more than there may be.
            let heavy = limiter.check_as(Limit::Admin, "someone", 2).await;
            assert_eq!((heavy.allowed, heavy.remaining), (true, 1));
            let heavy = limiter.check_as(Limit::Admin, "someone", 2).await;
            assert_eq!((heavy.allowed, heavy.remaining), (false, 1));
            assert!((1..=20).contains(&heavy.retry_after_secs()), "{heavy:?}");
            assert!(limiter.check(Limit::Admin, "someone").await.allowed);
            let heavy = limiter.check_as(Limit::Admin, "someone else", 10).await;
            assert_eq!((heavy.allowed, heavy.remaining), (true, 0));
            // What has been had is owed, for one period at most.
            limiter.charge(Limit::Export, "someone", 2).await;
            assert!(limiter.check(Limit::Export, "someone").await.allowed);
            limiter.charge(Limit::Export, "someone", u32::MAX).await;
            let owed = limiter.check(Limit::Export, "someone").await;
            assert_eq!((owed.allowed, owed.remaining), (false, 0));
            assert!((59..=60).contains(&owed.retry_after_secs()), "{owed:?}");
        });
    }
}
