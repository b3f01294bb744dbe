//! How a secret is read from the command line or its variable: once, and refused
//! by name, without its value.

use clap::{
    Arg, Command,
    builder::TypedValueParser,
    error::{Error, ErrorKind},
};
use exodrive_audit::webhook_signature::Secrets;
use exodrive_log::WrappingKeys;
use exodrive_runtime::secret::{LEAST_BYTES, Secret};
use std::ffi::OsStr;

/// Reads the secret of an option or of its variable. What it refuses is not in
/// the message, which clap's own parsers would put there.
#[derive(Clone, Copy)]
pub(super) struct SecretParser {
    least: usize,
    check: fn(&str) -> Result<(), String>,
}

impl SecretParser {
    /// A text with as many bytes as a secret has at least.
    pub(super) const TEXT: Self = Self { least: LEAST_BYTES, check: |_| Ok(()) };
    /// A webhook's secret. It is its base64 that has a length.
    pub(super) const WEBHOOK: Self = Self { least: 1, check: |it| described(Secrets::parse([it])) };
    /// Wrapping keys. Each of them has its length.
    pub(super) const DATA_KEYS: Self =
        Self { least: 1, check: |it| described(WrappingKeys::parse(it)) };
    /// A key for checkpoints, a file with it, or a public key. What it is shows
    /// later: only a key of 32 bytes is taken.
    pub(super) const SEAL_KEY: Self = Self { least: 1, check: |_| Ok(()) };
}

fn described<T, E: ToString>(parsed: Result<T, E>) -> Result<(), String> {
    parsed.map(drop).map_err(|error| error.to_string())
}

impl TypedValueParser for SecretParser {
    type Value = Secret;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Secret, Error> {
        let text = value.to_str().ok_or_else(|| "it is not UTF-8".to_owned());
        let secret = text.and_then(|text| {
            let secret = Secret::with_at_least(self.least, text);
            let secret = secret.map_err(|error| error.to_string())?;
            (self.check)(secret.expose())?;
            Ok(secret)
        });
        secret.map_err(|reason| {
            let variable = arg.and_then(|arg| arg.get_env()?.to_str());
            let option = arg.and_then(Arg::get_long).unwrap_or_default();
            let name = variable.map_or_else(|| format!("--{option}"), str::to_owned);
            Error::raw(ErrorKind::ValueValidation, format!("{name}: {reason}\n")).with_cmd(command)
        })
    }
}
