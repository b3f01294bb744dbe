//! Views in Redis: pushed by the projections, stamped with their position, so
//! that an older one never replaces a newer one.
//!
//! Redis may be slow, stopped, flushed or gone at any time. Callers never wait
//! for it longer than [`PATIENCE`], and after a failure do not ask it again
//! for a while.

pub use exodrive_log::redis::{PATIENCE, RedisError as CacheError};

use exodrive_log::redis::Redis;
use futures::{Stream, StreamExt};
use redis::{Cmd, FromRedisValue, ScriptInvocation};
use std::sync::LazyLock;

/// Rows published by one call; a longer script would hold Redis up.
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

/// Sets each key whose stored position is not higher, then says on the channel
/// which keys those may be. A value is its position, a line feed, and the JSON
/// that readers get. ARGV: the channel, the notice, then position and JSON of
/// each key.
static PUBLISH: LazyLock<redis::Script> = LazyLock::new(|| {
    redis::Script::new(
        r"for i, key in ipairs(KEYS) do
            local known = redis.call('GETRANGE', key, 0, 20)
            local position = ARGV[2 * i + 1]
            if tonumber(string.match(known, '^%d+') or '-1') <= tonumber(position) then
                redis.call('SET', key, position .. '\n' .. ARGV[2 * i + 2])
            end
        end
        redis.call('PUBLISH', ARGV[1], ARGV[2])",
    )
});

impl Cache {
    /// A connection that is made when first used. To be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(url: &str) -> Result<Self, CacheError> {
        Ok(Self { redis: Redis::new(url)? })
    }

    /// The connection, for what is no view.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// Sends one command.
    ///
    /// # Errors
    /// [`CacheError`], within [`PATIENCE`].
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, CacheError> {
        self.redis.query(command).await
    }

    /// Runs a script.
    ///
    /// # Errors
    /// [`CacheError`], within [`PATIENCE`].
    pub async fn invoke<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, CacheError> {
        self.redis.invoke(script).await
    }

    /// The JSON of a row's view and the position that last changed it; `None`
    /// if Redis does not hold it.
    ///
    /// # Errors
    /// [`CacheError`], within [`PATIENCE`].
    pub async fn view(&self, view: &str, key: &str) -> Result<Option<(u64, String)>, CacheError> {
        let value: Option<String> = self.query(&Cmd::get(name(view, key))).await?;
        Ok(value.and_then(split))
    }

    /// What Redis holds under several keys of a view, in the same order.
    ///
    /// # Errors
    /// [`CacheError`], within [`PATIENCE`].
    pub async fn views(
        &self,
        view: &str,
        keys: &[String],
    ) -> Result<Vec<Option<(u64, String)>>, CacheError> {
        let names: Vec<_> = keys.iter().map(|key| name(view, key)).collect();
        let values: Vec<Option<String>> = self.query(&Cmd::mget(names)).await?;
        Ok(values.into_iter().map(|value| split(value?)).collect())
    }

    /// Some keys of a view, and where to go on (0: that was all). Begins at 0.
    /// A key that comes or goes meanwhile may be left out, and any may be given
    /// twice.
    ///
    /// # Errors
    /// [`CacheError`], within [`PATIENCE`].
    pub async fn scan(&self, view: &str, cursor: u64) -> Result<(u64, Vec<String>), CacheError> {
        let prefix = name(view, "");
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(1_000);
        let (next, names): (u64, Vec<String>) = self.query(&scan).await?;
        let keys = names.iter().filter_map(|name| name.strip_prefix(&prefix));
        Ok((next, keys.map(str::to_owned).collect()))
    }

    pub(crate) async fn publish(&self, view: &str, entries: &[Entry]) -> Result<(), CacheError> {
        for chunk in entries.chunks(CHUNK) {
            let mut script = PUBLISH.prepare_invoke();
            let keys: Vec<_> = chunk.iter().map(|entry| entry.key.as_str()).collect();
            script.arg(channel(view)).arg(keys.join("\n"));
            for entry in chunk {
                script.key(name(view, &entry.key)).arg(entry.position).arg(&entry.json);
            }
            self.invoke::<()>(&script).await?;
        }
        Ok(())
    }

    /// The keys of a view that change, as they change, until the connection
    /// breaks. Its publisher sends an empty notice every second: who hears
    /// nothing for longer may have missed some.
    ///
    /// # Errors
    /// When Redis does not take the subscription.
    pub async fn changes(
        &self,
        view: &str,
    ) -> Result<impl Stream<Item = Vec<String>> + use<>, CacheError> {
        let subscription = self.redis.subscribe(&channel(view)).await?;
        Ok(subscription.into_on_message().map(|notice| {
            let keys: String = notice.get_payload().unwrap_or_default();
            keys.lines().map(str::to_owned).collect()
        }))
    }

    /// Tells readers that the publisher of a view is there.
    pub(crate) async fn announce(&self, view: &str) -> Result<(), CacheError> {
        self.query(&Cmd::publish(channel(view), "")).await
    }

    /// Whether Redis holds all of a view: it forgets the mark when it forgets
    /// the rows.
    ///
    /// # Errors
    /// [`CacheError`], within [`PATIENCE`].
    pub async fn is_complete(&self, view: &str) -> Result<bool, CacheError> {
        self.query(&Cmd::exists(mark(view))).await
    }

    pub(crate) async fn mark_complete(&self, view: &str) -> Result<(), CacheError> {
        self.query(&Cmd::set(mark(view), 1)).await
    }
}

/// A value is a position, a line feed, and the JSON of the row's view.
fn split(mut value: String) -> Option<(u64, String)> {
    let end = value.find('\n')?;
    let position = value[..end].parse().ok()?;
    value.drain(..=end);
    Some((position, value))
}

fn name(view: &str, key: &str) -> String {
    format!("exo:view:{view}:{key}")
}

fn channel(view: &str) -> String {
    format!("exo:changes:{view}")
}

fn mark(view: &str) -> String {
    format!("exo:complete:{view}")
}
