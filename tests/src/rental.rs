//! Clients of the rental routes, and the bodies of their requests.

use crate::{API, Answer, System, World, eventually};
use chrono::{NaiveDate, TimeDelta, Utc};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::LazyLock, time::Duration};

/// The n-th day of the tests' calendar: far enough ahead to be in the future
/// in every time zone, and the same for a whole run.
pub fn day(n: i64) -> NaiveDate {
    static FIRST: LazyLock<NaiveDate> =
        LazyLock::new(|| Utc::now().date_naive() + TimeDelta::days(10));
    *FIRST + TimeDelta::days(n)
}

/// A new `Idempotency-Key`.
pub fn key() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The number of rounds of a test: `EXODRIVE_TEST_ROUNDS`, for a long run, else
/// `otherwise`.
pub fn rounds(otherwise: usize) -> usize {
    let requested = std::env::var("EXODRIVE_TEST_ROUNDS").ok();
    requested.map_or(otherwise, |requested| requested.parse().unwrap())
}

/// A booking of these days, both included.
pub fn booking_body(car: &str, first: NaiveDate, last: NaiveDate) -> Value {
    json!({
        "car_id": car, "start_date": first, "end_date": last,
        "customer": {"email": "ada@example.com", "first_name": "Ada", "last_name": "Byron"},
    })
}

/// The body of the request that adds a car with this slug.
pub fn car_body(slug: &str) -> Value {
    json!({"slug": slug, "name": format!("Car {slug}"), "category": "Supercar"})
}

/// A client of a process that serves the API.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    address: SocketAddr,
    token: Option<String>,
    link: Option<String>,
}

impl Client {
    /// The same client at another process.
    pub fn at(&self, system: &System, process: &str) -> Self {
        Self { address: system.address(process), ..self.clone() }
    }

    /// A client with this token or service key.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// A client with this link's token.
    pub fn with_link(&self, token: &str) -> Self {
        Self { link: Some(token.to_owned()), ..self.clone() }
    }

    /// A request.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut request = self.http.request(method, format!("http://{}{path}", self.address));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(link) = &self.link {
            request = request.header("exodrive-booking-token", link);
        }
        request
    }

    /// A command, not sent yet.
    pub fn command(&self, path: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, path).json(body)
    }

    /// Posts a command.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.command(path, body)).await.unwrap()
    }

    /// Posts a command under an `Idempotency-Key`.
    pub async fn post_as(&self, key: &str, path: &str, body: &Value) -> Answer {
        Answer::of(self.command(path, body).header("idempotency-key", key)).await.unwrap()
    }

    /// Posts a command under a key, again and again until the answer is one
    /// about the command and not about the state of the system.
    pub async fn insist(
        clients: &[Self],
        key: &str,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Answer {
        let mut last = String::new();
        for attempt in 0..1_200_usize {
            let request = clients[attempt % clients.len()]
                .request(method.clone(), path)
                .json(body)
                .header("idempotency-key", key)
                .timeout(Duration::from_secs(12));
            match Answer::of(request).await {
                Ok(answer) if answer.status < 500 => {
                    let again = matches!(
                        answer.json()["code"].as_str(),
                        Some("request_in_flight" | "busy" | "rate_limited")
                    );
                    if !again {
                        return answer;
                    }
                    last = format!("{}", answer.json());
                }
                Ok(answer) => last = format!("{}", answer.json()),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no answer to {path} under {key}: {last}");
    }

    /// Gets a path.
    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await.unwrap()
    }

    /// Gets a path once the views have reached a position. Asks again while they
    /// are behind, as a client would.
    pub async fn get_from(&self, position: u64, path: &str) -> Answer {
        eventually(&format!("the views of {path} reach position {position}"), async || {
            let answer = self.get_once_from(position, path).await;
            let behind = answer.status == 503 && answer.json()["code"] == "view_behind";
            if behind { Err(answer.json().to_string()) } else { Ok(answer) }
        })
        .await
    }

    /// Gets a path that must show a position; gives the first answer.
    pub async fn get_once_from(&self, position: u64, path: &str) -> Answer {
        let request = self.request(Method::GET, path).header("exodrive-min-position", position);
        Answer::of(request).await.unwrap()
    }

    /// Tries to book.
    pub async fn book(&self, car: &str, first: NaiveDate, last: NaiveDate) -> Answer {
        self.post("/v1/bookings", &booking_body(car, first, last)).await
    }

    /// Books days that are free.
    pub async fn booked(&self, car: &str, first: NaiveDate, last: NaiveDate) -> Value {
        self.book(car, first, last).await.expect(201)
    }

    /// Posts an action on a booking.
    pub async fn act(&self, booking: &Value, action: &str, body: Value) -> Answer {
        let id = booking["id"].as_str().unwrap();
        self.post(&format!("/v1/bookings/{id}/{action}"), &body).await
    }

    /// Adds a car that can be booked at this price for a day; gives its id.
    pub async fn add_car(&self, slug: &str, cents: i64) -> String {
        self.add_car_priced(&car_body(slug), &json!({"base_per_day_cents": cents})).await
    }

    /// Adds a car with this price list that can be booked; gives its id.
    pub async fn add_car_priced(&self, car: &Value, price: &Value) -> String {
        let added = self.post("/v1/cars", car).await.expect(201);
        let id = added["id"].as_str().unwrap().to_owned();
        let priced = self.request(Method::PUT, &format!("/v1/cars/{id}/price")).json(price);
        Answer::of(priced).await.unwrap().expect(200);
        let listed = self.post(&format!("/v1/cars/{id}/list"), &json!({})).await;
        listed.expect(200);
        let position = listed.header("exodrive-position").parse().unwrap();
        self.get_from(position, &format!("/v1/cars/{id}")).await.expect(200);
        id
    }
}

impl System {
    /// A client without a token at the first process.
    pub fn visitor(&self) -> Client {
        Client { http: self.http.clone(), address: self.address(API), token: None, link: None }
    }

    /// A user of this role.
    pub fn user(&self, subject: &str, role: &str) -> Client {
        Client { token: Some(self.token_of(subject, role)), ..self.visitor() }
    }

    /// An admin.
    pub fn admin(&self) -> Client {
        self.user("admin-user", "admin")
    }
}

impl World {
    /// Starts more processes that serve the API; gives the names of all, once
    /// they are ready.
    pub async fn serve_from(&self, processes: usize) -> Vec<String> {
        let mut names = vec![API.to_owned()];
        for n in 2..=processes {
            let name = format!("{API}-{n}");
            self.start_api_as(&name);
            names.push(name);
        }
        for name in &names {
            self.wait_until_at(name, "ready").await;
        }
        names
    }
}
