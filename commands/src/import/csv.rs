//! A strict reader of CSV (RFC 4180). It never guesses: where quotes do not
//! match, it cannot be told any more which text is which row, and the reader
//! stops. A lenient reader would take the rest of the file for one cell.

/// A row as it stands in the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The line that it begins at, from 1.
    pub line: u64,
    /// Its cells, without their quotes.
    pub cells: Vec<Vec<u8>>,
    /// The line that it ends at.
    pub end: u64,
    /// Its length in the file, in bytes.
    pub length: usize,
}

impl Record {
    /// The lines that count as rows if the file is broken at a line: all of the
    /// record that begins there, the first of any other.
    pub(super) fn lines(&self, broken: u64) -> Vec<u64> {
        let last = if self.line == broken { self.end } else { self.line };
        (self.line..=last).collect()
    }
}

/// A text that is not CSV from some place on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// The line to look at: the one with the first quote that does not match.
    pub line: u64,
    /// What is wrong there, for people.
    pub why: String,
    /// The lines that were not read, from the row with that quote on. Empty
    /// lines are left out.
    pub unread: Vec<u64>,
}

/// Reads records one after the other. Lines end with LF, CR LF or CR; empty
/// lines are no records.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u64,
}

impl<'a> Reader<'a> {
    /// A reader of a file's bytes.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes), at: 0, line: 1 }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn ends_line(&self) -> bool {
        matches!(self.peek(), Some(b'\n' | b'\r'))
    }

    /// Goes past the end of a line, if this is one.
    fn end_line(&mut self) {
        let pair = self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(b"\r\n"));
        if self.ends_line() {
            self.at += if pair { 2 } else { 1 };
            self.line += 1;
        }
    }

    /// Reads a cell, up to the comma or the end of the line after it.
    fn cell(&mut self) -> Result<Vec<u8>, (u64, String)> {
        if self.peek() == Some(b'"') { self.quoted() } else { self.plain() }
    }

    fn plain(&mut self) -> Result<Vec<u8>, (u64, String)> {
        let mut cell = Vec::new();
        loop {
            match self.peek() {
                None | Some(b',' | b'\n' | b'\r') => return Ok(cell),
                Some(b'"') => {
                    let why = "a quote is inside of a cell that does not begin with one. A cell \
                               with a quote in it is put in quotes, and each quote in it doubled"
                        .to_owned();
                    return Err((self.line, why));
                }
                Some(byte) => cell.push(byte),
            }
            self.at += 1;
        }
    }

    fn quoted(&mut self) -> Result<Vec<u8>, (u64, String)> {
        let (opened, mut cell) = (self.line, Vec::new());
        self.at += 1;
        loop {
            let before = self.at;
            match self.peek() {
                None => {
                    return Err((opened, "a quote opens a cell and is never closed".to_owned()));
                }
                Some(b'"') => {
                    self.at += 1;
                    match self.peek() {
                        Some(b'"') => {
                            cell.push(b'"');
                            self.at += 1;
                        }
                        None | Some(b',' | b'\n' | b'\r') => return Ok(cell),
                        Some(_) => {
                            let why = format!(
                                "a quote opens a cell, the next quote (line {}) closes it, and \
                                 text follows. One of them is too many, or one is missing",
                                self.line
                            );
                            return Err((opened, why));
                        }
                    }
                }
                Some(b'\n' | b'\r') => {
                    self.end_line();
                    cell.extend_from_slice(&self.bytes[before..self.at]);
                }
                Some(byte) => {
                    cell.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    /// Goes to the end, and gives the lines that are not empty.
    fn rest(&mut self) -> Vec<u64> {
        let mut lines = Vec::new();
        while self.peek().is_some() {
            if !self.ends_line() {
                lines.push(self.line);
            }
            while self.peek().is_some() && !self.ends_line() {
                self.at += 1;
            }
            self.end_line();
        }
        lines
    }
}

/// Gives the records; after [`Broken`], nothing.
impl Iterator for Reader<'_> {
    type Item = Result<Record, Broken>;

    fn next(&mut self) -> Option<Result<Record, Broken>> {
        while self.ends_line() {
            self.end_line();
        }
        self.peek()?;
        let (start, line) = (self.at, self.line);
        let mut cells = Vec::new();
        loop {
            match self.cell() {
                Ok(cell) => cells.push(cell),
                Err((at, why)) => {
                    (self.at, self.line) = (start, line);
                    return Some(Err(Broken { line: at, why, unread: self.rest() }));
                }
            }
            if self.peek() != Some(b',') {
                break;
            }
            self.at += 1;
        }
        let (end, length) = (self.line, self.at - start);
        self.end_line();
        Some(Ok(Record { line, end, cells, length }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record's line and cells.
    type Cells = (u64, Vec<String>);

    /// Each record, and the place where the text is broken.
    fn read(text: &str) -> (Vec<Cells>, Option<(u64, Vec<u64>)>) {
        let (mut records, mut broken) = (Vec::new(), None);
        for next in Reader::new(text.as_bytes()) {
            match next {
                Ok(record) => {
                    let cells = record.cells.into_iter().map(|it| String::from_utf8(it).unwrap());
                    records.push((record.line, cells.collect()));
                }
                Err(it) => broken = Some((it.line, it.unread)),
            }
        }
        (records, broken)
    }

    fn rows(text: &str) -> Vec<Cells> {
        let (records, broken) = read(text);
        assert_eq!(broken, None, "{text:?}");
        records
    }

    fn row(line: u64, cells: &[&str]) -> Cells {
        (line, cells.iter().map(|&it| it.to_owned()).collect())
    }

    #[test]
    fn cells_in_quotes_hold_commas_quotes_and_line_ends() {
        let text = "id,note\n1,\"a, \"\"b\"\"\nc\r\nd\"\n2,\"\"\n3,\n";
        let expected = [
            row(1, &["id", "note"]),
            row(2, &["1", "a, \"b\"\nc\r\nd"]),
            row(5, &["2", ""]),
            row(6, &["3", ""]),
        ];
        assert_eq!(rows(text), expected);
    }

    #[test]
    fn lines_end_in_three_ways_and_empty_ones_are_no_rows() {
        for end in ["\n", "\r\n", "\r"] {
            let text = ["id,a", "", "1,x", "2,y", "", ""].join(end);
            let expected = [row(1, &["id", "a"]), row(3, &["1", "x"]), row(4, &["2", "y"])];
            assert_eq!(rows(&text), expected, "{end:?}");
        }
        assert_eq!(rows("\u{feff}id\n1"), [row(1, &["id"]), row(2, &["1"])]);
        assert_eq!(rows(" \n"), [row(1, &[" "])]);
        assert_eq!((rows(""), rows("\n\r\n")), (vec![], vec![]));
    }

    #[test]
    fn a_quote_that_does_not_match_is_named_with_every_line_from_its_row_on() {
        for (text, line, unread) in [
            // Never closed, in the last column and at the end of the file.
            ("id,a\n1,x\n2,\"y\n3,z\n\n4,w\n", 3, vec![3, 4, 6]),
            ("id,a\n1,\"", 2, vec![2]),
            // Closed by the quote that opens a later cell.
            ("id,a\n1,\"x\n2,y\n3,\"z, w\"\n", 2, vec![2, 3, 4]),
            ("id,a\n1,\"x\"y\n2,z\n", 2, vec![2, 3]),
            ("id,a\n1,x\"y\n2,z\n", 2, vec![2, 3]),
            ("id,a\n1, \"x\"\n2,z\n", 2, vec![2, 3]),
            // The broken cell is not the first of its row, nor on its first line.
            ("id,a,b\n1,\"x\ny\",\"z\n2,a,b\n", 3, vec![2, 3, 4]),
            ("\"id,a\n1,x\n", 1, vec![1, 2]),
        ] {
            assert_eq!(read(text).1, Some((line, unread)), "{text:?}");
        }
    }

    #[test]
    fn an_odd_number_of_quotes_is_always_found() {
        // Of every text of these pieces: whoever misses a quote reads rows wrongly.
        let pieces = ["\"", "a", ",", "\n"];
        for mut number in 0..4_usize.pow(7) {
            let mut text = String::new();
            for _ in 0..7 {
                text.push_str(pieces[number % 4]);
                number /= 4;
            }
            if text.matches('"').count() % 2 == 1 {
                assert!(read(&text).1.is_some(), "{text:?}");
            }
        }
    }
}
