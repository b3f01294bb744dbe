//! Servers on other machines: whoever is between here and there must not be able to read along, or
//! to stand in for them.

use super::{Connections, SettingsError, Unverified};
use exodrive_log::{address::NatsAddress, redis::Redis};
use exodrive_projections::Database;

impl Connections {
    /// Refuses servers that were given, are on another machine, and are not verified.
    ///
    /// # Errors
    /// The first one, by the name of its variable.
    pub fn refuse_unverified(&self) -> Result<(), SettingsError> {
        let nats = self.given_nats()?;
        let logs = [
            ("EXODRIVE_NATS_URL", &nats.api),
            ("EXODRIVE_NATS_WORKER_URL", &nats.worker),
            ("EXODRIVE_NATS_OPERATOR_URL", &nats.operator),
        ];
        for (variable, url) in logs {
            let Some(url) = url else { continue };
            let address = NatsAddress::parse(url)
                .map_err(|source| SettingsError::Nats { variable, source })?;
            if !address.is_reached_safely() && !self.allow_unverified.contains(&Unverified::Nats) {
                let remedy = "begin it with tls: (and give EXODRIVE_NATS_CA=FILE for an authority \
                              of your own)";
                return Err(SettingsError::Unverified { variable, remedy, server: "nats" });
            }
        }
        let databases = [
            ("EXODRIVE_DATABASE_URL", &self.database_url),
            ("EXODRIVE_DATABASE_WORKER_URL", &self.database_worker_url),
            ("EXODRIVE_DATABASE_OPERATOR_URL", &self.database_operator_url),
        ];
        for (variable, url) in databases {
            let Some(url) = url else { continue };
            refuse_several(variable, url)?;
            let safe =
                Database::is_reached_safely(url).map_err(|_| SettingsError::Url(variable))?;
            if !safe && !self.allow_unverified.contains(&Unverified::Postgres) {
                let remedy = "add sslmode=verify-full (and sslrootcert=FILE for an authority of \
                              your own) to it";
                return Err(SettingsError::Unverified { variable, remedy, server: "postgres" });
            }
        }
        let caches = [
            ("EXODRIVE_REDIS_URL", &self.redis_url),
            ("EXODRIVE_REDIS_WORKER_URL", &self.redis_worker_url),
        ];
        for (variable, url) in caches {
            let Some(url) = url else { continue };
            refuse_several(variable, url)?;
            let safe = Redis::is_reached_safely(url).map_err(|_| SettingsError::Url(variable))?;
            if !safe && !self.allow_unverified.contains(&Unverified::Redis) {
                let remedy = "begin it with rediss: (and add sslrootcert=FILE for an authority of \
                              your own)";
                return Err(SettingsError::Unverified { variable, remedy, server: "redis" });
            }
        }
        Ok(())
    }
}

/// Refuses a list of servers. A password may have commas.
fn refuse_several(variable: &'static str, url: &str) -> Result<(), SettingsError> {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let hosts = authority.rsplit('@').next().unwrap_or_default();
    if hosts.contains(',') { Err(SettingsError::SeveralServers(variable)) } else { Ok(()) }
}
