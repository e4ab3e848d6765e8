//! The layout is the architecture: which room may use which, and the debt of every file to its reader.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The stack, from the top; a module may use what stands on lower lines only.
const STACK: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["server"],
    &["admin"],
    &["site"],
    &["webdav"],
    &["access"],
    &["proxy"],
    &["mirror"],
    &["mirror"],
    &["fill"],
    &["live", "directory"],
    &["store", "upstream"],
    &["policy", "http1"],
    &["header"],
    &["ranges"],
    &["api", "key", "telemetry", "config"],
    &["gate"],
    &["clock", "sync", "crypto", "masking", "fuzzing"],
];

/// Crates that one module alone may name.
const WALLS: &[(&str, &[&str])] = &[
    ("sled::", &["store"]),
    ("reqwest::", &["upstream", "cli"]),
    (
        "actix_web::",
        &["site", "http1", "proxy", "access", "webdav", "admin", "server"],
    ),
    ("httparse::", &["http1"]),
    // The store knows of no protocol.
    ("h2::", &["server"]),
    ("http1::", &["http1", "site", "proxy", "webdav", "admin", "server"]),
    ("http_range::", &["header"]),
    ("sfv::", &["header"]),
    ("rangemap::", &["ranges"]),
    ("notify::", &["directory"]),
    ("quick_xml::", &["webdav", "mirror"]),
    ("ring::", &["crypto"]),
    ("aws_lc_rs::", &["crypto"]),
    ("PoisonError", &["sync"]),
    // Deadlines are of a clock that a test can stop (docs/decisions/0035).
    ("time::Instant", &["clock"]),
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

/// Whether the line has that path in it, and not one that only ends so (`String::` for `ring::`).
fn names(line: &str, path: &str) -> bool {
    line.match_indices(path)
        .any(|(at, _)| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_'))
}

#[test]
fn each_wall_has_one_door() {
    for (module, path, text) in modules() {
        for (name, allowed) in WALLS {
            let used = text
                .lines()
                .any(|line| !line.trim_start().starts_with("//") && names(line, name));
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

/// The names of types that a line declares with some visibility.
fn declared(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("pub")?;
    let rest = match rest.strip_prefix('(') {
        Some(inside) => inside.split_once(')')?.1,
        None => rest,
    };
    let mut words = rest.split_whitespace();
    let is_type = matches!(words.next()?, "struct" | "enum" | "trait" | "type");
    let name = words.next()?;
    let end = name.find(|char: char| !char.is_alphanumeric()).unwrap_or(name.len());
    is_type.then(|| &name[..end])
}

#[test]
fn no_type_name_has_two_meanings() {
    let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (_, path, text) in modules() {
        // A type inside an `impl` is the trait's name for it.
        for name in text.lines().filter(|line| !line.starts_with(' ')).filter_map(declared) {
            if let Some(other) = seen.insert(name.to_owned(), path.clone()) {
                panic!("{name} is declared in {} and in {}", other.display(), path.display());
            }
        }
    }
    assert!(seen.len() > 200, "only {} types were found", seen.len());
}

/// Every file under these directories, with its text.
fn texts(dirs: &[&str]) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for dir in dirs {
        sources(&root.join(dir), &mut paths);
    }
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("read");
            (path, text)
        })
        .collect()
}

#[test]
fn comments_begin_with_their_noun() {
    const RIDDLES: &[&str] = &["Who", "Whoever", "So", "Nobody", "Somebody"];
    // A pronoun at the start of an item's first line refers to nothing yet.
    const PRONOUNS: &[&str] = &["What", "It", "Its", "They", "Those"];
    for (path, text) in texts(&["src", "tests"]) {
        let mut before = "";
        for line in text.lines().map(str::trim_start) {
            let is_first = !before.starts_with("//");
            before = line;
            let Some(comment) = line.strip_prefix("//") else {
                continue;
            };
            let words = comment.trim_start_matches(['/', '!']).trim_start();
            let first = words.split(' ').next().unwrap_or_default();
            let is_item = comment.starts_with('/') || comment.starts_with('!');
            let opens_badly = RIDDLES.contains(&first) || (is_item && PRONOUNS.contains(&first));
            assert!(!(is_first && opens_badly), "{}: {line}", path.display());
        }
    }
}

/// Whether an attribute makes the function below it a test: `#[test]`, `#[tokio::test(…)]`.
fn marks_a_test(line: &str) -> bool {
    line.strip_prefix("#[")
        .and_then(|attribute| attribute.split(['(', ']']).next())
        .is_some_and(|path| path.rsplit("::").next() == Some("test"))
}

/// The name of the function that a line declares.
fn function(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("fn ")?;
    let is_item = before
        .split_whitespace()
        .all(|word| word == "async" || word.starts_with("pub"));
    is_item.then(|| rest.split(['(', '<']).next().unwrap_or(rest))
}

#[test]
fn test_names_are_claims() {
    // A name that begins so leaves out the thing of which it claims something.
    const RIDDLES: &[&str] = &[
        "what", "who", "whoever", "nothing", "nobody", "one", "where", "it", "its", "they", "those", "so", "somebody",
    ];
    let mut count = 0;
    for (path, text) in texts(&["src", "tests"]) {
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            is_test |= marks_a_test(line);
            let Some(name) = function(line).filter(|_| is_test) else {
                continue;
            };
            let first = name.split('_').next().unwrap_or_default();
            assert!(!RIDDLES.contains(&first), "{}: {name}", path.display());
            is_test = false;
            count += 1;
        }
    }
    assert!(count > 600, "only {count} tests were found");
}

/// The lines of all files but for their tests.
fn code() -> impl Iterator<Item = (PathBuf, Vec<String>)> {
    let files = modules().into_iter().filter(|(_, path, _)| !path.ends_with("tests.rs"));
    files.map(|(_, path, text)| {
        let code = text.lines().take_while(|line| *line != "#[cfg(test)]");
        (path, code.map(str::to_owned).collect())
    })
}

/// The comment above a line: attributes lie between the two, and items that follow one another share it.
fn comment_above(lines: &[String], index: usize, shares: impl Fn(&str) -> bool) -> String {
    let above = lines[..index].iter().rev().map(|line| line.trim_start());
    let to_comment = above.skip_while(|line| line.starts_with("#[") || shares(line));
    let comment: Vec<&str> = to_comment.take_while(|line| line.starts_with("//")).collect();
    comment.concat()
}

/// The type of a constant, a static or a field that a line declares.
fn declared_type(line: &str) -> Option<&str> {
    let (name, rest) = line.trim_start().split_once(": ")?;
    let is_name = name.split_whitespace().all(|word| {
        let bare = word.trim_start_matches("pub").trim_start_matches("(super)");
        bare.chars().all(|char| char.is_alphanumeric() || "_()".contains(char))
    });
    (is_name && !name.is_empty()).then(|| rest.split(" = ").next().unwrap_or(rest))
}

#[test]
fn essays_have_three_lines() {
    for (path, lines) in code() {
        let essay = lines.iter().take_while(|line| line.starts_with("//!")).count();
        assert!(essay >= 3, "{} opens with {essay} lines", path.display());
    }
}

#[test]
fn numeric_constants_have_their_reason() {
    const NUMERIC: &[&str] = &[
        "u8", "u16", "u32", "u64", "u128", "usize", "i32", "i64", "f64", "Duration",
    ];
    let is_constant = |line: &str| {
        let words = line.split_whitespace();
        let is_item = words.take(2).any(|word| word == "const" || word == "static");
        is_item && declared_type(line).is_some_and(|named| NUMERIC.contains(&named))
    };
    for (path, lines) in code() {
        for (index, line) in lines.iter().enumerate().filter(|(_, line)| is_constant(line)) {
            let comment = comment_above(&lines, index, is_constant);
            assert!(!comment.is_empty(), "{}: {line}", path.display());
        }
    }
}

#[test]
fn locks_and_atomics_have_their_reason() {
    const ORDERINGS: &[&str] = &["Relaxed", "Acquire", "Release", "AcqRel", "SeqCst"];
    for (path, lines) in code() {
        for (index, line) in lines.iter().enumerate() {
            let named = declared_type(line).unwrap_or_default();
            let is_lock = ["Mutex<", "RwLock<"].iter().any(|lock| named.contains(lock));
            let is_atomic = named.contains("Atomic");
            // Parameters, variables and the values of a constructor are declared elsewhere.
            let is_value = ["fn ", "let ", "::new(", "::default("]
                .iter()
                .any(|part| line.contains(part));
            let is_static = line.trim_start().starts_with("static ");
            if !(is_lock || is_atomic) || (is_value && !is_static) || named.starts_with('&') {
                continue;
            }
            let comment = comment_above(&lines, index, |_| false);
            assert!(!comment.is_empty(), "{}: {line}", path.display());
            let has_ordering = ORDERINGS.iter().any(|ordering| comment.contains(ordering));
            assert!(
                !is_atomic || has_ordering,
                "{} names no ordering: {line}",
                path.display()
            );
        }
    }
}

#[test]
fn files_that_comments_name_exist() {
    let files = texts(&["src", "tests", "benches", "migrations"]);
    let names: Vec<String> = files
        .iter()
        .filter_map(|(path, _)| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    for (path, text) in &files {
        for line in text.lines().filter(|line| line.trim_start().starts_with("//")) {
            let words = line.split(|char: char| !(char.is_alphanumeric() || char == '_' || char == '.'));
            for word in words
                .map(|word| word.trim_end_matches('.'))
                .filter(|word| word.ends_with(".rs"))
            {
                assert!(names.iter().any(|name| name == word), "{} names {word}", path.display());
            }
        }
    }
}

/// The names of the modules beneath a room that a file's code names by `super::` or by its path from the crate's root,
/// each as its path in the room. Unit tests may name what they like.
fn neighbours(room: &str, module: &[String], text: &str) -> Vec<Vec<String>> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code: Vec<&str> = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = code.join(" ");
    let mut named = Vec::new();
    let prefix = format!("crate::{room}::");
    for (at, start) in code.match_indices("super::").chain(code.match_indices(prefix.as_str())) {
        // A longer chain of `super::` is read from its first one.
        if start == "super::" && code[..at].ends_with("super::") {
            continue;
        }
        let ups = code[at..].split("::").take_while(|part| *part == "super").count();
        let (base, rest) = match ups {
            0 => (Vec::new(), &code[at + prefix.len()..]),
            ups => {
                let above = module.len().saturating_sub(ups);
                (module[..above].to_vec(), &code[at + ups * "super::".len()..])
            }
        };
        let end = rest.find([';', '(', ')', '<', '>', '=', '&']).unwrap_or(rest.len());
        let (first, list) = match rest.strip_prefix('{') {
            Some(list) => ("", list.split('}').next().unwrap_or_default()),
            None => (rest[..end].split([' ', ',']).next().unwrap_or_default(), ""),
        };
        let paths = std::iter::once(first).chain(list.split(','));
        for path in paths.map(str::trim).filter(|path| !path.is_empty()) {
            let parts = path
                .split("::")
                .map(|part| part.trim_matches(|c: char| !is_word(c)).to_owned());
            named.push(base.iter().cloned().chain(parts).collect());
        }
    }
    named
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

#[test]
fn no_room_has_a_circle_of_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // The files of each room by their paths in it; the room itself (`mod.rs`) is the empty path.
    let mut rooms: BTreeMap<String, BTreeMap<Vec<String>, String>> = BTreeMap::new();
    for (room, path, text) in modules() {
        let inside = path.strip_prefix(&root).expect("beneath").with_extension("");
        let parts = inside
            .components()
            .skip(1)
            .map(|part| part.as_os_str().to_string_lossy().into_owned());
        let parts: Vec<String> = parts.filter(|part| part != "mod").collect();
        rooms.entry(room).or_default().insert(parts, text);
    }
    let mut looked = 0;
    for (room, files) in &rooms {
        let file_of = |mut path: Vec<String>| {
            while !path.is_empty() && !files.contains_key(&path) {
                path.pop();
            }
            path
        };
        let mut uses: BTreeMap<&Vec<String>, Vec<Vec<String>>> = BTreeMap::new();
        for (file, text) in files {
            let named = neighbours(room, file, text).into_iter().map(file_of);
            // The room's own file is its table of contents, which everybody may name.
            uses.insert(file, named.filter(|other| !other.is_empty() && other != file).collect());
        }
        looked += uses.values().map(Vec::len).sum::<usize>();
        // What names nobody who is left is taken away, until only circles are left.
        loop {
            let left: Vec<Vec<String>> = uses.keys().map(|file| (*file).clone()).collect();
            let before = uses.len();
            uses.retain(|_, others| others.iter().any(|other| left.contains(other)));
            if uses.len() == before {
                break;
            }
        }
        let circle: Vec<String> = uses.keys().map(|file| file.join("::")).collect();
        assert!(
            circle.is_empty(),
            "{room}: these files name each other, or lead to such: {circle:?}"
        );
    }
    assert!(looked > 300, "only {looked} uses were found");
}

#[test]
fn the_manual_has_the_row_of_every_setting() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = std::fs::read_to_string(root.join("docs/configuration.md")).expect("docs/configuration.md");
    let rows = millpond::config::settings().map(|setting| {
        let default = match setting.default {
            "" => String::new(),
            default => format!("`{default}`"),
        };
        let row = format!("| `{}` | {default} | {} |", setting.key, setting.says.trim());
        row.replace("|  |", "| |")
    });
    let missing: Vec<String> = rows.filter(|row| !manual.lines().any(|line| line == row)).collect();
    assert!(
        missing.is_empty(),
        "docs/configuration.md lacks these rows:\n{}",
        missing.join("\n")
    );
}
