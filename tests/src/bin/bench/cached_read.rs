//! An email's detail from the cache, against a bare axum handler that answers the
//! same body.

use crate::{
    Failure, Scale,
    load::{self, Connection, Load, Outcome, contains},
    report::{Detail, Row, Series, Target},
    system::{System, Watch, again, auditor, cpu_seconds, get, progress, stop, until_served},
};
use axum::{
    Router,
    http::{HeaderValue, header::CONTENT_TYPE},
    routing,
};
use bytes::Bytes;
use exodrive_tests::{Process, free_address};
use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Emails that are read in turn.
const EMAILS: usize = 256;
/// The longest time for which the API may rely on its cache.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);
const HIT: &str = "\r\nx-cache: L1\r\n";

/// Measures cached reads. The projections of `database` must have reached the
/// log's end, and Redis must hold its views.
pub(crate) async fn measure(
    system: &mut System,
    database: &str,
    email_ids: &[String],
    scale: Scale,
) -> Result<Row, Failure> {
    const NAME: &str = "cached read";
    progress(&format!("{NAME}: starting the API and a bare server"));
    // The API caches views in memory only while a worker sends heartbeats.
    let worker = system.exodrive("work", database);
    system.serve(database).await?;
    let token = auditor();
    let paths: Vec<_> = email_ids.iter().take(EMAILS).map(|id| format!("/v1/inbox/{id}")).collect();
    let requests: Vec<_> = paths.iter().map(|path| get(path, Some(&token))).collect();
    let body = example(system, &requests).await?;
    let Bare { address, process: bare, .. } = &Bare::start(&body).await?;
    let address = *address;

    let requests = again(requests);
    let read = async |address, round: Duration| {
        load::http(address, requests.clone(), round, Load { mark: Some(HIT), ..Load::default() })
            .await
    };
    let (mut figure, mut ceiling) = (Series::default(), Series::default());
    let (mut cached, mut plain) = (Outcome::default(), Outcome::default());
    let (mut cpu, mut bare_cpu) = (Vec::new(), Series::default());
    let watch = Watch::begin();
    read(address, scale.round / 4).await?;
    read(system.address, scale.round / 4).await?;
    for round in 1..=scale.rounds {
        let before = cpu_seconds(bare.id());
        let outcome = read(address, scale.round).await?;
        bare_cpu.add((cpu_seconds(bare.id()) - before) * 1e6 / outcome.count() as f64);
        ceiling.add(outcome.rate());
        plain.latencies.extend(&outcome.latencies);

        let before = system.cpu();
        let outcome = read(system.address, scale.round).await?;
        cpu.push(system.cpu().since(&before, outcome.count()));
        if outcome.marked != outcome.count() {
            let missed = outcome.count() - outcome.marked;
            return Err(format!("{missed} of {} reads missed the cache", outcome.count()).into());
        }
        figure.add(outcome.rate());
        cached.latencies.extend(&outcome.latencies);
        progress(&format!(
            "{NAME}: round {round} of {}: {:.0}/s, bare axum {:.0}/s",
            scale.rounds,
            figure.last(),
            ceiling.last()
        ));
    }
    let others = watch.others();
    stop(worker).await;
    let mut details = vec![
        Detail::ms("p50", cached.percentile_ms(0.5)),
        Detail::ms("p99", cached.percentile_ms(0.99)),
        Detail::ms("p50 of bare axum", plain.percentile_ms(0.5)),
        Detail::ms("p99 of bare axum", plain.percentile_ms(0.99)),
        Detail::new("body", body.len() as f64, "B"),
    ];
    details.extend(Detail::cpu(&cpu));
    details.push(Detail::new("CPU each, bare axum", bare_cpu.median(), "µs"));
    Ok(Row {
        name: NAME.to_owned(),
        figure,
        ceiling_name: "bare axum".to_owned(),
        ceiling,
        target: Target::Ratio(0.5),
        others,
        details,
    })
}

/// Reads every email twice; gives one's body. The first read finds it in Redis,
/// the second in the API's own memory.
async fn example(system: &System, requests: &[Vec<u8>]) -> Result<Vec<u8>, Failure> {
    let mut connection = Connection::open(system.address).await?;
    let mut body = Vec::new();
    let first = requests.first().ok_or("no emails to read")?;
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let answer = connection.exchange(first).await?;
        if contains(connection.head(&answer), HIT) || Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for request in requests {
        connection.exchange(request).await?;
    }
    for request in requests {
        let answer = connection.exchange(request).await?;
        if answer.status != 200 || !contains(connection.head(&answer), HIT) {
            let text = String::from_utf8_lossy(connection.head(&answer)).into_owned();
            return Err(format!("not served from the cache: {text}").into());
        }
        body = connection.body(&answer).to_vec();
    }
    Ok(body)
}

/// A bare server as a process of its own.
pub(crate) struct Bare {
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
    _files: [tempfile::NamedTempFile; 2],
}

impl Bare {
    pub(crate) async fn start(body: &[u8]) -> Result<Self, Failure> {
        let (file, output) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
        std::fs::write(file.path(), body)?;
        let address = free_address();
        let path = file.path().display().to_string();
        let arguments = ["bare-axum", &address.to_string(), &path];
        let program = std::env::current_exe()?;
        let mut process = Process::start(&program, &arguments, &[], output.path());
        until_served(address, || match process.ended() {
            None => Ok(()),
            Some(status) => Err(format!("the bare server has ended ({status})").into()),
        })
        .await?;
        Ok(Self { address, process, _files: [file, output] })
    }
}

/// The ceiling: a handler that has its answer.
pub(crate) async fn serve_bare(address: SocketAddr, file: PathBuf) -> Result<(), Failure> {
    let body = Bytes::from(std::fs::read(file)?);
    let answer = move || {
        let body = body.clone();
        async move { ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body) }
    };
    let router = Router::new()
        .route("/v1/inbox/{email_id}", routing::get(answer.clone()))
        .route("/v1/cars", routing::get(answer))
        .route("/livez", routing::get(async || "alive"));
    axum::serve(tokio::net::TcpListener::bind(address).await?, router).await?;
    Ok(())
}
