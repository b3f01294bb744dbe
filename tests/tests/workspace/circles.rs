//! Which files of a crate import each other in a circle.
//!
//! A file imports another when it names something that stands there: in a `use`,
//! or by a path in its code (`crate::a::b`, `super::b`, `store::load` after
//! `use crate::store`). A name is followed through `use` to the file that defines
//! it, so a `mod.rs` that only declares modules and hands names on is part of no
//! circle. A name that a file hands on and also uses counts for that file.
//! `mod` declarations and `#[cfg(test)]` modules do not count. Method calls are
//! not seen: they name no path.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
};

/// Files that import each other, and what ties each to the next.
#[derive(Debug, PartialEq)]
pub(crate) struct Circle {
    /// The files, in order.
    pub(crate) files: Vec<String>,
    /// From which file to which, by which names.
    pub(crate) ties: BTreeMap<(String, String), BTreeSet<String>>,
}

impl fmt::Display for Circle {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} files import each other:", self.files.len())?;
        for ((from, target), names) in &self.ties {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            write!(to, "\n    {from} -> {target}: {}", names.join(", "))?;
        }
        Ok(())
    }
}

/// What counts of a file that has modules of its own below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parents {
    /// All: such a file declares and hands on, or its children leave it alone.
    Count,
    /// Not what it takes from its own children: it puts them together, and they
    /// may use what stands in it.
    PutTogether,
}

/// The circles of one crate: its files by their paths below the folder of the
/// root file, which is `lib.rs` or `main.rs`.
pub(crate) fn circles(files: &BTreeMap<String, String>, parents: Parents) -> Vec<Circle> {
    let tree = Tree::read(files);
    let mut ties = tree.ties();
    if parents == Parents::PutTogether {
        ties.retain(|(from, to), _| !module_of(to).starts_with(&module_of(from)));
    }
    let mut circles: Vec<Circle> = Vec::new();
    for from in files.keys() {
        if circles.iter().any(|circle| circle.files.contains(from)) {
            continue;
        }
        let ahead = reachable(&ties, from);
        let group: Vec<_> =
            ahead.into_iter().filter(|to| reachable(&ties, to).contains(from)).collect();
        if group.len() > 1 {
            let inside = |(from, to): &(String, String)| group.contains(from) && group.contains(to);
            let ties = ties.iter().filter(|(tie, _)| inside(tie));
            let ties = ties.map(|(tie, names)| (tie.clone(), names.clone())).collect();
            circles.push(Circle { files: group, ties });
        }
    }
    circles
}

type Ties = BTreeMap<(String, String), BTreeSet<String>>;

/// Every file that an import leads to, and those that their imports lead to.
fn reachable(ties: &Ties, from: &str) -> BTreeSet<String> {
    let ahead = |from: &str| {
        let ties = ties.keys().filter(|(file, _)| file == from);
        ties.map(|(_, to)| to.clone()).collect::<Vec<_>>()
    };
    let (mut seen, mut next) = (BTreeSet::new(), ahead(from));
    while let Some(file) = next.pop() {
        if !seen.contains(&file) {
            next.extend(ahead(&file));
            seen.insert(file);
        }
    }
    seen
}

type Path = Vec<String>;

/// A `use`: what it names, and how the file calls it (`*` for a glob).
struct Import {
    path: Path,
    name: String,
    handed_on: bool,
}

#[derive(Default)]
struct Module {
    file: String,
    imports: Vec<Import>,
    /// Paths in its code.
    paths: Vec<Path>,
    /// Single names in its code.
    words: BTreeSet<String>,
    /// What it defines.
    items: BTreeSet<String>,
}

struct Tree {
    modules: BTreeMap<Path, Module>,
    /// Exported macros, which stand at the crate's root.
    macros: BTreeMap<String, String>,
}

impl Tree {
    fn read(files: &BTreeMap<String, String>) -> Self {
        let mut tree = Self { modules: BTreeMap::new(), macros: BTreeMap::new() };
        for (file, text) in files {
            let tokens = without_tests(&tokens(text));
            tree.read_module(file, module_of(file), &tokens);
        }
        tree
    }

    fn read_module(&mut self, file: &str, at: Path, tokens: &[String]) {
        let mut module = Module { file: file.to_owned(), ..Module::default() };
        let token = |at: usize| tokens.get(at).map_or("", String::as_str);
        let mut n = 0;
        while n < tokens.len() {
            match token(n) {
                // Not `impl Trait + use<'a>`.
                "use" if token(n + 1) != "<" => {
                    let end = n + tokens[n..].iter().position(|it| it == ";").unwrap();
                    let handed_on = n > 0 && (token(n - 1) == "pub" || token(n - 1) == ")");
                    let mut found = Vec::new();
                    tree_of(&tokens[n + 1..end], &[], &mut found);
                    module.imports.extend(found.into_iter().map(|(path, name)| Import {
                        path,
                        name,
                        handed_on,
                    }));
                    n = end;
                }
                "mod" if token(n + 2) == "{" => {
                    let inner = block(tokens, n + 2);
                    let mut path = at.clone();
                    path.push(token(n + 1).to_owned());
                    self.read_module(file, path, &tokens[inner.clone()]);
                    n = inner.end;
                }
                "mod" if token(n + 2) == ";" => n += 2,
                "macro_rules" if token(n + 1) == "!" => {
                    module.items.insert(token(n + 2).to_owned());
                    let before = tokens[n.saturating_sub(8)..n].join("");
                    if before.ends_with("#[macro_export]") {
                        self.macros.insert(token(n + 2).to_owned(), file.to_owned());
                    }
                    n += 2;
                }
                "fn" | "struct" | "enum" | "union" | "trait" | "type" | "const" | "static" => {
                    module.items.insert(token(n + 1).to_owned());
                }
                word if is_word(word) && token(n.wrapping_sub(1)) != "::" => {
                    module.words.insert(word.to_owned());
                    let mut path = vec![word.to_owned()];
                    while token(n + 1) == "::" && is_word(token(n + 2)) {
                        path.push(token(n + 2).to_owned());
                        n += 2;
                    }
                    if path.len() > 1 {
                        module.paths.push(path);
                    }
                }
                _ => {}
            }
            n += 1;
        }
        self.modules.insert(at, module);
    }

    fn ties(&self) -> Ties {
        let mut ties = Ties::new();
        for (at, module) in &self.modules {
            let used = |import: &Import| !import.handed_on || module.words.contains(&import.name);
            let imported = module.imports.iter().filter(|it| used(it)).map(|it| &it.path);
            for path in imported.chain(&module.paths) {
                let Some(Found::Item(to)) = self.find(at, path, 0) else { continue };
                if to != module.file {
                    let tie = (module.file.clone(), to);
                    ties.entry(tie).or_default().insert(path.join("::"));
                }
            }
        }
        ties
    }

    /// What a path names, seen from a module.
    fn find(&self, at: &[String], path: &[String], depth: usize) -> Option<Found> {
        let (first, rest) = path.split_first()?;
        // Names that are handed on in a ring are an error of rustc's.
        if depth > 16 {
            return None;
        }
        match first.as_str() {
            "crate" | "$crate" => self.below(&[], rest, depth),
            "self" => self.below(at, rest, depth),
            "super" => self.below(at.split_last()?.1, rest, depth),
            _ => {
                let module = self.modules.get(at)?;
                let child = [at, std::slice::from_ref(first)].concat();
                let known = self.modules.contains_key(&child)
                    || module
                        .imports
                        .iter()
                        .any(|import| import.name == *first && import.path != path);
                if known { self.below(at, path, depth) } else { None }
            }
        }
    }

    /// What a path names below a module.
    fn below(&self, at: &[String], path: &[String], depth: usize) -> Option<Found> {
        let module = self.modules.get(at)?;
        let Some((first, rest)) = path.split_first() else {
            return Some(Found::Module(at.to_vec()));
        };
        if first == "super" {
            return self.below(at.split_last()?.1, rest, depth);
        }
        if first == "*" {
            return Some(Found::Item(module.file.clone()));
        }
        let child = [at, std::slice::from_ref(first)].concat();
        if self.modules.contains_key(&child) {
            return self.below(&child, rest, depth);
        }
        if module.items.contains(first) {
            return Some(Found::Item(module.file.clone()));
        }
        if let Some(import) = module.imports.iter().find(|import| import.name == *first) {
            return match self.find(at, &import.path, depth + 1)? {
                Found::Module(at) => self.below(&at, rest, depth + 1),
                item => Some(item),
            };
        }
        for glob in module.imports.iter().filter(|import| import.name == "*") {
            let whole = glob.path.split_last()?.1;
            if let Some(Found::Module(target)) = self.find(at, whole, depth + 1)
                && target != at
                && self.modules.get(&target).is_some_and(|it| it.items.contains(first))
            {
                return self.below(&target, path, depth + 1);
            }
        }
        let file = self.macros.get(first).filter(|_| at.is_empty());
        Some(Found::Item(file.unwrap_or(&module.file).clone()))
    }
}

enum Found {
    Module(Path),
    /// Something that stands in this file.
    Item(String),
}

/// The module that a file is: `a/mod.rs` and `a.rs` are both `a`.
fn module_of(file: &str) -> Path {
    let path = file.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    match path {
        "lib" | "main" => Vec::new(),
        path => path.split('/').map(str::to_owned).collect(),
    }
}

/// The paths of a `use`, and how each is called.
fn tree_of(tokens: &[String], before: &[String], found: &mut Vec<(Path, String)>) {
    let mut path = before.to_vec();
    let mut n = 0;
    while let Some(token) = tokens.get(n) {
        match token.as_str() {
            "{" => {
                let inner = block(tokens, n);
                let (mut depth, mut start) = (0, inner.start);
                for at in inner.clone() {
                    match tokens[at].as_str() {
                        "{" => depth += 1,
                        "}" => depth -= 1,
                        "," if depth == 0 => {
                            tree_of(&tokens[start..at], &path, found);
                            start = at + 1;
                        }
                        _ => {}
                    }
                }
                return tree_of(&tokens[start..inner.end], &path, found);
            }
            "::" => {}
            "as" => {
                let name = tokens[n + 1].clone();
                return found.push((path, name));
            }
            "self" if !path.is_empty() => {}
            other => path.push(other.to_owned()),
        }
        n += 1;
    }
    if n > 0
        && let Some(name) = path.last().cloned()
    {
        found.push((path, name));
    }
}

/// What stands between the brace at `open` and the one that closes it.
fn block(tokens: &[String], open: usize) -> Range<usize> {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + 1..at;
        }
    }
    panic!("a brace is not closed: {:?}", &tokens[open..tokens.len().min(open + 20)])
}

fn without_tests(tokens: &[String]) -> Vec<String> {
    const TEST: [&str; 8] = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let mut saved = Vec::with_capacity(tokens.len());
    let mut n = 0;
    while n < tokens.len() {
        if tokens[n..].iter().take(TEST.len()).eq(TEST.iter()) {
            n += TEST.len() + 1;
            n = if tokens[n] == "{" { block(tokens, n).end + 1 } else { n + 1 };
            continue;
        }
        saved.push(tokens[n].clone());
        n += 1;
    }
    saved
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '$')
}

/// Rust as words, `::` and single signs; without comments and literals.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let char_at = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let mut n = 0;
    while n < chars.len() {
        let c = chars[n];
        match c {
            '/' if char_at(n + 1) == '/' => {
                while n < chars.len() && chars[n] != '\n' {
                    n += 1;
                }
            }
            '/' if char_at(n + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (char_at(n), char_at(n + 1)) {
                        ('/', '*') => (depth, n) = (depth + 1, n + 1),
                        ('*', '/') => (depth, n) = (depth - 1, n + 1),
                        _ => {}
                    }
                    n += 1;
                    if depth == 0 || n >= chars.len() {
                        break;
                    }
                }
            }
            '"' => n = end_of_string(&chars, n),
            'r' | 'b' if raw_hashes(&chars, n).is_some() => {
                let (open, hashes) = raw_hashes(&chars, n).unwrap();
                n = open + 1;
                while n < chars.len()
                    && !(chars[n] == '"' && (1..=hashes).all(|hash| char_at(n + hash) == '#'))
                {
                    n += 1;
                }
                n += 1 + hashes;
            }
            // A lifetime has no second quote.
            '\'' if char_at(n + 1) == '\\' => {
                n += 3;
                while n < chars.len() && chars[n] != '\'' {
                    n += 1;
                }
                n += 1;
            }
            '\'' if char_at(n + 2) == '\'' => n += 3,
            ':' if char_at(n + 1) == ':' => {
                tokens.push("::".to_owned());
                n += 2;
            }
            c if c.is_alphanumeric() || c == '_' || c == '$' => {
                let start = n;
                n += 1;
                while n < chars.len() && (chars[n].is_alphanumeric() || chars[n] == '_') {
                    n += 1;
                }
                tokens.push(chars[start..n].iter().collect());
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push(c.to_string());
                }
                n += 1;
            }
        }
    }
    tokens
}

fn end_of_string(chars: &[char], open: usize) -> usize {
    let mut n = open + 1;
    while n < chars.len() && chars[n] != '"' {
        n += if chars[n] == '\\' { 2 } else { 1 };
    }
    n + 1
}

/// Where a raw string's quote is and how many hashes it has, if one begins here.
fn raw_hashes(chars: &[char], at: usize) -> Option<(usize, usize)> {
    if at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_') {
        return None;
    }
    let mut n = at;
    if chars.get(n) == Some(&'b') {
        n += 1;
    }
    if chars.get(n) != Some(&'r') {
        return None;
    }
    n += 1;
    let hashes = chars[n..].iter().take_while(|c| **c == '#').count();
    (chars.get(n + hashes) == Some(&'"')).then_some((n + hashes, hashes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let files = files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned()));
        circles(&files.collect(), Parents::Count).into_iter().map(|circle| circle.files).collect()
    }

    #[test]
    fn circles_are_seen() {
        let lib = ("lib.rs", "mod a; mod b; pub use a::A;");
        let one = vec![vec!["a.rs".to_owned(), "b.rs".to_owned()]];
        for (a, b) in [
            ("use crate::b::B; pub struct A;", "use crate::a::A; pub struct B;"),
            ("use crate::b::B; pub struct A;", "use crate::A; pub struct B;"),
            (
                "use crate::b::{self as other}; pub fn A() { other::B() }",
                "use super::a::A; pub fn B() {}",
            ),
            ("pub fn A() { crate::b::B() }", "pub fn B() { let _ = super::{}; super::A() }"),
            (
                "pub fn A() { crate::b::B() }",
                "mod c { fn c() { super::super::a::A() } } pub fn B() {}",
            ),
            ("use crate::b::*; pub struct A;", "use crate::{a::A}; pub struct B;"),
        ] {
            assert_eq!(of(&[lib, ("a.rs", a), ("b.rs", b)]), one, "{a} {b}");
        }
    }

    #[test]
    fn three_files_in_a_circle_and_one_beside_them() {
        let files = [
            ("main.rs", "mod a; mod b; mod c; mod d; use a::A; fn main() { A() }"),
            ("a/mod.rs", "use crate::b::B; pub fn A() {}"),
            ("b.rs", "use crate::c::C; pub fn B() {}"),
            ("c.rs", "use crate::{a::A, d::D}; pub fn C() {}"),
            ("d.rs", "pub fn D() {}"),
        ];
        assert_eq!(of(&files), [["a/mod.rs", "b.rs", "c.rs"]]);
    }

    #[test]
    fn a_parent_whose_code_uses_its_child_is_in_a_circle_with_it() {
        let child = ("a/b.rs", "use super::Shared; pub fn B() {}");
        let lib = ("lib.rs", "mod a;");
        for parent in [
            "mod b; pub struct Shared; fn a() { b::B() }",
            "mod b; pub use b::B; pub struct Shared; fn a() { B() }",
        ] {
            assert_eq!(of(&[lib, ("a/mod.rs", parent), child]).len(), 1, "{parent}");
        }
        let files = [lib, ("a/mod.rs", "mod b; pub struct Shared; fn a() { b::B() }"), child];
        let files = files.map(|(file, text)| (file.to_owned(), text.to_owned()));
        assert!(circles(&files.into(), Parents::PutTogether).is_empty());
        // It only hands on what the child has.
        let parent = ("a/mod.rs", "mod b; pub use b::B; pub struct Shared;");
        assert!(of(&[lib, parent, child]).is_empty());
    }

    #[test]
    fn what_is_no_import_makes_no_circle() {
        let lib = ("lib.rs", "mod a; mod b; pub use a::A; pub use b::{B, each};");
        for (a, b) in [
            ("use crate::b::B; pub struct A;", "// use crate::a::A;\npub struct B;"),
            (
                "use crate::b::B; pub struct A;",
                "pub struct B; fn s() { \"crate::a::A\"; r#\"crate::a::A \" \"#; }",
            ),
            (
                "use crate::b::B; pub struct A;",
                "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }",
            ),
            ("use crate::b::B; pub struct A;", "use other::a::A; pub struct B;"),
            ("use crate::B; pub struct A;", "pub struct B; fn b<'a>(c: &'a u8) { 'x'; '\\''; }"),
            (
                "use crate::each; pub struct A;",
                "#[macro_export] macro_rules! each { () => {} } pub struct B;",
            ),
        ] {
            assert_eq!(of(&[lib, ("a.rs", a), ("b.rs", b)]), Vec::<Vec<String>>::new(), "{a} {b}");
        }
    }

    #[test]
    fn an_exported_macro_stands_where_it_is_written() {
        let lib = ("lib.rs", "mod a; mod b;");
        let a = ("a.rs", "use crate::each; pub struct A;");
        let b = ("b.rs", "#[macro_export] macro_rules! each { () => { $crate::a::A } }");
        assert_eq!(of(&[lib, a, b]), [["a.rs", "b.rs"]]);
    }
}
