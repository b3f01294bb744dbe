//! What a power cut leaves of a program's files: what was written, but not flushed, is gone.
//!
//! The program runs under `strace`. Its system calls are done again on two copies of its files in
//! memory: one as processes see them, one as they are on the disk. A write reaches the disk when its
//! file is flushed. What is done to names reaches it with the next flush of any file, as on ext4,
//! whose journal is committed as a whole.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

/// The calls that change files.
pub const TRACED: &str = "trace=openat,creat,write,pwrite64,ftruncate,fsync,fdatasync,rename,\
                          renameat,renameat2,unlink,unlinkat";

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The files of a program below a folder.
pub struct TracedFiles {
    folder: PathBuf,
    seen: Files,
    on_disk: Files,
    /// What was done to names and lengths, and is not on the disk yet.
    pending: Vec<Change>,
    /// Where the next `write` to a descriptor goes.
    offsets: HashMap<u64, usize>,
    /// Descriptors whose writes are flushed at once.
    flushing: HashSet<u64>,
    /// The beginnings of calls that have not returned, by thread.
    unfinished: HashMap<String, String>,
    lines: usize,
}

enum Change {
    Created(PathBuf),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
    Cut(PathBuf, usize),
}

impl TracedFiles {
    /// No file yet.
    pub fn below(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            seen: Files::new(),
            on_disk: Files::new(),
            pending: Vec::new(),
            offsets: HashMap::new(),
            flushing: HashSet::new(),
            unfinished: HashMap::new(),
            lines: 0,
        }
    }

    /// Does again what a trace of `strace -f -y -xx` says, from the line on that it has not done yet.
    /// The last line is left if it is not complete.
    pub fn replay(&mut self, trace: &str) {
        let complete = trace.rfind('\n').map_or("", |end| &trace[..end]);
        for line in complete.lines().skip(self.lines) {
            self.lines += 1;
            let Some((thread, call)) = line.split_once(char::is_whitespace) else { continue };
            let call = call.trim_start();
            if let Some(begun) = call.strip_suffix(" <unfinished ...>") {
                self.unfinished.insert(thread.to_owned(), begun.to_owned());
            } else if let Some((_, rest)) = call.split_once(" resumed>") {
                if let Some(begun) = self.unfinished.remove(thread) {
                    self.done(&format!("{begun}{rest}"));
                }
            } else {
                self.done(call);
            }
        }
    }

    /// A file that is not as processes see it, if there is one: the trace is not complete yet.
    pub fn differs(&self) -> Option<String> {
        let (mut real, mut folders) = (Files::new(), vec![self.folder.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).ok().into_iter().flatten().flatten() {
                match entry.path() {
                    path if path.is_dir() => folders.push(path),
                    path => drop(real.insert(path.clone(), fs::read(path).unwrap_or_default())),
                }
            }
        }
        let paths = real.keys().chain(self.seen.keys());
        let differing = paths.filter(|path| real.get(*path) != self.seen.get(*path));
        let bytes = |files: &Files, path| files.get(path).map(Vec::len);
        let (traced, found) = (&self.seen, &real);
        let said = differing.map(|path| {
            format!("{path:?}: {:?} bytes, not {:?}", bytes(traced, path), bytes(found, path))
        });
        said.into_iter().next()
    }

    /// The disk is given the time to take everything that was written.
    pub fn settle(&mut self) {
        self.pending.clear();
        self.on_disk.clone_from(&self.seen);
    }

    /// Writes the files that are on the disk, below another folder.
    pub fn restore(&self, folder: &Path) {
        for (path, content) in &self.on_disk {
            let path = folder.join(path.strip_prefix(&self.folder).unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    fn done(&mut self, call: &str) {
        let Some((name, rest)) = call.split_once('(') else { return };
        // Results are in a column of their own, after spaces.
        let Some((given, result)) = rest.rsplit_once(" = ") else { return };
        let Some(given) = given.trim_end().strip_suffix(')') else { return };
        if result.starts_with('-') {
            return;
        }
        let given: Vec<_> = given.split(", ").collect();
        let texts: Vec<_> = given.iter().filter_map(|it| text(it)).collect();
        let path_at = |at: usize| texts.get(at).map(|it| path(it)).filter(|it| self.has(it));
        match name {
            "openat" | "creat" => {
                let Some(path) = path_at(0) else { return };
                let Some((descriptor, _)) = opened(result) else { return };
                let flags = given.get(2).copied().unwrap_or_default();
                let end = self.open(path, flags);
                self.offsets.insert(descriptor, end);
                self.flushing.remove(&descriptor);
                if ["O_SYNC", "O_DSYNC"].iter().any(|flag| flags.contains(flag)) {
                    self.flushing.insert(descriptor);
                }
            }
            "rename" | "renameat" | "renameat2" => {
                let [Some(from), Some(to)] = [path_at(0), path_at(1)] else { return };
                if let Some(content) = self.seen.remove(&from) {
                    self.seen.insert(to.clone(), content);
                }
                self.pending.push(Change::Renamed(from, to));
            }
            "unlink" | "unlinkat" => {
                let Some(path) = path_at(0) else { return };
                self.seen.remove(&path);
                self.pending.push(Change::Removed(path));
            }
            _ => {
                let Some((descriptor, path)) = given.first().and_then(|it| opened(it)) else {
                    return;
                };
                if self.has(&path) {
                    self.done_to_file(name, descriptor, path, &given, &texts);
                }
            }
        }
    }

    fn done_to_file(
        &mut self,
        name: &str,
        descriptor: u64,
        path: PathBuf,
        given: &[&str],
        texts: &[Vec<u8>],
    ) {
        let number = |at: usize| given.get(at).and_then(|it| it.parse::<usize>().ok()).unwrap();
        match name {
            "write" => {
                let at = self.offsets.get(&descriptor).copied().unwrap_or(0);
                self.offsets.insert(descriptor, at + texts[0].len());
                self.write(descriptor, path, at, &texts[0]);
            }
            "pwrite64" => self.write(descriptor, path, number(3), &texts[0]),
            "ftruncate" => {
                self.seen.entry(path.clone()).or_default().resize(number(1), 0);
                self.pending.push(Change::Cut(path, number(1)));
            }
            "fsync" | "fdatasync" => self.flush(path),
            other => panic!("{other} is not traced"),
        }
    }

    fn write(&mut self, descriptor: u64, path: PathBuf, at: usize, bytes: &[u8]) {
        let content = self.seen.entry(path.clone()).or_default();
        let end = at + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[at..end].copy_from_slice(bytes);
        if self.flushing.contains(&descriptor) {
            self.flush(path);
        }
    }

    fn has(&self, path: &Path) -> bool {
        path.starts_with(&self.folder)
    }

    /// Gives where a write begins.
    fn open(&mut self, path: PathBuf, flags: &str) -> usize {
        if flags.contains("O_CREAT") && !self.seen.contains_key(&path) {
            self.pending.push(Change::Created(path.clone()));
            self.seen.insert(path.clone(), Vec::new());
        }
        let Some(content) = self.seen.get_mut(&path) else { return 0 };
        if flags.contains("O_TRUNC") {
            content.clear();
            self.pending.push(Change::Cut(path, 0));
            return 0;
        }
        if flags.contains("O_APPEND") { content.len() } else { 0 }
    }

    fn flush(&mut self, path: PathBuf) {
        for change in self.pending.drain(..) {
            match change {
                Change::Created(path) => {
                    self.on_disk.entry(path).or_default();
                }
                Change::Renamed(from, to) => {
                    let content = self.on_disk.remove(&from).unwrap_or_default();
                    self.on_disk.insert(to, content);
                }
                Change::Removed(path) => {
                    self.on_disk.remove(&path);
                }
                Change::Cut(path, length) => {
                    if let Some(content) = self.on_disk.get_mut(&path) {
                        content.truncate(length);
                    }
                }
            }
        }
        if let Some(content) = self.seen.get(&path) {
            self.on_disk.insert(path, content.clone());
        }
    }
}

/// The bytes of an argument `"\x61\x62"`.
fn text(argument: &str) -> Option<Vec<u8>> {
    let hex = argument.strip_prefix('"')?.strip_suffix('"')?;
    hex.split("\\x").skip(1).map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(String::from_utf8(bytes.to_vec()).unwrap())
}

/// The descriptor and the path of `13<\x2f\x61>`.
fn opened(argument: &str) -> Option<(u64, PathBuf)> {
    let (descriptor, file) = argument.split_once('<')?;
    let file = file.split('>').next()?;
    Some((descriptor.parse().ok()?, path(&text(&format!("\"{file}\""))?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> String {
        text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    #[test]
    fn what_is_not_flushed_is_gone() {
        let mut files = TracedFiles::below(Path::new("/a"));
        let (one, other) = (hex("/a/one"), hex("/a/other"));
        let mut trace = String::new();
        let mut replay = |files: &mut TracedFiles, lines: &str| {
            trace.push_str(lines);
            files.replay(&trace);
        };
        replay(
            &mut files,
            &format!(
                "7  openat(AT_FDCWD<{0}>, \"{one}\", O_RDWR|O_CREAT|O_CLOEXEC, 0640) = 5<{one}>\n\
             7  write(5<{one}>, \"{1}\", 4) = 4\n\
             8  pwrite64(5<{one}>, \"{2}\", 2, 1 <unfinished ...>\n\
             7  fsync(5<{one}> <unfinished ...>\n\
             8  <... pwrite64 resumed>)              = 2\n\
             7  <... fsync resumed>) = 0\n\
             7  write(5<{one}>, \"{1}\", 4) = 4\n\
             7  openat(AT_FDCWD<{0}>, \"{other}\", O_RDWR|O_CREAT, 0640) = 6<{other}>\n\
             7  write(6<{other}>, \"{1}\", 4) = 4\n",
                hex("/"),
                hex("abcd"),
                hex("xy"),
            ),
        );
        let left = |files: &TracedFiles| files.on_disk.clone();
        assert_eq!(left(&files), Files::from([("/a/one".into(), b"axyd".to_vec())]));
        replay(&mut files, &format!("7  fsync(5<{one}>) = 0\n"));
        let both =
            Files::from([("/a/one".into(), b"axydabcd".to_vec()), ("/a/other".into(), Vec::new())]);
        assert_eq!(left(&files), both, "a name is on the disk, but no content");
        replay(&mut files, &format!("7  unlink(\"{one}\") = 0\n7  fsync(6<{other}>) = 0\n"));
        assert_eq!(left(&files), Files::from([("/a/other".into(), b"abcd".to_vec())]));
    }
}
