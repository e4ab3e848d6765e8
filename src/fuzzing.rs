//! Fuzzing of everything that reads what others wrote, within the unit tests: a corpus, mutations of it, and a check.
//!
//! The corpus of a target is in `tests/corpus/NAME/`, a file for each seed. A case is one of them, changed at some places as
//! parsers are hurt: bits, signs of the grammars, numbers at their bounds, parts cut out, doubled and taken from other seeds. The
//! sequence is the same in each run; `MILLPOND_FUZZ_CASES` says how many cases a target gets, and `MILLPOND_FUZZ_SEED` begins
//! another sequence. A check that panics has its input told.

use std::path::Path;

/// The cases of a target where nothing is said: all targets together take some seconds.
const CASES: u64 = 20_000;

/// The most changes of one case.
const MOST_CHANGES: u64 = 8;

/// The longest case, in bytes: a head or a body of some size, and quick to read.
const MAX_BYTES: usize = 8 * 1024;

/// Texts at which parsers end, begin or count.
const TOKENS: &[&[u8]] = &[
    b",",
    b";",
    b"=",
    b"\"",
    b"\\",
    b"\r\n",
    b"\n",
    b"\0",
    b" ",
    b"\t",
    b"\xff",
    b"\xc3\xa9",
    b"-",
    b"*",
    b"/",
    b":",
    b"<",
    b">",
    b"&",
    b"'",
    b"?",
    b"#",
    b"%2f",
    b"..",
    b"[",
    b"]",
    b"0",
    b"-1",
    b"1e9",
    b"255",
    b"65536",
    b"4294967296",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551615",
    b"18446744073709551616",
    b"99999999999999999999999",
];

/// Numbers without a pattern, the same in each run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`; 0 where that is 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % (end.max(1) as u64)) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// The input of a check, which is told where the check panics.
struct ToldInput<'a>(&'a str, &'a [u8]);

impl Drop for ToldInput<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("fuzzing {}: this input: b\"{}\"", self.0, self.1.escape_ascii());
        }
    }
}

/// Checks the target with the seeds of its corpus, and with as many changed ones as the environment says.
pub(crate) fn fuzz(name: &str, check: impl Fn(&[u8])) {
    fuzz_from(name, &corpus(name), check);
}

/// The same with seeds that the caller makes.
pub(crate) fn fuzz_from(name: &str, seeds: &[Vec<u8>], check: impl Fn(&[u8])) {
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse().ok());
    for seed in seeds {
        let _told = ToldInput(name, seed);
        check(seed);
    }
    let mut numbers = Numbers(number("MILLPOND_FUZZ_SEED").unwrap_or(1).max(1));
    for _ in 0..number("MILLPOND_FUZZ_CASES").unwrap_or(CASES) {
        let case = changed(seeds, &mut numbers);
        let _told = ToldInput(name, &case);
        check(&case);
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no seed", dir.display());
    paths.iter().map(|path| std::fs::read(path).expect("read")).collect()
}

fn changed(seeds: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut case = numbers.pick(seeds).clone();
    for _ in 0..=numbers.next() % MOST_CHANGES {
        let at = numbers.below(case.len() + 1);
        let end = (at + 1 + numbers.below(16)).min(case.len());
        match numbers.next() % 7 {
            0 if at < case.len() => case[at] ^= 1 << numbers.below(8),
            1 if at < case.len() => case[at] = numbers.next() as u8,
            2 if at < end => drop(case.drain(at..end)),
            3 if at < end => {
                let doubled = case[at..end].to_vec();
                case.splice(at..at, doubled);
            }
            4 => {
                let other = numbers.pick(seeds);
                let from = numbers.below(other.len());
                let part = &other[from..(from + 1 + numbers.below(64)).min(other.len())];
                case.splice(at..at, part.iter().copied());
            }
            5 => case.truncate(at),
            _ => {
                let token = *numbers.pick(TOKENS);
                case.splice(at..at, token.iter().copied());
            }
        }
    }
    case.truncate(MAX_BYTES);
    case
}
