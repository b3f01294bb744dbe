//! Search finds what a person types: words in any order, form and case, over mail, bookings,
//! customers and cars.

use crate::in_process::InProcess;
use exodrive_projections::Database;
use exodrive_tests::{Client, Delivery, booking_body, car_body, day};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

/// Names, decomposed or composed as they may come, and what is typed to find them.
const NAMES: [(&str, &str, &[&str]); 4] = [
    ("Zoe\u{308}", "O'Brien", &["zoë", "ZOE\u{308}", "zoe", "Brien Zoë", "o'brien", "zo bri"]),
    (
        "ΟΔΥΣΣΕΥΣ",
        "Παπαδόπουλος",
        &["ΟΔΥΣ", "Οδυσσεύς", "οδυσσευσ", "παπαδοπουλοσ ΟΔΥ", "Παπαδόπουλος"],
    ),
    ("Yıldız", "GROSS", &["YILDIZ", "yildiz", "yıldız groß", "Groß"]),
    ("Anna", "Müller", &["Mu\u{308}ller", "muller anna", "MÜLLER", "anna+tag@Exa"]),
];

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

async fn found(client: &Client, list: &str, typed: &str) -> Vec<Value> {
    let found = client.get(&format!("/v1/{list}?q={}", encoded(typed))).await.expect(200);
    found["data"].as_array().unwrap().clone()
}

fn address(n: usize) -> String {
    format!("{}+tag@example.com", ["zoe", "odysseus", "yildiz", "anna"][n])
}

#[tokio::test]
async fn a_person_is_found_in_mail_bookings_and_customers() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 10_000).await;
    for (n, (first, last, _)) in NAMES.iter().enumerate() {
        let from = 3 * i64::try_from(n).unwrap();
        let mut body = booking_body(&car, day(from), day(from));
        body["customer"] = json!({
            "email": address(n), "first_name": first, "last_name": last,
            "phone": format!("+1 (305) 555-010{n}"),
        });
        visitor.post("/v1/bookings", &body).await.expect(201);
        let mail = json!({
            "type": "email.sent", "created_at": "2026-11-20T09:00:00Z",
            "data": {
                "email_id": format!("em-{n}"), "created_at": "2026-11-19T09:00:00Z",
                "to": [address(n)], "subject": format!("Your rental, {first} {last}"),
            },
        });
        world.stored(&Delivery::new(format!("msg_{n}"), mail.to_string())).await;
    }
    world.settled().await;
    for (n, (_, _, typed)) in NAMES.iter().enumerate() {
        let (id, address) = (format!("em-{n}"), address(n));
        for text in typed.iter().copied().chain([address.as_str()]) {
            let mail = found(&admin, "inbox", text).await;
            assert!(mail.len() == 1 && mail[0]["id"] == id, "{text}: {mail:?}");
            let customers = found(&admin, "customers", text).await;
            assert!(
                customers.len() == 1 && customers[0]["email"] == address,
                "{text}: {customers:?}"
            );
            let bookings = found(&admin, "bookings", text).await;
            let named = |it: &Value| it["customer"]["email"] == address;
            assert!(bookings.len() == 1 && named(&bookings[0]), "{text}: {bookings:?}");
        }
        for number in [format!("+1305555010{n}"), format!("555 010{n}"), format!("010{n}")] {
            assert_eq!(found(&admin, "customers", &number).await.len(), 1, "{number}");
            assert_eq!(found(&admin, "bookings", &number).await.len(), 1, "{number}");
        }
    }
    for list in ["inbox", "customers", "bookings"] {
        assert_eq!(found(&admin, list, "@example.com").await.len(), 4, "{list}");
        assert_eq!(found(&admin, list, "zoë müller").await.len(), 0, "{list}");
    }
    assert_eq!(found(&admin, "inbox", "rental your").await.len(), 4);
    world.views_equal_a_fresh_fold().await;
}

#[tokio::test]
async fn a_car_is_found_by_words_in_any_order_and_with_a_typo() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    for (slug, name) in [
        ("gt3", "Porsche 911 GT3"),
        ("gt4", "Porsche 718 Cayman GT4"),
        ("huracan", "Lamborghini Huraca\u{301}n"),
    ] {
        let mut car = car_body(slug);
        car["name"] = json!(name);
        admin.add_car_priced(&car, &json!({"base_per_day_cents": 10_000})).await;
    }
    world.settled().await;
    for client in [&admin, &visitor] {
        for (typed, expected) in [
            ("porsche gt3", vec!["gt3"]),
            ("gt3 porsche", vec!["gt3"]),
            ("porshe", vec!["gt3", "gt4"]),
            ("PROSCHE", vec!["gt3", "gt4"]),
            ("porshe gt3", vec!["gt3"]),
            ("cayman porsche", vec!["gt4"]),
            ("huracán", vec!["huracan"]),
            ("HURACAN lambo", vec!["huracan"]),
            ("lambourghini", vec!["huracan"]),
            ("gt5", vec![]),
            ("ferrari", vec![]),
        ] {
            let mut slugs: Vec<_> = found(client, "cars", typed).await;
            slugs.sort_by_key(|car| car["slug"].as_str().unwrap().to_owned());
            let slugs: Vec<_> = slugs.iter().map(|car| car["slug"].as_str().unwrap()).collect();
            assert_eq!(slugs, expected, "{typed}");
        }
    }
}

/// More than a page looks through.
const NEWER: usize = 8_100;
const OLDER: usize = 30;

/// The index would have to read all of them before it knew which are the newest.
#[tokio::test]
async fn what_many_old_emails_have_is_looked_for_page_by_page() {
    let world = InProcess::start().await;
    let admin = world.admin();
    let body = exodrive_tests::email_body("sent", "em-1", "2026-11-20T09:00:00Z", "");
    world.stored(&Delivery::new("msg_1".to_owned(), body)).await;
    world.settled().await;
    // Keys of the older ones come first; the counts say that there are many more of both.
    let sql = format!(
        "insert into inbox_g1.inbox (key, position, data)
         select (case when n > {OLDER} then 'b' else 'a' end) || n, 1,
                jsonb_set(jsonb_set(data, '{{email,created_at}}', to_jsonb(
                    to_char(timestamp '2020-01-01' + n * interval '1 minute',
                            'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'))),
                    '{{search}}', to_jsonb(case when n > {OLDER} then 'newer' else 'older' end))
         from inbox_g1.inbox, generate_series(1, {}) as n where key = 'em-1';
         update checkpoints set counts = '{{\"sent\": 1000000}}'
         where projection = 'inbox' and partition = 0",
        NEWER + OLDER
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(world.database()).await.unwrap();
    let (mut path, mut pages, mut found) = ("/v1/inbox?q=older&limit=20".to_owned(), 0, 0);
    loop {
        let page = admin.get(&path).await.expect(200);
        let emails = page["data"].as_array().unwrap().len();
        pages += 1;
        assert_eq!(emails, [0, 20, OLDER - 20][pages - 1], "page {pages}");
        found += emails;
        let Some(next) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/inbox?q=older&limit=20&after={next}");
    }
    assert_eq!((pages, found), (3, OLDER));

    // Of fewer emails the index is asked; they are counted only if there are not too many.
    for (emails, counted) in [(200_000, None), (50_000, Some(OLDER))] {
        let sql = format!(
            "update checkpoints set counts = '{{\"sent\": {emails}}}'
             where projection = 'inbox' and partition = 0"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(world.database()).await.unwrap();
        let first = admin.get("/v1/inbox?q=older&limit=20").await.expect(200);
        assert_eq!(first["counts_complete"], counted.is_some(), "of {emails}");
        assert_eq!(first["counts"]["sent"].as_u64(), counted.map(|it| it as u64), "of {emails}");
        let next = first["next_cursor"].as_str().unwrap();
        let second =
            admin.get(&format!("/v1/inbox?q=older&limit=20&after={next}")).await.expect(200);
        let times = |page: &Value| {
            let rows = page["data"].as_array().unwrap().iter();
            rows.map(|row| row["created_at"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!((times(&first).len(), times(&second).len()), (20, OLDER - 20), "of {emails}");
        assert!(times(&first).iter().all(|time| !times(&second).contains(time)), "of {emails}");
        assert_eq!(second["next_cursor"], Value::Null, "of {emails}");
        let other = admin.get("/v1/inbox?q=older&status=bounced").await.expect(200);
        assert_eq!(other["data"], json!([]), "of {emails}");
    }
}

/// While this release still reads the rows of one before it, its view computes their words.
#[tokio::test]
async fn rows_of_an_older_release_are_searched_until_they_are_rebuilt() {
    let world = InProcess::start().await;
    let admin = world.admin();
    let body = exodrive_tests::email_body("sent", "em-1", "2026-11-20T09:00:00Z", "");
    world.stored(&Delivery::new("msg_1".to_owned(), body)).await;
    world.settled().await;
    assert_eq!(found(&admin, "inbox", "em-1").await.len(), 1);
    let older = "drop view public.inbox cascade;
        do $$ declare s text; begin
            for s in select distinct name from releases loop
                execute format('drop view if exists %I.inbox cascade', s);
            end loop;
        end $$;
        alter table inbox_g1.inbox drop column words;
        update inbox_g1.inbox set data = jsonb_set(data, '{search}', '\"em-1\\nCafé@example.com\"');";
    sqlx::raw_sql(older).execute(world.database()).await.unwrap();
    Database::migrate(&world.urls().database_operator).await.unwrap();
    for typed in ["em-1", "1 EM", "example.com", "@exam"] {
        assert_eq!(found(&admin, "inbox", typed).await.len(), 1, "{typed}");
    }
    assert_eq!(found(&admin, "inbox", "nobody").await.len(), 0);
}

/// Row-level security leaves staff the index: without it every search reads every row.
#[tokio::test]
async fn staff_search_by_the_index_and_nobody_else_sees_more_by_it() {
    let world = InProcess::start().await;
    let mut connection = world.database().acquire().await.unwrap();
    let sql = "set enable_seqscan = off; set role exodrive_staff;";
    sqlx::raw_sql(sql).execute(&mut *connection).await.unwrap();
    for view in ["inbox", "bookings", "customers", "cars"] {
        let explain = format!("explain select key from {view} where words @@ 'a:*'::tsquery");
        let plan: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(explain))
            .fetch_all(&mut *connection)
            .await
            .unwrap();
        assert!(plan.iter().any(|line| line.contains(&format!("{view}_words_idx"))), "{plan:?}");
    }
    sqlx::raw_sql("reset role; reset enable_seqscan").execute(&mut *connection).await.unwrap();
    let roles: Vec<String> = sqlx::query_scalar(
        "select distinct roles::text from pg_policies where policyname = 'staff'",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    assert_eq!(roles, ["{exodrive_staff}"]);
    let reader: bool =
        sqlx::query_scalar("select pg_has_role('exodrive_reader', 'exodrive_staff', 'member')")
            .fetch_one(&mut *connection)
            .await
            .unwrap();
    assert!(!reader, "who reads for the public is no staff");
}
