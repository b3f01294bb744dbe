//! Rental in the demo: the season, the fleet, a calendar, a booking, a rejected
//! double booking.

use super::{Demo, Failure};
use crate::{
    cli::{import, table},
    http::{
        TIME_ZONE,
        auth::{tokens, tokens::Role},
    },
};
use chrono::{Datelike, NaiveDate};
use exodrive_commands::import::Tables;
use exodrive_projections::views::{
    bookings::read::{BookingDetail, LineDetail, Money},
    cars::read::CarSummary,
};
use reqwest::{Client, Response};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::time::Duration;

/// The season: file name and CSV.
const SEASON: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/season.rs"));

/// Days of the calendar shown.
const WEEKS: i64 = 6;
/// Days of the booking made.
const DAYS: usize = 3;

#[derive(Deserialize)]
struct List<T> {
    data: Vec<T>,
}

#[derive(Deserialize)]
struct Calendar {
    days: Vec<Day>,
}

#[derive(Deserialize)]
struct Day {
    date: NaiveDate,
    status: String,
}

#[derive(Deserialize)]
struct Quote {
    total: Money,
    lines: Vec<LineDetail>,
}

#[derive(Deserialize)]
struct Refusal {
    code: String,
    detail: String,
    next_free: Option<FreeDays>,
}

#[derive(Deserialize)]
struct FreeDays {
    start_date: NaiveDate,
    end_date: NaiveDate,
}

impl Demo {
    /// Imports the season, shows fleet and calendar, books, and tries to book
    /// the same days again.
    pub(super) async fn tour_of_rental(&self, client: &Client, url: &str) -> Result<(), Failure> {
        let end = self.import_the_season().await?;
        let cars: List<CarSummary> =
            read_json(get(client, url, "/v1/cars?sort=-price", end).await?).await?;
        print_fleet(&cars.data);
        let Some(car) = cars.data.first() else { return Ok(()) };
        let path = format!("/v1/cars/{}/calendar", car.slug);
        let calendar: Calendar = read_json(get(client, url, &path, end).await?).await?;
        say!("\nThe calendar of the {} (exodrive demo asks GET {path}):\n", car.name);
        print_calendar(&calendar.days);
        let Some((first, last)) = free(&calendar.days) else {
            say!("\nNo {DAYS} days in a row are free, so nothing is booked.");
            return Ok(());
        };
        self.book(client, url, car, (first, last)).await
    }

    async fn import_the_season(&self) -> Result<u64, Failure> {
        let tables = Tables::parse(SEASON);
        let secret = self.bookings.secret(&self.connections)?;
        let (rental, log) = import::open(&self.connections, secret).await?;
        say!("Importing a season of rentals (exodrive import tests/fixtures/season).");
        let (report, steps) = import::import(&rental, &log, &tables, TIME_ZONE, false).await?;
        let taken: usize = report.tables.values().map(|counts| counts.taken).sum();
        let known: usize = report.tables.values().map(|counts| counts.known).sum();
        say!(
            "{} rows taken as {} events, {} imported before, {} refused.\n",
            table::number(taken as u64),
            table::number(if taken == 0 { 0 } else { steps as u64 }),
            table::number(known as u64),
            report.problems.len()
        );
        Ok(log.last_position().await?)
    }

    async fn book(
        &self,
        client: &Client,
        url: &str,
        car: &CarSummary,
        (first, last): (NaiveDate, NaiveDate),
    ) -> Result<(), Failure> {
        let rental = json!({"car_id": car.id, "start_date": first, "end_date": last});
        let quote: Quote =
            read_json(client.post(format!("{url}/v1/quotes")).json(&rental).send().await?).await?;
        say!("\n{first} to {last} are free. The price, line by line (POST /v1/quotes):\n");
        print_quote(&quote);
        let mut request = rental;
        request["customer"] =
            json!({"email": "ada@example.com", "first_name": "Ada", "last_name": "Demo"});
        request["expected_total_cents"] = quote.total.amount_cents.into();
        let ada = self.customer()?;
        let answer = post(client, url, "/v1/bookings", &ada, &request).await?;
        let booking: BookingDetail = read_json(answer).await?;
        let until = booking.hold_expires_at.map(|at| format!(", held until {}", table::time(at)));
        say!(
            "\nAda books (POST /v1/bookings): {} {} for {}, {}{}.",
            booking.reference,
            booking.id,
            money(booking.total.amount_cents, &booking.total.currency),
            booking.status,
            table::cell(until)
        );
        request["customer"] =
            json!({"email": "bob@example.com", "first_name": "Bob", "last_name": "Demo"});
        let bob = self.customer()?;
        let refused = post(client, url, "/v1/bookings", &bob, &request).await?;
        let status = refused.status();
        let problem: Refusal = refused.json().await?;
        say!("Bob asks for the same days: {status}, {}: {}", problem.code, problem.detail);
        if let Some(next) = problem.next_free {
            say!("  The next that are free: {} to {}.", next.start_date, next.end_date);
        }
        let path = format!("/v1/bookings/{}/cancel", booking.id);
        let answer = post(client, url, &path, &ada, &json!({"reason": "demo"})).await?;
        let cancelled: BookingDetail = read_json(answer).await?;
        say!("Ada cancels: {}. The days are free again.\n", cancelled.status);
        Ok(())
    }

    /// Makes a token of a customer of this run.
    fn customer(&self) -> Result<String, Failure> {
        let secret = self.http.tokens.token_secret(&self.connections)?;
        let subject = format!("demo-{:08x}", rand::random::<u32>());
        let (lifetime, rules) = (Duration::from_secs(300), self.http.tokens.token_rules());
        Ok(tokens::issue(&secret, &subject, Role::Customer, lifetime, &rules)?)
    }
}

async fn get(client: &Client, url: &str, path: &str, position: u64) -> Result<Response, Failure> {
    let request = client.get(format!("{url}{path}")).header("ExoDrive-Min-Position", position);
    Ok(request.send().await?)
}

async fn post(
    client: &Client,
    url: &str,
    path: &str,
    token: &str,
    body: &Value,
) -> Result<Response, Failure> {
    let key = format!("demo-{:016x}", rand::random::<u64>());
    let request = client.post(format!("{url}{path}")).bearer_auth(token);
    Ok(request.header("Idempotency-Key", key).json(body).send().await?)
}

async fn read_json<T: DeserializeOwned>(answer: Response) -> Result<T, Failure> {
    let (status, path) = (answer.status(), answer.url().path().to_owned());
    if !status.is_success() {
        return Err(format!("{path} answered {status}: {}", answer.text().await?).into());
    }
    Ok(answer.json().await?)
}

fn print_fleet(cars: &[CarSummary]) {
    let mut fleet = table::table(&["car", "category", "a day", "days", "offer", "features"]);
    for car in cars {
        let price = car.price.as_ref();
        let offer = price.and_then(|it| it.offer_text.as_deref());
        fleet.add_row([
            table::short(&car.name, 34),
            car.category.clone(),
            table::cell(price.map(|it| money(it.base_per_day_cents, &it.currency))),
            table::cell(price.map(|it| format!("{}+", it.minimum_days))),
            table::cell(offer.map(|text| table::short(text, 24))),
            table::short(&car.features.join(", "), 40),
        ]);
    }
    say!("{fleet}");
}

/// A week for each line.
fn print_calendar(days: &[Day]) {
    let Some(first) = days.first().map(|day| day.date) else { return };
    let monday = first - chrono::TimeDelta::days(first.weekday().num_days_from_monday().into());
    say!("              Mo  Tu  We  Th  Fr  Sa  Su");
    for week in 0..WEEKS {
        let begins = monday + chrono::TimeDelta::weeks(week);
        let mut line = format!("  {} ", begins.format("%e %b %Y"));
        for weekday in 0..7 {
            let date = begins + chrono::TimeDelta::days(weekday);
            let mark = match days.iter().find(|day| day.date == date).map(|it| it.status.as_str()) {
                Some("available") => " · ",
                Some("held") => " h ",
                Some("booked") => " █ ",
                Some(_) => " m ",
                None => "   ",
            };
            line.push_str(mark);
            line.push(' ');
        }
        say!("{}", line.trim_end());
    }
    say!("\n  · available   h held   █ booked   m maintenance");
}

/// Finds the first free days in a row, as many as the demo books.
fn free(days: &[Day]) -> Option<(NaiveDate, NaiveDate)> {
    let window =
        days.windows(DAYS).find(|window| window.iter().all(|day| day.status == "available"))?;
    Some((window.first()?.date, window.last()?.date))
}

fn print_quote(quote: &Quote) {
    let mut lines = table::table(&["", "quantity", "each", "amount"]);
    let cents = |cents| money(cents, &quote.total.currency);
    for line in &quote.lines {
        lines.add_row([
            line.label.clone(),
            line.quantity.to_string(),
            cents(line.unit_cents),
            cents(line.amount_cents),
        ]);
    }
    let total = cents(quote.total.amount_cents);
    lines.add_row(["Total".to_owned(), String::new(), String::new(), total]);
    say!("{lines}");
}

/// Cents as people read them, for example `1,895.00 USD`.
fn money(cents: i64, currency: &str) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let (whole, part) = (cents.unsigned_abs() / 100, cents.unsigned_abs() % 100);
    format!("{sign}{}.{part:02} {currency}", table::number(whole))
}
