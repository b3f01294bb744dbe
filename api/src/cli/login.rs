//! The check that a process logs in to the database as nobody who may do more than it needs.

use super::Failure;
use exodrive_projections::{Database, engine::Login};
use exodrive_runtime::{error_chain, tasks::Tasks};
use std::time::Duration;

/// The pause between two attempts while the database does not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// The setting that says as whom a login connects.
pub(super) fn variable(login: Login) -> &'static str {
    match login {
        Login::Api => "EXODRIVE_DATABASE_URL",
        Login::Worker => "EXODRIVE_DATABASE_WORKER_URL",
    }
}

/// What is wrong with a login that may do more than it should.
pub(super) fn fault(login: Login, excess: &[String]) -> String {
    format!(
        "the login {} {}: give it one of its own (docs/postgres.sql)",
        variable(login),
        excess.join(" and ")
    )
}

/// Refuses a login that may do more than it should. While the database does not answer, a task
/// goes on asking, and ends with the fault.
///
/// # Errors
/// When the login may do more than it should, or is refused by the database.
pub(super) async fn refuse_excess(
    database: &Database,
    login: Login,
    tasks: &Tasks,
) -> Result<(), Failure> {
    match database.excess_of(login).await {
        Ok(excess) if excess.is_empty() => Ok(()),
        Ok(excess) => Err(fault(login, &excess).into()),
        Err(error) => {
            let error = error_chain(&error);
            tracing::warn!(error, "Cannot find out yet what {} may do", variable(login));
            let (database, stop) = (database.clone(), tasks.stop().clone());
            tasks.spawn("database-login", async move {
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(PAUSE) => {}
                    }
                    match database.excess_of(login).await {
                        Ok(excess) if excess.is_empty() => break,
                        Ok(excess) => {
                            tracing::error!("{}", fault(login, &excess));
                            return;
                        }
                        Err(_) => {}
                    }
                }
                stop.cancelled().await;
            });
            Ok(())
        }
    }
}
