//! The fleet as staff change it and the public sees it.

use crate::in_process::InProcess;
use exodrive_tests::{Answer, Client, car_body, day, eventually};
use reqwest::Method;
use serde_json::{Value, json};

fn slugs(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|car| car["slug"].as_str().unwrap()).collect()
}

async fn put(client: &Client, path: &str, body: &Value) -> Answer {
    Answer::of(client.request(Method::PUT, path).json(body)).await.unwrap()
}

/// Five cars, of which four are shown.
async fn fleet(admin: &Client) -> Vec<String> {
    let cars = [
        ("alpha", "Alpha 100%", "Supercar", 300_000, vec!["Carbon seats", "Lift"]),
        ("beta", "beta_b", "SUV", 100_000, vec!["Lift"]),
        ("gamma", "Gamma Ray", "SUV", 200_000, vec![]),
        ("delta", "Delta", "Convertible", 200_000, vec!["Carbon seats"]),
        ("omega", "Omega", "Supercar", 900_000, vec!["Lift"]),
    ];
    let mut ids = Vec::new();
    for (slug, name, category, cents, features) in cars {
        let features: Vec<_> = features.iter().map(|name| json!({"name": name})).collect();
        let mut car = car_body(slug);
        car["name"] = json!(name);
        car["category"] = json!(category);
        car["features"] = json!(features);
        car["short_description"] = json!(format!("the {slug} one"));
        ids.push(admin.add_car_priced(&car, &json!({"base_per_day_cents": cents})).await);
    }
    admin.post("/v1/cars/omega/hide", &json!({})).await.expect(200);
    admin.post("/v1/cars/delta/feature", &json!({})).await.expect(200);
    ids
}

#[tokio::test]
async fn the_list_is_filtered_sorted_and_paged() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let ids = fleet(&admin).await;
    visitor.booked("beta", day(3), day(5)).await;
    let block = json!({"start_date": day(5), "end_date": day(6), "reason": "tyres"});
    admin.post("/v1/cars/gamma/blocks", &block).await.expect(201);
    world.settled().await;
    let found = async |query: &str| -> Vec<String> {
        let list = visitor.get(&format!("/v1/cars?{query}")).await.expect(200);
        slugs(&list).into_iter().map(str::to_owned).collect()
    };
    assert_eq!(
        found("").await,
        ["delta", "alpha", "beta", "gamma"],
        "featured first, then by name"
    );
    assert_eq!(found("sort=name").await, ["alpha", "beta", "delta", "gamma"]);
    assert_eq!(found("sort=price").await[0], "beta");
    assert_eq!(found("sort=-price").await[0], "alpha");
    assert_eq!(found("category=suv&sort=name").await, ["beta", "gamma"]);
    assert_eq!(found("category=SUV,%20convertible&sort=name").await, ["beta", "delta", "gamma"]);
    assert_eq!(found("price_min=200000&price_max=200000&sort=name").await, ["delta", "gamma"]);
    assert_eq!(found("features=lift&sort=name").await, ["alpha", "beta"]);
    assert_eq!(found("features=lift,carbon%20seats").await, ["alpha"]);
    assert_eq!(found("q=100%25").await, ["alpha"]);
    assert_eq!(found("q=B_bet").await, ["beta"]);
    assert_eq!(found("q=aplha").await, ["alpha"], "with a typo");
    assert_eq!(found("q=CARBON&sort=name").await, ["alpha", "delta"]);
    assert_eq!(found("q=the%20gamma").await, ["gamma"]);
    let free = |from: i64, to: i64| {
        format!("available_from={}&available_to={}&sort=name", day(from), day(to))
    };
    assert_eq!(found(&free(0, 2)).await, ["alpha", "beta", "delta", "gamma"]);
    assert_eq!(found(&free(2, 3)).await, ["alpha", "delta", "gamma"]);
    assert_eq!(found(&free(5, 5)).await, ["alpha", "delta"]);
    assert_eq!(found(&free(6, 9)).await, ["alpha", "beta", "delta"]);
    assert_eq!(found(&free(7, 9)).await, ["alpha", "beta", "delta", "gamma"]);
    for sort in ["featured", "name", "price", "-price"] {
        let whole = found(&format!("sort={sort}")).await;
        let (mut paged, mut after) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/cars?sort={sort}&limit=1{after}");
            let list = visitor.get(&path).await.expect(200);
            paged.extend(slugs(&list).into_iter().map(str::to_owned));
            let Some(next) = list["next_cursor"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert_eq!(paged, whole, "{sort}");
    }
    let list = visitor.get("/v1/cars?limit=1").await.expect(200);
    let other = format!("/v1/cars?sort=name&after={}", list["next_cursor"].as_str().unwrap());
    visitor.get(&other).await.problem(400, "invalid_request");
    let all = admin.get("/v1/cars?all=true&sort=-price").await.expect(200);
    assert_eq!(slugs(&all)[0], "omega");
    assert_eq!(slugs(&admin.get("/v1/cars").await.expect(200)).len(), 4, "only if requested");
    assert_eq!(ids.len(), 5);
    for query in [
        "all=true",
        "all=yes",
        "sort=colour",
        "price_min=cheap",
        "price_max=-1",
        "currency=usd",
        "currency=USD,EUR",
        "limit=0",
        "available_from=2027-01-01",
        "available_to=2027-01-01",
        "available_from=2027-01-02&available_to=2027-01-01",
        "available_from=soon&available_to=2027-01-01",
        "after=x",
        "colour=red",
        "q=%00",
        "category=%00",
        "features=%00",
    ] {
        println!("{query}");
        let problem =
            visitor.get(&format!("/v1/cars?{query}")).await.problem(400, "invalid_request");
        assert!(problem["next"].as_str().is_some());
    }
}

#[tokio::test]
async fn prices_compare_within_one_currency() {
    let world = InProcess::start().await;
    let admin = world.admin();
    for (slug, cents, currency) in [
        ("dear-dollars", 99_999_999, "USD"),
        ("dollars", 100_000, "USD"),
        ("euros", 90_000, "EUR"),
        ("yen", 200_000, "JPY"),
    ] {
        let price = json!({"base_per_day_cents": cents, "currency": currency});
        admin.add_car_priced(&car_body(slug), &price).await;
    }
    world.settled().await;
    let found = async |query: &str| -> Vec<String> {
        let list = admin.get(&format!("/v1/cars?{query}")).await.expect(200);
        slugs(&list).into_iter().map(str::to_owned).collect()
    };
    assert_eq!(found("sort=price").await, ["euros", "yen", "dollars", "dear-dollars"]);
    assert_eq!(found("sort=-price").await, ["dear-dollars", "dollars", "yen", "euros"]);
    assert_eq!(found("price_min=0").await, ["dear-dollars", "dollars"], "dollars unless named");
    assert_eq!(found("price_max=200000&currency=JPY").await, ["yen"]);
    assert_eq!(found("currency=EUR").await, ["euros"]);
    assert_eq!(found("currency=CHF").await, <[&str; 0]>::default());
}

#[tokio::test]
async fn a_car_is_shown_from_the_cache_and_after_hiding_no_longer() {
    let world = InProcess::start().await;
    let names = world.serve_from(2).await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 100_000).await;
    world.settled().await;
    let clients: Vec<_> = names.iter().map(|name| visitor.at(&world, name)).collect();
    let cached = async |client: &Client, id: &str| {
        eventually("the car comes from the cache", async || {
            let answer = client.get(&format!("/v1/cars/{id}")).await;
            assert_eq!(answer.expect(200)["slug"], "one");
            ["L1", "L2"].contains(&answer.header("x-cache")).then_some(())
        })
        .await;
    };
    let gone = async |client: &Client, id: &str| {
        eventually("the car is not shown any more", async || {
            let answer = client.get(&format!("/v1/cars/{id}")).await;
            (answer.status == 404).then(|| answer.problem(404, "not_found"))
        })
        .await;
    };
    let step = async |action: &str, shown: bool| {
        let done = admin.post(&format!("/v1/cars/one/{action}"), &json!({})).await;
        done.expect(200);
        let position = done.header("exodrive-position").parse().unwrap();
        for client in &clients {
            for id in [car.as_str(), "one"] {
                let path = format!("/v1/cars/{id}");
                let now = client.get_from(position, &path).await;
                assert_eq!(now.status, if shown { 200 } else { 404 }, "{action} {id}");
                if shown {
                    cached(client, id).await
                } else {
                    gone(client, id).await
                }
                assert_eq!(admin.get(&path).await.expect(200)["id"], *car, "staff see it");
                let auditor = world.user("eve", "auditor");
                assert_eq!(auditor.get(&path).await.expect(200)["id"], *car);
            }
        }
    };
    step("feature", true).await;
    step("hide", false).await;
    visitor.get("/v1/cars/one/calendar").await.problem(404, "not_found");
    admin.get("/v1/cars/one/calendar").await.expect(200);
    let quote = json!({"car_id": "one", "start_date": day(0), "end_date": day(0)});
    visitor.post("/v1/quotes", &quote).await.problem(404, "not_found");
    admin.post("/v1/quotes", &quote).await.expect(200);
    visitor.book(&car, day(0), day(0)).await.problem(404, "not_found");
    visitor.book("one", day(0), day(0)).await.problem(404, "not_found");
    admin.booked("one", day(0), day(0)).await;
    step("list", true).await;
    visitor.booked("one", day(1), day(1)).await;
    step("archive", false).await;
    for client in [&visitor, &admin] {
        let refused = client.book(&car, day(2), day(2)).await;
        assert!([404, 409].contains(&refused.status), "{}", refused.json());
    }
    admin.post("/v1/cars/one/feature", &json!({})).await.problem(409, "car_conflict");
    step("restore", true).await;
    visitor.booked("one", day(2), day(2)).await;
    let etag = visitor.get("/v1/cars/one").await.header("etag").to_owned();
    let request = visitor.request(Method::GET, "/v1/cars/one").header("if-none-match", etag);
    assert_eq!(Answer::of(request).await.unwrap().status, 304);
    world.views_equal_a_fresh_fold().await;
}

#[tokio::test]
async fn a_car_is_described_and_priced_and_invalid_fields_are_reported() {
    let world = InProcess::start().await;
    let admin = world.admin();
    let car = admin.post("/v1/cars", &car_body("one")).await;
    assert_eq!(
        car.header("location"),
        format!("/v1/cars/{}", car.expect(201)["id"].as_str().unwrap())
    );
    admin.post("/v1/cars", &car_body("one")).await.problem(409, "slug_taken");
    world.settled().await;
    let unpriced = admin.post("/v1/cars/one/list", &json!({})).await.problem(409, "car_conflict");
    assert!(unpriced["detail"].as_str().unwrap().contains("price"));
    admin.book("one", day(0), day(0)).await.problem(409, "car_not_bookable");
    let mut renamed = car_body("one");
    renamed.as_object_mut().unwrap().remove("slug");
    renamed["name"] = json!("Another name");
    let reported = put(&admin, "/v1/cars/one/profile", &renamed).await.expect(200);
    assert_eq!((&reported["name"], &reported["slug"]), (&json!("Another name"), &json!("one")));
    let image = |url: &str, primary: bool| json!({"url": url, "alt": "A", "primary": primary});
    let images = json!({"images": [image("https://x/1", false), image("https://x/2", true)]});
    let reported = put(&admin, "/v1/cars/one/images", &images).await.expect(200);
    assert_eq!(reported["images"], images["images"]);
    put(&admin, "/v1/cars/one/price", &json!({"base_per_day_cents": 1})).await.expect(200);
    admin.post("/v1/cars/one/list", &json!({})).await.expect(200);
    world.settled().await;
    let list = world.visitor().get("/v1/cars").await.expect(200);
    assert_eq!(list["data"][0]["primary_image"]["url"], "https://x/2");

    let wrong = [
        ("price", json!({"base_per_day_cents": 0}), 422, "/base_per_day_cents"),
        ("price", json!({"base_per_day_cents": "1"}), 400, "/base_per_day_cents"),
        (
            "price",
            json!({"base_per_day_cents": 1, "tax_basis_points": -1}),
            400,
            "/tax_basis_points",
        ),
        (
            "price",
            json!({"base_per_day_cents": 1, "peaks": [{"name": "p", "multiplier_basis_points": 1}]}),
            422,
            "/peaks/0/multiplier_basis_points",
        ),
        (
            "price",
            json!({"base_per_day_cents": 1, "peaks": [{"name": "p", "start_date": day(0), "multiplier_basis_points": 11_000}]}),
            422,
            "/peaks/0/end_date",
        ),
        (
            "price",
            json!({"base_per_day_cents": 1, "fees": [{"id": "a", "name": "A"}]}),
            400,
            "/fees/0/amount_cents",
        ),
        ("images", json!({"images": [image("https://x", false)]}), 422, "/images"),
        ("images", json!({"images": [{"url": "", "primary": true}]}), 422, "/images/0/url"),
        ("profile", json!({"name": "", "category": "SUV"}), 422, "/name"),
        (
            "profile",
            json!({"name": "A", "category": "SUV", "time_zone": "Mars/Base"}),
            422,
            "/time_zone",
        ),
        ("profile", json!({"name": "A", "category": "SUV", "slug": "two"}), 422, "/slug"),
    ];
    for (part, body, status, pointer) in wrong {
        let answer = put(&admin, &format!("/v1/cars/one/{part}"), &body).await;
        println!("{part} {body}");
        let code = if status == 400 { "invalid_request" } else { "validation_failed" };
        assert_eq!(answer.problem(status, code)["errors"][0]["pointer"], pointer);
    }
    for slug in ["", "A", "a b", "a/b", &"a".repeat(101)] {
        let refused = admin.post("/v1/cars", &car_body(slug)).await;
        let problem = refused.problem(422, "validation_failed");
        let errors = problem["errors"].as_array().unwrap();
        assert!(errors.iter().any(|error| error["pointer"] == "/slug"), "{problem}");
    }
    admin.get("/v1/cars/a%00b").await.problem(404, "not_found");
    for (client, status) in [
        (world.visitor(), 401),
        (world.user("ada", "customer"), 403),
        (world.user("e", "auditor"), 403),
    ] {
        assert_eq!(client.post("/v1/cars", &car_body("two")).await.status, status);
        assert_eq!(client.post("/v1/cars/one/hide", &json!({})).await.status, status);
        let price = json!({"base_per_day_cents": 1});
        assert_eq!(put(&client, "/v1/cars/one/price", &price).await.status, status);
    }
}

#[tokio::test]
async fn of_cars_added_under_one_slug_at_once_one_gets_it() {
    let world = InProcess::start().await;
    let names = world.serve_from(3).await;
    let admin = world.admin();
    let clients: Vec<_> = names.iter().map(|name| admin.at(&world, name)).collect();
    for round in 0..5 {
        let body = car_body(&format!("wanted-{round}"));
        let asked = (0..9).map(|n| clients[n % 3].post("/v1/cars", &body));
        let answers = futures::future::join_all(asked).await;
        let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|it| it.status == 201);
        assert_eq!(made.len(), 1, "round {round}");
        for answer in refused {
            answer.problem(409, "slug_taken");
        }
    }
    world.views_equal_a_fresh_fold().await;
}
