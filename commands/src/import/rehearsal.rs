//! Rehearsal of an import (a dry run): the same decisions on copies of the
//! states, without appending.

use super::{ImportCommand, Outcome, Plan, Precedents, Step, meta};
use crate::{
    context::CommandContext,
    rental::{RentalCommands, RentalError},
};
use chrono::{DateTime, Utc};
use exodrive_domain::{
    Envelope, Event, Meta, Payload, Recorded,
    booking::{self, BookingEvent, BookingRejection, Calendar},
    fleet::{self, Car, FleetCommand, FleetRejection},
    id::CarId,
};
use exodrive_log::Log;
use std::collections::HashMap;

/// A rehearsal of an import, with copies of the states that it changes.
pub struct Rehearsal<'a> {
    rental: &'a RentalCommands,
    now: DateTime<Utc>,
    position: u64,
    cars: HashMap<CarId, Option<Car>>,
    calendars: HashMap<CarId, Calendar>,
}

impl<'a> Rehearsal<'a> {
    /// A rehearsal on the system as it is now.
    pub fn new(rental: &'a RentalCommands) -> Self {
        Self {
            rental,
            now: rental.now(),
            position: u64::MAX / 2,
            cars: HashMap::new(),
            calendars: HashMap::new(),
        }
    }

    /// Goes through a plan. `done` is called with each step.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn run(
        mut self,
        log: &Log,
        plan: &Plan,
        mut done: impl FnMut(&Step, Outcome),
    ) -> Result<(), RentalError> {
        let precedents = Precedents::read(log).await?;
        for step in plan.stages.iter().flat_map(|stage| stage.values()).flatten() {
            let send = async |context: CommandContext| self.apply_step(step, &context).await;
            let outcome = precedents.settle(log, step, send).await?;
            done(step, outcome);
        }
        Ok(())
    }

    async fn apply_step(
        &mut self,
        step: &Step,
        context: &CommandContext,
    ) -> Result<Outcome, RentalError> {
        let meta = meta(context, self.now);
        match &step.command {
            ImportCommand::Car(car_id, command) => {
                let car = self.car(*car_id).await?;
                let event = match fleet::decide(car.as_ref(), command, &meta) {
                    Err(FleetRejection::Unchanged) => return Ok(Outcome::Known),
                    decided => decided.map_err(RentalError::Fleet)?,
                };
                if let FleetCommand::Add { slug, .. } = command
                    && self.rental.car_by_slug(&slug.to_string()).await?.is_some()
                {
                    return Err(RentalError::SlugTaken);
                }
                let recorded = self.recorded(&meta, event.change.kind());
                self.cars.insert(*car_id, fleet::evolve(car, &event, &recorded));
            }
            ImportCommand::Booking(car_id, command) => {
                let mut car_id = *car_id;
                let event: BookingEvent = loop {
                    let car = self.car(car_id).await?;
                    let calendar = self.calendar(car_id).await?;
                    match booking::decide(calendar, car.as_ref(), car_id, command, &meta) {
                        Err(BookingRejection::MovedTo(other)) => car_id = other,
                        decided => break decided.map_err(RentalError::Booking)?,
                    }
                };
                let recorded = self.recorded(&meta, event.change.kind());
                self.learn(car_id, &recorded, &Payload::Booking(event));
            }
            ImportCommand::Block(car_id, block_id, days, reason) => {
                let ids = (*car_id, *block_id);
                if self.car(*car_id).await?.is_none() {
                    return Err(RentalError::Booking(BookingRejection::NoSuchCar));
                }
                let calendar = self.calendar(*car_id).await?;
                let event = booking::decide_block(calendar, ids, *days, reason, false, &meta);
                let event = event.map_err(RentalError::Booking)?;
                let recorded = self.recorded(&meta, event.change.kind());
                self.learn(*car_id, &recorded, &Payload::Block(event));
            }
            ImportCommand::Email(..) => {}
        }
        Ok(Outcome::Taken)
    }

    async fn car(&mut self, car_id: CarId) -> Result<Option<Car>, RentalError> {
        if let Some(car) = self.cars.get(&car_id) {
            return Ok(car.clone());
        }
        let car = self.rental.car(car_id).await?;
        self.cars.insert(car_id, car.clone());
        Ok(car)
    }

    async fn calendar(&mut self, car_id: CarId) -> Result<&mut Calendar, RentalError> {
        if !self.calendars.contains_key(&car_id) {
            let calendar = self.rental.calendar(car_id).await?;
            self.calendars.insert(car_id, Calendar::clone(&calendar));
        }
        Ok(self.calendars.entry(car_id).or_default())
    }

    fn learn(&mut self, car_id: CarId, recorded: &Recorded, payload: &Payload) {
        self.calendars.entry(car_id).or_default().evolve(&Event { recorded, payload });
    }

    /// The event in the form that the log would store.
    fn recorded(&mut self, meta: &Meta, kind: &str) -> Recorded {
        self.position += 1;
        Recorded {
            position: self.position,
            subject: String::new(),
            stored_at: self.now,
            envelope: Envelope::decision(kind, &*meta.command_id, meta.now),
            provider_headers: Vec::new(),
            body: Default::default(),
            protection: None,
        }
    }
}
