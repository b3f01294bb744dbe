//! `exodrive audit verify`: verifies that an export is what the log signed.

use super::{TAMPERED, UNUSABLE, files, live, table};
use crate::{cli::Failure, settings::Connections};
use exodrive_proof::{
    note::{VerifierKey, WitnessVerifierKey},
    verify::{self, Expectations, Place, Tampered, VerifiedExport, VerifyError},
};
use exodrive_runtime::error_chain;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

#[derive(clap::Args)]
#[command(
    after_help = "Needs no network, no database and no data folder: copy this program, the export
and what you saved to a machine that you trust.

Every event's leaf is recomputed from its position, time, subject, headers and
body; the root of all leaves is compared with the signed checkpoint in the export
and with every checkpoint that you saved; every signature is checked. What is left
out of the export (a range or a filter) is in it as hashes. Formats (NDJSON,
CSV, Parquet) are recognised by content.

This proves what was stored, in which order, and that nothing is missing up to the
largest checkpoint that you saved. Without one of your own, it proves only that the export is
what a holder of the log's key signed: they could have signed another history.
Not proven: `content` (bodies decrypted for people), and when the export was made.

With --live it runs where the system does: every event of the log is compared with
the hash that was sealed, every checkpoint with the hashes and its signature, then
the deliveries and the inbox with the log.

Exit codes: 0 valid, 1 tampered with (and the first bad position), 2 unusable: the
answer is unknown.

Examples:
  exodrive audit verify --export log.ndjson --checkpoint saved.txt --public-key log.pub
  exodrive audit verify --export log.parquet --checkpoint saved/*.txt --public-key log.pub
  exodrive audit verify --live
  exodrive audit verify --export log.csv --checkpoint seen.txt --public-key log.pub \\
    --witness-key witness.pub --json | jq .verdict"
)]
pub(super) struct Verify {
    /// File of the export
    #[arg(long, value_name = "FILE", required_unless_present = "live", requires = "public_key")]
    export: Option<PathBuf>,
    /// Verify the running system instead: its log, its seals, the deliveries
    /// and the inbox
    #[arg(long, conflicts_with_all = ["export", "checkpoint", "witness_key"])]
    live: bool,
    /// Checkpoints that you saved; the export must be consistent with each
    #[arg(long, value_name = "FILE", num_args = 1..)]
    checkpoint: Vec<PathBuf>,
    /// The log's public keys, one a line
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    /// Public keys of witnesses, one a line; each must have cosigned one of the checkpoints
    #[arg(long, value_name = "FILE")]
    witness_key: Option<PathBuf>,
    /// Threads that read the export; as many as there are processors if not
    /// given
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Print a JSON object, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connections: Connections,
}

impl Verify {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        match &self.export {
            Some(export) if !self.live => self.offline(export),
            _ => live::run(&self.connections, self.public_key.as_deref(), self.json).await,
        }
    }

    fn offline(&self, export: &Path) -> Result<ExitCode, Failure> {
        let started = Instant::now();
        let verdict = match self.expected() {
            Ok(expected) => read(export, &expected)?,
            Err(error) => Err(VerifyError::Unusable(error_chain(error.as_ref()))),
        };
        let took = started.elapsed();
        if self.json {
            say!("{}", serde_json::to_string_pretty(&as_json(&verdict, took))?);
        } else {
            self.print(export, &verdict, took);
        }
        Ok(match verdict {
            Ok(_) => ExitCode::SUCCESS,
            Err(VerifyError::Tampered(_)) => ExitCode::from(TAMPERED),
            Err(VerifyError::Unusable(_)) => ExitCode::from(UNUSABLE),
        })
    }

    fn expected(&self) -> Result<Expectations, Failure> {
        Ok(Expectations {
            keys: match &self.public_key {
                Some(path) => files::keys(path, VerifierKey::parse)?,
                None => Vec::new(),
            },
            saved: self
                .checkpoint
                .iter()
                .map(|path| files::checkpoint(path))
                .collect::<Result<_, _>>()?,
            witnesses: match &self.witness_key {
                Some(path) => files::keys(path, WitnessVerifierKey::parse)?,
                None => Vec::new(),
            },
            threads: self.threads,
        })
    }

    fn print(&self, export: &Path, verdict: &Result<VerifiedExport, VerifyError>, took: Duration) {
        let export = export.display();
        match verdict {
            Ok(verified) => print_valid(verified, took),
            // A changed file may hold text that is meant to control the
            // terminal.
            Err(VerifyError::Tampered(tampered)) => {
                say!("TAMPERED: {export}\n{}", table::short(&tampered.to_string(), 4000));
                say!("Keep this file and your checkpoints: together they are the evidence.");
            }
            Err(VerifyError::Unusable(why)) => {
                eprintln!("error: {export} cannot be verified: {}", table::short(why, 4000));
            }
        }
    }
}

/// Verifies an export, with a bar for people.
fn read(
    export: &Path,
    expected: &Expectations,
) -> Result<Result<VerifiedExport, VerifyError>, Failure> {
    let style = "{bar:40} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left";
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(style)?);
    let verdict = verify::verify(export, expected, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(verdict)
}

fn print_valid(verified: &VerifiedExport, took: Duration) {
    let number = table::number;
    say!("Valid: every event is what the log {:?} signed.\n", verified.origin);
    say!("  events        {}, each recomputed", number(verified.events));
    if verified.omitted > 0 {
        say!("  left out      {}, proven by hashes", number(verified.omitted));
    }
    say!(
        "  log           positions 1 to {}, root {}",
        number(verified.size),
        hex::encode(verified.root)
    );
    match verified.saved_checkpoints {
        0 => say!("  saved         no checkpoint"),
        saved => say!("  saved         {saved} checkpoints, all consistent"),
    }
    for (witness, size) in &verified.cosigned_by {
        say!("  witness       {witness} saw the log up to position {}", number(*size));
    }
    let seconds = took.as_secs_f64();
    let rate = verified.bytes as f64 / 1e6 / seconds.max(1e-9);
    say!("  file          {} bytes in {seconds:.1} s, {rate:.0} MB/s", number(verified.bytes));
    if verified.saved_checkpoints == 0 {
        eprintln!(
            "\nYou saved no checkpoint, so this does not prove that the log always said so. Save one now: exodrive audit checkpoint --out FILE"
        );
    }
}

fn as_json(verdict: &Result<VerifiedExport, VerifyError>, took: Duration) -> Value {
    let mut object = match verdict {
        Ok(verified) => json!({
            "verdict": "valid",
            "origin": verified.origin,
            "events": verified.events,
            "omitted": verified.omitted,
            "size": verified.size,
            "root": hex::encode(verified.root),
            "bytes": verified.bytes,
            "leaf_bytes": verified.leaf_bytes,
            "saved_checkpoints": verified.saved_checkpoints,
            "earlier_checkpoints": verified.earlier_checkpoints,
            "cosigned_by": verified.cosigned_by.iter().map(|(name, size)| json!({"name": name, "size": size})).collect::<Vec<_>>(),
        }),
        Err(VerifyError::Tampered(Tampered { reason, place })) => {
            let between = match place {
                Place::Between { after, up_to } => json!({"after": after, "up_to": up_to}),
                _ => Value::Null,
            };
            let first = match place {
                Place::Position(position) => json!(position),
                _ => Value::Null,
            };
            json!({"verdict": "tampered", "reason": reason, "first_bad_position": first, "between": between})
        }
        Err(VerifyError::Unusable(reason)) => json!({"verdict": "unusable", "reason": reason}),
    };
    object["object"] = json!("audit_verification");
    object["seconds"] = json!(took.as_secs_f64());
    object
}
