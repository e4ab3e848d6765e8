//! Files over 4 GiB, at both ends, without their bytes.

use crate::support::{Film, Pond, Upstream, get_range, request};

const LEN: u64 = (5 << 30) + 12_345;

#[test]
fn a_file_over_four_gigabytes_works_at_both_ends() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let mut pond = Pond::with(&upstream, &[("after_last_reader", "stop")]);
    for (range, start, end) in [
        ("bytes=0-99999".to_owned(), 0, 100_000),
        ("bytes=-100000".to_owned(), LEN - 100_000, LEN),
        (
            format!("bytes={}-{}", (4u64 << 30) - 50, (4u64 << 30) + 49),
            (4 << 30) - 50,
            (4 << 30) + 50,
        ),
        (
            format!("bytes={}-{}", (2u64 << 30) - 50, (2u64 << 30) + 49),
            (2 << 30) - 50,
            (2 << 30) + 50,
        ),
    ] {
        for _ in 0..2 {
            let answer = get_range(pond.address(), "/film", &range);
            answer.expect(206);
            assert_eq!(
                answer.header("content-range"),
                Some(format!("bytes {start}-{}/{LEN}", end - 1).as_str())
            );
            film.check(start, &answer.body);
            assert_eq!(answer.body.len() as u64, end - start);
        }
    }
    let past = get_range(pond.address(), "/film", &format!("bytes={LEN}-"));
    past.expect(416);
    assert_eq!(past.header("content-range"), Some(format!("bytes */{LEN}").as_str()));
    pond.restart();
    let head = request(pond.address(), "HEAD", "/film", &[]);
    assert_eq!(head.header("content-length"), Some(LEN.to_string().as_str()));
    let before = upstream.sent();
    let tail = get_range(pond.address(), "/film", "bytes=-100000");
    film.check(LEN - 100_000, &tail.expect(206).body);
    assert!(upstream.sent() - before < 8 << 20, "the tail was recorded");
}
