//! Rules of the repository that no compiler checks: the table of crate edges, where `unsafe` may
//! stand, headers and sizes of files, paths named in the documentation, dependencies and reasons.
//!
//! Takes the working tree, gives every breach at once. Changes nothing, needs no network.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which crate may use which; the walls that `ARCHITECTURE.md` speaks of.
const EDGES: [(&str, &[&str]); 17] = [
    ("artifact", &[]),
    ("endpoint", &[]),
    ("kernels", &[]),
    ("tape", &["kernels"]),
    ("formats", &["artifact", "kernels"]),
    ("text", &["formats"]),
    ("encoder", &["formats", "kernels", "artifact"]),
    ("data", &["text", "artifact"]),
    ("curate", &["data", "text", "artifact", "kernels", "encoder"]),
    ("annotate", &["data", "text", "artifact", "endpoint"]),
    ("model", &["tape", "formats", "kernels", "artifact"]),
    ("train", &["model", "data", "text", "artifact", "tape", "kernels", "formats"]),
    ("decode", &["model", "text", "tape", "kernels", "formats"]),
    ("reason", &["artifact", "endpoint", "text", "decode", "model", "formats", "kernels"]),
    ("eval", &["decode", "model", "text", "artifact"]),
    ("prove", &["train", "reason", "eval", "decode", "model", "tape", "formats", "text", "artifact"]),
    (
        "cli",
        &[
            "annotate", "artifact", "endpoint", "kernels", "tape", "formats", "text", "data", "curate", "model",
            "train", "decode", "reason", "eval", "prove",
        ],
    ),
];

/// The only file outside `kernels` with unsafe code: the memory map.
const MEMORY_MAP: &str = "crates/formats/src/safetensors/storage.rs";
/// This file names what it looks for.
const SELF: &str = "crates/cli/tests/tidy.rs";
const MAX_LINES: usize = 1000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Files below `dir` with one of these extensions, as (path from the root, text); build outputs and
/// fuzz seeds left out.
fn files(dir: &str, extensions: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(dir)];
    while let Some(path) = open.pop() {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if !["target", "seeds", "corpus", "artifacts", ".git", "runs"].contains(&name.as_str()) {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        } else if extensions.iter().any(|e| path.extension().is_some_and(|have| have == *e)) {
            let relative = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            found.push((relative, fs::read_to_string(&path).unwrap()));
        }
    }
    found.sort();
    found
}

fn rust() -> Vec<(String, String)> {
    let mut all = files("crates", &["rs"]);
    all.extend(files("fuzz", &["rs"]));
    all.extend(files("benches", &["rs"]));
    assert!(all.len() > 100, "only {} Rust files found: is the root right?", all.len());
    all
}

fn manifest(path: &Path) -> toml::Table {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Name of each crate's folder and all dependencies it lists, those of tests and builds too.
fn crates() -> BTreeMap<String, Vec<String>> {
    let mut crates = BTreeMap::new();
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let dir = entry.unwrap().path();
        let manifest = manifest(&dir.join("Cargo.toml"));
        let mut names = Vec::new();
        collect_dependencies(&manifest, &mut names);
        crates.insert(dir.file_name().unwrap().to_string_lossy().into_owned(), names);
    }
    crates
}

/// `[dependencies]`, `[dev-dependencies]`, `[build-dependencies]`, also under `[target.….…]`.
fn collect_dependencies(table: &toml::Table, names: &mut Vec<String>) {
    for (key, value) in table {
        let Some(inner) = value.as_table() else {
            continue;
        };
        if key.ends_with("dependencies") {
            names.extend(inner.keys().cloned());
        } else {
            collect_dependencies(inner, names);
        }
    }
}

fn none(what: &str, breaches: Vec<String>) {
    assert!(breaches.is_empty(), "{what}:\n  {}", breaches.join("\n  "));
}

#[test]
fn crates_use_each_other_downwards_only() {
    let allowed: BTreeMap<&str, &[&str]> = EDGES.into();
    let mut breaches = Vec::new();
    let crates = crates();
    for (name, dependencies) in &crates {
        let Some(allowed) = allowed.get(name.as_str()) else {
            breaches.push(format!("`{name}` is not in the table"));
            continue;
        };
        for dependency in dependencies.iter().filter_map(|d| d.strip_prefix("loar-")) {
            if !allowed.contains(&dependency) {
                breaches.push(format!("`{name}` uses `{dependency}`"));
            }
        }
    }
    let gone = EDGES.iter().filter(|(name, _)| !crates.contains_key(*name));
    breaches.extend(gone.map(|(name, _)| format!("`{name}` is in the table and no crate")));
    none("edges that the table of this test does not have", breaches);
}

#[test]
fn unsafe_code_stands_in_two_places() {
    let mut breaches = Vec::new();
    for name in EDGES.iter().map(|(name, _)| *name).filter(|name| *name != "kernels") {
        let lint = if name == "formats" { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
        for file in ["lib.rs", "main.rs"] {
            let path = format!("crates/{name}/src/{file}");
            if let Ok(text) = fs::read_to_string(root().join(&path))
                && !text.contains(lint)
            {
                breaches.push(format!("{path}: no `{lint}`"));
            }
        }
    }
    let marks = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait", "allow(unsafe_code)"];
    for (path, text) in rust() {
        if path.starts_with("crates/kernels/") || path == MEMORY_MAP || path == SELF {
            continue;
        }
        breaches.extend(marks.iter().filter(|m| text.contains(**m)).map(|m| format!("{path}: `{m}`")));
    }
    let map = fs::read_to_string(root().join(MEMORY_MAP)).unwrap();
    // mapping a file, and giving back pages that were read
    if map.matches("unsafe {").count() != 2 {
        breaches.push(format!("{MEMORY_MAP}: not two unsafe blocks"));
    }
    none("unsafe code outside `kernels` and the memory map", breaches);
}

#[test]
fn every_file_says_what_it_is_and_stays_readable() {
    let mut breaches = Vec::new();
    for (path, text) in rust() {
        if !text.starts_with("//! ") {
            breaches.push(format!("{path}: does not begin with `//! `"));
        }
        let lines = text.lines().count();
        if lines > MAX_LINES {
            breaches.push(format!("{path}: {lines} lines; more than {MAX_LINES} are not one idea"));
        }
    }
    none("files", breaches);
}

#[test]
fn nothing_is_left_undone() {
    let marks = ["todo!(", "unimplemented!(", "#[ignore", "dbg!(", "FIXME", "XXX"];
    let mut breaches = Vec::new();
    for (path, text) in rust().into_iter().filter(|(path, _)| path != SELF) {
        for (index, line) in text.lines().enumerate() {
            let hits = marks.iter().filter(|m| line.contains(**m));
            breaches.extend(hits.map(|m| format!("{path}:{}: `{m}`", index + 1)));
        }
    }
    none("left undone", breaches);
}

/// Absolute paths of the machine that something was written on do not exist on another.
#[test]
fn no_path_of_a_machine_is_named() {
    let mut all = Vec::new();
    let extensions = ["rs", "toml", "md", "jinja", "json", "jsonl", "sh", "html"];
    for entry in fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !["target", ".git", "runs", "Cargo.lock"].contains(&name.as_str()) {
            all.extend(files(&name, &extensions));
        }
    }
    all.push((".ci/run".into(), fs::read_to_string(root().join(".ci/run")).unwrap()));
    let mut breaches = Vec::new();
    for (path, text) in all.iter().filter(|(path, _)| path != SELF) {
        for (index, line) in text.lines().enumerate() {
            for start in ["/work/", "/root/", "/home/", "/tmp/", "/Users/"] {
                // `…/work/…` inside a longer path or address is something else
                let own = line.match_indices(start).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    before.is_none_or(|c| !c.is_alphanumeric() && !"./_-*".contains(c))
                });
                if own {
                    breaches.push(format!("{path}:{}: `{start}`", index + 1));
                }
            }
        }
    }
    none("paths of a machine", breaches);
}

/// Everything in backticks or code blocks.
fn code(markdown: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut fenced = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            words.extend(line.split_whitespace().map(str::to_owned));
        } else {
            let spans = line.split('`').skip(1).step_by(2);
            words.extend(spans.flat_map(str::split_whitespace).map(str::to_owned));
        }
    }
    words
}

/// Targets of `[text](target)` that are no web address.
fn links(markdown: &str) -> Vec<String> {
    let ends = markdown.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    ends.filter(|l| !l.contains("://") && !l.starts_with('#'))
        .map(|l| l.split('#').next().unwrap_or(l).to_owned())
        .collect()
}

#[test]
fn paths_named_in_the_documentation_exist() {
    let roots: Vec<String> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !["target", ".git", "runs"].contains(&name.as_str()))
        .collect();
    let mut documents = files("docs", &["md"]);
    documents.extend(files("fuzz", &["md"]));
    documents.extend(files("demo", &["md"]));
    documents.extend(files("benches", &["md"]));
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let text = fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        documents.push((name.into(), text));
    }
    let (mut breaches, mut checked) = (Vec::new(), 0);
    for (document, text) in &documents {
        let dir = root().join(document).parent().unwrap().to_owned();
        for link in links(text) {
            checked += 1;
            if !dir.join(&link).exists() {
                breaches.push(format!("{document}: links to `{link}`"));
            }
        }
        for word in code(text) {
            let word = word.trim_matches(|c: char| ",;:()\"'".contains(c)).trim_end_matches('.');
            let Some((first, _)) = word.split_once('/') else {
                continue;
            };
            let pattern = word.contains(['*', '<', '{', '$', '…', '=']);
            // builds outside the workspace, and what fuzzing finds, are made by the reader
            let made = ["fuzz/target", "fuzz/corpus", "fuzz/artifacts", "benches/peers/candle/target"];
            let made = made.iter().any(|m| word.starts_with(m));
            if pattern || made || !roots.iter().any(|r| r == first) {
                continue;
            }
            checked += 1;
            // `path:line` names a place
            let path = word.split(':').next().unwrap_or(word);
            if !root().join(path).exists() {
                breaches.push(format!("{document}: names `{word}`"));
            }
        }
    }
    none("paths that do not exist", breaches);
    assert!(checked > 3, "only {checked} paths found: does the test still read the documents?");
}

#[test]
fn every_dependency_has_a_reason_and_a_user() {
    let path = root().join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap();
    let table = manifest(&path);
    let listed = table["workspace"]["dependencies"].as_table().unwrap();
    let crates = crates();
    let mut breaches = Vec::new();
    for name in listed.keys() {
        let line = text.lines().find(|l| l.starts_with(&format!("{name} =")));
        let reason = line.and_then(|l| l.split_once(" # ")).map_or("", |(_, reason)| reason.trim());
        if !name.starts_with("loar-") && reason.len() < 10 {
            breaches.push(format!("`{name}`: no reason after it in Cargo.toml"));
        }
        if !crates.values().any(|dependencies| dependencies.contains(name)) {
            breaches.push(format!("`{name}`: no crate lists it"));
        }
    }
    for (name, dependencies) in &crates {
        let sources = files(&format!("crates/{name}"), &["rs"]);
        for dependency in dependencies {
            if !listed.contains_key(dependency) {
                breaches.push(format!("`{name}` lists `{dependency}`, which the workspace does not"));
            }
            let ident = dependency.replace('-', "_");
            if !sources.iter().any(|(_, text)| uses(text, &ident)) {
                breaches.push(format!("`{name}` lists `{dependency}` and never uses it"));
            }
        }
    }
    none("dependencies", breaches);
}

/// Whether a source names a crate: its identifier before `::`, in a `use`, or as an attribute path.
fn uses(text: &str, ident: &str) -> bool {
    text.match_indices(ident).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = &text[at + ident.len()..];
        let whole = before.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        whole && (after.starts_with("::") || after.starts_with(';') || after.starts_with(" as "))
    })
}
