//! A load for `scripts/bench`: readers that fetch a whole body and let the kernel throw it away.
//!
//! `sink ADDR PATH READERS` prints the bytes of all bodies and the seconds from the first request to
//! the last byte. The bytes are discarded in the kernel (`MSG_TRUNC`), so the client costs little.

use rustix::net::{RecvFlags, recv};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

fn main() {
    // Cargo passes flags of its own to benches.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let [address, path, readers] = &words[..] else {
        eprintln!("usage: sink ADDR PATH READERS");
        return;
    };
    let readers: usize = readers.parse().expect("a number of readers");
    let begin = Instant::now();
    let total: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..readers).map(|_| scope.spawn(|| fetch(address, path))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a whole body"))
            .sum()
    });
    let line = format!("{total} {}\n", begin.elapsed().as_secs_f64());
    std::io::stdout().write_all(line.as_bytes()).expect("written");
}

fn fetch(address: &str, path: &str) -> u64 {
    let mut stream = TcpStream::connect(address).expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .expect("a length");
    let length: u64 = length.trim().parse().expect("a length");
    let mut scratch = vec![0u8; 1 << 20];
    let mut seen = 0;
    while seen < length {
        let room = usize::try_from(length - seen).map_or(scratch.len(), |left| left.min(scratch.len()));
        let (count, _) = recv(&stream, &mut scratch[..room], RecvFlags::TRUNC).expect("bytes");
        assert!(count > 0, "the body was cut after {seen} of {length} bytes");
        seen += count as u64;
    }
    seen
}
