//! The text of a checkpoint (C2SP tlog-checkpoint).

use super::NoteError;
use crate::Hash;
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{fmt, str::FromStr};

/// A log's statement about its size and root at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name, which is also the name of its keys.
    pub origin: String,
    /// The number of leaves in the tree.
    pub size: u64,
    /// Its root.
    pub root: Hash,
    /// Further lines; none may be empty.
    pub extensions: Vec<String>,
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}\n{}\n{}", self.origin, self.size, STANDARD.encode(self.root))?;
        self.extensions.iter().try_for_each(|line| writeln!(out, "{line}"))
    }
}

impl FromStr for Checkpoint {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        use NoteError::Malformed;
        let text = text.strip_suffix('\n').ok_or(Malformed("the last line does not end"))?;
        let mut lines = text.split('\n');
        let mut line = || lines.next().ok_or(Malformed("it has fewer than three lines"));
        let (origin, size, root) = (line()?, line()?, line()?);
        if origin.is_empty() {
            return Err(Malformed("the origin is empty"));
        }
        let number: u64 = size.parse().map_err(|_| Malformed("the size is no number"))?;
        if number.to_string() != size {
            return Err(Malformed("the size is not written as a plain number"));
        }
        let root = STANDARD.decode(root).ok().and_then(|root| Hash::try_from(root).ok());
        let root = root.ok_or(Malformed("the root is not the base64 of 32 bytes"))?;
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(Malformed("an extension line is empty"));
        }
        Ok(Self { origin: origin.to_owned(), size: number, root, extensions })
    }
}
