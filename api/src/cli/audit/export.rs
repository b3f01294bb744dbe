//! `exodrive audit export`: writes part of the log into a file that its reader
//! can verify.

use super::{Failure, log, seal_store, table};
use crate::{cli::replay::reading_bar, settings::Connections};
use chrono::{DateTime, Utc};
use exodrive_audit::{
    events::{Selection, check_subject},
    export,
};
use exodrive_domain::time;
use exodrive_proof::export::{ExportWriter, Format};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

#[derive(clap::Args)]
#[command(
    after_help = "The export ends at the newest signed checkpoint, which it contains; events after that
(of the last seconds) are left for the next one. Events that are not asked for are in it
as hashes, so that an export of one email is proven by the same checkpoint as one
of everything. Event bodies are as stored: personal data in them is encrypted, and
--content adds what they say, which is not proven and is for people.

Examples:
  exodrive audit export --out log.ndjson
  exodrive audit export --out bookings.csv --subject 'exo.booking.>' --content
  exodrive audit export --out may.parquet --since 2027-05-01T00:00:00Z --until 2027-06-01T00:00:00Z
  exodrive audit export --out - --from 1000 --to 2000 | head"
)]
pub(super) struct Export {
    /// The file; - is standard output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// ndjson, csv or parquet; if not given, by the file's name, or else ndjson
    // The option is not named `format`: every command has an option with that
    // id.
    #[arg(long = "format", value_name = "FORMAT")]
    file_format: Option<Format>,
    /// Only events at this position or after it
    #[arg(long, value_name = "POSITION")]
    from: Option<u64>,
    /// Only events at this position or before it
    #[arg(long, value_name = "POSITION")]
    to: Option<u64>,
    /// Only events stored at this time or later
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<DateTime<Utc>>,
    /// Only events stored before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<DateTime<Utc>>,
    /// Only events of this subject, which may hold NATS wildcards
    #[arg(long, value_name = "SUBJECT", value_parser = parse_subject)]
    subject: Option<String>,
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only events by this actor
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// Add the decrypted content of every event
    #[arg(long)]
    content: bool,
    #[command(flatten)]
    connections: Connections,
}

fn parse_time(text: &str) -> Result<DateTime<Utc>, &'static str> {
    time::parse(text).ok_or("it must be a time as in RFC 3339, such as 2026-11-20T09:15:00Z")
}

fn parse_subject(text: &str) -> Result<String, &'static str> {
    check_subject(text).map(|()| text.to_owned())
}

impl Export {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let (log, seals) = (log(&self.connections).await?, seal_store(&self.connections)?);
        let selection = Selection {
            subject: self.subject.clone(),
            kind: self.kind.clone(),
            actor: self.actor.clone(),
            since: self.since,
            until: self.until,
            from: self.from,
            to: self.to,
        };
        let export = export::Export::begin(&log, &seals, selection, self.content).await?;
        if self.out == Path::new("-") {
            self.write(export, io::stdout()).await?;
            return Ok(ExitCode::SUCCESS);
        }
        // Write the file whole or not at all.
        let mut draft = self.out.clone().into_os_string();
        draft.push(".draft");
        let cannot =
            |error: io::Error| format!("{} cannot be written: {error}", self.out.display());
        let file = File::create(&draft).map_err(cannot)?;
        let export = self.write(export, file).await?;
        fs::rename(&draft, &self.out).map_err(cannot)?;
        say!(
            "{}: {} events of a log of {}, up to its newest checkpoint.",
            self.out.display(),
            table::number(export.events()),
            table::number(export.seal().size)
        );
        Ok(ExitCode::SUCCESS)
    }

    async fn write(
        &self,
        mut export: export::Export,
        out: impl Write + Send,
    ) -> Result<export::Export, Failure> {
        let bar = reading_bar()?;
        let mut writer = ExportWriter::new(self.format(), BufWriter::with_capacity(1 << 18, out))?;
        while export.write_some(&mut writer, || false).await? {
            let (done, end) = export.progress();
            bar.set_length(end);
            bar.set_position(done);
        }
        writer.finish()?.flush()?;
        bar.finish_and_clear();
        Ok(export)
    }

    fn format(&self) -> Format {
        let by_name = || self.out.extension()?.to_str()?.parse().ok();
        self.file_format.or_else(by_name).unwrap_or(Format::Ndjson)
    }
}
