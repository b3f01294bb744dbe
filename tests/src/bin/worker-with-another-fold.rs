//! A worker of `inbox` whose fold is not the release's: a newer version, or one
//! with defects. For the tests of the limits of such a fold.

#![expect(clippy::unwrap_used, clippy::panic, reason = "part of the tests")]

use exodrive_domain::Event;
use exodrive_projections::{
    Database, PersonalData, Projection,
    engine::{Runner, cache::Cache},
    views::inbox::{Inbox, InboxRow},
};
use exodrive_runtime::telemetry;
use exodrive_tests::open_log;
use tokio_util::sync::CancellationToken;

/// The next version: every row contains its number.
struct Newer;

impl Projection for Newer {
    const NAME: &'static str = Inbox::NAME;
    const ABOUT: &'static str = Inbox::ABOUT;
    const KEY_EXAMPLE: &'static str = Inbox::KEY_EXAMPLE;
    const VERSION: u32 = Inbox::VERSION + 1;
    const SUBJECTS: &'static [&'static str] = Inbox::SUBJECTS;
    // Another column, so that the views differ too.
    const SCHEMA: &'static str = concat!(
        include_str!("../../../projections/src/views/inbox/schema.sql"),
        "alter table inbox add column release integer not null default 2;"
    );
    const CACHED: bool = true;
    const COUNTED: Option<&'static str> = Inbox::COUNTED;
    type Row = InboxRow;

    fn personal(key: &str) -> PersonalData<'_> {
        Inbox::personal(key)
    }

    fn keys(event: &Event<'_>) -> Vec<String> {
        Inbox::keys(event)
    }

    fn evolve(key: &str, row: Option<InboxRow>, event: &Event<'_>) -> Option<InboxRow> {
        let mut row = Inbox::evolve(key, row, event)?;
        row.search = format!("newer\n{}", row.search);
        Some(row)
    }

    fn counted(row: &InboxRow) -> Option<&str> {
        Inbox::counted(row)
    }

    fn cached(row: &InboxRow, position: u64) -> Option<String> {
        Inbox::cached(row, position)
    }
}

/// The release's version with two defects.
struct Defective;

impl Projection for Defective {
    const NAME: &'static str = Inbox::NAME;
    const ABOUT: &'static str = Inbox::ABOUT;
    const KEY_EXAMPLE: &'static str = Inbox::KEY_EXAMPLE;
    const VERSION: u32 = Inbox::VERSION;
    const SUBJECTS: &'static [&'static str] = Inbox::SUBJECTS;
    const SCHEMA: &'static str = Inbox::SCHEMA;
    const CACHED: bool = true;
    const COUNTED: Option<&'static str> = Inbox::COUNTED;
    type Row = InboxRow;

    fn personal(key: &str) -> PersonalData<'_> {
        Inbox::personal(key)
    }

    fn keys(event: &Event<'_>) -> Vec<String> {
        assert!(!event.recorded.envelope.id.starts_with("keys-panic"), "a defect of keys");
        Inbox::keys(event)
    }

    fn evolve(key: &str, row: Option<InboxRow>, event: &Event<'_>) -> Option<InboxRow> {
        let id = &event.recorded.envelope.id;
        assert!(!id.starts_with("panic"), "a defect of evolve");
        while id.starts_with("endless") {
            std::hint::black_box(());
        }
        Inbox::evolve(key, row, event)
    }

    fn counted(row: &InboxRow) -> Option<&str> {
        Inbox::counted(row)
    }

    fn cached(row: &InboxRow, position: u64) -> Option<String> {
        Inbox::cached(row, position)
    }
}

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

#[tokio::main]
async fn main() {
    telemetry::init("info", telemetry::Format::Json).unwrap();
    let log = open_log(&setting("EXODRIVE_NATS_URL")).await;
    let database = Database::for_workers(&setting("EXODRIVE_DATABASE_WORKER_URL")).unwrap();
    let cache = Cache::new(&setting("EXODRIVE_REDIS_WORKER_URL")).unwrap();
    let fold = setting("WORKER_FOLD");
    let runner = match fold.as_str() {
        "newer" => Runner::new::<Newer>(log, database, cache, &fold),
        "defective" => Runner::new::<Defective>(log, database, cache, &fold),
        _ => panic!("no fold {fold:?}"),
    };
    runner.run(&CancellationToken::new()).await.unwrap();
}
