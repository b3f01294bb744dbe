//! The state of the worker that ends holds: the open holds, and the position up to which the log is
//! in them. It follows the log and no view, so that whatever a view lacks, each hold ends.

use super::{check_log, to_i64, to_u64};
use crate::{Database, Error, Transaction};
use chrono::{DateTime, Utc};
use exodrive_domain::{
    id::{BookingId, CarId},
    time,
};
use exodrive_log::Log;
use std::collections::BTreeMap;
use uuid::Uuid;

/// The worker, as in `worker_status`.
const WORKER: &str = "hold-expiry";

/// Days of a car that are held for a booking that is not paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenHold {
    /// The car.
    pub car_id: CarId,
    /// The time at which the hold ends.
    pub ends_at: DateTime<Utc>,
}

impl Database {
    /// The position up to which the log is in the open holds. Empties them if some are missing:
    /// they are then to be filled from the beginning of the log.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn open_holds_position(&self) -> Result<u64, Error> {
        let found = sqlx::query!(
            r#"select position, rows = (select count(*) from open_holds) as "whole!"
               from worker_positions where worker = $1"#,
            WORKER
        )
        .fetch_optional(self.pool())
        .await?;
        match found {
            Some(found) if found.whole => Ok(to_u64(found.position)),
            _ => self.repair_open_holds().await,
        }
    }

    /// Empties the open holds, unless another worker has just made them whole.
    async fn repair_open_holds(&self) -> Result<u64, Error> {
        let mut transaction = Transaction::begin(self.pool()).await?;
        sqlx::query!(
            "insert into worker_positions (worker, position, rows) values ($1, 0, 0)
             on conflict do nothing",
            WORKER
        )
        .execute(&mut *transaction)
        .await?;
        let position = sqlx::query_scalar!(
            "select position from worker_positions where worker = $1 for update",
            WORKER
        )
        .fetch_one(&mut *transaction)
        .await?;
        // In a statement of its own, after the lock: it sees what was written before.
        let whole = sqlx::query_scalar!(
            r#"select rows = (select count(*) from open_holds) as "whole!"
               from worker_positions where worker = $1"#,
            WORKER
        )
        .fetch_one(&mut *transaction)
        .await?;
        if whole {
            transaction.commit().await?;
            return Ok(to_u64(position));
        }
        tracing::warn!(position, "Open holds are missing: they are filled again from the log");
        sqlx::query!("delete from open_holds").execute(&mut *transaction).await?;
        sqlx::query!(
            "update worker_positions set position = 0, rows = 0 where worker = $1",
            WORKER
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(0)
    }

    /// Makes sure that the open holds are of this log and not ahead of it.
    ///
    /// # Errors
    /// When they are not, or the log or the database does not answer.
    pub async fn check_open_holds(&self, log: &Log, position: u64) -> Result<(), Error> {
        check_log(self.pool(), &time::format(&log.created_at())).await?;
        let end = log.last_position_expecting(position).await?;
        if position > end {
            return Err(Error::WorkerAheadOfLog { worker: WORKER, position, end });
        }
        Ok(())
    }

    /// Moves the open holds from one position of the log to another: opens holds, or ends them
    /// (`None`). Returns false, and changes nothing, if another worker has moved them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn change_open_holds(
        &self,
        from: u64,
        to: u64,
        changes: &BTreeMap<BookingId, Option<OpenHold>>,
    ) -> Result<bool, Error> {
        let mut transaction = Transaction::begin(self.pool()).await?;
        // First, so that another worker waits here, and then finds another position.
        let moved = sqlx::query!(
            "update worker_positions set position = $3 where worker = $1 and position = $2",
            WORKER,
            to_i64(from),
            to_i64(to)
        )
        .execute(&mut *transaction)
        .await?;
        if moved.rows_affected() == 0 {
            return Ok(false);
        }
        let over: Vec<Uuid> = changes.keys().map(|id| (*id).into()).collect();
        let closed = sqlx::query!("delete from open_holds where booking_id = any($1)", &over)
            .execute(&mut *transaction)
            .await?;
        let open = || changes.iter().filter_map(|(id, hold)| Some((*id, (*hold)?)));
        let bookings: Vec<Uuid> = open().map(|(id, _)| id.into()).collect();
        let cars: Vec<Uuid> = open().map(|(_, hold)| hold.car_id.into()).collect();
        let ends: Vec<i64> = open().map(|(_, hold)| hold.ends_at.timestamp_micros()).collect();
        let opened = sqlx::query!(
            "insert into open_holds (booking_id, car_id, ends_at)
             select booking_id, car_id, timestamptz 'epoch' + micros * interval '1 microsecond'
             from unnest($1::uuid[], $2::uuid[], $3::bigint[]) as open (booking_id, car_id, micros)",
            &bookings,
            &cars,
            &ends
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query!(
            "update worker_positions set rows = rows + $2 where worker = $1",
            WORKER,
            to_i64(opened.rows_affected()) - to_i64(closed.rows_affected())
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// The bookings, and their cars, whose holds have ended by `now`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn ended_holds(&self, now: DateTime<Utc>) -> Result<Vec<(BookingId, CarId)>, Error> {
        let found = sqlx::query!(
            "select booking_id, car_id from open_holds
             where ends_at <= timestamptz 'epoch' + $1::bigint * interval '1 microsecond'
             order by ends_at, booking_id",
            now.timestamp_micros()
        )
        .fetch_all(self.pool())
        .await?;
        Ok(found.into_iter().map(|row| (row.booking_id.into(), row.car_id.into())).collect())
    }

    /// The car of a booking that has an open hold.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn car_of_open_hold(&self, booking_id: BookingId) -> Result<Option<CarId>, Error> {
        let car_id = sqlx::query_scalar!(
            "select car_id from open_holds where booking_id = $1",
            Uuid::from(booking_id)
        );
        Ok(car_id.fetch_optional(self.pool()).await?.map(CarId::from))
    }
}
