//! `exodrive audit witness`: remembers the checkpoint that a log showed, and
//! cosigns a new one that extends it.

use super::{TAMPERED, UNUSABLE, files, table};
use crate::cli::Failure;
use exodrive_proof::{
    Hash,
    note::{self, SignedNote, VerifierKey, WitnessKey},
    witness::{self, WitnessError},
};
use exodrive_runtime::error_chain;
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Longest time to wait for one answer of the log.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Largest answer that is read. A checkpoint or a proof is far smaller.
const MAX_ANSWER: usize = 1 << 20;

#[derive(clap::Args)]
#[command(
    after_help = "A witness runs on a machine that the log's operator does not control. It keeps one
checkpoint, the last, and cosigns a new one only if the log proves that the new one
extends it. Whoever holds a checkpoint that your witness cosigned knows that they
and you were shown the same log: without a witness, an operator could show each
reader a history of their own.

The first checkpoint is taken on trust. Give --public-key with the key that you
have from elsewhere; without it, the key is what the log itself says.

Exit codes: 0 cosigned; 1 the log shows something else than before (cut back, another
history, a split view): save the state file and what is printed, they are the evidence;
2 the answer is unknown. With --interval, what cannot be reached is tried again.

Examples:
  exodrive audit witness --new-key witness.key --name witness.example.org > witness.pub
  exodrive audit witness --url https://rental.example --state seen.txt --key witness.key --once
  exodrive audit witness --url https://rental.example --state seen.txt --key witness.key \\
    --public-key log.pub --interval 10m"
)]
pub(super) struct Witness {
    /// Make a key: write it into this new file, and print its public half
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "state", "key", "public_key", "once", "interval"])]
    new_key: Option<PathBuf>,
    /// Name of the new key: its owner, as a host or address
    #[arg(long, default_value = "exodrive.local/witness", requires = "new_key")]
    name: String,
    /// Address of the log's API
    #[arg(long, required_unless_present = "new_key")]
    url: Option<String>,
    /// File in which the last cosigned checkpoint is stored
    #[arg(long, value_name = "FILE", required_unless_present = "new_key")]
    state: Option<PathBuf>,
    /// The witness's key
    #[arg(long, value_name = "FILE", required_unless_present = "new_key")]
    key: Option<PathBuf>,
    /// The log's public keys, one a line
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    /// Check once
    #[arg(long, conflicts_with = "interval")]
    once: bool,
    /// Interval between two checks
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    interval: Duration,
}

impl Witness {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let done = match &self.new_key {
            Some(path) => new_key(path, &self.name),
            None => self.watch().await,
        };
        Ok(done.unwrap_or_else(|error| {
            eprintln!("error: {}", error_chain(error.as_ref()));
            ExitCode::from(UNUSABLE)
        }))
    }

    async fn watch(&self) -> Result<ExitCode, Failure> {
        // clap requires all three.
        let (Some(url), Some(state), Some(key)) = (&self.url, &self.state, &self.key) else {
            return Err("--url, --state and --key are needed".into());
        };
        let watch = Watch {
            log: Log::new(url)?,
            state,
            key: WitnessKey::parse(&files::text(key)?)
                .map_err(|error| format!("{}: {error}", key.display()))?,
            log_keys: self
                .public_key
                .as_deref()
                .map(|path| files::keys(path, VerifierKey::parse))
                .transpose()?,
        };
        loop {
            match watch.check_once().await {
                Ok(()) if self.once => return Ok(ExitCode::SUCCESS),
                Err(CheckError::Alarm(alarm)) => {
                    eprintln!("ALARM: {}", table::short(&alarm, 4000));
                    return Ok(ExitCode::from(TAMPERED));
                }
                Err(CheckError::Failed(failure)) if self.once => return Err(failure),
                Err(CheckError::Failed(failure)) => {
                    let why = error_chain(failure.as_ref());
                    eprintln!("not cosigned: {}; trying again", table::short(&why, 4000));
                }
                Ok(()) => {}
            }
            tokio::time::sleep(self.interval).await;
        }
    }
}

fn new_key(path: &Path, name: &str) -> Result<ExitCode, Failure> {
    let key = WitnessKey::generate(name)?;
    files::write_secret(path, &format!("{}\n", key.to_text()))?;
    say!("{}", key.verifier());
    eprintln!("The secret half is in {}. Give the line above to those who verify.", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Reason why a checkpoint was not cosigned.
enum CheckError {
    /// It is evidence against the log.
    Alarm(String),
    /// It may succeed next time.
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for CheckError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

struct Watch<'a> {
    log: Log,
    state: &'a Path,
    key: WitnessKey,
    /// Keys of the log; `None` if they are to be asked from the log.
    log_keys: Option<Vec<VerifierKey>>,
}

impl Watch<'_> {
    /// Checks the log once: cosigns, stores and prints its checkpoint.
    async fn check_once(&self) -> Result<(), CheckError> {
        let mut witness = witness::Witness { last: None };
        if let Some(saved) = self.saved()? {
            witness.last = Some(saved.checkpoint()?);
        }
        let keys = match &self.log_keys {
            Some(keys) => keys.clone(),
            None => self.log.keys().await?,
        };
        let note: SignedNote = self.log.text("v1/audit/checkpoint").await?.parse()?;
        let (seen, shown) =
            (witness.last.as_ref().map_or(0, |last| last.size), note.checkpoint()?.size);
        let proof = match seen {
            0 => Vec::new(),
            seen if seen < shown => self.log.consistency(seen, shown).await?,
            _ => Vec::new(),
        };
        let advanced = witness.advance(&note, &proof, &keys);
        let accepted = advanced.map_err(|error| self.refuse(error, &note))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let cosigned = accepted.cosign(&self.key, now).to_string();
        files::replace(self.state, &cosigned)?;
        if seen == 0 {
            eprintln!("The first checkpoint, of size {shown}, is taken on trust.");
        }
        say!("{}", cosigned.trim_end());
        Ok(())
    }

    /// The last checkpoint, which must have this witness's cosignature.
    fn saved(&self) -> Result<Option<SignedNote>, Failure> {
        if !self.state.try_exists()? {
            return Ok(None);
        }
        let saved = files::checkpoint(self.state)?;
        note::verify_cosignature(&saved, &self.key.verifier()).map_err(|error| {
            format!(
                "{} is not what this witness wrote: {error}. Put the right file or key back",
                self.state.display()
            )
        })?;
        Ok(Some(saved))
    }

    fn refuse(&self, error: WitnessError, note: &SignedNote) -> CheckError {
        if !error.is_alarm() {
            return error.into();
        }
        // Write the evidence into a file: it must not be lost with the
        // terminal.
        let mut path = self.state.as_os_str().to_owned();
        path.push(".refused");
        let path = PathBuf::from(path);
        let saved = match files::replace(&path, &note.to_string()) {
            Ok(()) => format!("What it showed is in {}.", path.display()),
            Err(error) => format!("What it showed could not be saved: {error}."),
        };
        CheckError::Alarm(format!(
            "{error}. {saved} What it had shown before is in {}.",
            self.state.display()
        ))
    }
}

#[derive(Deserialize)]
struct Consistency {
    proof: Vec<String>,
}

/// Client of the log's API.
struct Log {
    client: reqwest::Client,
    url: String,
}

impl Log {
    fn new(url: &str) -> Result<Self, Failure> {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        Ok(Self { client, url: url.trim_end_matches('/').to_owned() })
    }

    /// Asks the log for its keys.
    async fn keys(&self) -> Result<Vec<VerifierKey>, Failure> {
        let text = self.text("v1/audit/keys").await?;
        let keys = text.lines().filter(|line| !line.is_empty()).map(VerifierKey::parse);
        Ok(keys.collect::<Result<_, _>>()?)
    }

    async fn consistency(&self, from: u64, to: u64) -> Result<Vec<Hash>, Failure> {
        let text = self.text(&format!("v1/audit/consistency?from={from}&to={to}")).await?;
        let answer: Consistency = serde_json::from_str(&text)?;
        let hash = |text: &String| {
            Ok(hex::decode(text)?.try_into().map_err(|_| "a hash does not have 32 bytes")?)
        };
        answer.proof.iter().map(hash).collect()
    }

    async fn text(&self, path: &str) -> Result<String, Failure> {
        let mut response = self.client.get(format!("{}/{path}", self.url)).send().await?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("the log answers /{path} with {status}").into());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER {
                return Err(format!("the log's answer to /{path} has no end").into());
            }
        }
        Ok(String::from_utf8(body)?)
    }
}
