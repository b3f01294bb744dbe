//! A nats-server that could not write to its disk. It answers, and stores nothing in that stream until
//! it is restarted, also when there is space again.

use super::{PrivateServices, Service, ServiceError, blocking, slot::Slot};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The time between two looks at a server.
const INTERVAL: Duration = Duration::from_secs(2);
/// The time for which a server is seen to store nothing before it is restarted.
const STUCK_FOR: Duration = Duration::from_secs(10);
/// The bytes that must find a place on the disk first: more than the largest messages. A server that
/// is restarted without them is stuck again.
const NEEDED: usize = 8 << 20;

impl PrivateServices {
    /// Restarts each private nats-server that has stored nothing for 10 s because it could not
    /// write to its disk, as soon as there is space. Does not end.
    pub async fn restart_stuck_nats(&self) {
        let mut stuck: HashMap<u16, Instant> = HashMap::new();
        loop {
            for slot in self.slots.iter().filter(|slot| slot.service == Service::Nats) {
                let Some(error) = slot.failed_write().await else {
                    stuck.remove(&slot.node);
                    continue;
                };
                let since = *stuck.entry(slot.node).or_insert_with(|| {
                    tracing::error!(process = slot.name(), error, "could not write to its disk");
                    Instant::now()
                });
                if since.elapsed() >= STUCK_FOR && self.restart_with_space(slot).await {
                    stuck.remove(&slot.node);
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Restarts a server if there is space; true if it did.
    async fn restart_with_space(&self, slot: &Slot) -> bool {
        let folder = self.data_dir.clone();
        let space = blocking(move || {
            has_space(&folder)
                .map_err(|error| ServiceError::io(format!("write to {}", folder.display()), error))
        });
        if let Err(error) = space.await {
            tracing::error!(process = slot.name(), %error, "stores nothing, and there is no space yet");
            return false;
        }
        tracing::warn!(
            process = slot.name(),
            "has stored nothing for {} s, though there is space: it is started again",
            STUCK_FOR.as_secs()
        );
        slot.restart().await;
        // Of several, the next one is restarted when this one is up to date.
        if let Err(error) = slot.wait_until_ready().await {
            tracing::warn!(process = slot.name(), %error, "is not ready yet");
        }
        true
    }
}

/// Finds out by a file whether there is space in a folder.
fn has_space(folder: &Path) -> io::Result<()> {
    let path = folder.join("space");
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(&vec![1; NEEDED])?;
        file.sync_all()
    });
    fs::remove_file(&path)?;
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_space_is_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        has_space(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(has_space(&folder.path().join("missing")).is_err());
    }
}
