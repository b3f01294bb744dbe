//! Command handlers for cars and bookings: load, decide, append, and answer
//! with the state after the event. Used by HTTP, the import, and the worker
//! that ends holds.

mod customer;
mod error;
mod secret;

pub use customer::customer_by_address;
pub use error::RentalError;
pub use secret::BookingSecret;

use crate::{
    context::CommandContext,
    event::{booking_event, command_event, fleet_event},
};
use chrono::{DateTime, Utc};
use error::{Rejected, failure, load_failure};
use exodrive_domain::{
    KnownEvent, Meta, Payload, Recorded, Repeat, Subject,
    booking::{
        self, Action, Block, BlockEvent, Booking, BookingAction, BookingCommand, BookingRejection,
        Calendar,
    },
    days::Days,
    fleet::{self, Car, FleetChange, FleetCommand, FleetEvent, FleetRejection},
    id::{BlockId, BookingId, CarId},
    value::Reason,
};
use exodrive_log::{CarState, ClaimError, Commands, DecisionState, Loaded, Log, ReadError};
use exodrive_projections::{
    Database, Identity, engine::cache as views, views::bookings::read as bookings,
};
use moka::sync::Cache;
use redis::Cmd;
use std::{sync::Arc, time::Duration};

/// Seconds for which Redis shows other processes the car of a booking.
const SHARED_SECONDS: u64 = 24 * 3_600;
/// Bookings whose car is cached in memory.
const REMEMBERED: u64 = 100_000;
/// Time to wait for a booking that the view does not have yet.
const VIEW_WAIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Moves from car to car that are followed while a booking is looked up.
const MOVES: usize = 5;

/// A command that was executed.
#[derive(Clone, Debug)]
pub struct Done<T> {
    /// The car, booking or calendar after it.
    pub value: T,
    /// Position of its event.
    pub position: u64,
    /// Time at which it was executed.
    pub at: DateTime<Utc>,
    /// True if this is a repeat. `value` is then the state after the first
    /// execution.
    pub replayed: bool,
}

/// Command handlers for cars and bookings. Cheap to clone.
#[derive(Clone)]
pub struct RentalCommands {
    commands: Commands,
    database: Database,
    redis: views::Cache,
    cars: Cache<BookingId, CarId>,
    /// Says which ids earlier releases have given to customers.
    earlier_ids: Option<BookingSecret>,
}

impl RentalCommands {
    /// Decides by `commands`; `database` and `redis` say which car a booking is
    /// of.
    pub fn new(commands: Commands, database: Database, redis: views::Cache) -> Self {
        let cars = Cache::builder().max_capacity(REMEMBERED).build();
        Self { commands, database, redis, cars, earlier_ids: None }
    }

    /// The same handlers, which know the customers of earlier releases again by the secret that
    /// their ids were derived from.
    #[must_use]
    pub fn with_earlier_ids(self, secret: BookingSecret) -> Self {
        Self { earlier_ids: Some(secret), ..self }
    }

    /// The log that they decide on.
    pub fn log(&self) -> &Log {
        self.commands.log()
    }

    /// The present time by the log's clock.
    pub fn now(&self) -> DateTime<Utc> {
        self.log().now()
    }

    fn meta(&self, context: &CommandContext) -> Meta {
        Meta {
            command_id: context.command_id.clone(),
            request_hash: context.request_hash.clone(),
            now: context.happened_at.unwrap_or_else(|| self.now()),
            if_position: context.if_position.clone(),
            by_staff: context.actor.is_staff(),
        }
    }

    /// The present state of a car.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn car(&self, car_id: CarId) -> Result<Option<Car>, RentalError> {
        let loaded: Loaded<CarState> =
            self.commands.load(&Subject::Fleet(car_id)).await.map_err(load_failure)?;
        Ok(loaded.state.0.clone())
    }

    /// The car that has a slug, by the event that claimed it.
    ///
    /// # Errors
    /// When the log does not answer, or this release cannot read that event.
    pub async fn car_by_slug(&self, slug: &str) -> Result<Option<CarId>, RentalError> {
        // Also rejects what would be a filter for many subjects.
        let Ok(subject) = Subject::Slug(slug.to_owned()).to_string().parse::<Subject>() else {
            return Ok(None);
        };
        let Some(claim) = self.log().next_under(&subject.to_string(), 1).await? else {
            return Ok(None);
        };
        match KnownEvent::read(&claim)?.event().payload {
            Payload::Fleet(FleetEvent { car_id, .. }) => Ok(Some(*car_id)),
            _ => Ok(None),
        }
    }

    /// The present calendar of a car.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn calendar(&self, car_id: CarId) -> Result<Arc<Calendar>, RentalError> {
        let loaded = self.commands.load(&Subject::Booking(car_id)).await.map_err(load_failure)?;
        Ok(loaded.state)
    }

    /// Adds a car or changes it.
    ///
    /// # Errors
    /// [`RentalError`].
    pub async fn change_car(
        &self,
        car_id: CarId,
        command: &FleetCommand,
        context: &CommandContext,
    ) -> Result<Done<Car>, RentalError> {
        let subject = Subject::Fleet(car_id);
        let mut at = Utc::now();
        let mut decide = |state: &CarState| {
            let meta = self.meta(context);
            at = meta.now;
            let event = fleet::decide(state.0.as_ref(), command, &meta).map_err(Rejected::Fleet)?;
            Ok::<_, Rejected>((
                fleet_event(&event, subject.clone(), &meta, context, "")?,
                event,
                meta,
            ))
        };
        let outcome = if let FleetCommand::Add { slug, .. } = command {
            let claiming = |state: &CarState| {
                let (added, event, meta) = decide(state)?;
                let change = FleetChange::SlugClaimed { slug: slug.to_string() };
                let claim = FleetEvent { change, ..event };
                let claim =
                    fleet_event(&claim, Subject::Slug(slug.to_string()), &meta, context, "-slug")?;
                Ok::<_, Rejected>((added, claim))
            };
            let claimed = self.commands.execute_claiming(&subject, claiming).await;
            claimed.map_err(|error| match error {
                ClaimError::Taken => RentalError::SlugTaken,
                ClaimError::Command(error) => failure(error),
            })
        } else {
            let done = self.commands.execute(&subject, |state| decide(state).map(|it| it.0)).await;
            done.map_err(failure)
        };
        let mut replayed = false;
        let (state, position): (Option<Car>, u64) = match outcome {
            Ok(done) => {
                replayed = done.repeated;
                (done.state.0.clone(), done.position)
            }
            Err(RentalError::Fleet(FleetRejection::Unchanged)) => {
                let car = self.car(car_id).await?;
                let position = car.as_ref().map_or(0, |car| car.position);
                (car, position)
            }
            Err(RentalError::Fleet(FleetRejection::AlreadyDone(position))) => {
                let (state, recorded): (CarState, _) = self.load_past_state(position).await?;
                (at, replayed) = (recorded.envelope.time, true);
                (state.0, position)
            }
            Err(error) => return Err(error),
        };
        let value = state.ok_or(RentalError::Fleet(FleetRejection::NoSuchCar))?;
        Ok(Done { value, position, at, replayed })
    }

    /// Makes a booking of a car, or imports one.
    ///
    /// # Errors
    /// [`RentalError`].
    pub async fn book(
        &self,
        car_id: CarId,
        command: &BookingCommand,
        context: &CommandContext,
    ) -> Result<Done<Arc<Booking>>, RentalError> {
        let car = self.car(car_id).await?;
        let booking_id = match command {
            BookingCommand::Hold(new) => new.id,
            BookingCommand::Import(import) => import.id,
            BookingCommand::Change(id, _) => *id,
        };
        match self.decide(car_id, car.as_ref(), booking_id, command, context).await {
            // The booking was made on this car and is on another car now.
            Err(RentalError::Booking(BookingRejection::MovedTo(other))) => {
                self.find_replayed(booking_id, other, context).await
            }
            outcome => outcome,
        }
    }

    /// Executes an action on a booking.
    ///
    /// # Errors
    /// [`RentalError`].
    pub async fn change_booking(
        &self,
        booking_id: BookingId,
        act: BookingAction,
        context: &CommandContext,
    ) -> Result<Done<Arc<Booking>>, RentalError> {
        let car_id = self.car_of(booking_id).await?;
        self.change_booking_on(car_id, booking_id, act, context).await
    }

    /// The same, for a caller that knows a car of the booking: no view is
    /// asked. The booking may have left that car.
    ///
    /// # Errors
    /// [`RentalError`].
    pub async fn change_booking_on(
        &self,
        mut car_id: CarId,
        booking_id: BookingId,
        act: BookingAction,
        context: &CommandContext,
    ) -> Result<Done<Arc<Booking>>, RentalError> {
        let needs_car =
            matches!(act, BookingAction::Reschedule { .. } | BookingAction::Extend { .. });
        let command = BookingCommand::Change(booking_id, act);
        for _ in 0..MOVES {
            let car = if needs_car { self.car(car_id).await? } else { None };
            match self.decide(car_id, car.as_ref(), booking_id, &command, context).await {
                Err(RentalError::Booking(BookingRejection::MovedTo(other))) => car_id = other,
                outcome => return outcome,
            }
        }
        Err(RentalError::Busy)
    }

    /// Decides a command. `known` is false if the id of its customer is not found yet: what would be
    /// accepted is then [`RentalError::NoCustomer`].
    async fn decide_as(
        &self,
        car_id: CarId,
        car: Option<&Car>,
        booking_id: BookingId,
        (command, known): (&BookingCommand, bool),
        context: &CommandContext,
    ) -> Result<Done<Arc<Booking>>, RentalError> {
        let subject = Subject::Booking(car_id);
        let mut at = Utc::now();
        let decided = self.commands.execute(&subject, |calendar: &Calendar| {
            let meta = self.meta(context);
            at = meta.now;
            if let BookingCommand::Change(id, act) = command {
                authorize(calendar, *id, act.action(), context, at)?;
            }
            let event = booking::decide(calendar, car, car_id, command, &meta)?;
            if !known {
                return Err(Rejected::NoCustomer);
            }
            Ok::<_, Rejected>(booking_event(&event, &meta, context, "")?)
        });
        match decided.await.map_err(failure) {
            Ok(done) => {
                self.remember(booking_id, car_id);
                let value = find_in_calendar(&done.state, booking_id)?;
                Ok(Done { value, position: done.position, at, replayed: done.repeated })
            }
            Err(RentalError::Booking(BookingRejection::Unchanged)) => {
                let value = find_in_calendar(&*self.calendar(car_id).await?, booking_id)?;
                let position = value.position;
                Ok(Done { value, position, at, replayed: false })
            }
            Err(RentalError::Booking(BookingRejection::AlreadyDone(position))) => {
                self.load_past_booking(booking_id, position).await
            }
            Err(error) => Err(error),
        }
    }

    /// Moves a booking to another car: both calendars change, or neither.
    ///
    /// # Errors
    /// [`RentalError`].
    pub async fn move_booking(
        &self,
        booking_id: BookingId,
        to: CarId,
        keep_price: bool,
        reason: Option<&Reason>,
        expected_total_cents: Option<i64>,
        context: &CommandContext,
    ) -> Result<Done<Arc<Booking>>, RentalError> {
        let target_car =
            self.car(to).await?.ok_or(RentalError::Booking(BookingRejection::NoSuchCar))?;
        let target = Subject::Booking(to);
        let mut from = self.car_of(booking_id).await?;
        for _ in 0..MOVES {
            if from == to {
                return self.move_to_own_car(booking_id, to, expected_total_cents, context).await;
            }
            let source = Subject::Booking(from);
            let mut at = Utc::now();
            let decide = |here: &Calendar, there: &Calendar| {
                let meta = self.meta(context);
                at = meta.now;
                authorize(here, booking_id, Action::Move, context, at)?;
                let [out, into] = booking::decide_move(
                    [here, there],
                    booking_id,
                    &target_car,
                    keep_price,
                    reason,
                    expected_total_cents,
                    &meta,
                )?;
                let out = booking_event(&out, &meta, context, "-out")?;
                Ok::<_, Rejected>([out, booking_event(&into, &meta, context, "")?])
            };
            let moved = self.commands.execute_both([&source, &target], decide).await;
            match moved.map_err(failure) {
                Ok([_, there]) => {
                    self.remember(booking_id, to);
                    let value = find_in_calendar(&there.state, booking_id)?;
                    let (position, replayed) = (there.position, there.repeated);
                    return Ok(Done { value, position, at, replayed });
                }
                Err(RentalError::Booking(BookingRejection::MovedTo(other))) => from = other,
                Err(RentalError::Booking(BookingRejection::AlreadyDone(position))) => {
                    return self.load_past_booking(booking_id, position).await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(RentalError::Busy)
    }

    /// The calendar on which a booking that has moved is now.
    async fn calendar_of_moved(
        &self,
        booking_id: BookingId,
        mut car_id: CarId,
    ) -> Result<Arc<Calendar>, RentalError> {
        for _ in 0..MOVES {
            let calendar = self.calendar(car_id).await?;
            match calendar.moved.get(&booking_id) {
                Some(other) => car_id = *other,
                None => return Ok(calendar),
            }
        }
        Err(RentalError::Busy)
    }

    /// Moves a booking to the car that it is on: changes nothing. The command may
    /// have been executed before, as the one that moved it here too.
    async fn move_to_own_car(
        &self,
        booking_id: BookingId,
        car_id: CarId,
        expected_total_cents: Option<i64>,
        context: &CommandContext,
    ) -> Result<Done<Arc<Booking>>, RentalError> {
        let meta = self.meta(context);
        let calendar = self.calendar_of_moved(booking_id, car_id).await?;
        let booking = find_in_calendar(&calendar, booking_id)?;
        if meta.repeats(&booking.commands).is_none() {
            authorize(&calendar, booking_id, Action::Move, context, meta.now)?;
        }
        match booking::decide_move_to_own_car(&calendar, booking_id, expected_total_cents, &meta) {
            BookingRejection::Unchanged => {
                let position = booking.position;
                Ok(Done { value: booking, position, at: meta.now, replayed: false })
            }
            BookingRejection::AlreadyDone(position) => {
                self.load_past_booking(booking_id, position).await
            }
            rejection => Err(RentalError::Booking(rejection)),
        }
    }

    /// Finds the command that made a booking in the history of that booking,
    /// which has moved since.
    async fn find_replayed(
        &self,
        booking_id: BookingId,
        car_id: CarId,
        context: &CommandContext,
    ) -> Result<Done<Arc<Booking>>, RentalError> {
        let meta = self.meta(context);
        let calendar = self.calendar_of_moved(booking_id, car_id).await?;
        let booking = find_in_calendar(&calendar, booking_id)?;
        match meta.repeats(&booking.commands) {
            Some(Repeat::Same(position)) => self.load_past_booking(booking_id, position).await,
            Some(Repeat::Other) => Err(RentalError::Booking(BookingRejection::KeyReused)),
            // An import of a booking that was made otherwise.
            None => {
                authorize(&calendar, booking_id, Action::Move, context, meta.now)?;
                let position = booking.position;
                Ok(Done { value: booking, position, at: meta.now, replayed: false })
            }
        }
    }

    /// Blocks days of a car.
    ///
    /// # Errors
    /// [`RentalError`].
    pub async fn block(
        &self,
        (car_id, block_id): (CarId, BlockId),
        days: Days,
        reason: &Reason,
        force: bool,
        context: &CommandContext,
    ) -> Result<Done<Option<Block>>, RentalError> {
        if self.car(car_id).await?.is_none() {
            return Err(RentalError::Booking(BookingRejection::NoSuchCar));
        }
        self.change_block((car_id, block_id), context, |calendar, meta| {
            booking::decide_block(calendar, (car_id, block_id), days, reason, force, meta)
        })
        .await
    }

    /// Unblocks days of a car.
    ///
    /// # Errors
    /// [`RentalError`].
    pub async fn unblock(
        &self,
        ids: (CarId, BlockId),
        context: &CommandContext,
    ) -> Result<Done<Option<Block>>, RentalError> {
        self.change_block(ids, context, |calendar, meta| {
            booking::decide_unblock(calendar, ids, meta)
        })
        .await
    }

    async fn change_block(
        &self,
        (car_id, block_id): (CarId, BlockId),
        context: &CommandContext,
        mut decide: impl FnMut(&Calendar, &Meta) -> Result<BlockEvent, BookingRejection>,
    ) -> Result<Done<Option<Block>>, RentalError> {
        let subject = Subject::Booking(car_id);
        let mut at = Utc::now();
        let decided = self.commands.execute(&subject, |calendar: &Calendar| {
            let meta = self.meta(context);
            at = meta.now;
            let event = decide(calendar, &meta)?;
            let kind = event.change.kind();
            Ok::<_, Rejected>(command_event(subject.clone(), kind, &event, &meta, context, "")?)
        });
        match decided.await.map_err(failure) {
            Ok(done) => {
                let value = done.state.blocks.get(&block_id).cloned();
                Ok(Done { value, position: done.position, at, replayed: done.repeated })
            }
            Err(RentalError::Booking(BookingRejection::AlreadyDone(position))) => {
                let (calendar, recorded): (Calendar, _) = self.load_past_state(position).await?;
                let value = calendar.blocks.get(&block_id).cloned();
                Ok(Done { value, position, at: recorded.envelope.time, replayed: true })
            }
            Err(error) => Err(error),
        }
    }

    /// The car of a booking: from this process's cache, from Redis, from the
    /// view, or else, while it is held, from the open holds. Waits for the view
    /// if nothing has the booking yet. The booking may have left that car: the
    /// calendar says so.
    ///
    /// # Errors
    /// When the booking does not exist, or neither view nor log answers.
    pub async fn car_of(&self, booking_id: BookingId) -> Result<CarId, RentalError> {
        if let Some(car_id) = self.cars.get(&booking_id) {
            return Ok(car_id);
        }
        let held = self.redis.query::<Option<String>>(&Cmd::get(car_key(booking_id))).await;
        let found = match held.map(|held| held.and_then(|car_id| car_id.parse().ok())) {
            Ok(Some(car_id)) => Some(car_id),
            // Redis only saves a read: Postgres says it too.
            Ok(None) | Err(_) => self.car_in_database(booking_id).await?,
        };
        let found = match found {
            Some(car_id) => Some(car_id),
            None => {
                let end = self.commands.log().last_position().await?;
                let reached = self.database.wait_for("bookings", end, VIEW_WAIT_TIMEOUT).await?;
                let found = self.car_in_database(booking_id).await?;
                if found.is_none() && reached < end {
                    return Err(RentalError::ViewBehind { reached, end });
                }
                found
            }
        };
        let car_id = found.ok_or(RentalError::Booking(BookingRejection::NoSuchBooking))?;
        self.cars.insert(booking_id, car_id);
        Ok(car_id)
    }

    /// Caches the car of a booking that was made or moved, for other processes
    /// too, until the view has it.
    fn remember(&self, booking_id: BookingId, car_id: CarId) {
        if self.cars.get(&booking_id) == Some(car_id) {
            return;
        }
        self.cars.insert(booking_id, car_id);
        let redis = self.redis.clone();
        tokio::spawn(async move {
            let (key, car_id) = (car_key(booking_id), car_id.to_string());
            let _: Result<(), _> = redis.query(&Cmd::set_ex(key, car_id, SHARED_SECONDS)).await;
        });
    }

    async fn car_in_database(&self, booking_id: BookingId) -> Result<Option<CarId>, RentalError> {
        let mut reader = self.database.read_as(&Identity::System, &["bookings"]).await?;
        if let Some(car_id) = bookings::car_of(&mut reader, &booking_id.to_string()).await? {
            return Ok(Some(car_id));
        }
        drop(reader);
        // The row of the view may be parked: the booking can be paid all the same.
        Ok(self.database.car_of_open_hold(booking_id).await?)
    }

    /// The booking in its state after the event at a position.
    async fn load_past_booking(
        &self,
        booking_id: BookingId,
        position: u64,
    ) -> Result<Done<Arc<Booking>>, RentalError> {
        let (calendar, recorded): (Calendar, _) = self.load_past_state(position).await?;
        let value = find_in_calendar(&calendar, booking_id)?;
        Ok(Done { value, position, at: recorded.envelope.time, replayed: true })
    }

    /// The state of a subject after the event at a position.
    async fn load_past_state<S: DecisionState>(
        &self,
        position: u64,
    ) -> Result<(S, Recorded), RentalError> {
        let log = self.commands.log();
        let gone =
            || RentalError::Read(ReadError::Hole { expected: position, found: position + 1 });
        let stored = log.read_expected(position).await?.ok_or_else(gone)?;
        let recorded = log.decode_stored(stored).await?;
        let subject: Subject = recorded.subject.parse().map_err(|_| gone())?;
        let mut state = S::default();
        for recorded in log.history(&subject).await? {
            if recorded.position > position {
                break;
            }
            state.evolve(&KnownEvent::read(&recorded)?);
        }
        Ok((state, recorded))
    }
}

fn car_key(booking_id: BookingId) -> String {
    format!("exo:car-of:{booking_id}")
}

/// Rejects actors who may not do that with the booking, if it is on this
/// calendar.
fn authorize(
    calendar: &Calendar,
    booking_id: BookingId,
    action: Action,
    context: &CommandContext,
    now: DateTime<Utc>,
) -> Result<(), Rejected> {
    let Some(booking) = calendar.bookings.get(&booking_id) else { return Ok(()) };
    if !context.actor.owns(booking, now) {
        return Err(Rejected::NotTheirs);
    }
    if !context.actor.is_staff() && !action.is_customers() {
        return Err(Rejected::OnlyStaff(action));
    }
    Ok(())
}

fn find_in_calendar(calendar: &Calendar, id: BookingId) -> Result<Arc<Booking>, RentalError> {
    let booking = calendar.bookings.get(&id).cloned();
    booking.ok_or(RentalError::Booking(BookingRejection::NoSuchBooking))
}
