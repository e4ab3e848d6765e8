//! Where a reader may come into a stream that is under way.
//!
//! Bytes are scanned as they are logged, piece by piece, each once and in their order, and only offsets are kept: the
//! latest of all, and of those before them as many at even distances, so that memory is bounded however long a stream
//! runs. Formats whose places follow from the offset (packets, frames) keep none. A place is offered only while it is
//! in the window and not past what has come; what needs its beginning is joined there or not at all.

use super::kind::StreamFormat;
use std::collections::VecDeque;

/// A packet of an MPEG transport stream, in bytes (ISO/IEC 13818-1).
const PACKET_BYTES: u64 = 188;

/// Sync points that are remembered, the older ones thinned out. A judgement: 8 KiB a stream.
const MOST_POINTS: usize = 1024;

/// The latest places at which a reader may come in.
#[derive(Debug)]
pub struct SyncPoints {
    kind: StreamFormat,
    /// How much has been looked at.
    at: u64,
    points: Points,
    scan: Scan,
}

#[derive(Debug)]
enum Scan {
    /// The offset itself tells.
    None,
    /// Where the next byte of length is, and whether what is before it is metadata.
    Icy {
        length_at: u64,
    },
    Lines(Lines),
    /// The last bytes, for a delimiter that comes in two pieces.
    Parts {
        tail: Vec<u8>,
    },
}

/// Whether the line so far is empty, and whether its end may still have a second byte.
#[derive(Debug, Clone, Copy)]
struct Lines {
    is_empty: bool,
    after_return: bool,
    /// The line before ended an event.
    ended: bool,
}

impl SyncPoints {
    /// The sync points of a stream that begins.
    pub fn new(kind: StreamFormat) -> Self {
        let scan = match &kind {
            StreamFormat::Icy { every } => Scan::Icy { length_at: *every },
            StreamFormat::Events => Scan::Lines(Lines {
                is_empty: true,
                after_return: false,
                ended: false,
            }),
            StreamFormat::Parts { .. } => Scan::Parts { tail: Vec::new() },
            StreamFormat::Frames | StreamFormat::Packets | StreamFormat::Whole => Scan::None,
        };
        Self {
            kind,
            at: 0,
            points: Points::new(),
            scan,
        }
    }

    /// Looks at the next bytes.
    pub fn look(&mut self, bytes: &[u8]) {
        let start = self.at;
        self.at += bytes.len() as u64;
        match (&mut self.scan, &self.kind) {
            (Scan::Icy { length_at }, StreamFormat::Icy { every }) => {
                while let Some(&blocks) = length_at
                    .checked_sub(start)
                    .and_then(|index| bytes.get(usize::try_from(index).ok()?))
                {
                    // The length byte counts blocks of 16 bytes.
                    let audio = *length_at + 1 + 16 * u64::from(blocks);
                    self.points.note(audio);
                    *length_at = audio + every;
                }
            }
            (Scan::Lines(lines), _) => {
                for (index, byte) in bytes.iter().enumerate() {
                    if lines.take(*byte) {
                        self.points.note(start + index as u64 + 1);
                    }
                }
            }
            (Scan::Parts { tail }, StreamFormat::Parts { delimiter }) => {
                let before = tail.len() as u64;
                tail.extend_from_slice(bytes);
                let delimiter = delimiter.as_bytes();
                for index in 0..(tail.len() + 1).saturating_sub(delimiter.len()) {
                    if &tail[index..index + delimiter.len()] == delimiter {
                        self.points.note(start + index as u64 - before);
                    }
                }
                // As much as may be the beginning of a delimiter.
                let keep = tail.len().min(delimiter.len() - 1);
                tail.drain(..tail.len() - keep);
            }
            _ => {}
        }
    }

    /// Where to come in so as to begin at `wanted` or a little after it, no later than what has come; the last place
    /// before it where there is none after it. `None` where there is none at all any more from `first` on.
    pub fn at_or_after(&self, wanted: u64, first: u64) -> Option<u64> {
        match &self.kind {
            StreamFormat::Frames => Some(wanted.max(first)),
            StreamFormat::Packets => {
                let aligned = wanted.max(first).div_ceil(PACKET_BYTES) * PACKET_BYTES;
                Some(aligned.min(self.at / PACKET_BYTES * PACKET_BYTES)).filter(|at| *at >= first)
            }
            StreamFormat::Whole => (first == 0).then_some(0),
            _ => {
                let known = self.points.iter().filter(|point| *point >= first && *point <= self.at);
                let after = known.clone().find(|point| *point >= wanted);
                after.or_else(|| known.max())
            }
        }
    }
}

/// Offsets, rising: the latest of all, and of all before them as many at even distances.
#[derive(Debug)]
struct Points {
    latest: VecDeque<u64>,
    sparse: Vec<u64>,
    /// Each so many-th is among the sparse ones.
    stride: u64,
    count: u64,
}

impl Points {
    fn new() -> Self {
        Self {
            latest: VecDeque::from([0]),
            sparse: vec![0],
            stride: 1,
            count: 1,
        }
    }

    fn note(&mut self, at: u64) {
        if self.latest.back().is_some_and(|last| *last >= at) {
            return;
        }
        if self.latest.len() == MOST_POINTS / 2 {
            self.latest.pop_front();
        }
        self.latest.push_back(at);
        if self.count.is_multiple_of(self.stride) {
            self.sparse.push(at);
        }
        self.count += 1;
        if self.sparse.len() > MOST_POINTS / 2 {
            let mut index = 0;
            self.sparse.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride *= 2;
        }
    }

    fn iter(&self) -> impl Iterator<Item = u64> + Clone {
        let oldest = self.latest.front().copied().unwrap_or(u64::MAX);
        let before = self.sparse.iter().copied().filter(move |point| *point < oldest);
        before.chain(self.latest.iter().copied())
    }
}

impl Lines {
    /// Takes a byte; true where it ends an event: an empty line, ended by LF, CR or both (HTML §9.2.5).
    fn take(&mut self, byte: u8) -> bool {
        let second = std::mem::replace(&mut self.after_return, byte == b'\r') && byte == b'\n';
        match byte {
            // The second half of a line's end: an event that the first half ended ends one byte later.
            b'\n' if second => self.ended,
            b'\r' | b'\n' => {
                self.ended = std::mem::replace(&mut self.is_empty, true);
                self.ended
            }
            _ => {
                self.is_empty = false;
                false
            }
        }
    }
}

/// Looks for the end of the event with that id in a log that is handed over piece by piece.
#[derive(Debug)]
pub struct EventScan<'a> {
    id: &'a str,
    /// Where the first event begins of which all is there.
    first: Option<u64>,
    at: u64,
    line: Vec<u8>,
    after_return: bool,
    has_id: bool,
    found: Option<u64>,
}

/// The longest line that is compared; an id that is longer is not found. A judgement: what clients send back in a
/// header.
const LONGEST_LINE: usize = 4096;

/// A scan for the end of the event with that id; the first piece begins at `at`, in the middle of an event unless
/// that is 0.
pub fn after_event(id: &str, at: u64) -> EventScan<'_> {
    EventScan {
        id,
        first: (at == 0).then_some(0),
        at,
        line: Vec::new(),
        after_return: false,
        has_id: false,
        found: None,
    }
}

impl EventScan<'_> {
    /// Looks at the next piece.
    pub fn look(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.at += 1;
            let second = std::mem::replace(&mut self.after_return, *byte == b'\r') && *byte == b'\n';
            match byte {
                // The second half of the line's end that has just been found.
                b'\n' if second => self.found = self.found.map(|found| found + u64::from(found + 1 == self.at)),
                b'\r' | b'\n' => self.end_line(),
                byte if self.line.len() < LONGEST_LINE => self.line.push(*byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        if self.line.is_empty() {
            if self.first.is_none() {
                self.first = Some(self.at);
                self.has_id = false;
            }
            if std::mem::take(&mut self.has_id) {
                self.found = Some(self.at);
            }
            return;
        }
        if let Some(value) = self.line.strip_prefix(b"id:") {
            self.has_id = value.strip_prefix(b" ").unwrap_or(value) == self.id.as_bytes();
        }
        self.line.clear();
    }

    /// Where the events after it begin: after the last that had it.
    pub fn found(&self) -> Option<u64> {
        self.found
    }

    /// Where the first event begins of which all is there.
    pub fn first(&self) -> Option<u64> {
        self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(kind: StreamFormat, pieces: &[&[u8]]) -> Vec<u64> {
        let mut points = SyncPoints::new(kind);
        pieces.iter().for_each(|piece| points.look(piece));
        points.points.iter().collect()
    }

    #[test]
    fn metadata_is_counted_whatever_the_pieces() {
        let mut log = Vec::new();
        for blocks in [0u8, 2, 0, 1] {
            log.extend_from_slice(&[9; 10]);
            log.push(blocks);
            log.extend_from_slice(&vec![7; 16 * usize::from(blocks)]);
        }
        let wanted = vec![0, 11, 54, 65, 92];
        let kind = || StreamFormat::Icy { every: 10 };
        assert_eq!(points(kind(), &[&log]), wanted);
        let bytes: Vec<&[u8]> = log.chunks(1).collect();
        assert_eq!(points(kind(), &bytes), wanted);
    }

    #[test]
    fn an_event_ends_with_an_empty_line_however_lines_end() {
        for (text, wanted) in [
            ("data: a\n\ndata: b\n\n", vec![0, 9, 18]),
            ("data: a\r\n\r\ndata: b\r\n\r\n", vec![0, 10, 11, 21, 22]),
            ("data: a\r\rx\n\n", vec![0, 9, 12]),
            (": beat\n\n", vec![0, 8]),
        ] {
            assert_eq!(points(StreamFormat::Events, &[text.as_bytes()]), wanted, "{text:?}");
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(points(StreamFormat::Events, &bytes), wanted, "{text:?}");
        }
    }

    #[test]
    fn a_part_begins_with_its_delimiter_though_it_comes_in_two_pieces() {
        let kind = || StreamFormat::Parts {
            delimiter: "--xy".to_owned(),
        };
        let text = b"--xy\r\n\r\none\r\n--xy\r\n\r\ntwo\r\n--xy";
        let wanted = vec![0, 13, 26];
        assert_eq!(points(kind(), &[text]), wanted);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(points(kind(), &bytes), wanted);
    }

    #[test]
    fn a_late_listener_begins_at_a_sync_point() {
        let mut packets = SyncPoints::new(StreamFormat::Packets);
        packets.look(&[0; 1000]);
        assert_eq!(packets.at_or_after(200, 0), Some(376));
        assert_eq!(packets.at_or_after(999, 0), Some(940));
        assert_eq!(packets.at_or_after(0, 300), Some(376));
        let mut frames = SyncPoints::new(StreamFormat::Frames);
        frames.look(&[0; 1000]);
        assert_eq!(frames.at_or_after(200, 300), Some(300));
        let mut events = SyncPoints::new(StreamFormat::Events);
        events.look(b"data: a\n\ndata: b\n\ndata");
        assert_eq!(events.at_or_after(22, 0), Some(18));
        assert_eq!(events.at_or_after(5, 0), Some(9));
        assert_eq!(events.at_or_after(22, 20), None);
        let mut whole = SyncPoints::new(StreamFormat::Whole);
        whole.look(&[0; 10]);
        assert_eq!((whole.at_or_after(9, 0), whole.at_or_after(9, 1)), (Some(0), None));
    }

    #[test]
    fn an_event_is_found_by_its_id() {
        let text = "id: 1\ndata: a\n\nid:2\r\ndata: b\r\n\r\ndata: no id\n\nid: 22\ndata: c\n\n";
        let after = |id: &str, size: usize| {
            let mut scan = after_event(id, 0);
            text.as_bytes().chunks(size).for_each(|piece| scan.look(piece));
            scan.found()
        };
        for size in [1, 7, 1000] {
            assert_eq!(after("1", size), Some(15));
            assert_eq!(after("2", size), Some(32));
            assert_eq!(after("22", size), Some(61));
            assert_eq!(after("3", size), None);
        }
        // Cut into from the middle on, nothing is believed of the first.
        let mut scan = after_event("1", 4);
        scan.look(&text.as_bytes()[4..]);
        assert_eq!((scan.found(), scan.first()), (None, Some(15)));
    }

    #[test]
    fn sync_points_are_bounded_and_keep_the_first_and_latest() {
        let mut events = SyncPoints::new(StreamFormat::Events);
        for _ in 0..100_000 {
            events.look(b"data\n\n");
        }
        assert!(events.points.iter().count() <= MOST_POINTS);
        assert_eq!(events.at_or_after(0, 0), Some(0));
        assert_eq!(events.at_or_after(599_989, 0), Some(599_994));
        let middle = events.at_or_after(300_000, 0).expect("one");
        assert!((300_000..302_000).contains(&middle), "{middle}");
    }
}
