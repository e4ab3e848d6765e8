//! Real players through real upstreams; `scripts/upstreams` tells what it ran and what it skipped.

use std::path::Path;
use std::process::Command;

#[test]
#[ignore = "four minutes of real servers and players: scripts/check runs it by itself"]
fn films_that_play_from_an_upstream_play_through_millpond() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/upstreams");
    let status = Command::new(script)
        .arg("--millpond")
        .arg(env!("CARGO_BIN_EXE_millpond"))
        .status()
        .expect("scripts/upstreams runs");
    assert!(status.success(), "scripts/upstreams reports failures above");
}
