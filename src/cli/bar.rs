//! A picture of the bytes that are here: one line of ASCII, the same on every terminal and in every log.
//!
//! Each cell stands for the same share of the object, and is full only where all of its bytes are here. Any length has
//! all cells, from an empty object, which is all here, to the longest that a number can tell.

/// How wide the picture is. A judgement: it fits beside its brackets into 80 columns.
const CELLS: u64 = 60;

/// `#` where all bytes of a cell are here, `+` where some are, `.` where none is.
///
/// `present` are half-open pairs within `length`; they need not be in order.
pub(super) fn bar(present: &[[u64; 2]], length: u64) -> String {
    (0..CELLS).map(|cell| picture(present, edges(cell, length))).collect()
}

/// The bytes that a cell stands for. Of fewer bytes than cells, several cells show the same one.
fn edges(cell: u64, length: u64) -> (u64, u64) {
    let edge = |cell: u64| {
        let edge = u128::from(cell) * u128::from(length) / u128::from(CELLS);
        u64::try_from(edge).unwrap_or(u64::MAX)
    };
    let start = edge(cell);
    (start, edge(cell + 1).max(start.saturating_add(1)).min(length))
}

fn picture(present: &[[u64; 2]], (start, end): (u64, u64)) -> char {
    let here: u64 = present
        .iter()
        .map(|[from, to]| (*to).min(end).saturating_sub((*from).max(start)))
        .fold(0, u64::saturating_add);
    match here {
        // An empty object is all here.
        here if here >= end - start => '#',
        0 => '.',
        _ => '+',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_cell_an_empty_one_and_one_between_look_different() {
        let bar = bar(&[[0, 1000], [1500, 1501], [59_999, 60_000]], 60_000);
        assert_eq!(bar, format!("#+{}+", ".".repeat(57)));
    }

    #[test]
    fn every_length_has_its_sixty_cells() {
        for length in [0, 1, 7, 59, 60, 61, 1 << 40, u64::MAX] {
            assert_eq!(bar(&[[0, length]], length), "#".repeat(60), "{length}");
            let empty = if length == 0 { "#" } else { "." };
            assert_eq!(bar(&[], length), empty.repeat(60), "{length}");
        }
        assert_eq!(bar(&[[1, 2]], 2), format!("{}{}", ".".repeat(30), "#".repeat(30)));
    }

    #[test]
    fn ranges_that_make_no_sense_draw_nothing() {
        assert_eq!(bar(&[[5, 2], [90, 95]], 60), ".".repeat(60));
    }
}
