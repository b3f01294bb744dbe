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
pub const TRACED: &str = "trace=openat,creat,lseek,read,write,writev,pwrite64,pwritev,sendfile,\
                          copy_file_range,fallocate,truncate,ftruncate,fsync,fdatasync,rename,\
                          renameat,renameat2,link,linkat,unlink,unlinkat";

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
    /// Descriptors that write at the end of their files.
    appending: HashSet<u64>,
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
            appending: HashSet::new(),
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
        let paths = named(&given);
        let path_at = |at: usize| paths.get(at).cloned().filter(|it| self.has(it));
        match name {
            "openat" | "creat" => {
                let Some(path) = path_at(0) else { return };
                let Some((descriptor, _)) = opened(result) else { return };
                let flags = given.get(2).copied().unwrap_or_default();
                self.open(path, flags);
                self.offsets.insert(descriptor, 0);
                let has = |flag| flags.split('|').any(|it| it == flag);
                set(&mut self.flushing, descriptor, has("O_SYNC") || has("O_DSYNC"));
                set(&mut self.appending, descriptor, has("O_APPEND"));
            }
            "rename" | "renameat" | "renameat2" => {
                let [Some(from), Some(to)] = [path_at(0), path_at(1)] else { return };
                rename(&mut self.seen, &from, &to);
                self.pending.push(Change::Renamed(from, to));
            }
            "unlink" | "unlinkat" => {
                let Some(path) = path_at(0) else { return };
                self.seen.remove(&path);
                self.pending.push(Change::Removed(path));
            }
            "truncate" => {
                let Some(path) = path_at(0) else { return };
                self.cut(path, number(&given, 1));
            }
            "link" | "linkat" => assert!(path_at(0).is_none(), "{call} is not followed"),
            _ => {
                let Some((descriptor, path)) = given.first().and_then(|it| opened(it)) else {
                    return;
                };
                // `copy_file_range` writes to its second descriptor.
                let other =
                    given.get(2).and_then(|it| opened(it)).is_some_and(|it| self.has(&it.1));
                assert!(!(name == "copy_file_range" && other), "{call} is not followed");
                if self.has(&path) {
                    self.done_to_file(name, descriptor, path, (&given, result), &texts);
                }
            }
        }
    }

    fn done_to_file(
        &mut self,
        name: &str,
        descriptor: u64,
        path: PathBuf,
        (given, result): (&[&str], &str),
        texts: &[Vec<u8>],
    ) {
        let returned = || result.split(' ').next().and_then(|it| it.parse::<usize>().ok()).unwrap();
        let offset = self.offsets.get(&descriptor).copied().unwrap_or(0);
        match name {
            "lseek" => drop(self.offsets.insert(descriptor, returned())),
            "read" => drop(self.offsets.insert(descriptor, offset + returned())),
            "write" => {
                let end = self.seen.get(&path).map_or(0, Vec::len);
                let at = if self.appending.contains(&descriptor) { end } else { offset };
                let bytes = &texts[0][..returned()];
                self.offsets.insert(descriptor, at + bytes.len());
                self.write(descriptor, path, at, bytes);
            }
            "pwrite64" => self.write(descriptor, path, number(given, 3), &texts[0][..returned()]),
            "ftruncate" => self.cut(path, number(given, 1)),
            "fsync" | "fdatasync" => self.flush(path),
            // It reads from this file.
            "copy_file_range" => {}
            other => panic!("{other} of {path:?} is not followed"),
        }
    }

    fn cut(&mut self, path: PathBuf, length: usize) {
        self.seen.entry(path.clone()).or_default().resize(length, 0);
        self.pending.push(Change::Cut(path, length));
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

    fn open(&mut self, path: PathBuf, flags: &str) {
        if flags.contains("O_CREAT") && !self.seen.contains_key(&path) {
            self.pending.push(Change::Created(path.clone()));
            self.seen.insert(path.clone(), Vec::new());
        }
        if flags.contains("O_TRUNC") && self.seen.contains_key(&path) {
            self.cut(path, 0);
        }
    }

    fn flush(&mut self, path: PathBuf) {
        for change in self.pending.drain(..) {
            match change {
                Change::Created(path) => {
                    self.on_disk.entry(path).or_default();
                }
                Change::Renamed(from, to) => rename(&mut self.on_disk, &from, &to),
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

/// Renames a file, or a folder with all that is in it.
fn rename(files: &mut Files, from: &Path, to: &Path) {
    let below: Vec<_> = files.keys().filter(|path| path.starts_with(from)).cloned().collect();
    for path in below {
        let content = files.remove(&path).unwrap_or_default();
        let rest = path.strip_prefix(from).unwrap();
        let renamed = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
        files.insert(renamed, content);
    }
}

fn set(descriptors: &mut HashSet<u64>, descriptor: u64, is_one: bool) {
    if is_one {
        descriptors.insert(descriptor);
    } else {
        descriptors.remove(&descriptor);
    }
}

fn number(given: &[&str], at: usize) -> usize {
    given.get(at).and_then(|it| it.parse().ok()).unwrap()
}

/// The paths that a call names. One that is not absolute is below the folder whose descriptor comes
/// before it.
fn named(given: &[&str]) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for (at, argument) in given.iter().enumerate() {
        let Some(bytes) = text(argument) else { continue };
        let Ok(name) = String::from_utf8(bytes) else { continue };
        let folder = at.checked_sub(1).and_then(|before| folder(given[before]));
        paths.push(folder.unwrap_or_default().join(name));
    }
    paths
}

/// The folder of `AT_FDCWD<\x2f>` and of `13<\x2f\x61>`.
fn folder(argument: &str) -> Option<PathBuf> {
    let (_, file) = argument.split_once('<')?;
    Some(path(&text(&format!("\"{}\"", file.split('>').next()?))?))
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

    #[test]
    fn files_are_found_whatever_they_are_called_by() {
        let mut files = TracedFiles::below(Path::new("/a"));
        let (old, new) = (hex("/a/old"), hex("/a/new"));
        let (before, after) = (hex("/a/old/1"), hex("/a/new/1"));
        let trace = format!(
            "7  openat(AT_FDCWD<{0}>, \"{before}\", O_RDWR|O_CREAT, 0640) = 5<{before}>\n\
             7  write(5<{before}>, \"{1}\", 4) = 4\n\
             7  lseek(5<{before}>, 1, SEEK_SET) = 1\n\
             7  write(5<{before}>, \"{2}\", 2) = 2\n\
             7  fsync(5<{before}>) = 0\n\
             7  renameat(AT_FDCWD<{0}>, \"{old}\", AT_FDCWD<{0}>, \"{new}\") = 0\n\
             7  openat(AT_FDCWD<{0}>, \"{after}\", O_WRONLY|O_APPEND) = 6<{after}>\n\
             7  write(6<{after}>, \"{1}\", 4) = 3\n\
             7  openat(AT_FDCWD<{0}>, \"{3}\", O_RDWR|O_CREAT, 0640) = 7<{3}>\n\
             7  truncate(\"{after}\", 6) = 0\n",
            hex("/"),
            hex("abcd"),
            hex("xy"),
            hex("/a/other"),
        );
        files.replay(&(trace.clone() + "8  nothing\n"));
        let now = [("/a/new/1".into(), b"axydab".to_vec()), ("/a/other".into(), Vec::new())];
        assert_eq!(files.seen, Files::from(now));
        assert_eq!(files.on_disk, Files::from([("/a/old/1".into(), b"axyd".to_vec())]));
        let end = format!(
            "7  unlinkat(9<{new}>, \"{}\", 0) = 0\n7  fsync(7<{}>) = 0\n",
            hex("1"),
            hex("/a/other")
        );
        files.replay(&(trace + "8  nothing\n" + &end));
        assert_eq!(files.seen, Files::from([("/a/other".into(), Vec::new())]));
        assert_eq!(files.on_disk, files.seen);
    }
}
