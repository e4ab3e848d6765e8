//! The layout is the architecture: who may use whom, and what every file owes its reader.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The stack, from the top; a module may use what stands on lower lines only.
const STACK: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["app"],
    &["admin"],
    &["serve"],
    &["fill"],
    &["live", "origin"],
    &["store", "upstream"],
    &["policy"],
    &["header"],
    &["ranges"],
    &["key", "telemetry", "config"],
    &["clock"],
];

/// Crates that one module alone may name.
const WALLS: &[(&str, &[&str])] = &[
    ("sled::", &["store"]),
    ("reqwest::", &["upstream", "cli"]),
    ("actix_web::", &["serve", "admin", "app"]),
    ("http_range::", &["header"]),
    ("sfv::", &["header"]),
    ("rangemap::", &["ranges"]),
    ("notify::", &["origin"]),
    ("quick_xml::", &["serve"]),
];

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            into.push(path);
        }
    }
}

/// Every source file under its module's name.
fn modules() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    paths
        .into_iter()
        .map(|path| {
            let inside = path.strip_prefix(&root).expect("beneath");
            let module = inside
                .components()
                .next()
                .expect("a name")
                .as_os_str()
                .to_string_lossy()
                .into_owned();
            let text = std::fs::read_to_string(&path).expect("read");
            (module.trim_end_matches(".rs").to_owned(), path, text)
        })
        .filter(|(module, ..)| module != "lib")
        .collect()
}

fn levels() -> BTreeMap<&'static str, usize> {
    let lines = STACK.iter().enumerate();
    lines
        .flat_map(|(level, names)| names.iter().map(move |name| (*name, level)))
        .collect()
}

#[test]
fn every_module_uses_only_those_below_it() {
    let levels = levels();
    for (module, path, text) in modules() {
        let own = *levels
            .get(module.as_str())
            .unwrap_or_else(|| panic!("{module} has no place in the stack"));
        for other in levels.keys().filter(|other| **other != module) {
            let named = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let uses = named.clone().any(|line| {
                line.contains(&format!("crate::{other}::")) || line.contains(&format!("millpond::{other}::"))
            });
            assert!(
                !uses || levels[other] > own,
                "{} uses {other}, which is not below {module}",
                path.display()
            );
        }
    }
}

#[test]
fn each_wall_has_one_door() {
    for (module, path, text) in modules() {
        for (name, allowed) in WALLS {
            let used = text
                .lines()
                .any(|line| !line.trim_start().starts_with("//") && line.contains(name));
            assert!(
                !used || allowed.contains(&module.as_str()),
                "{} uses {name}",
                path.display()
            );
        }
    }
}

#[test]
fn every_file_opens_with_its_essay_and_ends_before_it_tires() {
    for (_, path, text) in modules() {
        assert!(text.starts_with("//!"), "{} has no essay", path.display());
        assert!(
            text.lines().count() <= 650,
            "{} is longer than 650 lines",
            path.display()
        );
    }
}

#[test]
fn every_setting_is_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = std::fs::read_to_string(root.join("docs/configuration.md")).expect("docs/configuration.md");
    for (key, ..) in millpond::config::describe() {
        assert!(
            manual.contains(&format!("`{key}`")),
            "docs/configuration.md does not name {key}"
        );
    }
}
