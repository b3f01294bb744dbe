//! Networks that fail in every way between every process and every server, under load.

use exodrive_runtime::services::Service;
use exodrive_tests::{Exposed, Ledger, Outcome, Proxy, SmallDisk, World, seconds_not_ready};
use futures::future::join_all;
use std::{
    env,
    time::{Duration, Instant},
};
use tokio::time::sleep;

const POSTERS: usize = 6;
const BODY: usize = 4_000;
/// The time between two faults.
const BREATH: Duration = Duration::from_millis(30);
/// The time for which a fault that lasts does.
const LASTS: Duration = Duration::from_millis(1_500);
/// 1 Mbit/s.
const SLOW: u32 = 125_000;
const LATE: Duration = Duration::from_millis(100);
/// The time for each fault and server under `make chaos`.
const PERIOD: Duration = Duration::from_secs(15);

/// A way in which a network fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Cut,
    HalfClose,
    /// What the server answers is lost, and then the connection is cut.
    AnswersLost,
    /// Nothing arrives for a while, and then the connection is cut.
    BlackHole,
    Delay,
    Throttle,
    /// The connections are dead, and nobody is told.
    Forgotten,
}

impl Fault {
    const ALL: [Self; 7] = [
        Self::Cut,
        Self::HalfClose,
        Self::AnswersLost,
        Self::BlackHole,
        Self::Delay,
        Self::Throttle,
        Self::Forgotten,
    ];

    /// Lets a way fail once. Afterwards it is sound.
    async fn inflict(self, way: &Proxy) {
        match self {
            Self::Cut => way.cut(),
            Self::HalfClose => way.half_close(),
            Self::AnswersLost => {
                way.lose_answers(true);
                sleep(BREATH).await;
                way.cut();
                way.lose_answers(false);
            }
            Self::BlackHole => {
                way.black_hole(true);
                sleep(LASTS).await;
                way.cut();
                way.black_hole(false);
            }
            Self::Delay => {
                way.delay(LATE);
                sleep(LASTS).await;
                way.delay(Duration::ZERO);
            }
            Self::Throttle => {
                way.throttle(Some(SLOW));
                sleep(LASTS).await;
                way.throttle(None);
            }
            Self::Forgotten => {
                way.forget();
                // It is noticed only after a while.
                sleep(LASTS * 4).await;
            }
        }
    }

    /// How often it happens in the short test.
    fn times(self) -> usize {
        match self {
            Self::Cut | Self::HalfClose | Self::AnswersLost => 25,
            Self::BlackHole | Self::Delay | Self::Throttle => 1,
            // `half_open` is about it.
            Self::Forgotten => 0,
        }
    }
}

/// Lets both ways to a server fail, as often as `more` says. Gives how often each did.
async fn storm(
    exposed: &Exposed,
    service: Service,
    fault: Fault,
    more: impl Fn(usize) -> bool,
) -> usize {
    let of_way = async |way: &Proxy| {
        let mut faults = 0;
        while more(faults) {
            fault.inflict(way).await;
            faults += 1;
            sleep(BREATH).await;
        }
        faults
    };
    let [api, worker] = exposed.ways_to(service);
    let (api, worker) = tokio::join!(of_way(api), of_way(worker));
    api + worker
}

#[tokio::test]
async fn networks_fail_in_every_way_and_nothing_is_lost_doubled_or_taken_for_tampering() {
    let exposed = Exposed::start().await;
    let ledger = Ledger::of(BODY);
    let posters = join_all((0..POSTERS).map(|_| ledger.post(&exposed.world)));
    let storms = async {
        let mut faults = 0;
        for fault in Fault::ALL {
            for service in Service::ALL {
                faults += storm(&exposed, service, fault, |done| done < fault.times()).await;
            }
            ledger.flows(POSTERS).await;
        }
        ledger.end();
        faults
    };
    let (_, faults) = tokio::join!(posters, storms);
    let outcome = ledger.outcome(&exposed.world).await;
    println!("{faults} faults, {outcome:?}");
    outcome.is_clean();
    exposed.is_calm().await;
}

/// A line of the table.
struct Line {
    fault: String,
    service: Service,
    faults: usize,
    acknowledged: usize,
    outcome: Outcome,
    not_ready: f64,
    /// Until a delivery was taken, every view was level and the system was ready.
    healed: Duration,
    alarms: Vec<String>,
}

/// Thousands of faults, and a table of them. It takes minutes: only under `make chaos`.
#[tokio::test]
async fn thousands_of_faults_of_every_kind() {
    let Ok(only) = env::var("EXODRIVE_CHAOS") else {
        println!("skipped: `make chaos` runs it");
        return;
    };
    let is_asked = |fault: &str| only == "1" || only == fault;
    let mut lines = Vec::new();
    for fault in Fault::ALL.into_iter().filter(|fault| is_asked(&format!("{fault:?}"))) {
        let exposed = Exposed::start().await;
        for service in Service::ALL {
            let began = Instant::now();
            let storm = storm(&exposed, service, fault, |_| began.elapsed() < PERIOD);
            lines.push(line(&exposed, service, format!("{fault:?}"), storm).await);
            print_line(lines.last().unwrap());
        }
    }
    let world = World::without_processes(&[]).await;
    let disk = SmallDisk::of_postgres(&world).await;
    let exposed = Exposed::of(world).await;
    // It ends before the servers do.
    let disk = disk;
    let storm = fill(&exposed.world, &disk);
    lines.push(line(&exposed, Service::Postgres, "FullDisk".to_owned(), storm).await);
    print_line(lines.last().unwrap());
    println!(
        "\n{:<12} {:<9} {:>7} {:>13} {:>5} {:>8} {:>6} {:>14} {:>8} {:>7}",
        "fault",
        "to",
        "faults",
        "acknowledged",
        "lost",
        "doubled",
        "wrong",
        "not ready (s)",
        "heal (s)",
        "alarms"
    );
    lines.iter().for_each(print_line);
    println!("{} faults in all", lines.iter().map(|line| line.faults).sum::<usize>());
    for Line { fault, service, outcome, alarms, .. } in lines {
        assert_eq!(alarms, Vec::<String>::new(), "{fault} to {service}");
        outcome.is_clean();
    }
}

/// Fills the disk of Postgres again and again. Gives how often.
async fn fill(world: &World, disk: &SmallDisk) -> usize {
    let (began, mut faults) = (Instant::now(), 0);
    while began.elapsed() < PERIOD {
        disk.fill();
        let full = Instant::now();
        while full.elapsed() < LASTS * 2 {
            disk.seen(world);
            sleep(BREATH).await;
        }
        disk.free();
        faults += 1;
        sleep(LASTS).await;
    }
    faults
}

/// One kind of fault to one server, for a while: `storm` gives how often it was inflicted. The system
/// is ready afterwards.
async fn line(
    exposed: &Exposed,
    service: Service,
    fault: String,
    storm: impl Future<Output = usize>,
) -> Line {
    let world = &exposed.world;
    let before = world.log().await.last_position().await.unwrap();
    let ledger = Ledger::numbered(BODY, usize::try_from(before).unwrap() * 10);
    let posters = join_all((0..POSTERS).map(|_| ledger.post(world)));
    let storms = async {
        let faults = storm.await;
        let calm = Instant::now();
        ledger.flows(POSTERS).await;
        ledger.end();
        (faults, calm)
    };
    let (_, (faults, calm), not_ready) =
        tokio::join!(posters, storms, seconds_not_ready(exposed, &ledger));
    world.wait_until("ready").await;
    let outcome = ledger.outcome(world).await;
    let healed = calm.elapsed();
    let (acknowledged, alarms) = (outcome.acknowledged, exposed.alarms());
    Line { fault, service, faults, acknowledged, outcome, not_ready, healed, alarms }
}

fn print_line(line: &Line) {
    let Line { fault, service, faults, acknowledged, outcome, not_ready, healed, alarms } = line;
    println!(
        "{:<12} {:<9} {faults:>7} {acknowledged:>13} {:>5} {:>8} {:>6} {not_ready:>14.1} {:>8.1} {:>7}",
        fault,
        service.to_string(),
        outcome.lost,
        outcome.doubled,
        outcome.wrong,
        healed.as_secs_f64(),
        alarms.len(),
    );
}
