//! Real servers for the tests of one program, started once: a NATS account, a Redis database
//! and an address in Postgres for each test.
//!
//! `test-servers FOLDER NUMBER` prints the addresses of NUMBER systems as one line of JSON,
//! and runs until its standard input ends: so it ends with the program that started it,
//! whatever becomes of that. The database `exodrive` is migrated, and serves as the template
//! of each system's own.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program of the tests")]

use exodrive_projections::Database;
use exodrive_runtime::services::{Options, PrivateServices, ServiceUrls};
use std::io::Read;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let folder = args.next().unwrap();
    let neighbours = args.next().unwrap().parse().unwrap();
    let options = Options { neighbours, ..Options::for_tests(folder) };
    let services = PrivateServices::start(options).await.unwrap();
    Database::for_workers(&services.urls().database).unwrap().migrate().await.unwrap();
    let systems: Vec<ServiceUrls> =
        (1..=neighbours).map(|number| services.neighbour(number).unwrap()).collect();
    println!("{}", serde_json::to_string(&systems).unwrap());
    let end_of_input = || std::io::stdin().read_to_end(&mut Vec::new());
    let _ = tokio::task::spawn_blocking(end_of_input).await;
    services.stop().await;
}
