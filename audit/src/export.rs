//! Exports a part of the log with everything that is needed to prove it, in the format that
//! [`exodrive_proof::export`] describes.

use crate::store::{Place, Seal, SealStore, StoreError};
use crate::{
    events::{Scan, Selection},
    seal::{SealError, SealFault},
};
use chrono::Utc;
use exodrive_log::{Log, StoredMessage};
use exodrive_proof::{
    Hash,
    export::{CHECKPOINT_EVERY, End, Event, ExportWriter, Header, Omitted, Record},
    note::SignedNote,
    tile::WIDTH,
};
use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    io,
};

/// Checkpoints fetched at a time.
const PAGE: i64 = 1_000;
/// Records written in one go, at most.
const RECORDS: usize = 512;

/// Reason that an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Nothing is sealed.
    #[error(
        "nothing is sealed yet: the first checkpoint comes some seconds after the first event, made by a worker (`exodrive work`)"
    )]
    NothingSealed,
    /// The log or its seals cannot be read, or contradict each other.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// It cannot be written.
    #[error("the export cannot be written")]
    Write(#[from] io::Error),
}

impl From<StoreError> for ExportError {
    fn from(error: StoreError) -> Self {
        Self::Seal(error.into())
    }
}

/// An export that is being written. It ends at the newest checkpoint at the time that it began;
/// events after that are left for the next export.
pub struct Export {
    log: Log,
    seals: SealStore,
    selection: Selection,
    content: bool,
    seal: Seal,
    scan: Scan,
    /// Events to be written, with their content.
    waiting: VecDeque<(StoredMessage, Option<Vec<u8>>)>,
    scanned_all: bool,
    tiles: HashMap<Place, Vec<Hash>>,
    /// Checkpoints from the next position on.
    marks: VecDeque<Seal>,
    /// The first position that is not in the export yet.
    next: u64,
    /// The size of the last checkpoint in it.
    marked: u64,
    events: u64,
    begun: bool,
}

impl Export {
    /// Begins. `content`: adds the decrypted content of every event, for people; the content is not
    /// proven.
    ///
    /// # Errors
    /// When nothing is sealed, or the log or the seals cannot be read.
    pub async fn begin(
        log: &Log,
        seals: &SealStore,
        selection: Selection,
        content: bool,
    ) -> Result<Self, ExportError> {
        let seal = seals.newest_seal().await?.ok_or(ExportError::NothingSealed)?;
        let scan = Scan::begin(log, selection.clone(), seal.size).await?;
        Ok(Self {
            log: log.clone(),
            seals: seals.clone(),
            selection,
            content,
            seal,
            scan,
            waiting: VecDeque::new(),
            scanned_all: false,
            tiles: HashMap::new(),
            marks: VecDeque::new(),
            next: 1,
            marked: 0,
            events: 0,
            begun: false,
        })
    }

    /// The last position that is written, and the last that will be.
    pub fn progress(&self) -> (u64, u64) {
        (self.next - 1, self.seal.size)
    }

    /// Events written.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The checkpoint that it ends at.
    pub fn seal(&self) -> &Seal {
        &self.seal
    }

    /// Writes some records, until it is `enough`; returns false after the last.
    ///
    /// # Errors
    /// [`ExportError`]; the export is useless then.
    pub async fn write_some<W: io::Write + Send>(
        &mut self,
        out: &mut ExportWriter<W>,
        enough: impl Fn() -> bool,
    ) -> Result<bool, ExportError> {
        if !self.begun {
            self.begun = true;
            out.write(&Record::Header(self.header()?))?;
        }
        for _ in 0..RECORDS {
            if enough() {
                break;
            }
            if self.next > self.seal.size {
                out.write(&Record::End(End { events: self.events, root: self.seal.root }))?;
                return Ok(false);
            }
            if self.waiting.is_empty() && !self.scanned_all {
                self.read().await?;
            }
            let mark = self.next_mark().await?;
            match self.waiting.front() {
                Some((message, _)) if message.position == self.next => {
                    self.write_event(out)?;
                    self.pass(self.next, out)?;
                }
                front => {
                    // Only up to the position where it is known that there is no selected event.
                    let end = match front {
                        Some((message, _)) => message.position - 1,
                        None if self.scanned_all => self.seal.size,
                        None => self.scan.scanned(),
                    };
                    let known = front.is_some() || self.scanned_all || mark <= end;
                    if known {
                        self.omit(mark.min(end), out).await?;
                    }
                }
            }
        }
        Ok(true)
    }

    fn header(&self) -> Result<Header<'static>, ExportError> {
        let (from, to) = self.scan.range();
        let origin = self.seal.note.parse::<SignedNote>().ok();
        let origin = origin.and_then(|note| Some(note.checkpoint().ok()?.origin));
        let origin =
            origin.ok_or_else(|| io::Error::other("the newest checkpoint is not a signed note"))?;
        let filters = self.selection.filters().into_iter();
        Ok(Header {
            origin: origin.into(),
            checkpoint: self.seal.note.clone().into(),
            from,
            to,
            filters: filters.map(|(name, value)| (name.into(), value.into())).collect(),
            created_at: Utc::now(),
        })
    }

    /// Reads the next events, their hashes and their content.
    async fn read(&mut self) -> Result<(), ExportError> {
        let Some(messages) = self.scan.next().await? else {
            self.scanned_all = true;
            return Ok(());
        };
        let places = messages.iter().map(|it| (0, (it.position - 1) / WIDTH));
        let mut places: Vec<_> = places.collect();
        places.dedup();
        self.tiles = self.seals.seal_tiles(places).await?;
        let mut contents = Vec::new();
        if self.content {
            let recorded = self.log.decode_all(messages.clone()).await.map_err(SealError::Log)?;
            contents = recorded
                .into_iter()
                .map(|it| (!it.body.is_empty()).then(|| it.body.to_vec()))
                .collect();
        }
        contents.resize(messages.len(), None);
        self.waiting = messages.into_iter().zip(contents).collect();
        Ok(())
    }

    fn write_event<W: io::Write + Send>(
        &mut self,
        out: &mut ExportWriter<W>,
    ) -> Result<(), ExportError> {
        let Some((message, content)) = self.waiting.pop_front() else { return Ok(()) };
        let index = message.position - 1;
        let place = (0, index / WIDTH);
        let sealed = self.tiles.get(&place).and_then(|tile| tile.get((index % WIDTH) as usize));
        let lacking = SealFault::Tile { level: place.0, index: place.1 };
        // The hash that was sealed: a verifier sees which event was changed.
        let leaf_hash = *sealed.ok_or(SealError::Fault(lacking))?;
        let header = |(name, value): &(String, String)| (name.clone().into(), value.clone().into());
        out.write(&Record::Event(Event {
            position: message.position,
            stored_at_nanos: message.stored_at_nanos,
            subject: Cow::Borrowed(&message.subject),
            headers: message.headers.iter().map(header).collect(),
            body: Cow::Borrowed(&message.body),
            leaf_hash,
            content: content.map(Cow::Owned),
        }))?;
        self.events += 1;
        Ok(())
    }

    /// Leaves the positions up to `to` out.
    async fn omit<W: io::Write + Send>(
        &mut self,
        to: u64,
        out: &mut ExportWriter<W>,
    ) -> Result<(), ExportError> {
        let places = Omitted::places(self.next, to);
        let nodes = self.seals.seal_nodes(&places, self.seal.size).await?;
        let omitted = Omitted::new(self.next, to, &nodes);
        let omitted = omitted.map_err(StoreError::from)?;
        out.write(&Record::Omitted(omitted))?;
        self.pass(to, out)
    }

    /// The size of the checkpoint that comes next.
    async fn next_mark(&mut self) -> Result<u64, ExportError> {
        if self.marks.is_empty() {
            let marks = self.seals.seals_between(self.next, self.seal.size, PAGE).await?;
            self.marks = marks.into();
        }
        Ok(self.marks.front().map_or(self.seal.size, |mark| mark.size))
    }

    /// Records that everything up to `to` is in, with the checkpoint of that size.
    fn pass<W: io::Write + Send>(
        &mut self,
        to: u64,
        out: &mut ExportWriter<W>,
    ) -> Result<(), ExportError> {
        self.next = to + 1;
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.size <= to) {
            let due = mark.size >= self.marked + CHECKPOINT_EVERY && mark.size < self.seal.size;
            if due && mark.size == to {
                self.marked = to;
                out.write(&Record::Checkpoint(mark.note.into()))?;
            }
        }
        Ok(())
    }
}
