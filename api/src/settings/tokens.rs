//! Settings of the tokens that callers are known by.

use super::{
    Connections, MINUTE, SettingsError, at_most, secret_parser::SecretParser, secrets::TOKENS,
};
use crate::http::auth::{
    jwks::{JwksTimes, PublishedKeys},
    tokens::{Algorithm, TokenRules, Tokens},
};
use clap::Args;
use exodrive_runtime::secret::Secret;
use std::time::Duration;

/// Settings of tokens.
#[derive(Args, Clone)]
#[command(next_help_heading = "Tokens")]
pub struct TokenSettings {
    /// The shared secret of tokens (HS256), of at least 32 bytes. If neither it
    /// nor a JWKS is given: the secret of the data folder.
    #[arg(long, env = "EXODRIVE_JWT_SECRET", hide_env_values = true, value_name = "SECRET",
          value_parser = SecretParser::TEXT)]
    pub jwt_secret: Option<Secret>,
    /// Public keys of the token issuer: a URL or a file. Needs an issuer and an
    /// audience, so that a token for another service is none for this one.
    #[arg(long, env = "EXODRIVE_JWT_JWKS", value_name = "URL|FILE", conflicts_with = "jwt_secret")]
    pub jwt_jwks: Option<String>,
    /// The one algorithm that is accepted with a JWKS.
    #[arg(long, env = "EXODRIVE_JWT_ALGORITHM", default_value = "ES256", value_name = "ALGORITHM")]
    pub jwt_algorithm: Algorithm,
    /// The issuer that a token must name (`iss`). Not given: any, or none.
    #[arg(long, env = "EXODRIVE_JWT_ISSUER", value_name = "TEXT")]
    pub jwt_issuer: Option<String>,
    /// The audience that a token must name (`aud`), among others or alone. Not
    /// given: any, or none.
    #[arg(long, env = "EXODRIVE_JWT_AUDIENCE", value_name = "TEXT")]
    pub jwt_audience: Option<String>,
    /// Longest time between the begin of a token, or now, and its end.
    #[arg(long, env = "EXODRIVE_JWT_MAX_LIFETIME", default_value = "24h", value_name = "DURATION",
          value_parser = humantime::parse_duration)]
    pub jwt_max_lifetime: Duration,
    /// Interval at which the keys of a JWKS are fetched again, 5m at most.
    #[arg(long, env = "EXODRIVE_JWT_JWKS_REFRESH", default_value = "5m", value_name = "DURATION",
          value_parser = |text: &str| at_most(text, 5 * MINUTE))]
    pub jwt_jwks_refresh: Duration,
    /// Age from which on the keys of a JWKS are not believed, 15m at most. While
    /// they cannot be fetched again, requests with a token get 503.
    #[arg(long, env = "EXODRIVE_JWT_JWKS_MAX_AGE", default_value = "15m", value_name = "DURATION",
          value_parser = |text: &str| at_most(text, 15 * MINUTE))]
    pub jwt_jwks_max_age: Duration,
    /// Shortest interval between two fetches that tokens with an unknown key id
    /// cause.
    #[arg(long, env = "EXODRIVE_JWT_JWKS_UNKNOWN_KEY", default_value = "30s",
          value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub jwt_jwks_unknown_key: Duration,
    /// Claim of a token that holds the role. Only the issuer may be able to
    /// write it.
    #[arg(
        long,
        env = "EXODRIVE_JWT_ROLE_CLAIM",
        default_value = "app_metadata.role",
        value_name = "PATH"
    )]
    pub jwt_role_claim: String,
}

impl TokenSettings {
    /// The keys that the token issuer publishes, if they are configured.
    ///
    /// # Errors
    /// When the issuer or the audience is missing, or when keys would be too old
    /// before they are fetched again.
    pub fn published_keys(&self) -> Result<Option<PublishedKeys>, SettingsError> {
        let Some(source) = &self.jwt_jwks else { return Ok(None) };
        for (variable, value) in [
            ("EXODRIVE_JWT_ISSUER", &self.jwt_issuer),
            ("EXODRIVE_JWT_AUDIENCE", &self.jwt_audience),
        ] {
            if value.as_ref().is_none_or(|value| value.trim().is_empty()) {
                return Err(SettingsError::JwksWithout(variable));
            }
        }
        let times = JwksTimes {
            refresh: self.jwt_jwks_refresh,
            greatest_age: self.jwt_jwks_max_age,
            unknown_key: self.jwt_jwks_unknown_key,
        };
        if times.refresh.is_zero() || times.refresh >= times.greatest_age {
            return Err(SettingsError::JwksTimes);
        }
        Ok(Some(PublishedKeys::new(source.clone(), times)))
    }

    /// Requirements on a token.
    pub fn token_rules(&self) -> TokenRules {
        TokenRules {
            issuer: self.jwt_issuer.clone(),
            audience: self.jwt_audience.clone(),
            greatest_lifetime: self.jwt_max_lifetime,
            role_claim: self.jwt_role_claim.clone(),
        }
    }

    /// Returns the token secret that is given, or else that of the data folder.
    ///
    /// # Errors
    /// When there is no secret.
    pub fn token_secret(&self, connections: &Connections) -> Result<Secret, SettingsError> {
        if let Some(secret) = &self.jwt_secret {
            return Ok(secret.clone());
        }
        let saved = connections
            .kept_secrets()?
            .ok_or(SettingsError::NoSecret { what: "token secret", variable: TOKENS })?;
        Ok(saved.tokens)
    }

    /// What checks tokens by these settings, and the published keys if they are by them: somebody
    /// must follow those.
    ///
    /// # Errors
    /// As [`TokenSettings::published_keys`] and [`TokenSettings::token_secret`].
    pub fn checks(
        &self,
        connections: &Connections,
    ) -> Result<(Tokens, Option<PublishedKeys>), SettingsError> {
        let rules = self.token_rules();
        Ok(match self.published_keys()? {
            Some(keys) => (Tokens::by_jwks(keys.clone(), self.jwt_algorithm, rules), Some(keys)),
            None => (Tokens::by_secret(&self.token_secret(connections)?, rules), None),
        })
    }
}
