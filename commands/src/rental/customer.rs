//! The customer of a booking: found by the email address, and made with the first booking.

use super::{Done, RentalCommands, RentalError};
use crate::context::CommandContext;
use exodrive_domain::{
    booking::{Booking, BookingAction, BookingCommand, Customer},
    fleet::Car,
    id::{BookingId, CarId, CustomerId},
    value::address_key,
};
use exodrive_log::AppendError;
use std::sync::Arc;
use uuid::Uuid;

/// Attempts to decide for a customer who is erased meanwhile.
const ATTEMPTS: usize = 3;

/// The id that a command names before it is decided: [`RentalCommands`] puts that of the customer
/// with the address in its place.
pub fn customer_by_address() -> CustomerId {
    Uuid::nil().into()
}

/// The customer whom a command names by address.
fn named(command: &BookingCommand) -> Option<&Customer> {
    match command {
        BookingCommand::Hold(new) => Some(&new.customer),
        BookingCommand::Import(import) => Some(&import.customer),
        BookingCommand::Change(_, BookingAction::ChangeCustomer { customer, .. }) => Some(customer),
        BookingCommand::Change(..) => None,
    }
}

fn with_id(command: &BookingCommand, id: CustomerId) -> BookingCommand {
    let mut command = command.clone();
    match &mut command {
        BookingCommand::Hold(new) => new.customer_id = id,
        BookingCommand::Import(import) => import.customer_id = id,
        BookingCommand::Change(_, BookingAction::ChangeCustomer { customer_id, .. }) => {
            *customer_id = id;
        }
        BookingCommand::Change(..) => {}
    }
    command
}

impl RentalCommands {
    /// Decides a command for the customer whom it names by address, if it names one. A customer is
    /// made only for a command that is accepted: what is refused leaves nothing.
    pub(super) async fn decide(
        &self,
        car_id: CarId,
        car: Option<&Car>,
        booking_id: BookingId,
        command: &BookingCommand,
        context: &CommandContext,
    ) -> Result<Done<Arc<Booking>>, RentalError> {
        let Some(customer) = named(command) else {
            return self.decide_as(car_id, car, booking_id, (command, true), context).await;
        };
        let address = address_key(&customer.details.0.email);
        let secret = self.earlier_ids.as_ref();
        let earlier = secret.map(|secret| secret.earlier_customer_ids(&address));
        let earlier = earlier.unwrap_or_default();
        let log = self.log();
        for _ in 0..ATTEMPTS {
            let id = match log.find_customer(&address, &earlier).await? {
                Some(id) => id,
                None => {
                    let asked = (command, false);
                    match self.decide_as(car_id, car, booking_id, asked, context).await {
                        Err(RentalError::NoCustomer) => {}
                        outcome => return outcome,
                    }
                    log.find_or_make_customer(&address, &earlier).await?
                }
            };
            let command = with_id(command, id);
            let asked = (&command, true);
            let outcome = self.decide_as(car_id, car, booking_id, asked, context).await;
            match outcome {
                Err(RentalError::Append(AppendError::Erased)) => {}
                outcome => return outcome,
            }
        }
        Err(RentalError::Busy)
    }
}
