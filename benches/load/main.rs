//! The load of `scripts/bench`: an upstream that counts what it sends, and clients that check what they get.
//!
//! ```text
//! load upstream ADDRESS [LINK]              serves at a free port of ADDRESS until its input ends; prints where;
//!                                           LINK in bytes per second
//! load file PATH BYTES                      writes a file with the content that all objects have
//! load whole ADDR PATH READERS              whole bodies, thrown away by the kernel
//! load ranges ADDR PATH BYTES SECONDS       16 KiB at random places of an object, 64 connections
//! load objects ADDR PREFIX COUNT SECONDS    whole small objects PREFIX0.. of COUNT, 64 connections
//! load storm ADDR UPSTREAM PATH             50 readers x 4 ranges of 1 MiB of a cold object of 256 MiB
//! load follow ADDR UPSTREAM PATH SECONDS    17 readers of an object while it is filled for so long
//! load seek ADDR PATH                       256 KiB at 80 % of an object that another reads from its start
//! load beside ADDR PATH                     a reader beside one that takes 50 KB/s
//! load miss ADDR PATH READERS               whole bodies of objects PATH0.. that are cold: first byte and total
//! load paced ADDR PATH READERS RATE SECONDS [random]   readers that take RATE bytes a second each
//! ```
//!
//! Each prints one line of JSON. Every object has the same content, told by the offset alone, so every byte that
//! is seen is checked. Those that a measurement would be falsified by looking at are thrown away by the kernel
//! (`MSG_TRUNC`) and one answer in sixteen is looked at all the same.

mod cold;
mod content;
mod paced;
mod rate;
mod talk;
mod upstream;

use serde_json::{Value, json};
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    // Cargo passes flags of its own to benches.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let figures = match &words[..] {
        ["upstream", address, link @ ..] => {
            let Some(link) = link.first().map_or(Some(f64::INFINITY), |rate| rate.parse().ok()) else {
                return usage();
            };
            upstream::serve(address, link);
            return ExitCode::SUCCESS;
        }
        ["file", path, bytes] => write_file(path, number(bytes)),
        ["whole", address, path, readers] => whole(address, path, number(readers)),
        ["ranges", address, path, bytes, seconds] => {
            let ask = rate::Ask::Ranges(path.to_string(), number(bytes));
            rate::measure(address, &ask, number(seconds))
        }
        ["objects", address, prefix, count, seconds] => {
            let ask = rate::Ask::Objects(prefix.to_string(), number(count));
            rate::measure(address, &ask, number(seconds))
        }
        ["storm", address, upstream, path] => cold::storm(address, upstream, path),
        ["follow", address, upstream, path, seconds] => cold::follow(address, upstream, path, number(seconds)),
        ["seek", address, path] => cold::seek(address, path),
        ["beside", address, path] => cold::beside(address, path),
        ["miss", address, path, readers] => cold::miss(address, path, number(readers)),
        ["paced", address, path, readers, rate, seconds, places @ ..] => {
            let load = paced::Load {
                address,
                path,
                readers: number(readers) as usize,
                bytes_per_second: number(rate),
                seconds: number(seconds),
                at_random: places.first() == Some(&"random"),
            };
            paced::measure(&load)
        }
        _ => return usage(),
    };
    say(&figures);
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    let _ = std::io::stderr().write_all(b"what it does is told at the top of benches/load/main.rs\n");
    ExitCode::from(2)
}

/// Prints one line.
fn say(line: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("{word} is not a whole number"))
}

fn write_file(path: &str, bytes: u64) -> Value {
    let mut file = std::fs::File::create(path).expect("created");
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    while at < bytes {
        let room = usize::try_from(bytes - at).map_or(piece.len(), |left| left.min(piece.len()));
        content::write(at, &mut piece[..room]);
        file.write_all(&piece[..room]).expect("written");
        at += room as u64;
    }
    json!({ "bytes": bytes })
}

/// Readers of a whole body each, that throw it away.
fn whole(address: &str, path: &str, readers: u64) -> Value {
    let begun = Instant::now();
    let bytes: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..readers)
            .map(|_| {
                scope.spawn(|| {
                    let mut talk = talk::Talk::open(address);
                    talk.ask(path, None);
                    let head = talk.head();
                    let length = head.length.expect("a length");
                    talk.discard(length);
                    length
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a whole body"))
            .sum()
    });
    json!({ "bytes": bytes, "seconds": begun.elapsed().as_secs_f64() })
}
