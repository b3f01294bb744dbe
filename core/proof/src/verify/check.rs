//! Takes records in the file's order, lets the tree grow and compares it with
//! every checkpoint.

use super::{
    Expectations, Place, VerifiedExport, VerifyError,
    outcome::{Item, Outcome},
};
use crate::{
    Hash,
    export::{End, FORMAT, Flaw, Header, Omitted},
    note::{self, Checkpoint, NoteError, SignedNote},
    tree::{Node, Tree},
};

/// A root that the tree must have at a size.
struct Claim {
    size: u64,
    root: Hash,
    saved: bool,
}

/// The current part of the file.
enum State {
    /// No record was read yet.
    Start,
    /// Between the header and the end.
    Inside(Inside),
    /// The end was read.
    Ended,
}

struct Inside {
    header: Header<'static>,
    checkpoint: Checkpoint,
}

pub(super) struct Checker<'a> {
    expected: &'a Expectations,
    state: State,
    tree: Tree,
    /// Checkpoints that the auditor saved and the export's own ones, the
    /// smallest last.
    claims: Vec<Claim>,
    /// The size of the largest saved checkpoint that the tree agreed with.
    kept_good: u64,
    /// The same of a checkpoint in the export, which who forged the export may
    /// have signed.
    earlier_good: u64,
    kept_sizes: Vec<u64>,
    kept_checked: usize,
    /// A saved checkpoint whose size is inside an omitted range.
    uncheckable: Option<u64>,
    cosigned_by: Vec<(String, u64)>,
    origin: String,
    events: u64,
    omitted: u64,
    earlier: usize,
    leaf_bytes: u64,
}

type Checked = Result<(), VerifyError>;

impl<'a> Checker<'a> {
    /// Checks the signatures of the checkpoints that the auditor saved.
    pub(super) fn new(expected: &'a Expectations) -> Result<Self, VerifyError> {
        if expected.keys.is_empty() {
            return Err(VerifyError::Unusable(
                "no public key of the log is given; get one from a source other than the log's operator"
                    .to_owned(),
            ));
        }
        let mut checker = Self {
            expected,
            state: State::Start,
            tree: Tree::new(),
            claims: Vec::new(),
            kept_good: 0,
            earlier_good: 0,
            kept_sizes: Vec::new(),
            kept_checked: 0,
            uncheckable: None,
            cosigned_by: Vec::new(),
            origin: String::new(),
            events: 0,
            omitted: 0,
            earlier: 0,
            leaf_bytes: 0,
        };
        for saved in &expected.saved {
            let which = "a checkpoint that you saved";
            let checkpoint = match note::verify(saved, &expected.keys) {
                Ok(checkpoint) => checkpoint,
                Err(error @ NoteError::Malformed(_)) => {
                    return Err(VerifyError::Unusable(format!("{which}: {error}")));
                }
                Err(error) => return Err(VerifyError::of_note(Place::Whole, which, &error)),
            };
            if !checker.origin.is_empty() && checker.origin != checkpoint.origin {
                return Err(VerifyError::Unusable(format!(
                    "you saved checkpoints of two logs, {:?} and {:?}; give those of one",
                    checker.origin, checkpoint.origin
                )));
            }
            checker.cosignatures(saved, checkpoint.size)?;
            checker.origin.clone_from(&checkpoint.origin);
            checker.kept_sizes.push(checkpoint.size);
            checker.claims.push(Claim {
                size: checkpoint.size,
                root: checkpoint.root,
                saved: true,
            });
        }
        Ok(checker)
    }

    fn cosignatures(&mut self, note: &SignedNote, size: u64) -> Checked {
        for witness in &self.expected.witnesses {
            match note::verify_cosignature(note, witness) {
                Ok(_) => {
                    let known =
                        self.cosigned_by.iter_mut().find(|(name, _)| name == witness.name());
                    match known {
                        Some((_, largest)) => *largest = size.max(*largest),
                        None => self.cosigned_by.push((witness.name().to_owned(), size)),
                    }
                }
                Err(NoteError::NotSigned { .. }) => {}
                Err(error) => {
                    return Err(VerifyError::of_note(
                        Place::Whole,
                        "a witness's cosignature",
                        &error,
                    ));
                }
            }
        }
        Ok(())
    }

    pub(super) fn apply_outcome(&mut self, outcome: Outcome) -> Checked {
        self.leaf_bytes += outcome.leaf_bytes;
        outcome.items.into_iter().try_for_each(|item| self.item(item))
    }

    /// The position that comes next.
    fn next(&self) -> u64 {
        self.tree.size() + 1
    }

    /// The position that comes next, if the checkpoint covers it.
    fn place(&self) -> Place {
        match &self.state {
            State::Inside(inside) if self.next() <= inside.checkpoint.size => {
                Place::Position(self.next())
            }
            _ => Place::Whole,
        }
    }

    /// The error of a fault at the current place.
    fn bad(&self, reason: impl Into<String>) -> VerifyError {
        VerifyError::tampered(self.place(), reason)
    }

    fn item(&mut self, item: Item) -> Checked {
        match (&self.state, item) {
            (State::Start, Item::Header(header)) => self.header(header),
            (State::Start, Item::Flawed(Flaw::OtherFormat(what))) => {
                Err(VerifyError::Unusable(format!(
                    "this is an export of another version: {what}, but this program reads {FORMAT:?}; use the program that made it"
                )))
            }
            (State::Start, Item::Flawed(Flaw::Malformed(why))) => {
                Err(self.bad(format!("the header cannot be read: {why}")))
            }
            (State::Start, _) => Err(self.bad("the export does not begin with its header")),
            (State::Ended, _) => Err(self.bad("something follows the end of the export")),
            (State::Inside(_), Item::Header(_)) => Err(self.bad("a second header")),
            (State::Inside(_), Item::Flawed(Flaw::Malformed(why) | Flaw::OtherFormat(why))) => {
                Err(self.bad(format!("it is not a valid record: {why}")))
            }
            (State::Inside(_), Item::Event { position, leaf, matches }) => {
                self.event(position, leaf, matches)
            }
            (State::Inside(_), Item::Omitted(omitted)) => self.omitted(omitted),
            (State::Inside(_), Item::Checkpoint(checkpoint)) => self.earlier(checkpoint),
            (State::Inside(_), Item::End(end)) => self.end(end),
        }
    }

    fn header(&mut self, header: Header<'static>) -> Checked {
        let which = "the export's checkpoint";
        let whole = |reason: String| VerifyError::tampered(Place::Whole, reason);
        let of_note = |error: NoteError| VerifyError::of_note(Place::Whole, which, &error);
        let note: SignedNote = header.checkpoint.parse().map_err(of_note)?;
        let checkpoint = note::verify(&note, &self.expected.keys).map_err(of_note)?;
        if checkpoint.origin != header.origin {
            return Err(whole(format!(
                "the header is of the log {:?}, but its checkpoint of {:?}",
                header.origin, checkpoint.origin
            )));
        }
        if !self.expected.saved.is_empty() && checkpoint.origin != self.origin {
            return Err(whole(format!(
                "the export is of the log {:?}, but you saved a checkpoint of {:?}",
                checkpoint.origin, self.origin
            )));
        }
        let size = checkpoint.size;
        if header.from == 0 || header.to > size || header.from > header.to.saturating_add(1) {
            return Err(whole(format!(
                "the header asks for the positions {} to {}, but its checkpoint covers 1 to {size}",
                header.from, header.to
            )));
        }
        if let Some(larger) = self.kept_sizes.iter().copied().filter(|saved| *saved > size).max() {
            return Err(whole(format!(
                "the export ends at {size}, but a checkpoint that you saved says {larger}: the log was cut, or this is an older export; make a new one"
            )));
        }
        self.cosignatures(&note, size)?;
        let missing = |name: &str| !self.cosigned_by.iter().any(|(known, _)| known == name);
        if let Some(witness) = self.expected.witnesses.iter().find(|it| missing(it.name())) {
            return Err(VerifyError::Unusable(format!(
                "the witness {} has cosigned neither the export's checkpoint nor one that you saved; get its newest checkpoint and give it, too",
                witness.name()
            )));
        }
        self.claims.push(Claim { size, root: checkpoint.root, saved: false });
        // The smallest last. Of one size the saved ones last, so that they are
        // checked first.
        self.claims.sort_by_key(|claim| (std::cmp::Reverse(claim.size), claim.saved));
        self.origin.clone_from(&checkpoint.origin);
        self.state = State::Inside(Inside { header, checkpoint });
        self.claims_due()
    }

    fn event(&mut self, position: u64, leaf: Hash, matches: bool) -> Checked {
        let State::Inside(Inside { header, checkpoint }) = &self.state else { return Ok(()) };
        let next = self.next();
        if position > next {
            return Err(self.bad(format!("it is missing: {position} is in its place")));
        }
        if position < next {
            // The same valid record appears once more.
            let place = if matches && position > 0 { position } else { next };
            return Err(VerifyError::tampered(
                Place::Position(place),
                format!(
                    "position {position} is where {next} should be: doubled, moved or inserted"
                ),
            ));
        }
        if position > checkpoint.size {
            return Err(VerifyError::tampered(
                Place::Position(position),
                format!("it is after the checkpoint's size, {}", checkpoint.size),
            ));
        }
        if !(header.from..=header.to).contains(&position) {
            return Err(self.bad("the event lies outside of the range that the header names"));
        }
        if !matches {
            return Err(self.bad("the event's fields do not give its leaf hash: it was changed"));
        }
        self.events += 1;
        self.tree.push_leaf(leaf);
        self.claims_due()
    }

    fn omitted(&mut self, omitted: Omitted) -> Checked {
        let State::Inside(Inside { header, checkpoint }) = &self.state else { return Ok(()) };
        let Omitted { from, to, .. } = omitted;
        if from != self.next() || to < from || to > checkpoint.size {
            return Err(
                self.bad(format!("the positions {from} to {to} are said to be left out there"))
            );
        }
        if header.filters.is_empty() && from <= header.to && to >= header.from {
            return Err(self.bad(format!(
                "the positions {from} to {to} are left out, though the header names no filter"
            )));
        }
        let places = Omitted::places(from, to);
        if places.len() != omitted.nodes.len() {
            return Err(self.bad(format!(
                "{} hashes stand for the positions {from} to {to}, which need {}",
                omitted.nodes.len(),
                places.len()
            )));
        }
        self.omitted += to - from + 1;
        for ((level, index), hash) in places.into_iter().zip(omitted.nodes) {
            self.tree
                .push_node(Node { level, index, hash })
                .map_err(|error| VerifyError::tampered(Place::Whole, error.to_string()))?;
            self.claims_due()?;
        }
        Ok(())
    }

    fn earlier(&mut self, checkpoint: Result<Checkpoint, NoteError>) -> Checked {
        let which = "a checkpoint in the export";
        let checkpoint =
            checkpoint.map_err(|error| VerifyError::of_note(self.place(), which, &error))?;
        let (size, own) = (self.tree.size(), &checkpoint.origin);
        if *own != self.origin {
            return Err(self.bad(format!("{which} is of another log, {own:?}")));
        }
        if checkpoint.size != size {
            return Err(self.bad(format!("{which} is of size {}, not {size}", checkpoint.size)));
        }
        if checkpoint.root != self.tree.root() {
            return Err(self.forked(self.kept_good.max(self.earlier_good), which));
        }
        self.earlier += 1;
        self.earlier_good = size;
        Ok(())
    }

    /// Compares the tree with every claim that it has reached.
    fn claims_due(&mut self) -> Checked {
        let size = self.tree.size();
        while let Some(claim) = self.claims.pop_if(|claim| claim.size <= size) {
            if claim.size < size {
                self.uncheckable.get_or_insert(claim.size);
                continue;
            }
            let agrees = claim.root == self.tree.root();
            match (claim.saved, agrees) {
                (true, true) => {
                    self.kept_good = size;
                    self.kept_checked += 1;
                }
                // The signer of the fork signed the positions in between.
                (true, false) => {
                    return Err(self.forked(self.kept_good, "a checkpoint that you saved"));
                }
                (false, true) => {}
                (false, false) => {
                    let after = self.kept_good.max(self.earlier_good);
                    return Err(self.forked(after, "the export's signed checkpoint"));
                }
            }
        }
        Ok(())
    }

    fn forked(&self, after: u64, which: &str) -> VerifyError {
        let up_to = self.tree.size();
        if after >= up_to {
            return VerifyError::tampered(
                Place::Whole,
                format!(
                    "the log signed two different trees of size {up_to}: keep both checkpoints, together they prove it"
                ),
            );
        }
        let place = match after + 1 {
            first if first == up_to => Place::Position(first),
            _ => Place::Between { after, up_to },
        };
        VerifyError::tampered(
            place,
            format!(
                "the root of the positions 1 to {up_to} is not that of {which}; the history was rewritten"
            ),
        )
    }

    fn end(&mut self, end: End) -> Checked {
        let State::Inside(Inside { checkpoint, .. }) = &self.state else { return Ok(()) };
        let size = checkpoint.size;
        if self.tree.size() < size {
            return Err(self.bad(format!("it is missing, and all that follow to {size}")));
        }
        if end.events != self.events {
            return Err(self.bad(format!(
                "the end counts {} events, but {} are there",
                end.events, self.events
            )));
        }
        if end.root != checkpoint.root {
            return Err(self.bad("the root at the end is not that of the checkpoint"));
        }
        self.state = State::Ended;
        Ok(())
    }

    /// The file is read to its end of `bytes`.
    pub(super) fn finish(self, bytes: u64) -> Result<VerifiedExport, VerifyError> {
        match self.state {
            State::Start => {
                return Err(VerifyError::Unusable("the export is empty; make it again".to_owned()));
            }
            State::Inside(_) => {
                return Err(self.bad("the export is cut off: its end is missing"));
            }
            State::Ended => {}
        }
        if let Some(size) = self.uncheckable {
            return Err(VerifyError::Unusable(format!(
                "nothing was found, but a checkpoint that you saved, of size {size}, is inside an omitted range of the export and cannot be compared; make the export with a range that begins at position 1 and without a filter"
            )));
        }
        Ok(VerifiedExport {
            origin: self.origin,
            events: self.events,
            omitted: self.omitted,
            size: self.tree.size(),
            root: self.tree.root(),
            bytes,
            leaf_bytes: self.leaf_bytes,
            saved_checkpoints: self.kept_checked,
            earlier_checkpoints: self.earlier,
            cosigned_by: self.cosigned_by,
        })
    }
}
