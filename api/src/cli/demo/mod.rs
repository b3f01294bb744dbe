//! `exodrive demo`: the main tasks on sample data.

mod mail;
mod rental;

use super::{Failure, up::Up};
use crate::settings::{BookingSettings, Connections, Given, HttpSettings};
use exodrive_runtime::folder;
use std::time::Duration;

#[derive(clap::Args)]
#[command(
    after_help = "Imports a season of rentals, shows the fleet and a calendar, makes a booking, shows
that no other customer gets its days, and cancels it; then sends sample deliveries through
the webhook and shows the history of one email.

Examples:
  exodrive demo              against the system that runs in .exodrive; starts one if none does
  exodrive demo --seed 7     another order of deliveries"
)]
pub(super) struct Demo {
    /// Seed for the order of the deliveries
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    connections: Connections,
    #[command(flatten)]
    http: HttpSettings,
    #[command(flatten)]
    bookings: BookingSettings,
}

impl Demo {
    pub(super) async fn run(mut self, given: Given) -> Result<(), Failure> {
        if self.connections.resolve().is_ok() {
            return self.tour().await;
        }
        eprintln!(
            "No system runs in {}; starting one for the demo.",
            self.connections.data_dir.display()
        );
        let quiet = given.with("EXODRIVE_LOG", "error");
        let system = Up::throwaway(&self.connections).with_given(quiet).start().await?;
        self.connections.data_dir.clone_from(&system.data_dir);
        let outcome = self.tour().await;
        system.stop().await;
        outcome
    }

    async fn tour(&self) -> Result<(), Failure> {
        let url = self.api_url()?;
        let client = reqwest::Client::builder().timeout(Duration::from_secs(15)).build()?;
        self.tour_of_rental(&client, &url).await?;
        self.tour_of_mail(&client, &url).await
    }

    fn api_url(&self) -> Result<String, Failure> {
        if let Some(address) = self.http.http_addr {
            return Ok(format!("http://{address}"));
        }
        let announced = folder::announced(&self.connections.data_dir)?;
        Ok(announced
            .map(|system| system.url)
            .ok_or("no API is announced in the data folder: set EXODRIVE_HTTP_ADDR")?)
    }
}
