//! Connections to servers on other machines: who connects, and whose certificates are believed.

use super::{Connections, SettingsError};
use clap::Args;
use exodrive_log::address::{
    self, CERTIFICATE, CERTIFICATE_KEY, CREDENTIALS, INBOX, NKEY, NatsAddress, ROOTS,
};
use std::path::{Path, PathBuf};

/// Files for connections to servers on other machines.
#[derive(Args, Clone)]
#[command(next_help_heading = "Servers on other machines")]
pub struct RemoteSettings {
    /// Authorities whose certificates are believed of NATS and of its monitoring
    /// endpoint, a file in PEM. With it every connection to NATS is by TLS. Not
    /// given: the authorities that this machine believes.
    #[arg(long, env = "EXODRIVE_NATS_CA", value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// Certificate that this process shows to NATS (mutual TLS), a file in PEM.
    #[arg(long, env = "EXODRIVE_NATS_CLIENT_CERT", value_name = "FILE")]
    pub nats_client_cert: Option<PathBuf>,
    /// Key of that certificate, a file in PEM that others may not read.
    #[arg(long, env = "EXODRIVE_NATS_CLIENT_KEY", value_name = "FILE")]
    pub nats_client_key: Option<PathBuf>,
    /// Who connects to NATS as the API's user: a credentials file (JWT and nkey
    /// seed) that others may not read. A user in the URL goes before it.
    #[arg(
        long,
        env = "EXODRIVE_NATS_CREDS",
        value_name = "FILE",
        conflicts_with = "nats_nkey_file"
    )]
    pub nats_creds: Option<PathBuf>,
    /// The same for the worker's user.
    #[arg(
        long,
        env = "EXODRIVE_NATS_WORKER_CREDS",
        value_name = "FILE",
        conflicts_with = "nats_worker_nkey_file"
    )]
    pub nats_worker_creds: Option<PathBuf>,
    /// The same for the user who may make streams.
    #[arg(
        long,
        env = "EXODRIVE_NATS_OPERATOR_CREDS",
        value_name = "FILE",
        conflicts_with = "nats_operator_nkey_file"
    )]
    pub nats_operator_creds: Option<PathBuf>,
    /// Who connects to NATS as the API's user: a file with the seed of an nkey
    /// that others may not read. A user in the URL goes before it.
    #[arg(long, env = "EXODRIVE_NATS_NKEY_FILE", value_name = "FILE")]
    pub nats_nkey_file: Option<PathBuf>,
    /// The same for the worker's user.
    #[arg(long, env = "EXODRIVE_NATS_WORKER_NKEY_FILE", value_name = "FILE")]
    pub nats_worker_nkey_file: Option<PathBuf>,
    /// The same for the user who may make streams.
    #[arg(long, env = "EXODRIVE_NATS_OPERATOR_NKEY_FILE", value_name = "FILE")]
    pub nats_operator_nkey_file: Option<PathBuf>,
    /// Authorities whose certificates are believed of Redis, a file in PEM. Not
    /// given: the sslrootcert of the URL, or else the authorities that this
    /// machine believes.
    #[arg(long, env = "EXODRIVE_REDIS_CA", value_name = "FILE")]
    pub redis_ca: Option<PathBuf>,
}

impl RemoteSettings {
    /// The variable of a file for connections to NATS that is given.
    fn of_nats(&self) -> Option<&'static str> {
        let files = [
            ("EXODRIVE_NATS_CA", &self.nats_ca),
            ("EXODRIVE_NATS_CLIENT_CERT", &self.nats_client_cert),
            ("EXODRIVE_NATS_CLIENT_KEY", &self.nats_client_key),
            ("EXODRIVE_NATS_CREDS", &self.nats_creds),
            ("EXODRIVE_NATS_WORKER_CREDS", &self.nats_worker_creds),
            ("EXODRIVE_NATS_OPERATOR_CREDS", &self.nats_operator_creds),
            ("EXODRIVE_NATS_NKEY_FILE", &self.nats_nkey_file),
            ("EXODRIVE_NATS_WORKER_NKEY_FILE", &self.nats_worker_nkey_file),
            ("EXODRIVE_NATS_OPERATOR_NKEY_FILE", &self.nats_operator_nkey_file),
        ];
        files.into_iter().find_map(|(variable, file)| file.as_ref().map(|_| variable))
    }
}

/// The addresses of NATS that are given, with their parameters.
pub struct GivenNats {
    /// As the API's user.
    pub api: Option<String>,
    /// As the worker's user, if it is another one.
    pub worker: Option<String>,
    /// As the user who makes streams, if it is another one.
    pub operator: Option<String>,
}

/// What is given of one user of NATS.
struct NatsUser<'a> {
    name: &'static str,
    variable: &'static str,
    url: Option<&'a String>,
    credentials: Option<&'a PathBuf>,
    nkey: Option<&'a PathBuf>,
}

/// The users of docs/nats-permissions.conf, each of which has an inbox of its name.
const KNOWN_USERS: [&str; 3] = ["exodrive-api", "exodrive-worker", "exodrive-operator"];

impl Connections {
    /// Returns the addresses of NATS that are given, with all that belongs to them.
    ///
    /// # Errors
    /// When one is invalid, by the name of its variable.
    pub fn given_nats(&self) -> Result<GivenNats, SettingsError> {
        let files = &self.remote;
        if let (None, Some(variable)) = (&self.nats_url, files.of_nats()) {
            return Err(SettingsError::NatsFile(variable));
        }
        Ok(GivenNats {
            api: self.nats_as(NatsUser {
                name: "exodrive-api",
                variable: "EXODRIVE_NATS_URL",
                url: self.nats_url.as_ref(),
                credentials: files.nats_creds.as_ref(),
                nkey: files.nats_nkey_file.as_ref(),
            })?,
            worker: self.nats_as(NatsUser {
                name: "exodrive-worker",
                variable: "EXODRIVE_NATS_WORKER_URL",
                url: self.nats_worker_url.as_ref(),
                credentials: files.nats_worker_creds.as_ref(),
                nkey: files.nats_worker_nkey_file.as_ref(),
            })?,
            operator: self.nats_as(NatsUser {
                name: "exodrive-operator",
                variable: "EXODRIVE_NATS_OPERATOR_URL",
                url: self.nats_operator_url.as_ref(),
                credentials: files.nats_operator_creds.as_ref(),
                nkey: files.nats_operator_nkey_file.as_ref(),
            })?,
        })
    }

    /// The address of NATS as one user; `None` if nothing of that user is given.
    fn nats_as(&self, user: NatsUser<'_>) -> Result<Option<String>, SettingsError> {
        let variable = user.variable;
        let own = user.credentials.is_some() || user.nkey.is_some();
        let shared = || self.nats_url.as_ref().filter(|_| own);
        let Some(url) = user.url.or_else(shared) else { return Ok(None) };
        let parse = |url: &str| {
            NatsAddress::parse(url).map_err(|source| SettingsError::Nats { variable, source })
        };
        let given = parse(url)?;
        if user.url.is_none() && given.names_user() {
            return Err(SettingsError::NatsUser(variable));
        }
        let mut url = url.clone();
        let mut add = |name, file: Option<&PathBuf>| {
            if let Some(file) = file {
                url = address::with_parameter(&url, name, &file.to_string_lossy());
            }
        };
        add(ROOTS, self.remote.nats_ca.as_ref());
        if !given.shows_certificate() {
            add(CERTIFICATE, self.remote.nats_client_cert.as_ref());
            add(CERTIFICATE_KEY, self.remote.nats_client_key.as_ref());
        }
        if !given.names_user() {
            add(CREDENTIALS, user.credentials);
            add(NKEY, user.nkey);
        }
        if !given.user().is_some_and(|user| KNOWN_USERS.contains(&user)) {
            url = address::with_parameter(&url, INBOX, user.name);
        }
        parse(&url)?;
        Ok(Some(url))
    }

    /// Returns the addresses of Redis that are given, as the API's and as the worker's user.
    pub fn given_redis(&self) -> [Option<String>; 2] {
        let roots = self.remote.redis_ca.as_deref();
        [&self.redis_url, &self.redis_worker_url].map(|url| Some(with_roots(url.as_ref()?, roots)))
    }
}

/// The address of Redis with the file of the authorities, unless it names one or is without TLS.
fn with_roots(url: &str, roots: Option<&Path>) -> String {
    let Some(roots) = roots.filter(|_| url.starts_with("rediss:")) else { return url.to_owned() };
    let (address, fragment) = match url.split_once('#') {
        Some((address, fragment)) => (address, format!("#{fragment}")),
        None => (url, String::new()),
    };
    address::with_parameter(address, ROOTS, &roots.to_string_lossy()) + &fragment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authorities_of_redis_are_a_parameter_of_a_connection_by_tls() {
        let roots = Some(Path::new("/ca.pem"));
        for (url, expected) in [
            ("rediss://a/0", "rediss://a/0?sslrootcert=/ca.pem"),
            ("rediss://a/0?protocol=resp3", "rediss://a/0?protocol=resp3&sslrootcert=/ca.pem"),
            ("rediss://a/0#insecure", "rediss://a/0?sslrootcert=/ca.pem#insecure"),
            ("rediss://a/0?sslrootcert=/b.pem", "rediss://a/0?sslrootcert=/b.pem"),
            ("redis://127.0.0.1/0", "redis://127.0.0.1/0"),
        ] {
            assert_eq!(with_roots(url, roots), expected);
        }
    }
}
