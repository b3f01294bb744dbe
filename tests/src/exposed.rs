//! A system whose processes reach each server through a network that fails as a test wants it to.

use crate::{API, Proxy, WORKER, World};
use exodrive_runtime::services::{Service, ServiceUrls};

/// Words of log lines that say that events are missing, or were changed.
const ALARMS: [&str; 4] = ["deleted", "halted", "has lost events", "is missing"];

/// A process's ways to the servers.
pub struct Ways {
    nats: Proxy,
    postgres: Proxy,
    redis: Proxy,
}

impl Ways {
    async fn to(urls: &ServiceUrls) -> Self {
        Self {
            nats: Proxy::start(&urls.nats).await,
            postgres: Proxy::start(&urls.database).await,
            redis: Proxy::start(&urls.redis).await,
        }
    }

    /// The way to one server.
    pub fn to_service(&self, service: Service) -> &Proxy {
        match service {
            Service::Nats => &self.nats,
            Service::Postgres => &self.postgres,
            Service::Redis => &self.redis,
        }
    }

    fn settings(&self, urls: &ServiceUrls) -> [(&'static str, String); 6] {
        [
            ("EXODRIVE_NATS_URL", self.nats.url(&urls.nats)),
            ("EXODRIVE_NATS_WORKER_URL", self.nats.url(&urls.nats_worker)),
            ("EXODRIVE_DATABASE_URL", self.postgres.url(&urls.database)),
            ("EXODRIVE_DATABASE_WORKER_URL", self.postgres.url(&urls.database_worker)),
            ("EXODRIVE_REDIS_URL", self.redis.url(&urls.redis)),
            ("EXODRIVE_REDIS_WORKER_URL", self.redis.url(&urls.redis_worker)),
        ]
    }
}

/// A system of one API process and one worker, each with ways of its own.
pub struct Exposed {
    /// The system.
    pub world: World,
    /// The ways of the API.
    pub api: Ways,
    /// The ways of the worker.
    pub worker: Ways,
}

impl Exposed {
    /// A system that is ready.
    pub async fn start() -> Self {
        Self::of(World::without_processes(&[]).await).await
    }

    /// One on the servers of a world that has no processes yet; ready.
    pub async fn of(world: World) -> Self {
        world.migrate().await;
        let (api, worker) = (Ways::to(world.urls()).await, Ways::to(world.urls()).await);
        for (name, ways) in [(API, &api), (WORKER, &worker)] {
            let settings = ways.settings(world.urls());
            let settings: Vec<_> = settings.iter().map(|(name, url)| (*name, &**url)).collect();
            world.start_with(name, name, &settings);
        }
        world.wait_until("ready").await;
        Self { world, api, worker }
    }

    /// The ways of both processes to a server.
    pub fn ways_to(&self, service: Service) -> [&Proxy; 2] {
        [self.api.to_service(service), self.worker.to_service(service)]
    }

    /// What the processes have said of events that are missing, and who has ended.
    pub fn alarms(&self) -> Vec<String> {
        let mut alarms = Vec::new();
        for process in [API, WORKER] {
            if !self.world.runs(process) {
                alarms.push(format!("{process} has ended"));
            }
            let printed = self.world.printed(process);
            let alarm = |line: &&str| ALARMS.iter().any(|it| line.contains(it));
            alarms.extend(printed.lines().filter(alarm).map(|line| format!("{process}: {line}")));
        }
        alarms
    }

    /// Nothing has halted, nobody has ended, and no line says that events are missing.
    pub async fn is_calm(&self) {
        let ready = self.world.wait_until("ready").await;
        assert_eq!(ready["checks"]["seals"]["ok"], true, "{ready}");
        assert_eq!(self.alarms(), Vec::<String>::new());
    }
}
