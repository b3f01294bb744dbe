//! Every command that changes the taken days, at once and while servers and processes die: no day
//! is given twice, no acknowledged command is lost, no command is executed twice.

use chrono::NaiveDate;
use exodrive_domain::Recorded;
use exodrive_runtime::services::{Service, Signal};
use exodrive_tests::{Client, Holders, WORKER, World, booking_body, day, key};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

const CARS: usize = 3;
/// Days that the commands compete for.
const SEASON: i64 = 45;
const ACTORS: usize = 12;

/// An acknowledged event: its position, its booking or block, and the car.
#[derive(Clone, Debug, PartialEq)]
struct StressedBooking {
    object: String,
    car: String,
}

struct Storm {
    /// The same admin as a client of each process.
    clients: Vec<Client>,
    cars: Vec<String>,
    bookings: Mutex<Vec<String>>,
    blocks: Mutex<Vec<(String, String)>>,
    acknowledged: Mutex<BTreeMap<u64, StressedBooking>>,
    refused: AtomicUsize,
    done: AtomicUsize,
    stop: AtomicBool,
}

fn pick<T: Clone>(from: &Mutex<Vec<T>>) -> Option<T> {
    let from = from.lock().unwrap();
    (!from.is_empty()).then(|| from[rand::random_range(0..from.len())].clone())
}

fn range() -> (NaiveDate, NaiveDate) {
    let first = rand::random_range(0..SEASON);
    (day(first), day(first + rand::random_range(0..6)))
}

/// Events that must occur among the commands.
const KINDS: [&str; 3] =
    ["exodrive.booking.moved_in", "exodrive.booking.rescheduled", "exodrive.booking.extended"];

impl Storm {
    async fn new(world: &World, processes: usize) -> Self {
        let names = world.serve_from(processes).await;
        let admin = world.admin();
        let mut cars = Vec::new();
        for n in 0..CARS {
            let cents = 100_000 + i64::try_from(n).unwrap() * 10_000;
            cars.push(admin.add_car(&format!("car-{n}"), cents).await);
        }
        Self {
            clients: names.iter().map(|name| admin.at(world, name)).collect(),
            cars,
            bookings: Mutex::default(),
            blocks: Mutex::default(),
            acknowledged: Mutex::default(),
            refused: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        }
    }

    fn car(&self) -> String {
        self.cars[rand::random_range(0..self.cars.len())].clone()
    }

    /// A random command: the method, the path and the body.
    fn command(&self) -> (Method, String, Value) {
        let (first, last) = range();
        let dates = json!({"start_date": first, "end_date": last});
        let (car, choice) = (self.car(), rand::random_range(0..100));
        let hold = || (Method::POST, "/v1/bookings".to_owned(), booking_body(&car, first, last));
        let Some(booking) = pick(&self.bookings) else { return hold() };
        let act = |action: &str, body: Value| {
            (Method::POST, format!("/v1/bookings/{booking}/{action}"), body)
        };
        match choice {
            0..30 => hold(),
            30..45 => act("reschedule", dates),
            45..55 => act("extend", json!({"end_date": last})),
            55..72 => act("move", json!({"car_id": car})),
            72..82 => act("cancel", json!({"reason": "storm"})),
            82..88 => act("authorize-payment", json!({})),
            88..95 => {
                let body = json!({
                    "start_date": first, "end_date": last, "reason": "tyres",
                    "force": rand::random_range(0..4) == 0,
                });
                (Method::POST, format!("/v1/cars/{car}/blocks"), body)
            }
            _ => match pick(&self.blocks) {
                Some((car, block)) => {
                    (Method::DELETE, format!("/v1/cars/{car}/blocks/{block}"), json!({}))
                }
                None => hold(),
            },
        }
    }

    async fn step(&self) {
        self.send(self.command()).await;
    }

    /// One command, repeated until its result is known. The id of a new booking.
    async fn send(&self, (method, path, body): (Method, String, Value)) -> Option<String> {
        let mut clients = self.clients.clone();
        clients.rotate_left(rand::random_range(0..self.clients.len()));
        let answer = Client::insist(&clients, &key(), method, &path, &body).await;
        self.done.fetch_add(1, Ordering::Relaxed);
        let acknowledged = answer.json();
        if answer.status >= 400 {
            let expected = ["dates_unavailable", "action_not_allowed", "validation_failed"];
            let gone = acknowledged["code"] == "not_found" && path.contains("/blocks/");
            let known = expected.iter().any(|code| acknowledged["code"] == *code) || gone;
            assert!(known, "{path} {body}: {acknowledged}");
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let text = |name: &str| acknowledged[name].as_str().unwrap().to_owned();
        let (object, car) = (text("id"), text("car_id"));
        let position = answer.header("exodrive-position").parse().unwrap();
        let new = StressedBooking { object: object.clone(), car: car.clone() };
        if let Some(before) = self.acknowledged.lock().unwrap().insert(position, new.clone()) {
            // A command that changed nothing is answered with the booking's last event.
            assert_eq!(before, new, "two answers of one event");
        }
        if answer.status == 201 && acknowledged["object"] == "booking" {
            self.bookings.lock().unwrap().push(object.clone());
            return Some(object);
        }
        if answer.status == 201 {
            self.blocks.lock().unwrap().push((car, object));
        }
        None
    }

    /// Commands one after the other, until there are enough.
    async fn run(&self, at_least: usize) {
        while !self.stop.load(Ordering::Relaxed) || self.done.load(Ordering::Relaxed) < at_least {
            self.step().await;
        }
    }

    /// The commands that a full calendar hardly ever accepts, on days after the season.
    async fn rare_commands(&self) {
        let [here, there, ..] = self.cars.as_slice() else { panic!("one car") };
        let after = |n| day(SEASON + 40 + n);
        let new = booking_body(here, after(0), after(1));
        let booking = self.send((Method::POST, "/v1/bookings".to_owned(), new)).await.unwrap();
        let dates = json!({"start_date": after(4), "end_date": after(5)});
        for (action, body) in [
            ("extend", json!({"end_date": after(2)})),
            ("reschedule", dates),
            ("move", json!({"car_id": there})),
        ] {
            self.send((Method::POST, format!("/v1/bookings/{booking}/{action}"), body)).await;
        }
    }

    /// Invariants that must hold in the end.
    async fn holds(&self, world: &World) {
        self.rare_commands().await;
        let events = world.views_equal_a_fresh_fold().await;
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        let holders = Holders::of(&events);
        every_acknowledged_event_is_stored(&events, &acknowledged);
        self.views_show(world, &holders, events.last().unwrap().position).await;
        let kinds: BTreeSet<_> = events.iter().map(|event| event.envelope.kind.as_str()).collect();
        for kind in KINDS {
            assert!(kinds.contains(kind), "{kind} happened");
        }
        println!(
            "{} commands: {} rejected, {} events",
            self.done.load(Ordering::Relaxed),
            self.refused.load(Ordering::Relaxed),
            acknowledged.len()
        );
    }

    /// The calendars and the bookings agree with the log.
    async fn views_show(&self, world: &World, holders: &Holders, end: u64) {
        let admin = world.admin();
        for car in &self.cars {
            let path = format!("/v1/cars/{car}/calendar?from={}&to={}", day(-2), day(SEASON + 100));
            let calendar = admin.get_from(end, &path).await.expect(200);
            let shown: BTreeSet<NaiveDate> = calendar["days"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|day| day["status"] != "available")
                .map(|day| day["date"].as_str().unwrap().parse().unwrap())
                .collect();
            assert_eq!(shown, holders.taken(car), "the calendar of {car}");
        }
        let bookings = self.bookings.lock().unwrap().clone();
        for id in &bookings {
            let booking = admin.get(&format!("/v1/bookings/{id}")).await.expect(200);
            let of = |car: &String| holders.days.get(car).is_some_and(|days| days.contains_key(id));
            let on: Vec<_> = self.cars.iter().filter(|car| of(car)).collect();
            if booking["status"] == "cancelled" {
                assert!(on.is_empty(), "{id} has no days any more");
            } else {
                assert_eq!(on, [booking["car_id"].as_str().unwrap()], "{id} is on one car");
                let days = &holders.days[on[0]][id];
                assert_eq!(booking["start_date"], json!(days.first()));
                assert_eq!(booking["end_date"], json!(days.last()));
            }
        }
    }
}

/// Each event was acknowledged, and each acknowledged command is an event.
fn every_acknowledged_event_is_stored(
    events: &[Recorded],
    acknowledged: &BTreeMap<u64, StressedBooking>,
) {
    let mut found = BTreeSet::new();
    for event in events {
        let kind = event.envelope.kind.as_str();
        let other = !event.subject.starts_with("exo.booking.");
        // Its other half was acknowledged.
        if other || kind == "exodrive.booking.moved_out" {
            continue;
        }
        let body: Value = serde_json::from_slice(&event.body).unwrap();
        let object = body["booking_id"].as_str().or(body["block_id"].as_str()).unwrap();
        let it = StressedBooking {
            object: object.to_owned(),
            car: body["car_id"].as_str().unwrap().to_owned(),
        };
        assert_eq!(acknowledged.get(&event.position), Some(&it), "{kind} {body}: happened twice?");
        found.insert(event.position);
    }
    let lost: Vec<_> = acknowledged.keys().filter(|position| !found.contains(position)).collect();
    assert!(lost.is_empty(), "acknowledged and not in the log: {lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_gives_a_day_twice() {
    let world = World::start().await;
    let storm = Storm::new(&world, 3).await;
    storm.stop.store(true, Ordering::Relaxed);
    let commands = exodrive_tests::rounds(1_000);
    join_all((0..ACTORS).map(|_| storm.run(commands))).await;
    storm.holds(&world).await;
}

/// Kills, hangs and empties servers and processes, one after the other.
async fn havoc(world: &World) {
    let pause = || tokio::time::sleep(Duration::from_millis(700));
    for _ in 0..2 {
        world.services.signal(Service::Redis, Signal::SIGSTOP).unwrap();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        world.services.signal(Service::Redis, Signal::SIGCONT).unwrap();
        pause().await;
        world.kill(WORKER);
        world.kill("serve-2");
        pause().await;
        world.start_api_as("serve-2");
        world.start_worker(WORKER);
        world.wait_until_at("serve-2", "ready").await;
        pause().await;
        world.kill_service(Service::Redis).await;
        world.kill("serve-3");
        pause().await;
        world.start_api_as("serve-3");
        pause().await;
        world.kill_service(Service::Nats).await;
        pause().await;
    }
    world.wait_until("ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_day_is_given_twice_while_redis_nats_workers_and_processes_die() {
    let world = World::start().await;
    let storm = Storm::new(&world, 3).await;
    let havoc = async {
        havoc(&world).await;
        storm.stop.store(true, Ordering::Relaxed);
    };
    let actors = join_all((0..ACTORS).map(|_| storm.run(200)));
    tokio::join!(havoc, actors);
    world.wait_until("ready").await;
    storm.holds(&world).await;
}
