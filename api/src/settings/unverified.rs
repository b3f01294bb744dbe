//! Servers on other machines: whoever is between here and there must not be able to read along, or
//! to stand in for them.

use super::{Connections, SettingsError, Unverified};
use exodrive_log::redis::Redis;
use exodrive_projections::Database;

impl Connections {
    /// Refuses servers that were given, are on another machine, and are not verified.
    ///
    /// # Errors
    /// The first one, by the name of its variable.
    pub fn refuse_unverified(&self) -> Result<(), SettingsError> {
        let databases = [
            ("EXODRIVE_DATABASE_URL", &self.database_url),
            ("EXODRIVE_DATABASE_WORKER_URL", &self.database_worker_url),
            ("EXODRIVE_DATABASE_OPERATOR_URL", &self.database_operator_url),
        ];
        for (variable, url) in databases {
            let Some(url) = url else { continue };
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
