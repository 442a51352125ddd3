//! Source text as the laws need it: comments and literals blanked out, test code marked, trees of
//! `use` unfolded. Not a parser: it knows as much of Rust as this repository uses.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// One Rust file.
pub struct Source {
    /// Path from the root of the repository, with `/`.
    pub path: String,
    /// As written.
    pub text: String,
    /// The same length, with comments and the insides of literals replaced by spaces.
    pub code: String,
    /// Whether each byte of `code` belongs to a test.
    pub in_test: Vec<bool>,
}

/// The root of the repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under the root that belongs to the repository, sorted.
pub fn tracked() -> Vec<String> {
    fn walk(dir: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).expect("a directory of the repository") {
            let path = entry.expect("an entry of the repository").path();
            let name = path
                .file_name()
                .expect("entries have names")
                .to_string_lossy();
            let ignored = name == "target" || name == ".git" || name.ends_with(".fated");
            if path.is_dir() && !ignored {
                walk(&path, found);
            } else if path.is_file() && !ignored {
                let short = path.strip_prefix(root()).expect("found under the root");
                found.push(short.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found.sort();
    found
}

/// The text of a tracked file; none if it is not text.
pub fn text_of(path: &str) -> Option<String> {
    String::from_utf8(fs::read(root().join(path)).expect("a tracked file")).ok()
}

/// Every Rust file below a directory.
pub fn sources(under: &str) -> Vec<Source> {
    let tests = reachable("src/lib.rs").1;
    let wanted = |path: &String| path.starts_with(under) && path.ends_with(".rs");
    tracked()
        .into_iter()
        .filter(wanted)
        .map(|path| {
            let text = text_of(&path).expect("source is text");
            let code = blank(&text);
            let mut in_test = mark_tests(&code);
            if tests.contains(&path) || path.starts_with("tests/") {
                in_test.fill(true);
            }
            Source {
                path,
                text,
                code,
                in_test,
            }
        })
        .collect()
}

impl Source {
    /// The top module a file of `src` belongs to: `raft`, `host/tokio`, `lib`.
    pub fn module(&self) -> &str {
        let inner = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let inner = inner.strip_suffix(".rs").unwrap_or(inner);
        let mut ends = inner.match_indices('/').map(|(at, _)| at);
        let first = ends.next().unwrap_or(inner.len());
        match &inner[..first] {
            "host" => &inner[..ends.next().unwrap_or(inner.len())],
            name => name,
        }
    }

    /// `path:line` of a byte.
    pub fn place(&self, at: usize) -> String {
        let line = self.text[..at].matches('\n').count() + 1;
        format!("{}:{line}", self.path)
    }

    /// Where `word` stands in code that is no test. Its ends must not be in the middle of a name.
    pub fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let found = find_word(&self.code, word);
        found.filter(|at| !self.in_test[*at])
    }

    /// Every path that begins with `first::`, `use` trees unfolded, in code that is no test.
    pub fn paths(&self, first: &str) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for at in self.words(first) {
            let before = self.code[..at].trim_end();
            let rest = &self.code[at..];
            if before.ends_with("::") || before.ends_with('.') {
                continue;
            }
            if rest[first.len()..].starts_with("::") {
                let end = tree_end(rest);
                let (mut paths, tree) = (Vec::new(), &rest[..end]);
                unfold("", tree, &mut paths);
                found.extend(paths.into_iter().map(|path| (at, path)));
            }
        }
        found
    }
}

/// Positions of a word, its ends not in the middle of a name.
pub fn find_word<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| {
            let (before, after) = (&code[..*at], &code[at + word.len()..]);
            let begins = word.starts_with(|c: char| c.is_alphanumeric());
            let ends = word.ends_with(|c: char| c.is_alphanumeric() || c == '_');
            let cut_before = begins && name(before.chars().next_back());
            let cut_behind = ends && name(after.chars().next());
            !cut_before && !cut_behind
        })
}

/// Where the path or `use` tree at the start of `code` ends.
fn tree_end(code: &str) -> usize {
    let (mut depth, mut last) = (0_usize, ' ');
    for (at, c) in code.char_indices() {
        match c {
            '{' if last == ':' || depth > 0 => depth += 1,
            '}' if depth > 1 => depth -= 1,
            '}' if depth == 1 => return at + 1,
            _ if depth > 0 || c.is_alphanumeric() || "_:*".contains(c) => {}
            _ => return at,
        }
        last = c;
    }
    code.len()
}

fn unfold(prefix: &str, tree: &str, out: &mut Vec<String>) {
    let tree = tree.split(" as ").next().unwrap_or(tree).trim();
    match tree.split_once('{') {
        Some((head, rest)) => {
            let inner = rest.trim_end().strip_suffix('}').unwrap_or(rest);
            let prefix = format!("{prefix}{}", head.trim());
            let (mut depth, mut start) = (0_usize, 0);
            for (at, c) in inner.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        unfold(&prefix, &inner[start..at], out);
                        start = at + 1;
                    }
                    _ => {}
                }
            }
            unfold(&prefix, &inner[start..], out);
        }
        None if tree.is_empty() => {}
        None => out.push(
            format!("{prefix}{tree}")
                .trim_end_matches("::self")
                .to_owned(),
        ),
    }
}

/// Where the body of the `fn` or `match` at `at` opens; none if it has no body.
pub fn body_start(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (offset, c) in code[at..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.checked_sub(1)?,
            '{' if depth == 0 => return Some(at + offset),
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The end of the block whose `{` stands at `open`, one past its `}`.
pub fn block_end(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code[open..].bytes().enumerate() {
        match c {
            b'{' => depth += 1,
            b'}' if depth == 1 => return open + at + 1,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

fn mark_tests(code: &str) -> Vec<bool> {
    let mut marks = vec![false; code.len()];
    for (at, _) in code.match_indices("#[cfg(test)]") {
        let end = match code[at..].find(['{', ';']) {
            Some(to) if code.as_bytes()[at + to] == b'{' => block_end(code, at + to),
            Some(to) => at + to + 1,
            None => code.len(),
        };
        marks[at..end].fill(true);
    }
    marks
}

/// The files that `mod` declarations reach from a root file, and those of them only tests see.
pub fn reachable(start: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut all, mut tests) = (BTreeSet::new(), BTreeSet::new());
    let mut open = vec![(start.to_owned(), false)];
    while let Some((path, is_test)) = open.pop() {
        let code = blank(&text_of(&path).expect("source is text"));
        let marks = mark_tests(&code);
        if is_test {
            tests.insert(path.clone());
        }
        let stem = path.strip_suffix(".rs").expect("source files end so");
        let dir = match stem.rsplit_once('/') {
            Some((dir, "mod" | "lib" | "main")) => dir.to_owned(),
            Some(_) | None => stem.to_owned(),
        };
        for at in find_word(&code, "mod") {
            let name = code[at + 3..].split([';', '{']).next().unwrap_or("").trim();
            if !code[at..].contains(';')
                || !code[at + 3..].trim_start()[name.len()..].starts_with(';')
            {
                continue;
            }
            let (flat, nested) = (format!("{dir}/{name}.rs"), format!("{dir}/{name}/mod.rs"));
            let child = if root().join(&flat).is_file() {
                flat
            } else {
                nested
            };
            assert!(
                root().join(&child).is_file(),
                "{path}: `mod {name}` has no file"
            );
            open.push((child, is_test || marks[at]));
        }
        all.insert(path);
    }
    (all, tests)
}

/// Replaces comments and the insides of literals by spaces, line breaks kept.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' if !follows_name(bytes, at) => raw_end(bytes, at),
            b'\'' => char_end(text, at),
            _ => at,
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(out).expect("whole characters were replaced")
}

fn follows_name(bytes: &[u8], at: usize) -> bool {
    at > 0
        && (bytes[at - 1].is_ascii_alphanumeric() && bytes[at - 1] != b'b' || bytes[at - 1] == b'_')
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..]
        .iter()
        .position(|b| *b == b'\n')
        .map_or(bytes.len(), |len| at + len)
}

fn comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// The end of `r"..."` or `r#"..."#`; the start itself if there is none.
fn raw_end(bytes: &[u8], start: usize) -> usize {
    let hashes = bytes[start + 1..]
        .iter()
        .take_while(|b| **b == b'#')
        .count();
    let open = start + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return start;
    }
    let close: Vec<u8> = [vec![b'"'], vec![b'#'; hashes]].concat();
    let found = bytes[open + 1..]
        .windows(close.len())
        .position(|window| window == close);
    found.map_or(bytes.len(), |len| open + 1 + len + close.len())
}

/// The end of a character literal; the start itself for a lifetime.
fn char_end(text: &str, start: usize) -> usize {
    let mut chars = text[start + 1..].char_indices();
    match chars.next() {
        Some((_, '\\')) => {
            let rest = &text[start + 3..];
            rest.find('\'').map_or(start, |len| start + 3 + len + 1)
        }
        Some(_) => match chars.next() {
            Some((at, '\'')) => start + 1 + at + 1,
            Some(_) | None => start,
        },
        None => start,
    }
}
