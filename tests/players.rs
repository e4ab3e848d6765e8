//! Real players through a throttled upstream; `scripts/players` tells what it ran and what it skipped.

use std::path::Path;
use std::process::Command;

#[test]
fn real_players_play_and_seek() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/players");
    let status = Command::new(script)
        .arg("--millpond")
        .arg(env!("CARGO_BIN_EXE_millpond"))
        .status()
        .expect("scripts/players runs");
    assert!(status.success(), "scripts/players reports failures above");
}
