//! The disk of the log's server, by its monitoring endpoint: how much of the store is used, whether the
//! server has failed to write to it, and whether it still flushes to it before it acknowledges.

use crate::{
    address::NatsAddress,
    names::{KEYS_STREAM, STREAM},
};
use futures::future::join_all;
use serde_json::Value;
use std::{
    error::Error,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// The part of the store that may be used before it counts as nearly full.
const NEARLY_FULL: f64 = 0.8;
/// The longest time that an endpoint may take to answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The age from which on a report says nothing.
const OLD: Duration = Duration::from_secs(10);

/// The monitoring endpoints, and their last report. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Store {
    monitors: Arc<[Monitor]>,
    /// Its servers must flush to disk before they acknowledge.
    must_flush: bool,
    /// The log's own.
    address: Option<Arc<NatsAddress>>,
    /// Made when the first endpoint is asked; `None` if it cannot be made.
    http: Arc<OnceLock<Option<reqwest::Client>>>,
    latest: Arc<Mutex<Option<(Instant, StoreReport)>>>,
}

struct Monitor {
    url: String,
    /// The server has said that it acknowledges first, and nothing else since.
    acknowledges_first: AtomicBool,
}

/// What the monitoring endpoints say of the servers' disks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StoreReport {
    /// Endpoints that are configured.
    servers: usize,
    /// Servers that have failed to write to the log, or to the data keys.
    failing: usize,
    /// The greatest part of a server's store that is used, from 0 to 1.
    used: Option<f64>,
    /// Servers that acknowledge before they have flushed to disk, though they must not.
    unflushed: usize,
}

impl StoreReport {
    /// The greatest part of a server's store that is used, from 0 to 1; `None` if no endpoint says
    /// so.
    pub fn used(&self) -> Option<f64> {
        self.used
    }

    /// True if it should be given more space.
    pub fn is_nearly_full(&self) -> bool {
        self.used.is_some_and(|used| used >= NEARLY_FULL)
    }

    /// True if a server takes no more writes until it is restarted.
    pub fn is_failing(&self) -> bool {
        self.failing > 0
    }

    /// True if a server acknowledges before it has flushed to disk, though the log must not lose in a
    /// power cut what was acknowledged. A start would be refused; a server can be changed later.
    pub fn acknowledges_unflushed(&self) -> bool {
        self.unflushed > 0
    }

    /// True if no server takes writes. (Of several, another one may lead.)
    pub(crate) fn writes_fail(&self) -> bool {
        self.is_failing() && self.failing == self.servers
    }
}

impl Store {
    /// `urls`: one endpoint, or several with commas between them. `must_flush`: their servers must
    /// flush to disk before they acknowledge.
    pub(crate) fn of(urls: Option<&str>, must_flush: bool) -> Self {
        let urls = urls.into_iter().flat_map(|urls| urls.split(','));
        let urls = urls.map(|url| url.trim().trim_end_matches('/').to_owned());
        let monitor = |url| Monitor { url, acknowledges_first: AtomicBool::new(false) };
        let monitors = urls.filter(|url| !url.is_empty()).map(monitor).collect();
        Self { monitors, must_flush, ..Self::default() }
    }

    /// Its endpoints show certificates of the authorities that are believed of this address.
    #[must_use]
    pub(crate) fn believing(self, address: NatsAddress) -> Self {
        Self { address: Some(Arc::new(address)), ..self }
    }

    /// The last report, unless it is old. How a server flushes holds until it says otherwise.
    pub(crate) fn report(&self) -> StoreReport {
        let latest = *self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = latest.filter(|(at, _)| at.elapsed() < OLD);
        let report = latest.map(|(_, report)| report).unwrap_or_default();
        StoreReport { unflushed: self.unflushed(), ..report }
    }

    fn unflushed(&self) -> usize {
        let first = |it: &&Monitor| it.acknowledges_first.load(Ordering::Relaxed);
        self.monitors.iter().filter(first).count()
    }

    /// Asks the endpoints, and keeps what they say.
    pub(crate) async fn look(&self) -> StoreReport {
        let seen = join_all(self.monitors.iter().map(|monitor| self.ask(monitor))).await;
        let report = StoreReport {
            servers: self.monitors.len(),
            failing: seen.iter().filter(|(failing, _)| *failing).count(),
            used: seen.iter().filter_map(|(_, used)| *used).max_by(f64::total_cmp),
            unflushed: self.unflushed(),
        };
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), report));
        report
    }

    /// Whether a server has failed to write, and the part of its store that is used.
    async fn ask(&self, monitor: &Monitor) -> (bool, Option<f64>) {
        let make = || monitoring_client(self.address.as_deref()?).ok();
        let Some(http) = self.http.get_or_init(make) else { return (false, None) };
        let get = async |path: &str| -> reqwest::Result<Value> {
            http.get(format!("{}/{path}", monitor.url)).timeout(TIMEOUT).send().await?.json().await
        };
        let (health, varz) = tokio::join!(get("healthz?details=true"), get("varz"));
        if let (true, Some(flushes)) = (self.must_flush, varz.as_ref().ok().and_then(flushes)) {
            monitor.says(flushes);
        }
        (health.is_ok_and(|it| has_failed(&it)), varz.ok().and_then(|it| used(&it)))
    }
}

impl Monitor {
    /// Its server has said whether it flushes before it acknowledges.
    fn says(&self, flushes: bool) {
        let before = self.acknowledges_first.swap(!flushes, Ordering::Relaxed);
        match (before, flushes) {
            (false, false) => tracing::error!(
                monitor = self.url,
                "A NATS server acknowledges events before it has flushed them to disk, which it did \
                 not when this process began: a power cut loses them. Set \
                 `sync_interval: always` again, and restart it"
            ),
            (true, true) => tracing::info!(
                monitor = self.url,
                "The NATS server flushes events to disk again before it acknowledges them"
            ),
            _ => {}
        }
    }
}

/// A client that believes the authorities that the connection to the log believes.
pub(crate) fn monitoring_client(address: &NatsAddress) -> Result<reqwest::Client, Box<dyn Error>> {
    let mut client = reqwest::Client::builder().timeout(Duration::from_secs(2));
    if let Some(roots) = address.roots() {
        let roots = reqwest::Certificate::from_pem_bundle(&std::fs::read(roots)?)?;
        client = client.tls_certs_only(roots);
    }
    Ok(client.build()?)
}

/// Whether a server flushes to disk before it acknowledges; `None` if it does not say so (yet).
pub(crate) fn flushes(varz: &Value) -> Option<bool> {
    let config = varz.pointer("/jetstream/config").filter(|it| it.is_object())?;
    Some(config["sync_always"] == true)
}

/// True if a server's health is that it could not write to a stream that events need.
fn has_failed(health: &Value) -> bool {
    let errors = health["errors"].as_array().into_iter().flatten();
    errors.into_iter().any(|error| {
        let stream = error["stream"].as_str();
        let text = error["error"].as_str().unwrap_or_default();
        [STREAM, KEYS_STREAM].iter().any(|it| stream == Some(it)) && text.contains("write error")
    })
}

fn used(varz: &Value) -> Option<f64> {
    let bytes = |pointer| varz.pointer(pointer).and_then(Value::as_f64);
    let all = bytes("/jetstream/config/max_storage").filter(|all| *all > 0.0)?;
    Some(bytes("/jetstream/stats/storage")? / all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_failed_write_of_events_or_keys_is_seen_in_the_health_of_a_server() {
        let health = |stream: &str, error: &str| {
            json!({ "status": "error", "errors": [
                { "type": "STREAM", "account": "$G", "stream": stream, "error": error },
            ] })
        };
        let full = "JetStream stream '$G > X' write error: no space left on device";
        assert!(has_failed(&health(STREAM, full)));
        assert!(has_failed(&health(KEYS_STREAM, full)));
        assert!(!has_failed(&health("ANOTHER", full)));
        assert!(!has_failed(&health(STREAM, "JetStream stream '$G > X' is not current")));
        assert!(!has_failed(&json!({ "status": "ok" })));
    }

    #[test]
    fn a_log_is_stuck_if_each_of_its_servers_is() {
        let report = |failing, servers| StoreReport { servers, failing, ..Default::default() };
        assert!(!report(0, 0).writes_fail() && !report(0, 1).writes_fail());
        assert!(report(1, 1).writes_fail() && report(3, 3).writes_fail());
        assert!(!report(1, 3).writes_fail() && report(1, 3).is_failing());
    }

    #[test]
    fn a_server_that_is_silent_or_starting_says_nothing_of_how_it_flushes() {
        let varz = |config: Value| flushes(&json!({ "jetstream": { "config": config } }));
        assert_eq!(varz(json!({ "sync_always": true })), Some(true));
        assert_eq!(varz(json!({ "sync_interval": 120 })), Some(false));
        assert_eq!(flushes(&json!({ "jetstream": {} })), None);
        let store = Store::of(Some("http://127.0.0.1:1"), true);
        store.monitors[0].says(false);
        assert!(store.report().acknowledges_unflushed(), "until it says otherwise");
        store.monitors[0].says(true);
        assert!(!store.report().acknowledges_unflushed());
    }

    #[test]
    fn a_store_is_nearly_full_at_four_fifths() {
        let varz = |storage: u64| {
            json!({ "jetstream": {
                "config": { "max_storage": 1_000 }, "stats": { "storage": storage },
            } })
        };
        let full =
            |it: &Value| StoreReport { used: used(it), ..Default::default() }.is_nearly_full();
        assert!(full(&varz(800)) && !full(&varz(799)));
        assert_eq!(used(&json!({})), None);
        assert_eq!(used(&json!({ "jetstream": { "config": { "max_storage": 0 } } })), None);
    }
}
