//! Copies of states in Redis, for other processes and for the next start.

use super::{
    state::{DecisionState, Loaded},
    states::{Key, States},
};
use crate::{
    log::Log,
    redis::{Redis, RedisError},
};
use ::redis::{Cmd, Script};
use exodrive_domain::event_types;
use ring::digest::{SHA256, digest};
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The least time that a changed state waits to be written, so that a hot
/// subject is serialised some 50 times a second and not at every event.
const DELAY: Duration = Duration::from_millis(20);
/// Serialising takes at most this fraction of the time (one part in 20): large
/// states that change often wait longer. A state that is not written yet is
/// folded from the log.
const SHARE: u32 = 20;
/// The longest wait.
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// States written by one call; a longer script would hold Redis up.
const CHUNK: usize = 100;
/// The time after which Redis drops the state of a subject that no command
/// changed. The next command folds it from the log.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Sets each key whose stored position is lower. A value is its position, a
/// line feed, and the state's JSON with position and MAC. ARGV: seconds to
/// live, then position and the rest of each key.
static WRITE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"for i, key in ipairs(KEYS) do
            local known = redis.call('GETRANGE', key, 0, 20)
            local position = ARGV[2 * i]
            if tonumber(string.match(known, '^%d+') or '-1') < tonumber(position) then
                redis.call('SET', key, position .. '\n' .. ARGV[2 * i + 1], 'EX', ARGV[1])
            end
        end",
    )
});

/// Names the events that this release reads: every type and its newest version.
/// It is part of the key of a snapshot. A release that reads other events makes
/// its own snapshots, so no snapshot hides an event from it: neither one that
/// the writer skipped, nor one that the writer understood and the reader does
/// not.
static READS: LazyLock<String> = LazyLock::new(|| reads(event_types()));

fn reads<'a>(types: impl Iterator<Item = (&'a str, u32)>) -> String {
    let mut types: Vec<_> = types.map(|(kind, version)| format!("{kind} {version}\n")).collect();
    types.sort_unstable();
    let digest = digest(&SHA256, types.concat().as_bytes());
    hex::encode(&digest.as_ref()[..8])
}

/// The snapshots of the states that this process caches.
#[derive(Clone)]
pub(super) struct Snapshots {
    redis: Redis,
    states: Arc<States>,
    /// The log that the positions are of: a new one begins at 1 again. By its
    /// keys a snapshot is known to be as it was written.
    log: Log,
    changed: Arc<Mutex<Changed>>,
}

/// The states that changed since they were written.
#[derive(Default)]
struct Changed {
    states: HashMap<Key, Serialize>,
    /// The pause after writing: many times the time that the last serialisation
    /// took.
    rest: Duration,
}

/// Gives position and JSON of the newest state, if this process caches it.
type Serialize = fn(&States, &Key) -> Option<(u64, String)>;

impl Snapshots {
    pub(super) fn new(redis: Redis, states: Arc<States>, log: Log) -> Self {
        Self { redis, states, log, changed: Arc::default() }
    }

    /// The state in Redis, however old. Drops a state that cannot be read, or
    /// that no process of this log has written.
    pub(super) async fn read<S: DecisionState>(&self, key: &Key) -> Option<Loaded<S>> {
        let name = self.name(key);
        let value: Result<Option<Vec<u8>>, _> = self.redis.query(&Cmd::get(&name)).await;
        let value = value.inspect_err(|error| failed(error, "read")).ok()??;
        let read = self.open(&name, &value);
        if read.is_none() {
            metrics::counter!("exodrive_snapshots_dropped_total").increment(1);
            tracing::warn!(
                subject = %key.subject,
                "A snapshot in Redis was changed or cannot be read: it is dropped, and the state is \
                 folded from the log"
            );
            self.erase(key).await;
        }
        read
    }

    fn open<S: DecisionState>(&self, name: &str, value: &[u8]) -> Option<Loaded<S>> {
        let (first, sealed) = std::str::from_utf8(value).ok()?.split_once('\n')?;
        let (position, json) = self.log.open_copy(name, sealed)?.split_once('\n')?;
        if first != position {
            return None;
        }
        let state = serde_json::from_str(json).ok()?;
        Some(Loaded { state: Arc::new(state), position: position.parse().ok()? })
    }

    /// Removes a snapshot that a newer one would not replace.
    pub(super) async fn erase(&self, key: &Key) {
        if let Err(error) = self.redis.query::<()>(&Cmd::del(self.name(key))).await {
            failed(&error, "erase");
        }
    }

    /// Writes the state that this process caches, after a moment. The caller
    /// does not wait.
    pub(super) fn write_soon<S: DecisionState>(&self, key: &Key) {
        let mut changed = self.changed();
        let is_first = changed.states.is_empty();
        changed.states.insert(key.clone(), serialize::<S>);
        if is_first {
            let snapshots = self.clone();
            tokio::spawn(async move { snapshots.write().await });
        }
    }

    async fn write(&self) {
        let rest = self.changed().rest;
        tokio::time::sleep(rest.clamp(DELAY, LONGEST_DELAY)).await;
        let changed = std::mem::take(&mut *self.changed()).states;
        let changed: Vec<_> = changed.into_iter().collect();
        for chunk in changed.chunks(CHUNK) {
            let began = Instant::now();
            let mut script = WRITE.prepare_invoke();
            script.arg(LIFETIME.as_secs());
            for (key, serialize) in chunk {
                if let Some((position, json)) = serialize(&self.states, key) {
                    let name = self.name(key);
                    let sealed = self.log.seal_copy(&name, &format!("{position}\n{json}"));
                    script.key(name).arg(position).arg(sealed);
                }
            }
            self.changed().rest += SHARE * began.elapsed();
            if let Err(error) = self.redis.invoke::<()>(&script).await {
                return failed(&error, "write");
            }
        }
    }

    fn name(&self, key: &Key) -> String {
        let Key { name, version, subject } = key;
        let log = self.log.created_at().timestamp_millis();
        format!("exo:state:{name}:v{version}:{}:{log}:{subject}", *READS)
    }

    fn changed(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serialize<S: DecisionState>(states: &States, key: &Key) -> Option<(u64, String)> {
    let Loaded { state, position } = states.get::<S>(key)?;
    match serde_json::to_string(&*state) {
        Ok(json) => Some((position, json)),
        Err(error) => {
            tracing::warn!(%error, name = S::NAME, "A state cannot be written as JSON");
            None
        }
    }
}

/// Logs a failure once, not for every command during the pause after it.
fn failed(error: &RedisError, action: &str) {
    if !matches!(error, RedisError::Resting) {
        tracing::warn!(%error, "Redis did not {action} a snapshot; no event is lost");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_that_reads_other_events_reads_no_snapshot_of_this_one() {
        let reversed: Vec<_> = event_types().collect();
        assert_eq!(reads(reversed.into_iter().rev()), *READS, "the order says nothing");
        let with_a_new_type = event_types().chain([("exodrive.booking.swapped", 1)]);
        assert_ne!(reads(with_a_new_type), *READS);
        assert_ne!(reads(event_types().skip(1)), *READS, "an older release");
        let with_a_newer_version = event_types().map(|(kind, version)| match kind {
            "exodrive.booking.held" => (kind, version + 1),
            _ => (kind, version),
        });
        assert_ne!(reads(with_a_newer_version), *READS);
    }
}
