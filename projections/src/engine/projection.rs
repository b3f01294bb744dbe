//! The trait that a view implements, and the engine's data about it.

use exodrive_domain::{Event, Subject};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// A view as a fold over the log. Pure: no IO anywhere in it. The engine does
/// the rest, the same for all of them.
///
/// To add one: `docs/recipes.md`. A raised [`Projection::VERSION`] needs the rows
/// that it makes of the golden events, written in the same way.
pub trait Projection: Send + Sync + 'static {
    /// Names the table, the view in `public` and, with a generation, the schema.
    const NAME: &'static str;
    /// A description for people of one row and of its key: `An email, by its
    /// id`. Shown by `exodrive replay --help`.
    const ABOUT: &'static str;
    /// The key of some row, for the same.
    const KEY_EXAMPLE: &'static str;
    /// Raised by every change after which [`Projection::evolve`] or the table gives other rows for
    /// the same log.
    const VERSION: u32;
    /// Prefixes of the subjects whose events it may fold.
    const SUBJECTS: &'static [&'static str];
    /// Makes the table and its indexes, names unqualified. Columns `key`,
    /// `position` and `data` are the engine's; others are generated from
    /// `data`.
    const SCHEMA: &'static str;

    /// Columns of this version's table that are queried and that the tables of older versions lack:
    /// each with an expression in SQL over the columns of such a table. As long as a release of this
    /// version still reads an older generation, its view computes them.
    const NEWER_COLUMNS: &'static [(&'static str, &'static str)] = &[];

    /// One row: a document.
    type Row: Serialize + DeserializeOwned + Clone + PartialEq + Debug + Send + Sync + 'static;

    /// Whose or what personal data the row of this key shows, for the record of
    /// who read it.
    fn personal(key: &str) -> PersonalData<'_>;

    /// The keys of the rows that the event touches.
    fn keys(event: &Event<'_>) -> Vec<String>;

    /// The row of this key after the event; `None` if there is no row.
    fn evolve(key: &str, row: Option<Self::Row>, event: &Event<'_>) -> Option<Self::Row>;

    /// The place of every event that touches the key: all that a fold of this one row has to read.
    /// `row` is the present row, if known. [`Sources::All`] is always right; anything else must be
    /// certain.
    fn sources(_key: &str, _row: Option<&Self::Row>) -> Sources {
        Sources::All
    }

    /// True if rows are served from Redis.
    const CACHED: bool = false;

    /// The answer that readers get for this row, if rows are served from Redis: JSON, with the
    /// position that last changed the row.
    fn cached(_row: &Self::Row, _position: u64) -> Option<String> {
        None
    }

    /// Further keys under which Redis serves the row. They must not change while the row exists.
    fn aliases(_row: &Self::Row) -> Vec<String> {
        Vec::new()
    }

    /// The column by which lists count rows, and whose numbers are kept as rows change: to count a
    /// large table anew for each list takes too long.
    const COUNTED: Option<&'static str> = None;

    /// The value of that column.
    fn counted(_row: &Self::Row) -> Option<&str> {
        None
    }

    /// Readers to whom row-level security shows a row: a condition in SQL on
    /// `current_setting('exodrive.identity', true)`, `exodrive.subject` and the row's columns.
    const READERS: &'static str = STAFF;
}

/// The personal data that a row shows, as the record of its readers names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersonalData<'a> {
    /// Nothing.
    Nothing,
    /// Of one thing: its kind (`email`) and its id.
    OfOne(&'static str, &'a str),
    /// Of things of this kind; the key is no id, or may itself be personal.
    OfMany(&'static str),
}

impl<'a> PersonalData<'a> {
    /// The kind of thing and its id, as they are recorded; `None` if a read is
    /// not recorded.
    pub fn resource(self) -> Option<(&'static str, Option<&'a str>)> {
        match self {
            Self::Nothing => None,
            Self::OfOne(resource, id) => Some((resource, Some(id))),
            Self::OfMany(resource) => Some((resource, None)),
        }
    }
}

/// The place of the events of one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sources {
    /// All of them have these subjects.
    Subjects(Vec<Subject>),
    /// No other event than the one at this position.
    Position(u64),
    /// Only reading everything under [`Projection::SUBJECTS`] finds them.
    All,
}

impl Sources {
    /// One subject; nothing if the key does not give a valid one, since then no event has it.
    pub(crate) fn subject(subject: Option<Subject>) -> Self {
        Self::Subjects(subject.into_iter().collect())
    }
}

/// The part of a projection that is data, not code: most of the engine needs no more, and is
/// compiled once for all projections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Definition {
    pub(crate) name: &'static str,
    pub(crate) version: i32,
    pub(crate) schema: &'static str,
    pub(crate) readers: &'static str,
    pub(crate) cached: bool,
    pub(crate) counted: Option<&'static str>,
}

impl Definition {
    pub(crate) fn of<P: Projection>() -> Self {
        Self {
            name: P::NAME,
            version: i32::try_from(P::VERSION).unwrap_or(i32::MAX),
            schema: P::SCHEMA,
            readers: P::READERS,
            cached: P::CACHED,
            counted: P::COUNTED,
        }
    }

    /// The table of a generation.
    pub(crate) fn table(&self, generation: i32) -> String {
        format!("{0}_g{generation}.{0}", self.name)
    }
}

/// The condition for rows that only staff see: see [`Projection::READERS`].
pub(crate) const STAFF: &str =
    "current_setting('exodrive.identity', true) in ('admin', 'auditor', 'system')";

/// True if a projection reads a subject at all.
pub fn reads<P: Projection>(subject: &str) -> bool {
    P::SUBJECTS.iter().any(|prefix| subject.starts_with(prefix))
}
