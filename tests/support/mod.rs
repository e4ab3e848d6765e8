//! The tools of the tests: a scripted upstream, a server in process, a client that checks framing.

pub(crate) mod client;
pub(crate) mod film;
pub(crate) mod mounts;
pub(crate) mod origin;
pub(crate) mod pond;
pub(crate) mod upstream;

pub(crate) use client::{Answer, Client, Ended, get, get_range, request, rule};
pub(crate) use film::Film;
pub(crate) use origin::Origin;
pub(crate) use pond::Pond;
pub(crate) use upstream::{Conn, Seen, Upstream, Valve};

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

/// The longest that anything in a test may take before it counts as lost.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// The time between two looks: far below what any test measures.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// The data directories of the servers that tests have started, by their addresses.
static DATA: LazyLock<Mutex<HashMap<SocketAddr, PathBuf>>> = LazyLock::new(Mutex::default);

/// Notes the data directory of a server that was started.
pub(crate) fn started(address: SocketAddr, data: &Path) {
    DATA.lock().expect("whole").insert(address, data.to_owned());
}

/// The data directory of the server at that address.
pub(crate) fn data_of(address: SocketAddr) -> PathBuf {
    DATA.lock()
        .expect("whole")
        .get(&address)
        .expect("a server of ours")
        .clone()
}

/// A new token, which the file keeps the hash of.
pub(crate) fn token(file: &Path, name: &str, more: &[&str]) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_millpond"))
        .args(["token", "add"])
        .arg(file)
        .arg(name)
        .args(more)
        .output()
        .expect("ran");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Whether a program is missing here, which is said, and fails where CI installs all of them.
pub(crate) fn is_missing(program: &str) -> bool {
    let found = Path::new(program).is_file()
        || std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    assert!(found || std::env::var_os("CI").is_none(), "{program} is not installed");
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    !found
}

/// Runs a script of `scripts` on the program, which tells what it ran, and what failed.
pub(crate) fn passes(script: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
    let status = std::process::Command::new(path)
        .arg("--millpond")
        .arg(env!("CARGO_BIN_EXE_millpond"))
        .status()
        .expect("the script runs");
    assert!(status.success(), "scripts/{script} reports failures above");
}

/// Asks again until the condition holds; each look is a real question, never a pause.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never came: {what}");
        // What is waited for may need the processor: between two looks this thread does without it.
        std::thread::park_timeout(BETWEEN_LOOKS);
    }
}
