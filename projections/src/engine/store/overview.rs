//! Lists of projections' generations, rebuilds and parked events.

use crate::{Database, Error, engine::store};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Row, types::Json};
use utoipa::ToSchema;
use uuid::Uuid;

/// A generation of a projection.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Generation {
    /// Its number.
    pub generation: i32,
    /// The fold's version that wrote its rows.
    pub version: i32,
    /// `building`, `catching_up`, `active`, `previous` or `dropping`.
    pub state: String,
    /// Number of partitions of its keys.
    pub partitions: i32,
    /// Every event up to here is in its rows.
    pub position: i64,
    /// Its worker, or several.
    pub worker: Option<String>,
    /// Time until which the worker alone may write it.
    pub lease_until: Option<DateTime<Utc>>,
    /// Time that it was begun.
    pub created_at: DateTime<Utc>,
}

/// A rebuild, a rollback, or the build of a new version.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the columns of `rebuilds`, which say it")]
pub struct Rebuild {
    pub id: Uuid,
    pub projection: String,
    pub kind: String,
    pub version: i32,
    pub key: Option<String>,
    pub from_position: Option<i64>,
    pub partitions: Option<i32>,
    pub actor: String,
    pub reason: String,
    pub requested_at: DateTime<Utc>,
    pub state: String,
    pub generation: Option<i32>,
    pub accepted: bool,
    pub cancel_wanted: bool,
    pub done: i64,
    pub total: i64,
    pub events_per_second: f32,
    pub resident: i64,
    pub resident_limit: i64,
    pub yielded_seconds: f32,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub comparison: Option<Value>,
    pub error: Option<String>,
    pub worker: Option<String>,
}

impl Rebuild {
    /// True if the rebuild has ended.
    pub fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "done" | "cancelled" | "failed")
    }
}

/// An event that could not be folded, or waits behind one.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ParkedEvent {
    /// Key of the row, or the subject if the event cannot be read.
    pub key: String,
    /// Its position in the log.
    pub position: i64,
    /// The error; empty if it only waits behind another event.
    pub error: String,
    /// Time that it was parked.
    pub parked_at: DateTime<Utc>,
    /// Number of retries so far.
    pub attempts: i32,
    /// Time of the next retry; null if it waits for an operator.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// True if an operator has requested a retry.
    #[serde(alias = "retry_wanted")]
    pub retry_requested: bool,
}

impl Database {
    /// The generations of a projection, newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn generations(&self, projection: &str) -> Result<Vec<Generation>, Error> {
        let rows = sqlx::query_scalar!(
            r#"select to_jsonb(generations) || jsonb_build_object(
                   'position', min(position), 'worker', string_agg(distinct worker, ' '),
                   'lease_until', max(lease_until)) as "row!"
               from generations join checkpoints using (projection, generation)
               where projection = $1 group by projection, generation
               order by generation desc"#,
            projection
        );
        decode_rows(rows.fetch_all(self.pool()).await?)
    }

    /// One rebuild.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rebuild(&self, id: Uuid) -> Result<Option<Rebuild>, Error> {
        let row = sqlx::query_scalar!(
            r#"select to_jsonb(rebuilds) as "row!" from rebuilds where id = $1::text::uuid"#,
            id.to_string()
        );
        Ok(decode_rows(row.fetch_all(self.pool()).await?)?.pop())
    }

    /// The latest rebuilds, newest first: of one projection, or of all.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rebuilds(
        &self,
        projection: Option<&str>,
        limit: i64,
    ) -> Result<Vec<Rebuild>, Error> {
        let rows = sqlx::query_scalar!(
            r#"select to_jsonb(rebuilds) as "row!" from rebuilds
               where $1::text is null or projection = $1
               order by requested_at desc, id limit $2"#,
            projection,
            limit
        );
        decode_rows(rows.fetch_all(self.pool()).await?)
    }

    /// Parked events of a generation, or of one key of it, in log order.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn parked(
        &self,
        projection: &str,
        generation: i32,
        key: Option<&str>,
        limit: i64,
    ) -> Result<Vec<ParkedEvent>, Error> {
        let rows = sqlx::query_scalar!(
            r#"select to_jsonb(parked_events) as "row!" from parked_events
               where projection = $1 and generation = $2 and ($3::text is null or key = $3)
               order by position limit $4"#,
            projection,
            generation,
            key,
            limit
        );
        decode_rows(rows.fetch_all(self.pool()).await?)
    }

    /// A row of the active generation: its position and its data. Only the owner of the database
    /// sees rows here.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn stored_row(
        &self,
        projection: &'static str,
        key: &str,
    ) -> Result<Option<(u64, Value)>, Error> {
        let sql = format!("select position, data from public.{projection} where key = $1");
        let row = sqlx::query(AssertSqlSafe(sql)).bind(key).fetch_optional(self.pool()).await?;
        let Some(row) = row else { return Ok(None) };
        let Json(data) = row.try_get("data")?;
        Ok(Some((store::to_u64(row.try_get("position")?), data)))
    }
}

/// Rows as Postgres writes them in JSON; its form of times and ids is the same as ours.
fn decode_rows<T: DeserializeOwned>(rows: Vec<Value>) -> Result<Vec<T>, Error> {
    let read = |row| serde_json::from_value(row).map_err(|error| sqlx::Error::Decode(error.into()));
    Ok(rows.into_iter().map(read).collect::<Result<_, _>>()?)
}
