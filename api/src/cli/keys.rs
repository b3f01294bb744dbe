//! `exodrive keys`: service keys, by which programs ask.

use super::{
    Failure, table,
    table::{cell, short, time},
    terminal::Person,
};
use crate::{
    http::{KeyDetail, NewKeyDetail, auth::tokens::Role},
    settings::Connections,
};
use chrono::Utc;
use exodrive_commands::credentials::{CredentialCommands, KnownCredentials, NewKey};
use exodrive_domain::{
    credential::Scope,
    id::KeyId,
    time::parse,
    value::{Label, Reason},
};
use exodrive_log::{Commands, Log};

/// Characters of a name and of a reason in a table.
const TEXT_LENGTH: usize = 40;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive keys create --name website --scope fleet:read --scope bookings:write
  curl -H \"Authorization: Bearer exo_sk_...\" http://127.0.0.1:8080/v1/bookings
  exodrive keys list
  exodrive keys revoke 0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4 --reason 'found in a log file'

The scopes are fleet:read, fleet:write, bookings:read, bookings:write, customers:read, inbox:read and audit:read. Each
operation of the API names the one that it needs. Every process refuses a revoked key within a second.")]
pub(super) struct Keys {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Create a key, and show it: this once
    Create(Create),
    /// List every key, also those that are revoked
    List(List),
    /// Revoke a key, for ever
    Revoke(Revoke),
}

#[derive(clap::Args)]
struct Create {
    /// What it is for: the program that uses it, for example
    #[arg(long, value_name = "TEXT")]
    name: String,
    /// What it may do; may be given several times
    #[arg(long = "scope", value_name = "SCOPE", required = true)]
    scopes: Vec<Scope>,
    /// The time from which on it is refused (RFC 3339); never if not given
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    #[command(flatten)]
    person: Person,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct List {
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Revoke {
    /// Id of the key
    #[arg(value_name = "ID")]
    id: KeyId,
    /// Reason: it stays in the log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    person: Person,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Common {
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connections: Connections,
}

impl Common {
    async fn log(&self) -> Result<Log, Failure> {
        let (url, monitor) = self.connections.resolve_log()?;
        Ok(Log::connect(&self.connections.appending_config(url, monitor)?).await?)
    }

    async fn commands(&self) -> Result<CredentialCommands, Failure> {
        Ok(CredentialCommands::new(Commands::new(self.log().await?, None)))
    }
}

impl Keys {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::Create(create) => create.run().await,
            Action::List(list) => list.run().await,
            Action::Revoke(revoke) => revoke.run().await,
        }
    }
}

impl Create {
    async fn run(self) -> Result<(), Failure> {
        let name = Label::parse(&self.name).map_err(|fault| format!("the name {fault}"))?;
        let expires_at = self.expires_at.as_deref().map(|text| {
            parse(text).ok_or("--expires-at must be a time, for example 2027-01-31T12:00:00Z")
        });
        let expires_at = expires_at.transpose()?;
        let context = self.person.context_as(Role::Admin, &self.common.connections).await?;
        let new = NewKey { name, scopes: self.scopes.into_iter().collect(), expires_at };
        let (done, text) = self.common.commands().await?.create_key(&new, &context).await?;
        let text = text.ok_or("the key was created before")?.expose();
        let key = KeyDetail::of(&done.value, done.at);
        if self.common.json {
            let detail = NewKeyDetail { key, secret: Some(text) };
            say!("{}", serde_json::to_string_pretty(&detail)?);
            return Ok(());
        }
        say!("{text}");
        eprintln!(
            "note: this is the only time that key {} ({}) is shown; `exodrive keys revoke` ends it",
            key.id,
            key.scopes.join(", ")
        );
        Ok(())
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let mut known = KnownCredentials::default();
        known.learn(&self.common.log().await?).await?;
        let now = Utc::now();
        let keys: Vec<_> = known.keys().into_iter().map(|key| KeyDetail::of(key, now)).collect();
        if self.common.json {
            say!("{}", serde_json::to_string_pretty(&keys)?);
            return Ok(());
        }
        if keys.is_empty() {
            say!("There is no service key. `exodrive keys create` makes one.");
            return Ok(());
        }
        let mut rows = table::table(&[
            "id", "name", "scopes", "status", "created", "by", "expires", "revoked",
        ]);
        for key in keys {
            rows.add_row([
                key.id,
                short(&key.name, TEXT_LENGTH),
                key.scopes.join(" "),
                key.status.to_owned(),
                time(key.created_at),
                cell(key.created_by.map(|by| short(&by, TEXT_LENGTH))),
                cell(key.expires_at.map(time)),
                cell(key.revoked_because.map(|reason| short(&reason, TEXT_LENGTH))),
            ]);
        }
        say!("{rows}");
        Ok(())
    }
}

impl Revoke {
    async fn run(self) -> Result<(), Failure> {
        let reason = Reason::parse(&self.reason).map_err(|fault| format!("the reason {fault}"))?;
        let context = self.person.context_as(Role::Admin, &self.common.connections).await?;
        let commands = self.common.commands().await?;
        let done = commands.revoke_key(self.id, reason, &context).await?;
        let key = KeyDetail::of(&done.value, done.at);
        if self.common.json {
            say!("{}", serde_json::to_string_pretty(&key)?);
            return Ok(());
        }
        say!("Key {} ({}) is revoked: every process refuses it within a second.", key.id, key.name);
        Ok(())
    }
}
