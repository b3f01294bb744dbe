//! What our own events look like: each made by the domain from a story that
//! leads to it.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use exodrive_domain::{
    DECISION_VERSION, EMAIL_IMPORTED, Envelope, Event, Meta, Recorded, Subject,
    access::{ACCESS_RECORDED, AccessEntry, AccessEvent},
    booking::{
        self, AccessLink, BookingAction, BookingCommand, BookingEvent, Calendar, Contract,
        ContractStatus, Customer, CustomerDetails, Import, NewBooking, Payment, PaymentStatus,
        Status,
    },
    credential::{
        KeyCommand, KeyEvent, Scope, ServiceKey, SessionsEvent, SignIns, decide as decide_key,
        decide_sign_out,
    },
    days::Days,
    decode,
    erasure::{ErasureChange, ErasureEvent, HoldChange, HoldEvent},
    fleet::{self, Car, FleetChange, FleetCommand, FleetEvent, Image, NamedText, Profile},
    id::{BlockId, BookingId, CarId, CustomerId},
    operation::{Operation, OperationEvent},
    personal::Personal,
    price::{Choices, Fee, Line, LineKind, Location, LocationFee, Peak, PriceList, Quote},
    time,
    value::{Reason, Rules, Text, TextRule, Valid},
};
use serde_json::json;

const CARS: [&str; 2] =
    ["0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4", "0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b5"];
const BOOKING: &str = "4ef9a417-02e9-4d39-ad75-9611e0fcc33c";
const BLOCK: &str = "7d1f7a2e-5f0d-4c8e-9a53-6c1b1a4d2f11";

fn car_id(n: usize) -> CarId {
    CARS[n].parse().unwrap()
}

fn booking_id() -> BookingId {
    BOOKING.parse().unwrap()
}

fn customer_id(last: char) -> CustomerId {
    format!("f5481dac-6905-8e63-a7f1-853c0fb0ac9{last}").parse().unwrap()
}

fn date(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn days(first: &str, last: &str) -> Days {
    Days::inclusive(date(first), date(last)).unwrap()
}

fn customer(name: &str) -> Valid<Customer> {
    valid(Customer {
        user_id: Some(format!("user-{name}")),
        details: Personal(CustomerDetails {
            email: format!("{name}@example.com"),
            first_name: name.to_owned(),
            last_name: "Byron".to_owned(),
            phone: Some("+1 555 0100".to_owned()),
        }),
    })
}

fn prices() -> PriceList {
    let fee = |id: &str, mandatory| Fee {
        id: id.to_owned(),
        name: format!("Fee {id}"),
        amount_cents: 7_500,
        mandatory,
    };
    PriceList {
        version: 0,
        currency: "USD".to_owned(),
        base_per_day_cents: 123_457,
        discount_basis_points: 1_000,
        offer_text: Some("Winter offer".to_owned()),
        deposit_cents: Some(500_000),
        minimum_days: 1,
        fees: vec![fee("clean", true), fee("seat", false)],
        peaks: vec![Peak {
            name: "Weekend".to_owned(),
            weekdays: [0, 6].into(),
            days: Some(days("2026-12-01", "2027-01-31")),
            multiplier_basis_points: 11_500,
        }],
        locations: vec![Location {
            id: "port".to_owned(),
            name: "Port".to_owned(),
            pick_up: LocationFee { fixed_cents: 5_000, basis_points: 300 },
            drop_off: LocationFee::default(),
        }],
        one_way_fee_cents: 5_000,
        tax_basis_points: 825,
    }
}

fn profile(name: &str) -> Profile {
    let text = |name: &str| NamedText {
        name: name.to_owned(),
        text: "325 km/h".to_owned(),
        highlighted: true,
    };
    Profile {
        name: name.to_owned(),
        category: "Supercar".to_owned(),
        description: "A long text".to_owned(),
        short_description: "A short text".to_owned(),
        specifications: vec![text("Top speed")],
        features: vec![text("Carbon seats")],
        time_zone: "America/New_York".to_owned(),
    }
}

/// Events one after the other, and what they come to.
struct Story {
    now: DateTime<Utc>,
    cars: [Option<Car>; 2],
    calendars: [Calendar; 2],
    events: Vec<Recorded>,
}

impl Story {
    fn new() -> Self {
        let now = time::parse("2026-11-24T12:00:00.123456Z").unwrap();
        Self { now, cars: [None, None], calendars: Default::default(), events: Vec::new() }
    }

    fn meta(&self) -> Meta {
        let n = self.events.len() + 1;
        Meta {
            command_id: format!("{n:032x}"),
            request_hash: format!("{n:032}"),
            now: self.now,
            if_position: None,
            by_staff: true,
        }
    }

    fn record(&mut self, subject: Subject, kind: &str, body: Vec<u8>) -> Recorded {
        let n = self.events.len() as u64 + 1;
        let recorded = Recorded {
            position: n,
            subject: subject.to_string(),
            stored_at: self.now + TimeDelta::milliseconds(3),
            envelope: Envelope {
                id: self.meta().command_id,
                kind: kind.to_owned(),
                version: DECISION_VERSION,
                source: "exodrive".to_owned(),
                time: self.now,
                traceparent: Some(format!("00-{n:032x}-{n:016x}-01")),
                causation: None,
                correlation: Some(format!("req_{n}")),
                actor: Some("admin:golden".to_owned()),
            },
            provider_headers: Vec::new(),
            body: body.into(),
            protection: None,
        };
        let payload = decode(&recorded).unwrap();
        let event = Event { recorded: &recorded, payload: &payload };
        for (n, calendar) in self.calendars.iter_mut().enumerate() {
            if subject == Subject::Booking(car_id(n)) {
                calendar.evolve(&event);
            }
        }
        self.events.push(recorded.clone());
        self.now += TimeDelta::minutes(1);
        recorded
    }

    fn fleet(&mut self, n: usize, command: &FleetCommand) {
        let event = fleet::decide(self.cars[n].as_ref(), command, &self.meta()).unwrap();
        self.fleet_event(n, &event, Subject::Fleet(car_id(n)));
    }

    fn fleet_event(&mut self, n: usize, event: &FleetEvent, subject: Subject) {
        let body = serde_json::to_vec(event).unwrap();
        let recorded = self.record(subject.clone(), event.change.kind(), body);
        if subject == Subject::Fleet(car_id(n)) {
            self.cars[n] = fleet::evolve(self.cars[n].take(), event, &recorded);
        }
    }

    /// A car that can be booked; its events are kept only if they matter.
    fn with_car(&mut self, n: usize) {
        let slug = format!("car-{n}").parse().unwrap();
        let profile = profile(&format!("Car {n}"));
        self.fleet(n, &FleetCommand::Add { car_id: car_id(n), slug, profile: valid(profile) });
        self.fleet(n, &FleetCommand::Price(valid(prices())));
        self.fleet(n, &FleetCommand::List);
    }

    fn booked(&mut self, event: &BookingEvent) {
        let body = serde_json::to_vec(event).unwrap();
        self.record(Subject::Booking(event.car_id), event.change.kind(), body);
    }

    fn book(&mut self, command: &BookingCommand) {
        let meta = self.meta();
        let event =
            booking::decide(&self.calendars[0], self.cars[0].as_ref(), car_id(0), command, &meta);
        self.booked(&event.unwrap());
    }

    fn hold(&mut self) {
        let (now, customer) = (self.now, customer("ada"));
        self.book(&BookingCommand::Hold(NewBooking {
            id: booking_id(),
            customer_id: customer_id('b'),
            customer,
            days: days("2026-12-04", "2026-12-07"),
            choices: valid(Choices {
                fees: ["seat".to_owned()].into(),
                pick_up: Some("port".to_owned()),
                drop_off: None,
            }),
            hold_for: TimeDelta::minutes(15),
            link: Some(AccessLink { hash: "ab".repeat(32), expires_at: now + TimeDelta::days(7) }),
            note: Some(text("With a child seat")),
            expected_total_cents: None,
        }));
    }

    fn act(&mut self, act: BookingAction) {
        self.book(&BookingCommand::Change(booking_id(), act));
    }

    fn authorize(&mut self) {
        let reference = Some(text("pi_1"));
        self.act(BookingAction::AuthorizePayment { amount_cents: None, reference });
    }

    fn capture(&mut self, amount_cents: Option<i64>) {
        self.act(BookingAction::CapturePayment { amount_cents, reference: Some(text("ch_1")) });
    }

    fn picked_up(&mut self) {
        self.authorize();
        self.act(BookingAction::SendContract { document: Some(text("doc-1")) });
        self.act(BookingAction::SignContract);
        self.now = time::parse("2026-12-04T15:00:00Z").unwrap();
        self.act(BookingAction::PickUp);
    }

    fn returned(&mut self) {
        self.picked_up();
        self.capture(None);
        self.now = time::parse("2026-12-06T15:00:00Z").unwrap();
        self.act(BookingAction::Return { on: None });
    }

    fn move_over(&mut self) {
        self.with_car(1);
        let meta = self.meta();
        let car = self.cars[1].clone().unwrap();
        let [here, there] = [&self.calendars[0], &self.calendars[1]];
        let reason = text("a flat tyre");
        let moved = booking::decide_move(
            [here, there],
            booking_id(),
            &car,
            false,
            Some(&reason),
            None,
            &meta,
        );
        for event in moved.unwrap() {
            self.booked(&event);
        }
    }

    fn block(&mut self) {
        let ids = (car_id(0), BLOCK.parse::<BlockId>().unwrap());
        let (over, meta) = (days("2026-12-06", "2026-12-09"), self.meta());
        let calendar = &self.calendars[0];
        let event =
            booking::decide_block(calendar, ids, over, &text("New tyres"), true, &meta).unwrap();
        let body = serde_json::to_vec(&event).unwrap();
        self.record(Subject::Booking(car_id(0)), event.change.kind(), body);
    }

    fn unblock(&mut self) {
        let ids = (car_id(0), BLOCK.parse::<BlockId>().unwrap());
        let event = booking::decide_unblock(&self.calendars[0], ids, &self.meta()).unwrap();
        let body = serde_json::to_vec(&event).unwrap();
        self.record(Subject::Booking(car_id(0)), event.change.kind(), body);
    }

    fn import(&mut self) {
        let created_at = time::parse("2025-06-01T08:30:00Z").unwrap();
        let (label, total_cents) = ("Imported".to_owned(), 411_300);
        self.book(&BookingCommand::Import(Import {
            id: booking_id(),
            customer_id: customer_id('b'),
            customer: customer("ada"),
            days: days("2025-07-01", "2025-07-04"),
            quote: valid(Quote {
                price_list_version: 0,
                currency: "USD".to_owned(),
                lines: vec![Line {
                    kind: LineKind::Imported,
                    label,
                    quantity: 1,
                    unit_cents: total_cents,
                    amount_cents: total_cents,
                }],
                total_cents,
                deposit_cents: 100_000,
            }),
            status: Status::Completed,
            payment: valid(Payment {
                status: PaymentStatus::Captured,
                authorized_cents: 0,
                captured_cents: total_cents,
                refunded_cents: 10_000,
                payers: Vec::new(),
            }),
            paid_at: time::parse("2025-06-02T10:00:00Z"),
            contract: Contract {
                status: ContractStatus::Signed,
                document: Some("doc-1".to_owned()),
            },
            hold_expires_at: None,
            created_at,
        }));
    }
}

fn why() -> Option<Reason> {
    Some(text("as was asked"))
}

fn text<R: TextRule>(text: &str) -> Text<R> {
    text.parse().unwrap()
}

fn valid<T: Rules + std::fmt::Debug>(value: T) -> Valid<T> {
    Valid::new(value).unwrap()
}

/// Two moments in which staff read.
fn accesses() -> [AccessEvent; 2] {
    let entry = |actor: &str, resource: &str, key: Option<&str>, route: &str, at: &str| {
        let at = time::parse(at).unwrap();
        AccessEntry {
            actor: actor.to_owned(),
            resource: resource.to_owned(),
            key: key.map(str::to_owned),
            route: route.to_owned(),
            count: 2,
            first_at: at - TimeDelta::milliseconds(400),
            last_at: at,
            request_id: Some("req_1".to_owned()),
        }
    };
    let (email, raw) = ("GET /v1/inbox/{email_id}", "GET /v1/deliveries/{position}/raw");
    let (ada, ben) = ("auditor:ada", "admin:ben");
    let first = vec![
        entry(ada, "email", Some("em-1"), email, "2026-11-24T12:00:00.123456Z"),
        entry(ada, "email", Some("em-1"), raw, "2026-11-24T12:00:00.223456Z"),
        entry(ben, "inbox", None, "GET /v1/inbox", "2026-11-24T12:00:00.323456Z"),
    ];
    let second = vec![
        entry(ada, "email", Some("em-1"), email, "2026-11-24T12:01:00Z"),
        entry(ada, "email", Some("em-1"), email, "2026-11-25T00:00:01Z"),
    ];
    [AccessEvent { entries: first }, AccessEvent { entries: second }]
}

/// A service key, and its end.
fn of_key(story: &mut Story, name: &str) {
    let id = BLOCK.parse().unwrap();
    let create = KeyCommand::Create {
        id,
        name: text("Website"),
        scopes: [Scope::FleetRead, Scope::BookingsWrite].into(),
        hash: "ab".repeat(32),
        expires_at: time::parse("2027-11-24T12:00:00Z"),
    };
    let revoke = KeyCommand::Revoke { reason: text("found in a log file") };
    let mut key = None;
    for command in [create, revoke] {
        let event: KeyEvent = decide_key(key.as_ref(), &command, &story.meta()).unwrap();
        let body = serde_json::to_vec(&event).unwrap();
        let recorded = story.record(Subject::ServiceKey(id), event.change.kind(), body);
        key = ServiceKey::evolve(key, &event, &recorded);
        if name == "created" {
            return;
        }
    }
}

/// A story that ends with an event of this type.
pub(crate) fn of(kind: &str) -> Vec<Recorded> {
    let mut story = Story::new();
    match kind.strip_prefix("exodrive.").unwrap().split_once('.').unwrap() {
        ("car", name) => of_car(&mut story, name),
        ("projection", name) => {
            let event = operation(name);
            let body = serde_json::to_vec(&event).unwrap();
            let subject = Subject::Projection(event.projection.clone());
            story.record(subject, event.operation.kind(), body);
        }
        ("erasure", name) => {
            let erasure_id = BOOKING.parse().unwrap();
            let event = ErasureEvent { erasure_id, change: erasure(name) };
            let body = serde_json::to_vec(&event).unwrap();
            story.record(Subject::Erasure(erasure_id), event.change.kind(), body);
        }
        ("hold", name) => {
            let (hold_id, reason) = (BLOCK.parse().unwrap(), "case 12/2026".to_owned());
            let change = match name {
                "placed" => HoldChange::Placed { reason },
                _ => HoldChange::Lifted { reason },
            };
            let event = HoldEvent { hold_id, change };
            let body = serde_json::to_vec(&event).unwrap();
            story.record(Subject::Hold(hold_id), event.change.kind(), body);
        }
        ("service_key", name) => of_key(&mut story, name),
        ("sessions", _) => {
            let (user, reason) = (text("user-ada"), text("a lost phone"));
            let event: SessionsEvent =
                decide_sign_out(&SignIns::default(), &user, &reason, &story.meta()).unwrap();
            let body = serde_json::to_vec(&event).unwrap();
            let subject = Subject::SignIns(BOOKING.parse().unwrap());
            story.record(subject, event.change.kind(), body);
        }
        ("access", _) => {
            for event in accesses() {
                let body = serde_json::to_vec(&event).unwrap();
                story.record(Subject::Access, ACCESS_RECORDED, body);
            }
        }
        ("email", _) => {
            let email = "2bc82288-3816-4f83-911e-0c7610ce1bed";
            let body = json!({
                "type": "email.delivered",
                "created_at": "2025-06-01T08:31:00.000000Z",
                "data": {
                    "email_id": email,
                    "created_at": "2025-06-01T08:30:58.000000Z",
                    "from": "bookings@mail.example.com",
                    "to": ["ada@example.com"],
                    "subject": "Booking Confirmed",
                    "tags": {"booking_id": booking_id().to_string()},
                },
            });
            let subject = Subject::Email(email.parse().unwrap());
            story.record(subject, EMAIL_IMPORTED, serde_json::to_vec(&body).unwrap());
        }
        ("booking", name) => {
            story.with_car(0);
            if name == "imported" || name == "history_imported" {
                story.import();
            } else {
                story.hold();
            }
            of_booking(&mut story, name);
        }
        (_, name) => {
            story.with_car(0);
            story.hold();
            story.block();
            if name == "unblocked" {
                story.unblock();
            }
        }
    }
    let made = story.events.iter().any(|event| event.envelope.kind == kind);
    assert!(made, "no story tells of {kind}");
    story.events
}

fn erasure(name: &str) -> ErasureChange {
    let keys = || vec![format!("email.{BOOKING}"), format!("customer.{BLOCK}")];
    match name {
        "requested" => ErasureChange::Requested {
            address: Personal("ada@example.com".to_owned()),
            hold_id: BLOCK.parse().unwrap(),
            include_mentions: true,
            reason: "as was asked".to_owned(),
        },
        "approved" => ErasureChange::Approved { single_handed: false },
        "cancelled" => ErasureChange::Cancelled { reason: "taken back".to_owned() },
        "started" => ErasureChange::Started { keys: keys(), events: 7 },
        "completed" => ErasureChange::Completed { keys: 2, events: 7, rows: 9 },
        other => panic!("say what an erasure {other} looks like"),
    }
}

fn operation(name: &str) -> OperationEvent {
    let rebuild = "0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b6".parse().unwrap();
    let operation = match name {
        "rebuild_requested" => Operation::RebuildRequested {
            version: 1,
            key: Some("4ef9a417".to_owned()),
            from_position: Some(17),
            partitions: Some(4),
            accept_differences: true,
        },
        "rebuild_accepted" => Operation::RebuildAccepted { rebuild },
        "rebuild_cancelled" => Operation::RebuildCancelled { rebuild },
        "rollback_requested" => Operation::RollbackRequested { version: 1, generation: 2 },
        "paused" => Operation::Paused {},
        "resumed" => Operation::Resumed {},
        "retry_requested" => Operation::RetryRequested { key: Some("4ef9a417".to_owned()) },
        "event_skipped" => {
            Operation::EventSkipped { key: "4ef9a417".to_owned(), position: 9_007_199_254_740_993 }
        }
        "prune_requested" => Operation::PruneRequested { generations: vec![1, 2] },
        "swapped" => Operation::Swapped {
            rebuild,
            from_generation: 1,
            to_generation: 2,
            from_version: 1,
            to_version: 1,
            position: 1_234,
            rows: 56,
            digest: "ab".repeat(16),
            differences: 0,
        },
        other => panic!("say what an operation {other} looks like"),
    };
    let reason = "as was asked".to_owned();
    OperationEvent { projection: "inbox".to_owned(), reason, operation }
}

fn of_car(story: &mut Story, name: &str) {
    let added = |n: usize| FleetCommand::Add {
        car_id: car_id(n),
        slug: format!("car-{n}").parse().unwrap(),
        profile: valid(profile(&format!("Car {n}"))),
    };
    story.fleet(0, &added(0));
    let command = match name {
        "added" => return,
        "slug_claimed" => {
            let change = FleetChange::SlugClaimed { slug: "car-0".to_owned() };
            let request_hash = Some(story.meta().request_hash);
            let event = FleetEvent { car_id: car_id(0), request_hash, change };
            return story.fleet_event(0, &event, Subject::Slug("car-0".to_owned()));
        }
        "described" => FleetCommand::Describe(valid(profile("Another name"))),
        "images_set" => FleetCommand::SetImages(valid(vec![Image {
            url: "https://images.example/1.jpg".to_owned(),
            alt: "From the side".to_owned(),
            primary: true,
        }])),
        "featured" => FleetCommand::Feature,
        "archived" => FleetCommand::Archive { reason: why() },
        "unfeatured" => {
            story.fleet(0, &FleetCommand::Feature);
            FleetCommand::Unfeature
        }
        "restored" => {
            story.fleet(0, &FleetCommand::Archive { reason: why() });
            FleetCommand::Restore
        }
        "priced" => FleetCommand::Price(valid(prices())),
        "listed" | "hidden" => {
            story.fleet(0, &FleetCommand::Price(valid(prices())));
            if name == "hidden" {
                story.fleet(0, &FleetCommand::List);
            }
            if name == "hidden" { FleetCommand::Hide } else { FleetCommand::List }
        }
        other => panic!("tell a story of a car that is {other}"),
    };
    story.fleet(0, &command);
}

fn of_booking(story: &mut Story, name: &str) {
    match name {
        "held" | "imported" => {}
        "expired" => {
            story.now += TimeDelta::minutes(15);
            story.act(BookingAction::Expire);
        }
        "cancelled" => story.act(BookingAction::Cancel { reason: why() }),
        "not_shown" => {
            story.authorize();
            story.now = time::parse("2026-12-05T12:00:00Z").unwrap();
            story.act(BookingAction::NoShow { reason: why() });
        }
        "rescheduled" => story.act(BookingAction::Reschedule {
            days: days("2026-12-10", "2026-12-11"),
            choices: Some(valid(Choices::default())),
            expected_total_cents: None,
        }),
        "extended" => {
            let last = date("2026-12-09");
            story.act(BookingAction::Extend { last, expected_total_cents: None });
        }
        "moved_out" | "moved_in" => story.move_over(),
        "payment_authorized" => story.authorize(),
        "payment_captured" => story.capture(Some(100_000)),
        "payment_failed" => story.act(BookingAction::FailPayment { reason: why() }),
        "payment_voided" => {
            story.authorize();
            story.act(BookingAction::VoidPayment { reason: why() });
        }
        "payment_refunded" => {
            story.capture(None);
            story.act(BookingAction::Cancel { reason: why() });
            story.act(BookingAction::RefundPayment { amount_cents: Some(50_000), reason: why() });
        }
        "contract_sent" | "contract_viewed" | "contract_signed" | "contract_declined" => {
            story.act(BookingAction::SendContract { document: Some(text("doc-1")) });
            match name {
                "contract_viewed" => story.act(BookingAction::ViewContract),
                "contract_signed" => story.act(BookingAction::SignContract),
                "contract_declined" => story.act(BookingAction::DeclineContract { reason: why() }),
                _ => {}
            }
        }
        "picked_up" => story.picked_up(),
        "returned" => story.returned(),
        "completed" => {
            story.returned();
            story.act(BookingAction::Complete);
        }
        "disputed" | "dispute_resolved" => {
            story.returned();
            story.act(BookingAction::Dispute { reason: why() });
            if name == "dispute_resolved" {
                story.act(BookingAction::ResolveDispute {
                    status: Status::Completed,
                    reason: why(),
                });
            }
        }
        "note_added" => story.act(BookingAction::AddNote { text: text("Likes it red") }),
        "customer_changed" => story.act(BookingAction::ChangeCustomer {
            customer_id: customer_id('c'),
            customer: customer("ben"),
        }),
        "link_issued" => {
            let expires_at = story.now + TimeDelta::days(30);
            let link = AccessLink { hash: "cd".repeat(32), expires_at };
            story.act(BookingAction::IssueLink { link });
        }
        "links_revoked" => story.act(BookingAction::RevokeLinks),
        "history_imported" => story.act(BookingAction::ImportHistory {
            name: text("payment_captured"),
            summary: text("Captured 4,113.00"),
        }),
        other => panic!("tell a story of a booking that is {other}"),
    }
}
