//! Sealing, exporting and verifying a large log. Verification is compared
//! with one SHA-256 over the same bytes, the least that any reader must do.

use crate::{
    Failure, Scale,
    rebuild::Noon,
    report::{Detail, Row, Series, Target},
    system::{System, Watch, auditor, progress},
};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    time::{Duration, Instant},
};

/// The number of runs of each side: the file is in the page cache for both.
const ROUNDS: usize = 5;

pub(crate) async fn measure(scale: Scale) -> Result<Row, Failure> {
    let mut noon = Noon::start().await?;
    noon.fill(scale.rebuild_events).await?;
    let sealed = "select coalesce(max(size), 0) from seal_checkpoints";
    let events = i64::try_from(noon.events)?;
    let before: i64 = sqlx::query_scalar(sealed).fetch_one(&noon.pool).await?;
    progress("audit: waiting until all of the log is sealed");
    while sqlx::query_scalar::<_, i64>(sealed).fetch_one(&noon.pool).await? < events {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (export, saved, keys) = (path("log.ndjson"), path("saved.txt"), path("log.pub"));
    let run = async |args: &[&str]| {
        let began = Instant::now();
        noon.system.run(args).await?;
        Ok::<_, Failure>(began.elapsed())
    };
    run(&["audit", "checkpoint", "--out", &saved]).await?;
    run(&["audit", "public-key", "--out", &keys]).await?;
    progress("audit: exporting");
    let exported = run(&["audit", "export", "--out", &export]).await?;
    let bytes = fs::metadata(&export)?.len() as f64;
    progress("audit: downloading the same from the API");
    let downloaded = download(&noon.system).await?;
    progress("audit: verifying");
    let verify =
        ["audit", "verify", "--export", &export, "--checkpoint", &saved, "--public-key", &keys];
    let (mut figure, mut ceiling) = (Series::default(), Series::default());
    let watch = Watch::begin();
    for _ in 0..ROUNDS {
        figure.add(events as f64 / run(&verify).await?.as_secs_f64());
        let file = export.clone();
        let hashed = tokio::task::spawn_blocking(move || hash(file.as_ref())).await??;
        ceiling.add(events as f64 / hashed.as_secs_f64());
    }
    let others = watch.others();
    noon.stop().await;
    Ok(Row {
        name: format!("verify an export of {events} events, NDJSON"),
        figure,
        ceiling_name: "one SHA-256 over the file".to_owned(),
        ceiling,
        target: Target::Ratio(0.5),
        others,
        details: vec![
            Detail::new("the file has", bytes / 1e6, "MB"),
            Detail::new("exported", events as f64 / exported.as_secs_f64() / 1e3, "k events/s"),
            Detail::new(
                "streamed by the API",
                events as f64 / downloaded.took.as_secs_f64() / 1e3,
                "k events/s",
            ),
            Detail::new("whose memory was", downloaded.before, "MiB"),
            Detail::new("and at most", downloaded.most, "MiB"),
            Detail::new("sealed when the views were level", before as f64, "events"),
        ],
    })
}

/// An export by HTTP, dropped as it comes, and the API's memory in MiB.
struct Downloaded {
    took: Duration,
    before: f64,
    most: f64,
}

async fn download(system: &System) -> Result<Downloaded, Failure> {
    // Fails only if there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!("http://{}/v1/audit/export?format=ndjson", system.address);
    let before = system.api_memory("VmRSS");
    let began = Instant::now();
    let request = reqwest::Client::new().get(url).bearer_auth(auditor());
    let mut answer = request.send().await?.error_for_status()?;
    while answer.chunk().await?.is_some() {}
    Ok(Downloaded { took: began.elapsed(), before, most: system.api_memory("VmHWM") })
}

/// Reads a file and hashes it on one thread.
fn hash(file: &Path) -> Result<Duration, Failure> {
    let began = Instant::now();
    let (mut file, mut hasher, mut buffer) = (File::open(file)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            std::hint::black_box(hasher.finalize());
            return Ok(began.elapsed());
        }
        hasher.update(&buffer[..read]);
    }
}
