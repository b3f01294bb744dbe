//! Views in Redis: pushed by the projections, stamped with their position, so that an older one
//! never replaces a newer one. Each generation has its own views; a pointer names the generation
//! that readers of a version of the fold read.
//!
//! Redis may be slow, stopped, flushed or gone at any time. Callers never wait for it longer than
//! a bound, and after a failure do not ask it again for a while.

pub use exodrive_log::redis::{REDIS_TIMEOUT, RedisError as CacheError};

use crate::engine::PartitionId;
use exodrive_log::redis::Redis;
use futures::{Stream, StreamExt};
use redis::{Cmd, FromRedisValue, ScriptInvocation};
use std::{sync::LazyLock, time::Duration};

/// Rows published by one call; a longer script would block Redis.
const CHUNK: usize = 200;

/// The views in Redis. Cheap to clone.
#[derive(Clone)]
pub struct Cache {
    redis: Redis,
}

/// A row to publish.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) position: u64,
    pub(crate) json: String,
}

/// Sets each key whose stored position is lower, then publishes on the channel the keys that may
/// have changed. A late writer does not undo an erasure, which does not change the position. A
/// value is its position, a line feed, and the JSON that readers get. ARGV: the channel, the
/// notice, then position and JSON of each key.
static PUBLISH: LazyLock<redis::Script> = LazyLock::new(|| {
    redis::Script::new(
        r"for i, key in ipairs(KEYS) do
            local known = redis.call('GETRANGE', key, 0, 20)
            local position = ARGV[2 * i + 1]
            if tonumber(string.match(known, '^%d+') or '-1') < tonumber(position) then
                redis.call('SET', key, position .. '\n' .. ARGV[2 * i + 2])
            end
        end
        redis.call('PUBLISH', ARGV[1], ARGV[2])",
    )
});

/// Value of the mark of a partition that Redis holds whole.
const COMPLETE: &str = "complete";

/// Values removed by one call.
const SWEEP: usize = 500;

/// A message from a publisher to the readers of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// These keys of a generation may have changed; if empty, the publisher is alive.
    Changed(i32, Vec<String>),
    /// Readers must check again which generation they read.
    Switched,
}

impl Notice {
    fn parse(text: &str) -> Option<Self> {
        if text == SWITCHED {
            return Some(Self::Switched);
        }
        let mut lines = text.lines();
        let generation = lines.next()?.parse().ok()?;
        Some(Self::Changed(generation, lines.map(str::to_owned).collect()))
    }
}

const SWITCHED: &str = "switched";

/// A row's view as Redis holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its generation.
    pub generation: i32,
    /// The position that last changed the row.
    pub position: u64,
    /// The JSON that readers get.
    pub json: String,
}

impl Cache {
    /// A connection that is made when first used, and whose callers wait at most this long. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// When the URL is invalid.
    pub fn with_timeout(url: &str, timeout: Duration) -> Result<Self, CacheError> {
        Ok(Self { redis: Redis::with_timeout(url, timeout)? })
    }

    /// The same with [`REDIS_TIMEOUT`].
    ///
    /// # Errors
    /// When the URL is invalid.
    pub fn new(url: &str) -> Result<Self, CacheError> {
        Ok(Self { redis: Redis::new(url)? })
    }

    /// The connection, for data other than views.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// True if Redis answers at all.
    pub(crate) async fn answers(&self) -> bool {
        self.query::<String>(&Cmd::ping()).await.is_ok()
    }

    /// The channel on which the changes of a view are published.
    fn channel(&self, view: &str) -> String {
        format!("exo:changes:{}:{view}", self.redis.database())
    }

    /// Sends one command.
    ///
    /// # Errors
    /// [`CacheError`], within the bound.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, CacheError> {
        self.redis.query(command).await
    }

    /// Runs a script.
    ///
    /// # Errors
    /// [`CacheError`], within the bound.
    pub async fn invoke<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, CacheError> {
        self.redis.invoke(script).await
    }

    /// A row's view for readers of a version of the fold; `None` if Redis does not hold it. `guess`
    /// is the generation that they read last (0: none yet): if they still read it, this takes one
    /// call.
    ///
    /// # Errors
    /// [`CacheError`], within the bound.
    pub async fn view(
        &self,
        view: &str,
        version: u32,
        guess: i32,
        key: &str,
    ) -> Result<Option<View>, CacheError> {
        let pointer = pointer(view, version);
        let keys = [pointer.as_str(), &name(view, guess, key)];
        let (read, value): (Option<i32>, Option<String>) =
            self.query(redis::cmd("MGET").arg(&keys)).await?;
        let Some(generation) = read else { return Ok(None) };
        let value = if generation == guess {
            value
        } else {
            self.query(&Cmd::get(name(view, generation, key))).await?
        };
        Ok(value.and_then(|value| {
            let (position, json) = split(value)?;
            Some(View { generation, position, json })
        }))
    }

    /// Publishes views of a generation, and notifies its readers.
    pub(crate) async fn publish(
        &self,
        view: &str,
        generation: i32,
        entries: &[Entry],
    ) -> Result<(), CacheError> {
        for chunk in entries.chunks(CHUNK) {
            let mut script = PUBLISH.prepare_invoke();
            let mut notice = generation.to_string();
            for entry in chunk {
                notice.push('\n');
                notice.push_str(&entry.key);
            }
            script.arg(self.channel(view)).arg(notice);
            for entry in chunk {
                let key = name(view, generation, &entry.key);
                script.key(key).arg(entry.position).arg(&entry.json);
            }
            self.invoke::<()>(&script).await?;
        }
        Ok(())
    }

    /// The changes of a view, as they happen, until the connection breaks. Its publisher sends a
    /// heartbeat every second: a reader that hears nothing for longer may have missed something.
    ///
    /// # Errors
    /// When Redis does not take the subscription.
    pub async fn changes(
        &self,
        view: &str,
    ) -> Result<impl Stream<Item = Notice> + use<>, CacheError> {
        let subscription = self.redis.subscribe(&self.channel(view)).await?;
        Ok(subscription.into_on_message().filter_map(async |notice| {
            match notice.get_payload::<String>() {
                Ok(text) => Notice::parse(&text),
                // What has changed cannot be read: all of it may have.
                Err(_) => Some(Notice::Switched),
            }
        }))
    }

    /// The generation that readers of a version of the fold read from Redis; `None` if they must
    /// read Postgres.
    ///
    /// # Errors
    /// [`CacheError`], within the bound.
    pub async fn generation(&self, view: &str, version: u32) -> Result<Option<i32>, CacheError> {
        self.query(&Cmd::get(pointer(view, version))).await
    }

    /// Announces to readers that a generation has a publisher and that readers of this version of
    /// the fold read it, unless the publisher does not know of the last swap yet. `swaps` is the
    /// number of swaps that it knows of.
    pub(crate) async fn announce(
        &self,
        view: &str,
        version: u32,
        generation: i32,
        swaps: i64,
    ) -> Result<(), CacheError> {
        let mut script = ANNOUNCE.prepare_invoke();
        script.key(pointer(view, version)).key(self::swaps(view));
        script.arg(self.channel(view)).arg(generation).arg(SWITCHED).arg(swaps);
        self.invoke(&script).await
    }

    /// Sends readers of these versions to Postgres, until a publisher that knows of this many swaps
    /// announces a generation to them.
    pub(crate) async fn withdraw(
        &self,
        view: &str,
        versions: &[u32],
        swaps: i64,
    ) -> Result<(), CacheError> {
        // A swap that no publisher knows of within this time did not happen.
        self.query::<()>(&Cmd::set_ex(self::swaps(view), swaps, 10)).await?;
        let pointers: Vec<_> = versions.iter().map(|version| pointer(view, *version)).collect();
        self.query::<()>(&Cmd::del(pointers)).await?;
        self.query(&Cmd::publish(self.channel(view), SWITCHED)).await
    }

    /// True if Redis holds all of a partition: it forgets the mark when it forgets the rows.
    pub(crate) async fn is_complete(
        &self,
        view: &str,
        part: PartitionId,
    ) -> Result<bool, CacheError> {
        let mark: Option<String> = self.query(&Cmd::get(mark(view, part))).await?;
        Ok(mark.as_deref() == Some(COMPLETE))
    }

    /// Marks that all of a partition is being published.
    pub(crate) async fn begin_filling(
        &self,
        view: &str,
        part: PartitionId,
    ) -> Result<(), CacheError> {
        self.query(&Cmd::set(mark(view, part), "filling")).await
    }

    /// Marks that all of a partition has been published, unless Redis has since forgotten the first
    /// mark, and with it the rows that were published.
    pub(crate) async fn mark_complete(
        &self,
        view: &str,
        part: PartitionId,
    ) -> Result<(), CacheError> {
        let mut set = Cmd::set(mark(view, part), COMPLETE);
        set.arg("XX");
        self.query(&set).await
    }

    /// The keys of a generation that Redis holds, in no order, some perhaps twice.
    ///
    /// # Errors
    /// [`CacheError`], for each call within the bound.
    pub async fn keys(&self, view: &str, generation: i32) -> Result<Vec<String>, CacheError> {
        let prefix = name(view, generation, "");
        let mut keys = Vec::new();
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(SWEEP);
            let (next, found): (u64, Vec<String>) = self.query(&scan).await?;
            keys.extend(
                found.iter().filter_map(|key| key.strip_prefix(&prefix)).map(str::to_owned),
            );
            cursor = next;
            if cursor == 0 {
                return Ok(keys);
            }
        }
    }

    /// Values of a generation, in the order of the keys.
    ///
    /// # Errors
    /// [`CacheError`], within the bound.
    pub async fn values(
        &self,
        view: &str,
        generation: i32,
        keys: &[String],
    ) -> Result<Vec<Option<(u64, String)>>, CacheError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<_> = keys.iter().map(|key| name(view, generation, key)).collect();
        let values: Vec<Option<String>> = self.query(redis::cmd("MGET").arg(&names)).await?;
        Ok(values.into_iter().map(|value| value.and_then(split)).collect())
    }

    /// Removes keys of a generation, and notifies readers.
    pub(crate) async fn forget(
        &self,
        view: &str,
        generation: i32,
        keys: &[String],
    ) -> Result<(), CacheError> {
        for chunk in keys.chunks(CHUNK) {
            let names: Vec<_> = chunk.iter().map(|key| name(view, generation, key)).collect();
            self.query::<()>(redis::cmd("UNLINK").arg(&names)).await?;
            let notice = format!("{generation}\n{}", chunk.join("\n"));
            self.query::<()>(&Cmd::publish(self.channel(view), notice)).await?;
        }
        Ok(())
    }

    /// Removes a generation.
    pub(crate) async fn sweep(&self, view: &str, generation: i32) -> Result<(), CacheError> {
        let names: Vec<_> = self.keys(view, generation).await?;
        for chunk in names.chunks(SWEEP) {
            let names: Vec<_> = chunk.iter().map(|key| name(view, generation, key)).collect();
            self.query::<()>(redis::cmd("UNLINK").arg(&names)).await?;
        }
        let marks: Vec<_> = (0..64)
            .map(|partition| mark(view, PartitionId { generation, partition, partitions: 64 }))
            .collect();
        self.query(redis::cmd("UNLINK").arg(&marks)).await
    }
}

/// A value's position and JSON.
fn split(mut value: String) -> Option<(u64, String)> {
    let end = value.find('\n')?;
    let position = value[..end].parse().ok()?;
    value.drain(..=end);
    Some((position, value))
}

/// Points readers of a version at a generation, notifies them if that is new, and sends a
/// heartbeat. KEYS: the pointer, the number of swaps. ARGV: the channel, the generation, the notice
/// of a switch, the number of swaps.
static ANNOUNCE: LazyLock<redis::Script> = LazyLock::new(|| {
    redis::Script::new(
        r"if tonumber(redis.call('GET', KEYS[2]) or '0') > tonumber(ARGV[4]) then
            return
        end
        if redis.call('GET', KEYS[1]) ~= ARGV[2] then
            redis.call('SET', KEYS[1], ARGV[2])
            redis.call('PUBLISH', ARGV[1], ARGV[3])
        end
        redis.call('PUBLISH', ARGV[1], ARGV[2])",
    )
});

fn name(view: &str, generation: i32, key: &str) -> String {
    format!("exo:view:{view}:{generation}:{key}")
}

fn pointer(view: &str, version: u32) -> String {
    format!("exo:generation:{view}:{version}")
}

fn swaps(view: &str) -> String {
    format!("exo:swaps:{view}")
}

fn mark(view: &str, part: PartitionId) -> String {
    format!("exo:complete:{view}:{}:{}", part.generation, part.partition)
}
