//! A NATS server on another machine: whose certificate is believed, and who connects.

use crate::{in_process::InProcess, permissions::said_of};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use exodrive_log::{ConnectError, Log, LogConfig, address::AddressError};
use exodrive_runtime::{error_chain, services::nats_server};
use exodrive_tests::{
    API, Authority, Delivery, Process, WORKER, World, email_body, eventually, free_address,
    wrapping_keys, write_secret,
};
use nkeys::KeyPair;
use serde_json::{Value, json};
use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;

/// A NATS server with a configuration of the test's own.
struct Nats {
    folder: TempDir,
    address: SocketAddr,
    monitor: SocketAddr,
}

impl Nats {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, address: free_address(), monitor: free_address() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts it with these settings beside those that ExoDrive needs.
    async fn start(&self, monitor: &str, settings: &str) -> Process {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let permissions = "nats-permissions.conf";
        fs::copy(docs.join(permissions), self.path(permissions)).unwrap();
        let text = format!(
            "listen: \"{}\"\n{monitor}: \"{}\"\nmax_payload: 2MB\n\
             jetstream {{ store_dir: {:?}, sync_interval: always }}\n{settings}\n",
            self.address,
            self.monitor,
            self.path("store"),
        );
        let file = self.path("nats.conf");
        fs::write(&file, text).unwrap();
        let arguments = ["-c", file.to_str().unwrap()];
        let server =
            Process::start(&nats_server().unwrap(), &arguments, &[], &self.path("nats.log"));
        eventually("the server answers", async || {
            TcpStream::connect(self.address).map_err(|error| {
                format!("{error}: {}", fs::read_to_string(self.path("nats.log")).unwrap())
            })
        })
        .await;
        server
    }

    /// A connection that does not wait for a server that may come later.
    fn config(&self, url: String) -> LogConfig {
        LogConfig {
            url,
            monitor_url: None,
            require_sync: false,
            duplicate_window: Duration::from_secs(60),
            replicas: 1,
            ack_timeout: Duration::from_secs(4),
            connect_timeout: Duration::from_secs(1),
            keys: wrapping_keys(),
        }
    }
}

/// The users of docs/nats.conf, by passwords.
const USERS: &str = "include \"nats-permissions.conf\"\nauthorization { users: [
    { user: exodrive-operator, password: secret-of-operator, permissions: $EXODRIVE_OPERATOR }
    { user: exodrive-api, password: secret-of-api, permissions: $EXODRIVE_API }
    { user: exodrive-worker, password: secret-of-worker, permissions: $EXODRIVE_WORKER }
] }";

#[tokio::test]
async fn a_whole_system_works_by_mutual_tls_and_shows_no_password() {
    let (nats, mut world) = (Nats::new(), World::without_processes(&[]).await);
    let folder = nats.folder.path();
    let own = Authority::new(folder, "own");
    let [certificate, key] = own.issue("server", "IP:127.0.0.1");
    let tls = format!(
        "{USERS}\ntls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {:?}, verify: true }}",
        own.roots()
    );
    let _server = nats.start("https", &tls).await;
    // The second of each list does not run.
    let away = free_address();
    for (name, user) in [("", "api"), ("_WORKER", "worker"), ("_OPERATOR", "operator")] {
        let one = |address| format!("tls://exodrive-{user}:secret-of-{user}@{address}");
        let url = format!("{},{}", one(nats.address), one(away));
        world.set(&format!("EXODRIVE_NATS{name}_URL"), &url);
    }
    world.set("EXODRIVE_NATS_MONITOR_URL", &format!("https://{}", nats.monitor));
    world.set("EXODRIVE_LOG_SYNC", "always");
    let [shown, shown_key] = own.issue("client", "DNS:client");
    world.set("EXODRIVE_NATS_CA", own.roots());
    world.set("EXODRIVE_NATS_CLIENT_CERT", &shown);
    world.set("EXODRIVE_NATS_CLIENT_KEY", &shown_key);
    world.migrate().await;
    for part in ["event log", "log writes", "nats api", "nats worker", "nats operator"] {
        let said = said_of(&world, part).await;
        assert!(said.contains(" ok "), "{said}");
    }
    world.start_api();
    world.start_worker(WORKER);
    world.wait_until("ready").await;
    let body = email_body("sent", "em-1", "2026-11-20T09:00:00Z", "");
    world.stored(&Delivery::new("msg_1".to_owned(), body)).await;
    eventually("the email is in its view", async || {
        (world.get("/v1/inbox/em-1").await.status == 200).then_some(())
    })
    .await;
    for process in [API, WORKER] {
        let printed = world.printed(process);
        assert!(!printed.contains("secret-of-"), "{printed}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_believed_is_refused_at_once() {
    let nats = Nats::new();
    let folder = nats.folder.path();
    let [own, other] = ["own", "other"].map(|name| Authority::new(folder, name));
    let [certificate, key] = own.issue("server", "IP:127.0.0.1");
    let tls = format!(
        "tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {:?}, verify: true }}",
        own.roots()
    );
    let server = nats.start("http", &tls).await;
    let [shown, shown_key] = own.issue("client", "DNS:client");
    let [foreign, foreign_key] = other.issue("foreign", "DNS:client");
    let by = |roots: &str, certificate: &str| {
        let mut config = nats.config(format!("tls://{}?{roots}{certificate}", nats.address));
        // Whoever is not believed now is not believed later.
        config.connect_timeout = Duration::from_secs(600);
        config
    };
    let believed = format!("sslrootcert={}", own.roots());
    let shows = |certificate: &str, key: &str| format!("&sslcert={certificate}&sslkey={key}");
    Log::prepare(&by(&believed, &shows(&shown, &shown_key))).await.unwrap();
    for (roots, certificate) in [
        (format!("sslrootcert={}", other.roots()), shows(&shown, &shown_key)),
        // The authorities that the machine believes.
        ("inbox=a".to_owned(), shows(&shown, &shown_key)),
        (believed.clone(), String::new()),
        (believed.clone(), shows(&foreign, &foreign_key)),
    ] {
        let error = Log::prepare(&by(&roots, &certificate)).await.err().unwrap();
        assert!(matches!(error, ConnectError::Unverified { .. }), "{}", error_chain(&error));
        let said = error.to_string();
        assert!(said.contains("EXODRIVE_NATS_CA") && said.contains("EXODRIVE_NATS_CLIENT_CERT"));
    }
    drop(server);
    let [certificate, key] = own.issue("elsewhere", "DNS:elsewhere.example");
    let tls = format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}");
    let _server = nats.start("http", &tls).await;
    let error = Log::open(&by(&believed, "")).await.err().unwrap();
    assert!(matches!(error, ConnectError::Unverified { .. }), "{}", error_chain(&error));
}

const ROLES: [(&str, &str); 3] = [("", "api"), ("_WORKER", "worker"), ("_OPERATOR", "operator")];

#[tokio::test]
async fn each_user_connects_by_an_nkey_of_its_own() {
    let (nats, mut world) = (Nats::new(), InProcess::start().await);
    let mut users = String::new();
    for (name, role) in ROLES {
        let (key, file) = (KeyPair::new_user(), nats.path(role));
        write_secret(&file, &format!("{}\n", key.seed().unwrap()));
        let permissions = role.to_uppercase();
        let public = key.public_key();
        users += &format!("{{ nkey: {public}, permissions: $EXODRIVE_{permissions} }}\n");
        world.set(&format!("EXODRIVE_NATS{name}_NKEY_FILE"), file.to_str().unwrap());
        world.unset(&format!("EXODRIVE_NATS{name}_URL"));
    }
    world.set("EXODRIVE_NATS_URL", &format!("nats://{}", nats.address));
    world.set("EXODRIVE_NATS_MONITOR_URL", &format!("http://{}", nats.monitor));
    let users =
        format!("include \"nats-permissions.conf\"\nauthorization {{ users: [ {users} ] }}");
    let _server = nats.start("http", &users).await;
    world.exodrive_prints(&["migrate"]).await;
    for part in ["event log", "nats api", "nats worker", "nats operator"] {
        let said = said_of(&world, part).await;
        assert!(said.contains(" ok "), "{said}");
    }
    // Another seed is nobody's, and one that others may read is refused.
    let url = format!("nats://{}?nkey={}", nats.address, nats.path("api").display());
    write_secret(&nats.path("api"), &KeyPair::new_user().seed().unwrap());
    let error = Log::open(&nats.config(url.clone())).await.err().unwrap();
    assert!(matches!(error, ConnectError::Unauthorized { .. }), "{}", error_chain(&error));
    refused_if_others_may_read(&nats, &nats.path("api"), url).await;
}

async fn refused_if_others_may_read(nats: &Nats, file: &Path, url: String) {
    let secret = fs::read_to_string(file).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Log::open(&nats.config(url)).await.err().unwrap();
    assert!(matches!(error, ConnectError::Address(AddressError::Readable(_))), "{error:?}");
    let said = format!("{} {error:?}", error_chain(&error));
    assert!(said.contains(file.to_str().unwrap()) && !said.contains(secret.trim()), "{said}");
}

/// A JWT of NATS: who `subject` is, by the word of `issuer`.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, about: Value) -> String {
    let claims = json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name,
        "sub": subject.public_key(), "nats": about,
    });
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// A credentials file, as `nsc` writes it.
fn credentials(account: &KeyPair, user: &KeyPair, name: &str, answers: &str) -> String {
    let about = json!({
        "pub": {"allow": [">"]}, "sub": {"allow": [answers]}, "subs": -1, "data": -1,
        "payload": -1, "type": "user", "version": 2,
    });
    let jwt = jwt(account, user, name, about);
    let seed = user.seed().unwrap();
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         ************************* IMPORTANT *************************\n\
         NKEY Seed printed below can be used to sign and prove identity.\n\
         NKEYs are sensitive and should be treated as secrets.\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n\n\
         *************************************************************\n"
    )
}

#[tokio::test]
async fn each_user_connects_by_a_credentials_file_of_its_own() {
    let (nats, mut world) = (Nats::new(), InProcess::start().await);
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let unlimited = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1,
        "consumer": -1,
    });
    let itself = json!({"type": "operator", "version": 2});
    let (system, of_system) = (KeyPair::new_account(), json!({"type": "account", "version": 2}));
    let of_account = json!({"limits": unlimited, "type": "account", "version": 2});
    let settings = format!(
        "operator: {}\nsystem_account: {system}\nresolver: MEMORY\n\
         resolver_preload: {{ {system}: {}, {}: {} }}",
        jwt(&operator, &operator, "operator", itself),
        jwt(&operator, &system, "system", of_system),
        account.public_key(),
        jwt(&operator, &account, "exodrive", of_account),
        system = system.public_key(),
    );
    let _server = nats.start("http", &settings).await;
    for (name, role) in ROLES {
        let answers = match role {
            "operator" => "_INBOX.>".to_owned(),
            _ => format!("_INBOX.exodrive-{role}.>"),
        };
        let text = credentials(&account, &KeyPair::new_user(), role, &answers);
        write_secret(&nats.path(role), &text);
        let file = nats.path(role);
        world.set(&format!("EXODRIVE_NATS{name}_CREDS"), file.to_str().unwrap());
        world.unset(&format!("EXODRIVE_NATS{name}_URL"));
    }
    world.set("EXODRIVE_NATS_URL", &format!("nats://{}", nats.address));
    world.set("EXODRIVE_NATS_MONITOR_URL", &format!("http://{}", nats.monitor));
    world.exodrive_prints(&["migrate"]).await;
    for part in ["event log", "log writes", "nats operator"] {
        let said = said_of(&world, part).await;
        assert!(said.contains(" ok "), "{said}");
    }
    // Each hears only what is meant for it, and may publish anywhere, which is too much.
    for part in ["nats api", "nats worker"] {
        let said = said_of(&world, part).await;
        assert!(
            said.contains("must not be able to publish") && !said.contains("receive"),
            "{said}"
        );
    }

    // A user of another account is nobody.
    let file = nats.path("api");
    let url = format!("nats://{}?creds={}&inbox=exodrive-api", nats.address, file.display());
    let valid = fs::read_to_string(&file).unwrap();
    let foreign = credentials(&KeyPair::new_account(), &KeyPair::new_user(), "api", ">");
    write_secret(&file, &foreign);
    let error = Log::open(&nats.config(url.clone())).await.err().unwrap();
    assert!(matches!(error, ConnectError::Unauthorized { .. }), "{}", error_chain(&error));
    let cut = valid.split("-----BEGIN USER").next().unwrap();
    write_secret(&file, cut);
    let error = Log::open(&nats.config(url.clone())).await.err().unwrap();
    assert!(matches!(error, ConnectError::Address(AddressError::Content(..))), "{error:?}");
    write_secret(&file, &valid);
    Log::open(&nats.config(url.clone())).await.unwrap();
    refused_if_others_may_read(&nats, &file, url).await;
}

/// A file that is replaced while a process runs counts from the next connection on.
#[tokio::test]
async fn a_seed_that_is_replaced_counts_from_the_next_connection_on() {
    let nats = Nats::new();
    let users =
        |key: &KeyPair| format!("authorization {{ users: [ {{ nkey: {} }} ] }}", key.public_key());
    let keys = [KeyPair::new_user(), KeyPair::new_user()];
    let file = nats.path("seed");
    write_secret(&file, &keys[0].seed().unwrap());
    let server = nats.start("http", &users(&keys[0])).await;
    let url = format!("nats://{}?nkey={}", nats.address, file.display());
    let log = Log::prepare(&nats.config(url)).await.unwrap();
    drop(server);
    write_secret(&file, &keys[1].seed().unwrap());
    let _server = nats.start("http", &users(&keys[1])).await;
    eventually("it connects as the other user", async || {
        log.last_position().await.map_err(|error| error_chain(&error))
    })
    .await;
}
