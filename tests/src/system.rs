//! A running system, and calls to it: the same for a system of processes
//! ([`crate::World`]) and for one that runs in the test's own process.

use crate::{
    Answer, Delivery, Rows, client, eventually, fold_by_name,
    process::{bare, program},
    sign,
    standing::ObservedSystem,
    token, wait,
};
use async_nats::{Event, jetstream};
use exodrive_domain::Recorded;
use exodrive_log::{Log, LogConfig, WrappingKeys, address::NatsAddress};
use exodrive_runtime::services::{Administrators, ServiceUrls};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgPool, Row, postgres::PgPoolOptions};
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    process::{Output, Stdio},
    sync::{Arc, Mutex, Once},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

/// The process that serves the API.
pub const API: &str = "serve";
/// The process that runs the projections.
pub const WORKER: &str = "work";

/// The secret that signs the tokens of every world.
pub const TOKEN_SECRET: &str = "e2e-token-secret-4b1d9c-0a7e25f8";

/// The key that wraps the data keys of every world.
pub const DATA_KEYS: &str = "1:ZTJlIHdyYXBwaW5nIGtleSwgb2YgMzIgYnl0ZXMhISE=";
/// Refusals of a NATS server on a connection.
pub type PermissionErrors = Arc<Mutex<Vec<String>>>;

/// The key that signs the checkpoints of every world.
pub const SEAL_KEY: &str = "ZTJlIHNlYWwga2V5LCBvZiAzMiBieXRlcyEhISEhISE=";

/// The servers of a system: the addresses that it has, and those of who may do everything.
#[derive(Clone, Serialize, Deserialize)]
pub struct Servers {
    /// As the parts of the system.
    pub urls: ServiceUrls,
    /// As who may do everything.
    pub administrators: Administrators,
}

/// A system that answers at an address, with the servers behind it.
pub struct System {
    /// The webhook secret that the API accepts first.
    pub webhook_secret: String,
    urls: ServiceUrls,
    administrators: Administrators,
    pub(crate) http: reqwest::Client,
    pub(crate) addresses: Arc<Mutex<HashMap<String, SocketAddr>>>,
    pub(crate) env: Vec<(String, String)>,
    database: PgPool,
    /// Reported when a wait times out.
    _standing: Arc<ObservedSystem>,
    folder: TempDir,
}

impl System {
    /// A system with settings that let tests work at full speed, and these on
    /// top, on these servers. Its API answers at `address`.
    pub fn new(
        folder: TempDir,
        Servers { urls, administrators }: Servers,
        address: SocketAddr,
        settings: &[(&str, &str)],
    ) -> Self {
        let webhook_secret = "whsec_ZTJlIHdlYmhvb2sgc2VjcmV0IG9mIDMyIGJ5dGVzISE=".to_owned();
        let mut env: BTreeMap<String, String> = [
            ("EXODRIVE_DATA_DIR", folder.path().join("data").to_str().unwrap()),
            ("EXODRIVE_NATS_URL", &urls.nats),
            ("EXODRIVE_NATS_WORKER_URL", &urls.nats_worker),
            ("EXODRIVE_NATS_OPERATOR_URL", &urls.nats_operator),
            ("EXODRIVE_NATS_MONITOR_URL", urls.nats_monitor.as_deref().unwrap()),
            ("EXODRIVE_DATABASE_URL", &urls.database),
            ("EXODRIVE_DATABASE_WORKER_URL", &urls.database_worker),
            ("EXODRIVE_DATABASE_OPERATOR_URL", &urls.database_operator),
            ("EXODRIVE_REDIS_URL", &urls.redis),
            ("EXODRIVE_REDIS_WORKER_URL", &urls.redis_worker),
            ("EXODRIVE_HTTP_ADDR", &address.to_string()),
            ("EXODRIVE_RESEND_WEBHOOK_SECRETS", &webhook_secret),
            ("EXODRIVE_JWT_SECRET", TOKEN_SECRET),
            ("EXODRIVE_LOG_SYNC", "default"),
            ("EXODRIVE_LOG_FORMAT", "json"),
            ("EXODRIVE_RATE_LIMIT_PUBLIC", "100000/1m"),
            ("EXODRIVE_RATE_LIMIT_SIGNED_IN", "100000/1m"),
            ("EXODRIVE_RATE_LIMIT_ADMIN", "100000/1m"),
            ("EXODRIVE_RATE_LIMIT_FAILED_WEBHOOK", "100000/1m"),
            ("EXODRIVE_RATE_LIMIT_BOOKING", "100000/1m"),
            ("EXODRIVE_LINK_SECRET", "e2e-link-secret-9f20c1-c4d86b13e"),
            // A machine that runs tests is busy.
            ("EXODRIVE_REDIS_TIMEOUT", "250ms"),
            // Tests count events: reads are recorded at once only when a test
            // asks for it.
            ("EXODRIVE_ACCESS_INTERVAL", "1h"),
            ("EXODRIVE_DATA_KEYS", DATA_KEYS),
            ("EXODRIVE_SEAL_KEYS", SEAL_KEY),
            ("EXODRIVE_SEAL_INTERVAL", "200ms"),
            ("EXODRIVE_DRAIN_PERIOD", "0s"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        // An API takes tokens by a secret or by published keys.
        if settings.iter().any(|(name, _)| *name == "EXODRIVE_JWT_JWKS") {
            env.remove("EXODRIVE_JWT_SECRET");
        }
        env.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let database = PgPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(Duration::from_secs(10))
            .connect_lazy(&administrators.database)
            .unwrap();
        let env: Vec<_> = env.into_iter().collect();
        let (http, addresses) = (http_client(), HashMap::from([(API.to_owned(), address)]));
        let addresses = Arc::new(Mutex::new(addresses));
        let standing = Arc::new(ObservedSystem {
            folder: folder.path().to_owned(),
            http: http.clone(),
            database: administrators.database.clone(),
            env: env.clone(),
            addresses: addresses.clone(),
        });
        wait::remember(&standing);
        Self {
            webhook_secret,
            urls,
            administrators,
            http,
            addresses,
            env,
            database,
            _standing: standing,
            folder,
        }
    }

    /// The addresses of the servers.
    pub fn urls(&self) -> &ServiceUrls {
        &self.urls
    }

    /// The log's server, for tests that go behind the system's back.
    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream_as(&self.urls().nats_operator, PermissionErrors::default()).await
    }

    /// A folder of its own, which is removed with it.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The environment that its programs run in.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// Changes a setting, for programs started from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Takes a setting away, for programs started from now on.
    pub fn unset(&mut self, name: &str) {
        self.env.retain(|(known, _)| known != name);
    }

    /// Runs `exodrive` with these arguments to its end.
    pub async fn exodrive(&self, args: &[&str]) -> Output {
        run(args, &self.env).await
    }

    /// The output of `exodrive` with these arguments, when it succeeds.
    pub async fn exodrive_prints(&self, args: &[&str]) -> String {
        self.exodrive_prints_within(crate::WAIT_TIMEOUT, args).await
    }

    /// The same, within `limit`.
    pub async fn exodrive_prints_within(&self, limit: Duration, args: &[&str]) -> String {
        let done = run_within(limit, args, &self.env).await;
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    /// The address at which a process serves the API.
    pub fn address(&self, name: &str) -> SocketAddr {
        self.addresses.lock().unwrap()[name]
    }

    /// Adds a process that serves the API at this address.
    pub fn add_address(&self, name: &str, address: SocketAddr) {
        self.addresses.lock().unwrap().insert(name.to_owned(), address);
    }

    /// Waits until `/readyz` answers with this status.
    pub async fn wait_until(&self, status: &str) -> Value {
        self.wait_until_at(API, status).await
    }

    /// Waits until `/readyz` of a process answers with this status.
    pub async fn wait_until_at(&self, name: &str, status: &str) -> Value {
        eventually(&format!("/readyz of {name} says {status}"), async || {
            let answer = Answer::of(self.request_to(name, Method::GET, "/readyz")).await;
            let answer = answer.map_err(|error| error.to_string())?;
            let ready = answer.json()["status"] == status;
            ready.then(|| answer.json()).ok_or_else(|| answer.json().to_string())
        })
        .await
    }

    /// A request to the API.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.request_to(API, method, path)
    }

    /// A request to one of several processes that serve the API.
    pub fn request_to(&self, name: &str, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.address(name)))
    }

    /// A token for a user of this role, named after it.
    pub fn token(&self, role: &str) -> String {
        self.token_of(&format!("{role}-user"), role)
    }

    /// A token for one user.
    pub fn token_of(&self, subject: &str, role: &str) -> String {
        token(TOKEN_SECRET, subject, role, 3_600)
    }

    /// A token that ended a while ago.
    pub fn expired_token(&self, role: &str) -> String {
        token(TOKEN_SECRET, &format!("{role}-user"), role, -3_600)
    }

    /// Gets a path as an auditor.
    pub async fn get(&self, path: &str) -> Answer {
        self.get_as("auditor", path).await
    }

    /// Gets a path as a user of this role.
    pub async fn get_as(&self, role: &str, path: &str) -> Answer {
        let request = self.request(Method::GET, path).bearer_auth(self.token(role));
        Answer::of(request).await.unwrap()
    }

    /// A delivery as Resend posts it, signed now.
    pub fn delivery(&self, delivery: &Delivery) -> reqwest::RequestBuilder {
        self.delivery_at(delivery, client::now())
    }

    /// A delivery as Resend posts it, signed at this Unix second.
    pub fn delivery_at(&self, delivery: &Delivery, at: i64) -> reqwest::RequestBuilder {
        let signature = sign(&self.webhook_secret, &delivery.id, at, &delivery.body);
        self.request(Method::POST, "/v1/webhooks/resend")
            .header("content-type", "application/json")
            .header("svix-id", &delivery.id)
            .header("svix-timestamp", at.to_string())
            .header("svix-signature", signature)
            .body(delivery.body.clone())
    }

    /// Posts a delivery.
    pub async fn post(&self, delivery: &Delivery) -> Answer {
        Answer::of(self.delivery(delivery)).await.unwrap()
    }

    /// Posts a delivery that must be taken; gives its position.
    pub async fn stored(&self, delivery: &Delivery) -> u64 {
        let receipt = self.post(delivery).await.expect(200);
        receipt["position"].as_u64().unwrap()
    }

    /// Posts a delivery again and again until it is taken, as the provider
    /// does.
    pub async fn post_until_taken(&self, delivery: &Delivery) -> Answer {
        eventually("a delivery is taken", async || {
            let request = self.delivery(delivery).timeout(Duration::from_secs(15));
            match Answer::of(request).await {
                Ok(answer) if answer.status == 200 => Ok(answer),
                Ok(answer) => {
                    let body = String::from_utf8_lossy(&answer.body);
                    assert!(answer.status >= 500, "{body}");
                    Err(format!("{} {body}", answer.status))
                }
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    /// The log, read without the API.
    pub async fn log(&self) -> Log {
        open_log(&self.urls().nats).await
    }

    /// Every event of the log.
    pub async fn events(&self) -> Vec<Recorded> {
        let log = self.log().await;
        let end = end_of(&log).await;
        let mut reader = log.reader(1);
        let mut events = Vec::new();
        while (events.len() as u64) < end {
            let batch = eventually("the log is read", async || {
                let batch = reader.next_batch(2_000, Duration::from_secs(5)).await;
                batch.map_err(|error| error.to_string())
            })
            .await;
            assert!(!batch.events.is_empty(), "the log holds {end} events");
            events.extend(batch.events);
        }
        events
    }

    /// The address of the views' database as a superuser.
    pub fn superuser(&self) -> &str {
        &self.administrators.database
    }

    /// The address of Redis as a user who may do everything.
    pub fn redis(&self) -> &str {
        &self.administrators.redis
    }

    /// A connection to the views' database as a superuser, for tests that go behind the system's
    /// back.
    pub fn database(&self) -> &PgPool {
        &self.database
    }

    /// Waits until every projection has a worker and has reached the log's end.
    pub async fn settled(&self) {
        let end = end_of(&self.log().await).await;
        let reached =
            "select case when bool_and(heartbeat_at is not null) then min(position) else -1 end
             from checkpoints
             join projections on name = projection and generation = active_generation";
        eventually("the projections reach the log's end", async || {
            let reached: i64 = sqlx::query_scalar(reached)
                .fetch_one(&self.database)
                .await
                .map_err(|error| error.to_string())?;
            let level = reached >= i64::try_from(end).unwrap();
            level.then_some(()).ok_or_else(|| format!("{reached} of {end}"))
        })
        .await;
    }

    /// Every row of a view.
    pub async fn rows(&self, view: &str) -> Rows {
        let sql = sqlx::AssertSqlSafe(format!("select key, position, data from {view}"));
        let found = sqlx::query(sql).fetch_all(&self.database).await.unwrap();
        let row = |row: sqlx::postgres::PgRow| {
            let position: i64 = row.get("position");
            (row.get("key"), (u64::try_from(position).unwrap(), row.get("data")))
        };
        found.into_iter().map(row).collect()
    }

    /// Every view must hold the rows that a fresh fold of the log gives, once the
    /// projections have reached its end. Gives the log's events.
    pub async fn views_equal_a_fresh_fold(&self) -> Vec<Recorded> {
        let events = self.rows_equal_a_fresh_fold().await;
        self.counts_are_those_of_the_rows().await;
        events
    }

    /// The same, after a test has removed rows behind the system's back: the numbers that lists show
    /// are then wrong until a rebuild.
    pub async fn rows_equal_a_fresh_fold(&self) -> Vec<Recorded> {
        self.settled().await;
        let events = self.events().await;
        for (view, folded) in fold_by_name(&events) {
            let rows = self.rows(view).await;
            let keys = |rows: &Rows| rows.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(&rows), keys(&folded), "keys of {view}");
            for (key, row) in folded {
                assert_eq!(rows[&key], row, "row {key} of {view}");
            }
        }
        events
    }

    /// The numbers that lists show, which are kept as rows change, are those of the rows.
    pub async fn counts_are_those_of_the_rows(&self) {
        for view in ["inbox", "bookings"] {
            let generation: i32 =
                sqlx::query_scalar("select active_generation from projections where name = $1")
                    .bind(view)
                    .fetch_one(self.database())
                    .await
                    .unwrap();
            let kept =
                "select key, sum(value::bigint)::bigint from checkpoints, jsonb_each_text(counts)
                 where projection = $1 and generation = $2 group by key
                 having sum(value::bigint) <> 0 order by key";
            let kept: Vec<(String, i64)> = sqlx::query_as(kept)
                .bind(view)
                .bind(generation)
                .fetch_all(self.database())
                .await
                .unwrap();
            let counted = format!(
                "select status collate \"C\", count(*) from {view}_g{generation}.{view}
                 group by 1 order by 1"
            );
            let counted: Vec<(String, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(counted))
                .fetch_all(self.database())
                .await
                .unwrap();
            let (kept, counted): (BTreeMap<_, _>, BTreeMap<_, _>) =
                (kept.into_iter().collect(), counted.into_iter().collect());
            assert_eq!(kept, counted, "the counts of {view}");
        }
    }
}

/// The log's last position. A cluster that was cut in two has no answer for a moment.
async fn end_of(log: &Log) -> u64 {
    let end = async || log.last_position().await.map_err(|error| error.to_string());
    eventually("the log says where it ends", end).await
}

/// [`DATA_KEYS`].
pub fn wrapping_keys() -> WrappingKeys {
    WrappingKeys::parse(DATA_KEYS).unwrap()
}

/// The log of a NATS server.
pub async fn open_log(url: &str) -> Log {
    // Tests append too, which needs the settings that the streams have.
    let jetstream = jetstream_as(url, PermissionErrors::default()).await;
    let stream = eventually("the log's stream is found", async || {
        let stream = jetstream.get_stream("EXODRIVE").await;
        stream.map(|it| it.cached_info().config.clone()).map_err(|error| error.to_string())
    })
    .await;
    let config = LogConfig {
        url: url.to_owned(),
        monitor_url: None,
        require_sync: false,
        duplicate_window: stream.duplicate_window,
        replicas: stream.num_replicas,
        ack_timeout: Duration::from_secs(4),
        connect_timeout: Duration::from_secs(10),
        keys: wrapping_keys(),
    };
    Log::connect(&config).await.unwrap()
}

/// JetStream on a NATS server, as the user of this address; the server's
/// refusals are added to `refusals`.
pub async fn jetstream_as(url: &str, refusals: PermissionErrors) -> jetstream::Context {
    let address = NatsAddress::parse(url).unwrap();
    let client = address
        .options()
        .unwrap()
        .event_callback(move |event| {
            if let Event::ServerError(error) = event {
                refusals.lock().unwrap().push(error.to_string());
            }
            std::future::ready(())
        })
        .connect(address.servers())
        .await
        .unwrap();
    jetstream::context::ContextBuilder::new().timeout(Duration::from_secs(1)).build(client)
}

/// Runs `exodrive` with these arguments and this environment to its end, which
/// must come.
pub async fn run(args: &[&str], env: &[(String, String)]) -> Output {
    run_within(crate::WAIT_TIMEOUT, args, env).await
}

/// The same, within `limit`.
async fn run_within(limit: Duration, args: &[&str], env: &[(String, String)]) -> Output {
    let began = Instant::now();
    let mut command = tokio::process::Command::from(bare(&program("exodrive"), args, env));
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let ended = tokio::time::timeout(limit, async {
        let read = tokio::try_join!(out.read_to_end(&mut stdout), err.read_to_end(&mut stderr));
        read.unwrap();
        child.wait().await.unwrap()
    });
    if let Ok(status) = ended.await {
        return Output { status, stdout, stderr };
    }
    let printed = [&stdout, &stderr].map(|it| String::from_utf8_lossy(it).into_owned()).concat();
    let what = format!("`exodrive {}` ends", args.join(" "));
    wait::timed_out(&what, began.elapsed(), Some(&format!("it printed:\n{printed}"))).await
}

/// A client for one test: no proxy, no redirect.
fn http_client() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(30))
        .build()
        .unwrap()
}
