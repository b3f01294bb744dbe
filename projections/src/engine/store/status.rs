//! State of projections, for operators and readiness.

use super::{states::RebuildState, to_u64};
use crate::{Error, version};
use serde::Serialize;
use std::time::Duration;

/// State of a projection, by the generation that readers see.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// The fold's version that wrote the rows.
    pub version: i32,
    /// The active generation.
    pub generation: i32,
    /// Number of partitions of that generation.
    pub partitions: i32,
    /// True if an operator has paused it.
    pub paused: bool,
    /// Reason of the pause.
    pub pause_reason: Option<String>,
    /// The operator who paused it.
    pub paused_by: Option<String>,
    /// The rebuild or rollback that is under way.
    pub rebuild: Option<String>,
    /// The checkpoint; of several partitions the lowest one.
    pub position: i64,
    /// Everything up to here is in Redis.
    pub published: i64,
    /// Events folded in a second, recently.
    pub events_per_second: f32,
    /// Seconds since its worker's last heartbeat; `None` if there never was one.
    pub heartbeat_age_seconds: Option<f64>,
    /// Events parked.
    pub parked: i64,
    /// The worker, or several.
    pub worker: Option<String>,
}

impl crate::Database {
    /// The state of every projection.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn projections(&self) -> Result<Vec<Status>, Error> {
        let rows = sqlx::query_as!(
            Status,
            r#"select name, version, generation, partitions, paused,
                pause_reason, paused_by,
                (select id::text from rebuilds where rebuilds.projection = name
                    and rebuilds.state <> all($1)) as rebuild,
                min(position) as "position!", min(published) as "published!",
                min(events_per_second) as "events_per_second!",
                max(extract(epoch from clock_timestamp() - heartbeat_at))::float8
                    as "heartbeat_age_seconds",
                (select count(*) from parked_events as parked
                 where parked.projection = name and parked.generation = active_generation)
                    as "parked!",
                string_agg(distinct worker, ' ') as worker
             from projections
             join generations on projection = name and generation = active_generation
             join checkpoints using (projection, generation)
             group by name, version, generation, partitions
             order by name"#,
            RebuildState::over() as _
        );
        Ok(rows.fetch_all(self.pool()).await?)
    }

    /// Waits until the rows that this release reads of a projection have reached a position, at
    /// most `timeout`; returns the position reached. However many wait, Postgres is asked for one
    /// of them at a time, and all hear the answer.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn wait_for(
        &self,
        projection: &'static str,
        position: u64,
        timeout: Duration,
    ) -> Result<u64, Error> {
        let reached = || async {
            let reached = sqlx::query_scalar!(
                r#"select min(position) as "position!" from checkpoints
                   where projection = $1 and generation = generation_read($1, $2)"#,
                projection,
                version(projection)
            );
            Ok::<_, Error>(to_u64(reached.fetch_one(self.readers()).await?))
        };
        match self.watches().of(projection) {
            Some(watch) => watch.wait(position, timeout, reached).await,
            None => reached().await,
        }
    }
}
