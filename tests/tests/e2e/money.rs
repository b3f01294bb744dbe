//! Money is of somebody and of a currency: books that are kept beside the API, from its answers to
//! random histories, agree with what it shows.

use crate::in_process::InProcess;
use chrono::NaiveDate;
use exodrive_tests::{booking_body, car_body, day};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Who may pay.
const PEOPLE: [&str; 3] = ["ada@example.com", "grace@example.com", "mary@example.com"];
/// Cars, by their currency.
const CURRENCIES: [&str; 3] = ["USD", "USD", "JPY"];

/// What a customer has authorized, paid and got back for one booking.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Account {
    authorized: i64,
    captured: i64,
    refunded: i64,
}

/// A booking, and its accounts in the order of their first payments.
struct Booking {
    id: String,
    customer: String,
    currency: String,
    accounts: Vec<(String, Account)>,
}

impl Booking {
    fn sum(&self, of: impl Fn(&Account) -> i64) -> i64 {
        self.accounts.iter().map(|(_, account)| of(account)).sum()
    }

    fn account(&mut self, customer: &str) -> &mut Account {
        if !self.accounts.iter().any(|(known, _)| known == customer) {
            self.accounts.push((customer.to_owned(), Account::default()));
        }
        &mut self.accounts.iter_mut().find(|(known, _)| known == customer).unwrap().1
    }

    /// Who authorized pays first; the customer pays the rest.
    fn capture(&mut self, mut amount: i64) {
        for (_, account) in &mut self.accounts {
            let part = amount.min(account.authorized);
            account.authorized -= part;
            account.captured += part;
            amount -= part;
        }
        if amount > 0 {
            let customer = self.customer.clone();
            self.account(&customer).captured += amount;
        }
    }

    /// Who paid last gets back first.
    fn refund(&mut self, mut amount: i64) {
        for (_, account) in self.accounts.iter_mut().rev() {
            let part = amount.min(account.captured - account.refunded);
            account.refunded += part;
            amount -= part;
        }
        assert_eq!(amount, 0, "more is given back than was paid");
    }

    /// Brings the accounts to what an answer shows after a command, and compares.
    fn follow(&mut self, action: &str, shown: &Value) {
        let cents = |name: &str| shown["payment"][format!("{name}_cents")].as_i64().unwrap();
        assert_eq!(shown["total"]["currency"], shown["deposit"]["currency"]);
        self.customer = shown["customer_id"].as_str().unwrap().to_owned();
        let currency = shown["total"]["currency"].as_str().unwrap();
        if self.sum(|it| it.authorized + it.captured) == 0 {
            self.currency = currency.to_owned();
        }
        assert_eq!(self.currency, currency, "what is paid keeps its currency");
        match action {
            "authorize-payment" => {
                let more = cents("authorized") - self.sum(|it| it.authorized);
                let customer = self.customer.clone();
                self.account(&customer).authorized += more;
            }
            "capture-payment" => self.capture(cents("captured") - self.sum(|it| it.captured)),
            "refund-payment" => self.refund(cents("refunded") - self.sum(|it| it.refunded)),
            _ if cents("authorized") == 0 => {
                self.accounts.iter_mut().for_each(|(_, account)| account.authorized = 0);
            }
            _ => {}
        }
        let sums = ["authorized", "captured", "refunded"].map(cents);
        let own =
            [self.sum(|it| it.authorized), self.sum(|it| it.captured), self.sum(|it| it.refunded)];
        assert_eq!(sums, own, "after {action}: {shown:#}");
    }
}

/// Any action, with its body.
fn any_action(rng: &mut StdRng, cars: &[String], first: NaiveDate) -> (&'static str, Value) {
    let amount = rng.random_bool(0.5).then(|| rng.random_range(1..120_000));
    let person = PEOPLE.choose(rng).unwrap();
    let days = |from: i64, to: i64| {
        let plus = |n| first + chrono::TimeDelta::days(n);
        json!({"start_date": plus(from), "end_date": plus(to)})
    };
    match rng.random_range(0..18) {
        0 | 1 => ("authorize-payment", json!({"amount_cents": amount})),
        2..=4 => ("capture-payment", json!({"amount_cents": amount})),
        5..=7 => ("refund-payment", json!({"amount_cents": amount})),
        8 => ("void-payment", json!({})),
        9 | 10 => ("customer", json!({"email": person, "first_name": "A", "last_name": "B"})),
        11 | 12 => {
            let car = cars.choose(rng).unwrap();
            ("move", json!({"car_id": car, "keep_price": rng.random_bool(0.5)}))
        }
        13 => ("reschedule", days(rng.random_range(0..2), rng.random_range(2..4))),
        14 => ("cancel", json!({})),
        15 => ("extend", json!({"end_date": days(0, rng.random_range(1..5))["end_date"]})),
        _ if rng.random_bool(0.5) => ("dispute", json!({})),
        _ => ("resolve-dispute", json!({"status": "completed"})),
    }
}

#[tokio::test]
async fn what_customers_paid_is_the_sum_of_what_was_done() {
    let world = InProcess::start().await;
    let admin = world.admin();
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cars = Vec::new();
    for (n, currency) in CURRENCIES.iter().enumerate() {
        let price = json!({"base_per_day_cents": 20_000, "currency": currency});
        cars.push(admin.add_car_priced(&car_body(&format!("car-{n}")), &price).await);
    }
    let mut bookings = Vec::new();
    let (mut done, mut refused) = (BTreeMap::<&str, u32>::new(), 0);
    for n in 0..8 {
        let first = day(10 * n);
        let car = cars.choose(&mut rng).unwrap();
        let mut body = booking_body(car, first, first + chrono::TimeDelta::days(2));
        body["customer"]["email"] = (*PEOPLE.choose(&mut rng).unwrap()).into();
        let shown = admin.post("/v1/bookings", &body).await.expect(201);
        let mut booking = Booking {
            id: shown["id"].as_str().unwrap().to_owned(),
            customer: String::new(),
            currency: String::new(),
            accounts: Vec::new(),
        };
        booking.follow("book", &shown);
        for _ in 0..25 {
            let (action, body) = any_action(&mut rng, &cars, first);
            let path = format!("/v1/bookings/{}/{action}", booking.id);
            let answer = admin.post(&path, &body).await;
            if answer.status == 200 {
                booking.follow(action, &answer.json());
                *done.entry(action).or_default() += 1;
            } else {
                assert!(matches!(answer.status, 409 | 422), "{action}: {}", answer.json());
                refused += 1;
            }
        }
        bookings.push(booking);
    }
    println!("done {done:?}, refused {refused}");
    world.settled().await;

    // Each customer, and all of them: by currency, and no sum over two of them.
    let mut of_customers: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    let mut of_all: BTreeMap<String, i64> = BTreeMap::new();
    for booking in &bookings {
        for (customer, account) in &booking.accounts {
            let kept = account.captured - account.refunded;
            let sums = of_customers.entry(customer.clone()).or_default();
            *sums.entry(booking.currency.clone()).or_default() += kept;
            *of_all.entry(booking.currency.clone()).or_default() += kept;
        }
    }
    let by_currency = |money: &Value| -> BTreeMap<String, i64> {
        let money = money.as_array().unwrap().iter();
        let sums = money.map(|it| (it["currency"].as_str().unwrap(), it["amount_cents"].as_i64()));
        let sums = sums.map(|(currency, amount)| (currency.to_owned(), amount.unwrap()));
        sums.filter(|(_, amount)| *amount != 0).collect()
    };
    for (customer, mut expected) in of_customers {
        expected.retain(|_, amount| *amount != 0);
        let shown = admin.get(&format!("/v1/customers/{customer}")).await.expect(200);
        assert_eq!(by_currency(&shown["paid"]), expected, "{customer}");
    }
    of_all.retain(|_, amount| *amount != 0);
    let dashboard = admin.get("/v1/dashboard").await.expect(200);
    assert_eq!(by_currency(&dashboard["revenue_this_month"]), of_all);
    world.views_equal_a_fresh_fold().await;
}
