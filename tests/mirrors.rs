//! Mirrors of real servers; `scripts/mirrors` tells what it ran.

use std::path::Path;
use std::process::Command;

#[test]
fn trees_of_real_servers_are_mirrored_whole_and_read_when_they_have_gone() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/mirrors");
    let status = Command::new(script)
        .arg("--millpond")
        .arg(env!("CARGO_BIN_EXE_millpond"))
        .status()
        .expect("scripts/mirrors runs");
    assert!(status.success(), "scripts/mirrors reports failures above");
}
