//! `api/openapi.json` is what the server does, whatever somebody makes of it.

use crate::in_process::InProcess;
use exodrive_tests::{API, Delivery, day, email_body};
use std::{fs, path::Path, process::Stdio};

/// Schemathesis makes inputs from the document, right ones and wrong ones, and holds every answer
/// against it: no 5xx, no answer that the document does not describe, nothing taken that it refuses
/// or refused that it takes.
#[tokio::test(flavor = "multi_thread")]
async fn inputs_made_from_the_document_find_no_difference() {
    let world = InProcess::start().await;
    let admin = world.admin();
    let car = admin.add_car("gt3", 100_000).await;
    admin.booked(&car, day(1), day(2)).await;
    let email = "0198f3a6-c1f0-7d5a-b0c4-00000000000a";
    let body = email_body("sent", email, "2026-11-20T09:00:00.000Z", "");
    world.stored(&Delivery::new("msg_1", body)).await;
    world.settled().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let program = root.join(".tools/schemathesis/bin/st");
    assert!(
        program.is_file(),
        "{program:?} is missing: run `make test`, or scripts/bootstrap --tests"
    );
    let said = world.folder().join("schemathesis.txt");
    let output = fs::File::create(&said).unwrap();
    let url = format!("http://{}", world.address(API));
    let status = tokio::process::Command::new(program)
        .arg("--config-file")
        .arg(root.join("tests/schemathesis.toml"))
        .args(["--no-color", "run", "--url", &url])
        .arg(root.join("api/openapi.json"))
        .env("HOOKS", root.join("tests/schemathesis.py"))
        .env("ADMIN", world.token("admin"))
        .env("OPERATOR", world.token("operator"))
        .env("AUDITOR", world.token("auditor"))
        .current_dir(world.folder())
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .kill_on_drop(true)
        .status()
        .await
        .unwrap();
    assert!(status.success(), "{}", fs::read_to_string(said).unwrap());
}
