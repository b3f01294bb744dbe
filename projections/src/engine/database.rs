//! The read models' database: connections for readers and for workers, and the identity that a
//! read is made with.

use crate::{
    Error, Transaction,
    engine::{alive, store, watch::Watches},
};
use sqlx::{
    AssertSqlSafe, Executor, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};
use std::{str::FromStr, sync::Arc, time::Duration};

/// The identity of a reader. Row-level security shows rows by it, so that a check forgotten in a
/// handler leaks nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Staff that may read email.
    Admin,
    /// Reads everything, changes nothing.
    Auditor,
    /// The system itself, for example to recognise a repeated delivery.
    System,
    /// Anyone: sees public rows.
    Public,
    /// A customer, by the id of their account: sees their own rows.
    Customer(String),
    /// The holder of the link with this hash: sees the booking of the link.
    Guest(String),
}

impl Identity {
    fn name(&self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Auditor => "auditor",
            Self::System => "system",
            Self::Public => "public",
            Self::Customer(_) => "customer",
            Self::Guest(_) => "guest",
        }
    }

    /// The role of Postgres: staff see every row of every view.
    fn role(&self) -> &'static str {
        match self {
            Self::Admin | Self::Auditor | Self::System => "exodrive_staff",
            Self::Public | Self::Customer(_) | Self::Guest(_) => "exodrive_reader",
        }
    }

    /// The account or the link.
    fn subject(&self) -> &str {
        match self {
            Self::Customer(subject) | Self::Guest(subject) => subject,
            _ => "",
        }
    }
}

/// The read models' database, as one of two roles. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    /// For the engine's own tables.
    pool: PgPool,
    /// For views.
    views: PgPool,
    watches: Arc<Watches>,
}

/// A transaction that reads some views as one [`Identity`].
pub struct ReadTransaction {
    transaction: Transaction,
    views: Vec<&'static str>,
}

impl ReadTransaction {
    /// The views that were named when it began.
    pub fn views(&self) -> &[&'static str] {
        &self.views
    }

    /// The transaction, for a query that reads these views.
    ///
    /// # Errors
    /// When one of them was not named when the read began: nobody has waited for it.
    pub(crate) fn over(&mut self, views: &[&'static str]) -> Result<&mut Transaction, Error> {
        match views.iter().find(|view| !self.views.contains(view)) {
            Some(view) => Err(Error::ViewNotNamed(view)),
            None => Ok(&mut self.transaction),
        }
    }
}

impl Database {
    fn of(pool: PgPool, views: PgPool) -> Self {
        Self { pool, views, watches: Arc::default() }
    }

    /// Those who wait for views.
    pub(crate) fn watches(&self) -> &Watches {
        &self.watches
    }

    /// True if nobody between here and the database can read along or stand in for it: it is on
    /// this machine, or its certificate is verified.
    ///
    /// # Errors
    /// When the URL is invalid.
    pub fn is_reached_safely(url: &str) -> Result<bool, Error> {
        let options = PgConnectOptions::from_str(url)?;
        Ok(options.get_socket().is_some()
            || exodrive_log::redis::is_this_machine(options.get_host())
            || matches!(options.get_ssl_mode(), PgSslMode::VerifyFull))
    }

    /// A database for readers. It connects when first used, so that code that does not need it
    /// works without it. Sessions run as `exodrive_reader`, which owns nothing. Readiness, commands
    /// and operators, who ask about the engine's tables, have connections of their own: they have an
    /// operator's identity, and do not wait for readers of views. Nobody waits long: not for a
    /// connection, not for a lock, not for an answer.
    ///
    /// # Errors
    /// When the URL is invalid.
    pub fn for_readers(url: &str) -> Result<Self, Error> {
        let options = options(url, "exodrive serve")?.options([
            ("statement_timeout", "2s"),
            ("lock_timeout", "200ms"),
            ("idle_in_transaction_session_timeout", "15s"),
        ]);
        let operator = options.clone().options([("exodrive.identity", "operator")]);
        Ok(Self::of(Self::of_readers(operator, 8), Self::of_readers(options, 16)))
    }

    fn of_readers(options: PgConnectOptions, connections: u32) -> PgPool {
        alive::without_dead(PgPoolOptions::new())
            .max_connections(connections)
            .acquire_timeout(Duration::from_secs(1))
            .after_connect(|connection, _| {
                Box::pin(async move {
                    let sql = format!(
                        "set role exodrive_reader; set search_path to {}, public",
                        *store::generations::RELEASE
                    );
                    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
                    Ok(())
                })
            })
            .connect_lazy_with(options)
    }

    /// A database for workers. Sessions run as `exodrive_worker`, so that whatever a worker makes
    /// belongs to that role, whoever logs in. The server undoes the transaction of a worker that
    /// hangs, once its lease has ended: otherwise its locks would make the next worker wait. No
    /// commit waits for the disk: what a crash of the server loses is folded again from the log.
    ///
    /// # Errors
    /// When the URL is invalid.
    pub fn for_workers(url: &str) -> Result<Self, Error> {
        let hung = format!("{}ms", store::LEASE.as_millis());
        let options = options(url, "exodrive work")?.options([
            ("idle_in_transaction_session_timeout", hung.as_str()),
            // An index of many rows takes long. What waits for a lock is tried again.
            ("statement_timeout", "30min"),
            ("lock_timeout", "10s"),
            ("synchronous_commit", "off"),
        ]);
        let pool = alive::without_dead(PgPoolOptions::new())
            .max_connections(16)
            .acquire_timeout(Duration::from_secs(5))
            .after_connect(|connection, _| {
                Box::pin(async move {
                    // Without the role, nobody has migrated the database yet.
                    let sql = "select set_config('role', rolname, false) from pg_roles
                               where rolname = 'exodrive_worker'";
                    connection.execute(sql).await?;
                    Ok(())
                })
            })
            .connect_lazy_with(options);
        Ok(Self::of(pool.clone(), pool))
    }

    /// The same database for commands: they read views by the connections that they share with
    /// readiness, and do not wait for readers.
    #[must_use]
    pub fn for_commands(&self) -> Self {
        Self { views: self.pool.clone(), ..self.clone() }
    }

    /// The same database by other connections.
    pub(super) fn by(&self, pool: PgPool) -> Self {
        Self { pool: pool.clone(), views: pool, ..self.clone() }
    }

    /// Begins to read these views as `identity`. Queries of others are refused.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn read_as(
        &self,
        identity: &Identity,
        views: &[&'static str],
    ) -> Result<ReadTransaction, Error> {
        let mut transaction = Transaction::begin(&self.views).await?;
        sqlx::query!(
            "select set_config('exodrive.identity', $1, true) as identity,
                    set_config('exodrive.subject', $2, true) as subject,
                    set_config('role', $3, true) as role",
            identity.name(),
            identity.subject(),
            identity.role()
        )
        .fetch_one(&mut *transaction)
        .await?;
        Ok(ReadTransaction { transaction, views: views.to_vec() })
    }

    /// True if every migration of this release has been applied.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn is_migrated(&self) -> Result<bool, Error> {
        let applied: Option<i64> =
            sqlx::query_scalar("select max(version) from _sqlx_migrations where success")
                .fetch_one(&self.pool)
                .await?;
        Ok(applied >= exodrive_migrations::MIGRATOR.iter().map(|migration| migration.version).max())
    }

    /// The connections to the engine's tables, for code that has tables of its own in the same
    /// database.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The connections that views are read by, for what many readers ask for.
    pub fn readers(&self) -> &PgPool {
        &self.views
    }
}

/// Options of every connection. Notices, such as that a view to be dropped does not exist, help
/// nobody. The server ends a session whose client is silent for 25 s, or acknowledges nothing for
/// 20 s.
pub(super) fn options(url: &str, application: &str) -> Result<PgConnectOptions, Error> {
    let options = PgConnectOptions::from_str(url)?.application_name(application);
    Ok(options.options([
        ("client_min_messages", "warning"),
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "20000"),
    ]))
}
