//! Real players through a throttled upstream; `scripts/players` tells what it ran and what it skipped.

use crate::support::passes;

#[test]
fn real_players_play_and_seek() {
    passes("players");
}
