//! The laws of the house, held against the source by a plain text scan. `src/STYLE.md` gives the
//! reasons; a failure names file and line and says what to do.
//!
//! A law that does not fit is changed here, in a commit of its own, with its reason; it is not
//! worked around.

mod source;
#[rustfmt::skip]
mod tables;

use std::collections::BTreeSet;

use source::{Source, block_end, body_start, find_word, reachable, sources, text_of, tracked};
use tables::*;

fn verdict(law: &str, remedy: &str, broken: &[String]) {
    assert!(
        broken.is_empty(),
        "\n{law}\n{remedy}\n\n  {}\n",
        broken.join("\n  ")
    );
}

fn in_core(source: &Source) -> bool {
    has(CORE, source.module())
}

/// Whether a table cell, words with spaces between, has a word.
fn has(cell: &str, word: &str) -> bool {
    cell.split_whitespace().any(|of| of == word)
}

fn begins_with_path(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[test]
fn arrows_point_down() {
    let mut broken = Vec::new();
    for source in sources("src/") {
        let module = source.module();
        if ["lib", "pb", "bin"].contains(&module) {
            continue;
        }
        let own = module.replace('/', "::");
        let allowed = |path: &str| {
            let mut arrows = ARROWS.iter().filter(|(from, _, _)| *from == module);
            begins_with_path(path, &own)
                || arrows.any(|(_, to, _)| {
                    to.split_whitespace()
                        .any(|prefix| begins_with_path(path, prefix))
                })
        };
        for (at, path) in source.paths("crate") {
            let path = path.trim_start_matches("crate::");
            // The switch for planted bugs is a macro of the kernel, and macros live at the root.
            let path = if path == "mutant" {
                "kernel::mutant"
            } else {
                path
            };
            if !allowed(path) {
                broken.push(format!("{}  {module} -> {path}", source.place(at)));
            }
        }
        // `super::super` must not climb out of the module and around the table.
        let depth =
            source.path.matches('/').count() - usize::from(source.path.ends_with("/mod.rs"));
        let climb = "super::".repeat(depth);
        broken.extend(
            source
                .words(&climb)
                .map(|at| format!("{}  {climb}", source.place(at))),
        );
    }
    verdict(
        "A module names something above or beside it.",
        "Move the thing down to where both may see it, or pass it as a value through `node`. A new \
         arrow goes into ARROWS in tests/tidy/tables.rs, in a commit of its own, with its reason.",
        &broken,
    );
}

#[test]
fn crates_stay_in_their_layer() {
    let manifest = text_of("Cargo.toml").expect("the manifest is text");
    let start = manifest
        .find("\n[dependencies]")
        .expect("there are dependencies");
    let table = &manifest[start + 16..];
    let table = &table[..table.find("\n[").unwrap_or(table.len())];
    let names: Vec<String> = table
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_alphanumeric()))
        .filter_map(|line| Some(line.split_once('=')?.0.trim().replace('-', "_")))
        .collect();
    assert!(
        names.len() > 5,
        "the list of dependencies could not be read"
    );
    let files: BTreeSet<String> = tracked().into_iter().collect();
    let mut broken = Vec::new();
    for source in sources("src/") {
        let module = source.module();
        let Some((_, allowed)) = CRATES.iter().find(|(from, _)| *from == module) else {
            continue;
        };
        let dir = source.path.rsplit_once('/').map_or("", |(dir, _)| dir);
        for name in names.iter().filter(|name| !has(allowed, name)) {
            // A module of ours may have the name of a crate.
            if files.contains(&format!("{dir}/{name}.rs")) {
                continue;
            }
            let found = source.paths(name);
            broken.extend(
                found
                    .iter()
                    .map(|(at, path)| format!("{}  {path}", source.place(*at))),
            );
        }
    }
    verdict(
        "A layer uses a crate that is not on its list.",
        "Do without it, or move the code to the layer that has it. A new permission goes into \
         CRATES in tests/tidy/tables.rs with its reason in Cargo.toml.",
        &broken,
    );
}

#[test]
fn the_core_is_deterministic() {
    let mut broken = Vec::new();
    for source in sources("src/").iter().filter(|source| in_core(source)) {
        let excused = |word: &str| {
            CORE_EXCUSED
                .iter()
                .any(|(path, of, _)| *path == source.path && word.contains(of))
        };
        for word in CORE_BANNED.iter().filter(|word| !excused(word)) {
            broken.extend(
                source
                    .words(word)
                    .map(|at| format!("{}  {word}", source.place(at))),
            );
        }
        for root in ["std", "core", "alloc"] {
            for (at, path) in source.paths(root) {
                let inner = path.trim_start_matches(root).trim_start_matches("::");
                let allowed = CORE_STD
                    .split_whitespace()
                    .any(|prefix| begins_with_path(inner, prefix));
                if !allowed && !excused(inner) {
                    broken.push(format!("{}  {path}", source.place(at)));
                }
            }
        }
        broken.extend(float_literals(source).map(|at| format!("{}  a float", source.place(at))));
    }
    verdict(
        "The core names something that makes two runs of one seed differ, or that hides a failure.",
        "Time, entropy, disk and network reach it only through Context and Event; maps are \
         ordered; numbers are whole; `expect` says why something cannot fail.",
        &broken,
    );
}

fn float_literals(source: &Source) -> impl Iterator<Item = usize> + '_ {
    let bytes = source.code.as_bytes();
    (1..bytes.len().saturating_sub(1)).filter(move |at| {
        let digits = bytes[..*at]
            .iter()
            .rev()
            .take_while(|b| b.is_ascii_digit())
            .count();
        let before = (at - digits)
            .checked_sub(1)
            .map_or(b' ', |before| bytes[before]);
        let inside_name = before.is_ascii_alphanumeric() || before == b'_' || before == b'.';
        bytes[*at] == b'.'
            && digits > 0
            && !inside_name
            && bytes[at + 1].is_ascii_digit()
            && !source.in_test[*at]
    })
}

#[test]
fn the_reactor_has_one_await() {
    let code = source::blank(&text_of("src/reactor.rs").expect("the reactor is text"));
    assert_eq!(
        code.matches(".await").count(),
        1,
        "src/reactor.rs waits in one place only: a second one would be a second schedule"
    );
}

#[test]
fn nothing_is_unsafe_but_lmdb_and_the_choice_of_the_allocator() {
    let mut broken = Vec::new();
    for source in sources("src/") {
        let module = source.module();
        if !["lib", "host/lmdb", "bin"].contains(&module) {
            broken.extend(source.words("unsafe").map(|at| source.place(at)));
        }
        for at in source.words("unsafe {") {
            let above = source.text[..at].lines().rev().skip(1);
            let mut comment = above.take_while(|line| line.trim_start().starts_with("//"));
            if !comment.any(|line| line.contains("SAFETY:")) {
                broken.push(format!("{}  without a SAFETY comment", source.place(at)));
            }
        }
    }
    verdict(
        "`unsafe` stands outside of host/lmdb and bin/fated, or without its reason.",
        "Use a safe crate, or put `// SAFETY:` with the reason on the line above.",
        &broken,
    );
}

#[test]
fn the_source_does_not_know_the_simulator() {
    let mut broken = Vec::new();
    for source in sources("src/") {
        broken.extend(find_word(&source.code, "madsim").map(|at| source.place(at)));
    }
    verdict(
        "`madsim` is named in src.",
        "The simulator is a host: give it an event or an effect, no branch in the code it tests.",
        &broken,
    );
}

#[test]
fn ports_have_no_default_methods() {
    let mut broken = Vec::new();
    for source in sources("src/") {
        if !source.path.ends_with("/port.rs") {
            continue;
        }
        for at in source.words("trait") {
            let open = at + source.code[at..].find('{').expect("a trait has a body");
            let body = &source.code[open + 1..block_end(&source.code, open) - 1];
            broken.extend(body.find('{').map(|inner| source.place(open + 1 + inner)));
        }
    }
    verdict(
        "A method of a port has a body.",
        "Each host answers for each method itself; a default is an obligation nobody sees.",
        &broken,
    );
}

/// The arms of the `match` whose body opens at `open`: where each pattern starts, and its text.
fn arms(code: &str, open: usize) -> Vec<(usize, &str)> {
    let (end, mut arms, mut depth) = (block_end(code, open) - 1, Vec::new(), 0_usize);
    let (mut start, mut at) = (open + 1, open + 1);
    let mut in_pattern = true;
    while at < end {
        match code.as_bytes()[at] {
            b'=' if depth == 0 && in_pattern && code[at..].starts_with("=>") => {
                arms.push((start, code[start..at].trim()));
                in_pattern = false;
                let value = at + 2 + (code[at + 2..].len() - code[at + 2..].trim_start().len());
                if code[value..].starts_with('{') {
                    at = block_end(code, value);
                    let comma = code[at..].trim_start().starts_with(',');
                    at += if comma {
                        code[at..].find(',').expect("just seen") + 1
                    } else {
                        0
                    };
                    (start, in_pattern) = (at, true);
                    continue;
                }
                at = value;
                continue;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            b',' if depth == 0 && !in_pattern => (start, in_pattern) = (at + 1, true),
            _ => {}
        }
        at += 1;
    }
    arms
}

#[test]
fn matches_on_our_own_enums_name_every_variant() {
    let mut broken = Vec::new();
    for source in sources("src/") {
        if !in_core(&source) && !["host/lanes", "host/tokio", "reactor"].contains(&source.module())
        {
            continue;
        }
        for at in source.words("match") {
            let Some(open) = body_start(&source.code, at) else {
                continue;
            };
            let arms = arms(&source.code, open);
            let says = |enums: &str| arms.iter().any(|(_, pattern)| pattern.contains(enums));
            if VOCABULARY.iter().any(|enums| says(enums)) {
                let mut wild = arms.iter().filter(|(_, pattern)| *pattern == "_");
                let line = |at: usize| at + source.code[at..].find('_').unwrap_or(0);
                broken.extend(wild.by_ref().map(|(at, _)| source.place(line(*at))));
            }
        }
    }
    verdict(
        "A match on one of our own enums ends in `_ =>`.",
        "Name the variants, with `|` between those that share an arm: then a new variant has to be \
         thought about here.",
        &broken,
    );
}

#[test]
fn files_lines_and_functions_are_short() {
    let mut broken = Vec::new();
    for source in sources("src/").into_iter().chain(sources("tests/")) {
        let tested = source
            .in_test
            .iter()
            .position(|test| *test)
            .unwrap_or(source.text.len());
        let lines = source.text[..tested].lines().count();
        if lines > FILE_LINES_MAX {
            broken.push(format!("{}  {lines} lines without tests", source.path));
        }
        for (number, line) in source.text.lines().enumerate() {
            let chars = line.chars().count();
            let long = LONG_LINES.iter().any(|(path, _)| *path == source.path);
            if chars > LINE_CHARS_MAX && !long && !line.contains("https://") {
                broken.push(format!(
                    "{}:{}  {chars} characters",
                    source.path,
                    number + 1
                ));
            }
        }
        for at in source.words("fn") {
            let Some(body) = body_start(&source.code, at) else {
                continue;
            };
            let whole = &source.code[at..block_end(&source.code, body)];
            let lines = whole.lines().count();
            if lines > FUNCTION_LINES_MAX {
                broken.push(format!("{}  a function of {lines} lines", source.place(at)));
            }
        }
    }
    verdict(
        "Something is too long to be read in one go.",
        "Give the part that has a name a function or a file of its own; move tests to x/tests.rs.",
        &broken,
    );
}

#[test]
fn each_file_says_what_it_is_for() {
    let mut broken = Vec::new();
    for source in sources("src/").into_iter().chain(sources("tests/")) {
        if !source.text.starts_with("//! ") && source.path != "src/lib.rs" {
            broken.push(source.path);
        }
    }
    verdict(
        "A file does not open with `//!`.",
        "Say what it is for and what always holds.",
        &broken,
    );
}

#[test]
fn nothing_is_left_for_later() {
    let mut broken = Vec::new();
    for path in tracked() {
        let Some(text) = text_of(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            let found = LATER
                .iter()
                .filter(|word| find_word(line, word).next().is_some());
            broken.extend(found.map(|word| format!("{path}:{}  {word}", number + 1)));
        }
    }
    verdict(
        "Work was left for later.",
        "Do it, or write an issue and delete the note.",
        &broken,
    );
}

#[test]
fn every_file_is_part_of_the_program() {
    let mut live = reachable("src/lib.rs").0;
    live.extend(reachable("tests/main.rs").0);
    live.extend(reachable("tests/bench/main.rs").0);
    live.extend(reachable("tests/bench/benches/layers.rs").0);
    live.extend(reachable("tests/differ/main.rs").0);
    live.insert("proto/build.rs".to_owned());
    let files = tracked();
    let bins: Vec<_> = files
        .iter()
        .filter(|path| path.starts_with("src/bin/"))
        .collect();
    bins.into_iter()
        .for_each(|path| live.extend(reachable(path).0));
    let dead = |path: &String| {
        let ours = path.starts_with("src/") || path.starts_with("tests/");
        ours && path.ends_with(".rs") && !live.contains(path)
    };
    let dead: Vec<_> = files.iter().filter(|path| dead(path)).cloned().collect();
    verdict(
        "A file is compiled by nobody.",
        "Declare it with `mod`, or delete it.",
        &dead,
    );
}

#[test]
fn no_file_knows_a_machine() {
    let mut broken = Vec::new();
    for path in tracked() {
        let Some(text) = text_of(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            let found = MACHINES
                .iter()
                .filter(|word| lower.contains(&word.to_lowercase()));
            broken.extend(found.map(|word| format!("{path}:{}  {word}", number + 1)));
            let foreign = path == "Cargo.lock"
                && line.starts_with("source = ")
                && !line.starts_with("source = \"registry+");
            if foreign {
                broken.push(format!("{path}:{}  {line}", number + 1));
            }
        }
    }
    verdict(
        "A file names a place on somebody's machine or a registry's host.",
        "Use a relative path, a temporary directory from the system, or the tool's own default.",
        &broken,
    );
}

#[test]
fn the_scan_sees_what_it_is_meant_to_see() {
    let text = "use std::{a::{B, self}, c};\nlet s = \"std::fs\"; // std::net\nlet t = 'x';\n\
                fn f<'a>(_: &'a str) { g(r#\"\"std::env\"#) }\n#[cfg(test)]\nmod t { std::x; }\n\
                match m { Mail::A => 1, Mail::B { b } => { 2 } _ => 3, }\nlet n = p.0.1 + 2.5;\n";
    let code = source::blank(text);
    let mut in_test = vec![false; code.len()];
    in_test[text.find("#[cfg").expect("is there")..text.find("match").expect("is there")]
        .fill(true);
    let source = Source {
        path: "src/node/x.rs".to_owned(),
        text: text.to_owned(),
        code,
        in_test,
    };
    let paths: Vec<String> = source
        .paths("std")
        .into_iter()
        .map(|(_, path)| path)
        .collect();
    assert_eq!(
        paths,
        ["std::a::B", "std::a", "std::c"],
        "trees unfold; text and tests do not count"
    );
    let open = text.find("{ Mail::A").expect("is there");
    let patterns: Vec<&str> = arms(&source.code, open)
        .into_iter()
        .map(|(_, arm)| arm)
        .collect();
    assert_eq!(patterns, ["Mail::A", "Mail::B { b }", "_"]);
    let floats: Vec<String> = float_literals(&source).map(|at| source.place(at)).collect();
    assert_eq!(
        floats,
        ["src/node/x.rs:8"],
        "a field of a tuple is no float"
    );
    assert_eq!(source.module(), "node");
    assert!(source.words("unsafe").next().is_none());
}
