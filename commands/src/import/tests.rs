//! The accounting of whole imports: which row has which outcome.

use super::{report::UNREACHED, *};
use exodrive_domain::time;
use proptest::prelude::*;
use std::collections::HashSet;

const CAR: &str = "00000000-0000-4000-8000-0000000000c1";
const OTHER_CAR: &str = "00000000-0000-4000-8000-0000000000c2";
const UPPER_CAR: &str = "00000000-0000-4000-8000-0000000000C1";
const BOOKING: &str = "00000000-0000-4000-8000-0000000000b1";
const OTHER_BOOKING: &str = "00000000-0000-4000-8000-0000000000b2";
const UPPER_BOOKING: &str = "00000000-0000-4000-8000-0000000000B1";

const CARS: &str = "id,slug,name,category\n\
    00000000-0000-4000-8000-0000000000c1,one,One,Supercar\n\
    00000000-0000-4000-8000-0000000000c2,two,Two,Supercar\n";
const CUSTOMERS: &str = "id,email,last_name\nu1,one@example.com,One\nu2,two@example.com,Two\n";
const BOOKINGS: &str = "id,car_id,customer_id,start_date,end_date,total_price,overall_status\n\
    00000000-0000-4000-8000-0000000000b1,00000000-0000-4000-8000-0000000000c1,u1,2027-03-01,2027-03-03,9,upcoming\n\
    00000000-0000-4000-8000-0000000000b2,00000000-0000-4000-8000-0000000000c2,u2,2027-03-01,2027-03-03,9,upcoming\n";

fn planned(files: &[(&str, &str)]) -> (Tables, Plan) {
    let files: Vec<_> = files.iter().map(|(name, csv)| (*name, csv.as_bytes())).collect();
    let tables = Tables::parse(&files);
    let now = time::parse("2026-12-01T00:00:00Z").unwrap();
    let plan = plan(&tables, "America/New_York", now);
    (tables, plan)
}

/// The report if each step has the outcome that `of` gives.
fn report(files: &[(&str, &str)], mut of: impl FnMut(&Step) -> Outcome) -> Report {
    let (tables, plan) = planned(files);
    let mut ledger = Ledger::of(&tables, &plan);
    for step in plan.stages.iter().flat_map(|stage| stage.values()).flatten() {
        ledger.count(step, &of(step));
    }
    ledger.finish()
}

/// Line and reason of each refused row of a table, if everything else is taken.
fn refused(files: &[(&str, &str)], table: &str) -> Vec<(u64, String)> {
    let report = report(files, |_| Outcome::Taken);
    let of_table = report.problems.into_iter().filter(|it| it.table == table);
    of_table.map(|it| (it.line, it.why)).collect()
}

/// Asserts which lines of a table are refused, and a part of each reason.
fn assert_refused(files: &[(&str, &str)], table: &str, expected: &[(u64, &str)]) {
    let found = refused(files, table);
    assert_eq!(found.len(), expected.len(), "{table}: {found:#?}");
    for ((line, why), (expected_line, expected_why)) in found.iter().zip(expected) {
        assert_eq!(line, expected_line, "{table}: {found:#?}");
        assert!(why.contains(expected_why), "{table}: {found:#?}");
    }
}

#[test]
fn of_two_prices_the_first_is_taken_and_a_fee_has_a_price() {
    let pricing = format!(
        "id,car_id,base_price\np1,{CAR},100.00\np2,{UPPER_CAR},200.00\np3,nobody,1\np4,{OTHER_CAR},1\n"
    );
    let fees = format!(
        "id,car_id,name,amount\nf1,{CAR},Wash,1.00\nf2,{OTHER_CAR},Wash,1.00\nf3,{OTHER_CAR},Seat,much\n"
    );
    let files = [("cars", CARS), ("car_pricing", &pricing), ("car_additional_fees", fees.as_str())];
    let of_prices = [
        (3, "its car has a price already, at line 2"),
        (4, "cars.csv has no car nobody"),
        (
            5,
            "its fee (car_additional_fees.csv, line 4) was refused: amount is not a number with 2 decimals",
        ),
    ];
    assert_refused(&files, "car_pricing", &of_prices);
    let of_fees = [(3, "its price (car_pricing.csv, line 5) was refused"), (4, "not a number")];
    assert_refused(&files, "car_additional_fees", &of_fees);
    let (_, plan) = planned(&files);
    let prices = plan.stages[0][CAR].iter().find_map(|step| match &step.command {
        ImportCommand::Car(_, fleet::FleetCommand::Price(prices)) => Some(prices),
        _ => None,
    });
    let prices = prices.unwrap();
    assert_eq!((prices.base_per_day_cents, prices.fees.len()), (10_000, 1));
    assert!(!plan.stages[0][OTHER_CAR].iter().any(|step| step.id.ends_with("-price")));

    let without_price = [("cars", CARS), ("car_additional_fees", fees.as_str())];
    let of_fees = [(2, "has no price"), (3, "has no price"), (4, "not a number")];
    assert_refused(&without_price, "car_additional_fees", &of_fees);
}

#[test]
fn of_two_primary_images_the_first_is_primary_and_both_are_taken() {
    let images = format!(
        "id,car_id,url,is_primary,sort_order\n\
         i1,{CAR},https://x/1,true,2\ni2,{CAR},https://x/2,true,3\ni3,{CAR},https://x/3,,1\n\
         i4,{CAR},https://x/4,,last\ni5,{OTHER_CAR},https://x/5,,\ni1,{CAR},https://x/6,,\n"
    );
    let files = [("cars", CARS), ("car_images", images.as_str())];
    let expected = [(5, "sort_order cannot be read"), (7, "line 2 has the same id")];
    assert_refused(&files, "car_images", &expected);
    let report = report(&files, |_| Outcome::Taken);
    let remarks: Vec<_> = report.remarks.iter().filter(|it| it.table == "car_images").collect();
    assert_eq!(remarks.len(), 2, "{remarks:#?}");
    assert_eq!((remarks[0].line, remarks[1].line), (3, 6));
    assert!(remarks[0].why.contains("line 2 is the primary image"));
}

#[test]
fn rows_of_a_refused_row_are_refused_with_its_reason() {
    let cars = CARS.replace(OTHER_CAR, "nonsense").replace("two,Two", "one,Two");
    let pricing = format!("id,car_id,base_price\np1,{CAR},1\np2,nonsense,1\n");
    let days = format!(
        "id,car_id,date,status,booking_id\nd1,{CAR},2027-03-01,booked,{BOOKING}\n\
         d2,{CAR},2027-03-04,booked,{UPPER_BOOKING}\nd3,{CAR},2027-03-05,booked,\n\
         d4,{CAR},2027-03-06,booked,{OTHER_BOOKING}\nd5,{CAR},2027-03-07,booked,nobody\n"
    );
    let events = format!(
        "id,booking_id,event_type,timestamp\ne1,{UPPER_BOOKING},x,2027-01-01T00:00:00Z\n\
         e2,{OTHER_BOOKING},x,2027-01-01T00:00:00Z\ne3,nobody,x,2027-01-01T00:00:00Z\n\
         e4,{BOOKING},x,yesterday\n"
    );
    let bookings = BOOKINGS.replace("c2,u2", "c2,u3");
    let customers =
        "id,email,last_name\nu1,one@example.com,One\nu2,two@example.com,Two\nu3,,Three\n";
    let files = [
        ("cars", cars.as_str()),
        ("car_pricing", &pricing),
        ("car_availability", &days),
        ("customers", customers),
        ("bookings", &bookings),
        ("booking_events", &events),
    ];
    assert_refused(&files, "cars", &[(3, "another car has this slug: the one at line 2")]);
    assert_refused(&files, "car_pricing", &[(3, "its car (cars.csv, line 3) was refused")]);
    let customer = "its customer (customers.csv, line 4) was refused: email must be one email address, for example ada@example.com";
    assert_refused(&files, "bookings", &[(3, customer)]);
    let of_customers =
        [(3, "has no booking that was taken"), (4, "email must be one email address")];
    assert_refused(&files, "customers", &of_customers);
    let of_days = [
        (3, "is not a day of its booking"),
        (4, "has no booking"),
        (5, "its booking (bookings.csv, line 3) was refused: its customer"),
        (6, "bookings.csv has no booking nobody"),
    ];
    assert_refused(&files, "car_availability", &of_days);
    let of_events = [
        (3, "its booking (bookings.csv, line 3) was refused"),
        (4, "bookings.csv has no booking nobody"),
        (5, "timestamp is not a time"),
    ];
    assert_refused(&files, "booking_events", &of_events);
}

#[test]
fn a_day_of_a_car_is_said_once() {
    let days = format!(
        "id,car_id,date,status,booking_id\nd1,{CAR},2027-03-01,booked,{BOOKING}\n\
         d2,{UPPER_CAR},2027-03-01,maintenance,\nd3,{CAR},2027-04-01,maintenance,\n\
         d4,{CAR},2027-04-02,maintenance,\nd5,{CAR},2027-04-01,maintenance,\n\
         d6,{OTHER_CAR},2027-04-01,maintenance,\nd7,{CAR},2027-04-09,available,\n\
         d8,{CAR},2027-13-09,maintenance,\nd9,{CAR},1066-10-14,maintenance,\n\
         d10,{CAR},2027-04-10,shut,\n"
    );
    let files = [
        ("cars", CARS),
        ("customers", CUSTOMERS),
        ("bookings", BOOKINGS),
        ("car_availability", days.as_str()),
    ];
    let expected = [
        (3, "line 2 has the same day of the same car"),
        (6, "line 4 has the same day of the same car"),
        (9, "date must be a day"),
        (10, "the year must be from"),
        (11, "status is unknown"),
    ];
    assert_refused(&files, "car_availability", &expected);
    let report = report(&files, |_| Outcome::Taken);
    let counts = report.tables["car_availability"];
    assert_eq!(counts, Counts { rows: 10, taken: 4, known: 1, refused: 5 });
    let (_, plan) = planned(&files);
    let blocks: Vec<_> = plan.stages[2][CAR].iter().map(|step| step.rows.len()).collect();
    assert_eq!(blocks, [2]);
}

#[test]
fn of_rows_about_one_email_the_first_is_taken() {
    let mail = "id,resend_email_id,last_event_type,created_at,opened_at,booking_id\n\
        m1,e1,delivered,2026-11-01T00:00:00Z,2026-11-02T00:00:00Z,nobody\n\
        m2,e1,opened,2026-11-01T00:00:00Z,,\nm3,e2,,2026-11-01T00:00:00Z,,\n\
        m4,e3,sent,,,\n";
    let files = [("inbox_emails", mail)];
    let expected = [
        (3, "line 2 has the same resend_email_id"),
        (4, "last_event_type is not a word"),
        (5, "neither last_event_at nor created_at"),
    ];
    assert_refused(&files, "inbox_emails", &expected);
    assert_eq!(report(&files, |_| Outcome::Taken).tables["inbox_emails"].taken, 1);
}

#[test]
fn a_row_is_taken_if_all_of_its_steps_are_and_a_customer_if_one_is() {
    let bookings = BOOKINGS
        .replace("overall_status", "overall_status,notes")
        .replace("c2,u2", "c2,u1")
        .replace("upcoming", "upcoming,a note");
    let customers = "id,email,last_name\nu1,one@example.com,One\n";
    let files = [("cars", CARS), ("customers", customers), ("bookings", bookings.as_str())];
    let no = || Outcome::Refused("no".to_owned());
    let first = format!("bookings-{BOOKING}");
    let found = report(&files, |step| if step.id == first { no() } else { Outcome::Taken });
    assert_eq!(found.tables["customers"].taken, 1);
    assert_eq!(found.tables["bookings"], Counts { rows: 2, taken: 1, known: 0, refused: 1 });

    let note = format!("{first}-notes");
    let found = report(&files, |step| if step.id == note { no() } else { Outcome::Known });
    assert_eq!(found.tables["bookings"], Counts { rows: 2, taken: 0, known: 1, refused: 1 });
    assert_eq!(found.problems[0].why, "was taken, but its note was not: no");

    let found =
        report(&files, |step| if step.id == note { Outcome::Taken } else { Outcome::Known });
    assert_eq!(found.tables["bookings"], Counts { rows: 2, taken: 1, known: 1, refused: 0 });

    let found = report(&files, |_| Outcome::Changed);
    assert!(found.problems.iter().all(|it| it.why.contains("changed since the earlier import")));
    assert_eq!(found.tables["customers"], Counts { rows: 1, taken: 0, known: 0, refused: 1 });
    assert!(!found.is_complete());
}

/// A column, and cells of it.
type Column = (&'static str, &'static [&'static str]);
/// A table, and its columns.
type Shape = (&'static str, &'static [Column]);

/// Columns of each table, each with cells that are right and some that are not.
/// The first of them are the most likely.
const SHAPES: [Shape; 11] = [
    (
        "cars",
        &[
            ("id", &[CAR, OTHER_CAR, UPPER_CAR, "c", ""]),
            ("slug", &["one", "two", "Two words"]),
            ("name", &["A car", ""]),
            ("category", &["Supercar"]),
            ("available", &["true", "", "maybe"]),
            ("featured", &["", "true", "no"]),
            ("hidden", &["false", "true", "?"]),
            ("created_at", &["2026-01-01T00:00:00Z", "", "yesterday"]),
        ],
    ),
    (
        "car_pricing",
        &[
            ("id", &["p1", "p2", "P1", "p 3"]),
            ("car_id", &[CAR, OTHER_CAR, UPPER_CAR, "nobody"]),
            ("base_price", &["1.00", "99999999999999999999", "92233720368547758.07", "-1", "x"]),
            ("currency", &["USD", "", "usd", "ZZZ"]),
            ("minimum_days", &["", "2", "-1"]),
        ],
    ),
    (
        "car_additional_fees",
        &[
            ("id", &["f1", "f2", "f3", "F1"]),
            ("car_id", &[CAR, OTHER_CAR, UPPER_CAR, "nobody"]),
            ("name", &["Wash", "\"Wash, and\nseat\""]),
            ("amount", &["1.00", "92233720368547758.07", "x"]),
        ],
    ),
    (
        "car_images",
        &[
            ("id", &["i1", "i2", "i3"]),
            ("car_id", &[CAR, OTHER_CAR, UPPER_CAR, "nobody"]),
            ("url", &["https://example.com/1", ""]),
            ("is_primary", &["true", "false", "x"]),
            ("sort_order", &["1", "", "x"]),
        ],
    ),
    (
        "car_specifications",
        &[
            ("id", &["s1", "s2", "s3"]),
            ("car_id", &[CAR, OTHER_CAR, UPPER_CAR, "nobody"]),
            ("name", &["Power", ""]),
            ("is_highlighted", &["true", "", "x"]),
        ],
    ),
    (
        "car_features",
        &[
            ("id", &["s1", "s2", "s3"]),
            ("car_id", &[CAR, OTHER_CAR, UPPER_CAR, "nobody"]),
            ("name", &["Roof", ""]),
            ("is_highlighted", &["true", "", "x"]),
        ],
    ),
    (
        "car_availability",
        &[
            ("id", &["d1", "d2", "d3", "d4", "D1"]),
            ("car_id", &[CAR, OTHER_CAR, UPPER_CAR, "nobody"]),
            ("date", &["2027-03-01", "2027-03-02", "2027-04-01", "2027-2-1", "262143-12-31"]),
            ("status", &["booked", "maintenance", "available", "shut"]),
            ("booking_id", &[BOOKING, OTHER_BOOKING, UPPER_BOOKING, "", "nobody"]),
        ],
    ),
    (
        "customers",
        &[
            ("id", &["u1", "u2", "U1", "u3"]),
            ("email", &["one@example.com", "two@example.com", "", "@"]),
            ("last_name", &["One", "Two", ""]),
            ("phone", &["", "1"]),
        ],
    ),
    (
        "bookings",
        &[
            ("id", &[BOOKING, OTHER_BOOKING, UPPER_BOOKING, "b", ""]),
            (
                "car_id",
                &[CAR, OTHER_CAR, UPPER_CAR, "nobody", "00000000-0000-4000-8000-0000000000c9"],
            ),
            ("customer_id", &["u1", "u2", "U1", "nobody"]),
            ("start_date", &["2027-03-01", "2027-03-02", "2027-03-09", "x"]),
            ("end_date", &["2027-03-03", "2027-03-02", "262143-12-31", "x"]),
            (
                "total_price",
                &["9.00", "92233720368547758.07", "-92233720368547758.08", "1e9", "-1"],
            ),
            ("overall_status", &["upcoming", "cancelled", "pending_payment", "paused"]),
            ("payment_status", &["captured", "", "refunded", "lost"]),
            ("notes", &["", "\"a \"\"note\"\"\nof two lines\""]),
        ],
    ),
    (
        "booking_events",
        &[
            ("id", &["e1", "e2", "e3", "E1"]),
            ("booking_id", &[BOOKING, OTHER_BOOKING, UPPER_BOOKING, "nobody"]),
            ("event_type", &["payment_captured", "x"]),
            ("timestamp", &["2027-01-01T00:00:00Z", "yesterday"]),
            ("actor_type", &["admin", "customer", "", "two\u{a0}words"]),
            ("actor_id", &["a1", "", "a\u{e9}"]),
        ],
    ),
    (
        "inbox_emails",
        &[
            ("id", &["m1", "m2", "m3"]),
            ("resend_email_id", &["e1", "e2", "e/3"]),
            ("last_event_type", &["delivered", "email.opened", "bounced", ""]),
            ("created_at", &["2026-11-01T00:00:00Z", "", "x"]),
            ("opened_at", &["", "2026-11-02T00:00:00Z", "x"]),
            ("tags", &["", "{}", "[]", "{"]),
            ("raw_payload", &["", "{}", "\"{\"\"data\"\":{\"\"tags\"\":3}}\"", "{"]),
        ],
    ),
];

/// Rows of each table, as places in the lists of cells.
fn cells() -> impl Strategy<Value = Vec<Vec<Vec<usize>>>> {
    let tables: Vec<_> = SHAPES
        .iter()
        .map(|(_, columns)| {
            let cell = |(_, cells): &Column| {
                // A right cell four times of five, so that whole rows are right too.
                prop_oneof![4 => Just(0), 4 => 0..cells.len().min(2), 1 => 0..cells.len()].boxed()
            };
            let row: Vec<_> = columns.iter().map(cell).collect();
            prop::collection::vec(row, 0..5)
        })
        .collect();
    tables
}

/// The files, and the number of rows in each.
fn written(rows: &[Vec<Vec<usize>>]) -> Vec<(&'static str, String, usize)> {
    let file = |((table, columns), rows): (&Shape, &Vec<Vec<usize>>)| {
        let header: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
        let mut csv = header.join(",") + "\n";
        for row in rows {
            let cells: Vec<_> =
                row.iter().zip(*columns).map(|(at, (_, cells))| cells[*at]).collect();
            csv += &(cells.join(",") + "\n");
        }
        (*table, csv, rows.len())
    };
    SHAPES.iter().zip(rows).map(file).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_row_has_one_outcome(
        rows in cells(),
        damage in prop::collection::vec(
            (0..SHAPES.len(), any::<prop::sample::Index>(), prop::sample::select(vec!["\"", "\n", ",", "\0", "\r", "é"])),
            0..3,
        ),
        outcomes in prop::collection::vec(0..4_u8, 64),
    ) {
        let mut files = written(&rows);
        let damaged: HashSet<_> = damage.iter().map(|(table, ..)| *table).collect();
        for (table, place, piece) in damage {
            let csv = &mut files[table].1;
            let places: Vec<_> = csv.char_indices().map(|(at, _)| at).collect();
            csv.insert_str(places[place.index(places.len())], piece);
        }
        let named: Vec<_> = files.iter().map(|(table, csv, _)| (*table, csv.as_str())).collect();

        let (tables, planned_once) = planned(&named);
        let again = planned(&named).1;
        prop_assert_eq!(format!("{planned_once:?}"), format!("{again:?}"));
        let steps: Vec<_> = planned_once.stages.iter().flat_map(|it| it.values()).flatten().collect();
        let ids: HashSet<_> = steps.iter().map(|step| step.id.to_ascii_lowercase()).collect();
        prop_assert_eq!(ids.len(), steps.len(), "no two steps have one name");

        let mut next = outcomes.iter().cycle();
        let report = report(&named, |_| match next.next() {
            Some(0) => Outcome::Taken,
            Some(1) => Outcome::Known,
            Some(2) => Outcome::Changed,
            _ => Outcome::Refused("no".to_owned()),
        });
        for (index, (table, csv, count)) in files.iter().enumerate() {
            let counts = report.tables[*table];
            prop_assert_eq!(counts.rows, counts.taken + counts.known + counts.refused);
            let read = tables.rows.iter().filter(|(row, _)| row.table == *table).count();
            prop_assert_eq!(counts.rows, read);
            if !damaged.contains(&index) {
                prop_assert_eq!(counts.rows, *count, "{}", csv);
            }
            let problems = report.problems.iter().filter(|it| it.table == *table);
            prop_assert_eq!(problems.count(), counts.refused);
        }
        for problem in &report.problems {
            prop_assert_ne!(problem.why.as_str(), UNREACHED);
            prop_assert!(problem.line > 1 && !problem.why.is_empty(), "{:?}", problem);
        }
        // Nothing is refused twice or both refused and planned.
        let refused: Vec<_> = tables.problems.iter().chain(&planned_once.problems).collect();
        let places: HashSet<_> = refused.iter().map(|it| it.row()).collect();
        prop_assert_eq!(places.len(), refused.len());
        prop_assert!(!steps.iter().flat_map(|step| &step.rows).any(|row| places.contains(row)));
    }
}
