//! Pages of real servers (`scripts/listings.py` has written them), and pages that are not what they seem.

use super::*;

/// The names in the collection of the fixtures, decoded.
fn names() -> Vec<String> {
    let decomposed = "o\u{308}.txt".to_owned();
    let long = format!("{}.txt", "x".repeat(100));
    let plain = [
        "a b.txt",
        "(c).txt",
        "d+e.txt",
        "100%.txt",
        "%41.txt",
        "#1.txt",
        "q?.txt",
        "a&b.txt",
        "a:b.txt",
        "'quote'.txt",
        "semi;colon,.txt",
        "<tag>.txt",
        "[x].txt",
        "t~.txt",
        "é.txt",
        "日本.txt",
        ".hidden",
        "=@$!*.txt",
        "empty",
        "sub dir",
    ];
    let plain = plain.into_iter().map(str::to_owned);
    let mut names: Vec<String> = plain.chain([decomposed, long]).collect();
    names.sort();
    names
}

/// The pages: of the collection, of an empty one, their format, and whether names with a dot before them are shown.
const SERVERS: &[(&[u8], &[u8], ListingFormat, bool)] = &[
    (
        include_bytes!("../../../tests/fixtures/listings/nginx-html-odd"),
        include_bytes!("../../../tests/fixtures/listings/nginx-html-empty"),
        ListingFormat::NginxHtml,
        false,
    ),
    (
        include_bytes!("../../../tests/fixtures/listings/nginx-json-odd"),
        include_bytes!("../../../tests/fixtures/listings/nginx-json-empty"),
        ListingFormat::NginxJson,
        false,
    ),
    (
        include_bytes!("../../../tests/fixtures/listings/apache-html-odd"),
        include_bytes!("../../../tests/fixtures/listings/apache-html-empty"),
        ListingFormat::ApacheHtml,
        true,
    ),
    (
        include_bytes!("../../../tests/fixtures/listings/apache-table-odd"),
        include_bytes!("../../../tests/fixtures/listings/apache-table-empty"),
        ListingFormat::ApacheHtml,
        true,
    ),
    (
        include_bytes!("../../../tests/fixtures/listings/apache-plain-odd"),
        include_bytes!("../../../tests/fixtures/listings/apache-plain-empty"),
        ListingFormat::ApacheHtml,
        true,
    ),
    (
        include_bytes!("../../../tests/fixtures/listings/apache-dav-odd"),
        include_bytes!("../../../tests/fixtures/listings/apache-dav-empty"),
        ListingFormat::Webdav,
        true,
    ),
    (
        include_bytes!("../../../tests/fixtures/listings/lighttpd-html-odd"),
        include_bytes!("../../../tests/fixtures/listings/lighttpd-html-empty"),
        ListingFormat::LighttpdHtml,
        false,
    ),
    (
        include_bytes!("../../../tests/fixtures/listings/caddy-json-odd"),
        include_bytes!("../../../tests/fixtures/listings/caddy-json-empty"),
        ListingFormat::Caddy,
        true,
    ),
    (
        include_bytes!("../../../tests/fixtures/listings/python-html-odd"),
        include_bytes!("../../../tests/fixtures/listings/python-html-empty"),
        ListingFormat::PythonHtml,
        true,
    ),
    (
        include_bytes!("../../../tests/fixtures/listings/rclone-html-odd"),
        include_bytes!("../../../tests/fixtures/listings/rclone-html-empty"),
        ListingFormat::RcloneHtml,
        true,
    ),
    (
        include_bytes!("../../../tests/fixtures/listings/rclone-dav-odd"),
        include_bytes!("../../../tests/fixtures/listings/rclone-dav-empty"),
        ListingFormat::Webdav,
        true,
    ),
    (
        include_bytes!("../../../tests/fixtures/listings/s3-odd"),
        include_bytes!("../../../tests/fixtures/listings/s3-empty"),
        ListingFormat::S3,
        true,
    ),
    (
        include_bytes!("../../../tests/fixtures/listings/millpond-odd"),
        include_bytes!("../../../tests/fixtures/listings/millpond-empty"),
        ListingFormat::Millpond,
        true,
    ),
];

fn read_at(format: ListingFormat, path: &str, body: &[u8]) -> Result<ListingPage, ListingFault> {
    let url = Url::parse(&format!("http://h{path}")).expect("a URL");
    let prefix = path.trim_start_matches('/');
    read(format, ListingSource { url: &url, prefix }, body)
}

#[test]
fn every_server_lists_the_same_names_and_sizes() {
    for (page, empty, format, hidden) in SERVERS {
        let name = format.name();
        let read = read_at(*format, "/odd/", page).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        assert!(
            read.left_out.is_empty() && !read.is_cut && read.next.is_none(),
            "{name}: {read:?}"
        );
        let mut wanted = names();
        // moto knows no empty collection.
        wanted.retain(|wanted| (wanted != ".hidden" || *hidden) && !(name == "s3" && wanted == "empty"));
        let found: Vec<&str> = read.members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(found, wanted, "{name}");
        for member in &read.members {
            let is_collection = matches!(member.name.as_str(), "empty" | "sub dir");
            assert_eq!(
                member.kind == MemberKind::Collection,
                is_collection,
                "{name}: {member:?}"
            );
            let exact = format.is_precise() && !is_collection;
            let sized = member.size.is_some_and(|size| (1000..1020).contains(&size));
            assert_eq!(sized, exact, "{name}: {member:?}");
            if exact && *format != ListingFormat::S3 {
                assert_eq!(member.modified, Some(1_600_000_000_000_000_000), "{name}: {member:?}");
            }
        }
        let read = read_at(*format, "/odd/empty/", empty).unwrap_or_else(|fault| panic!("{name}, empty: {fault}"));
        assert!(read.members.is_empty() && read.left_out.is_empty(), "{name}: {read:?}");
    }
}

#[test]
fn a_format_is_recognized_by_a_page_and_only_by_its_own() {
    for (page, _, format, _) in SERVERS {
        let url = Url::parse("http://h/odd/").expect("a URL");
        let source = ListingSource {
            url: &url,
            prefix: "odd/",
        };
        let by_get = !matches!(format, ListingFormat::Webdav | ListingFormat::S3);
        assert_eq!(recognize(source, page), by_get.then_some(*format), "{}", format.name());
        for other in ListingFormat::ALL.into_iter().filter(|other| other != format) {
            assert!(
                read(other, source, page).is_err(),
                "{} as {}",
                format.name(),
                other.name()
            );
        }
    }
}

#[test]
fn a_page_that_is_cut_anywhere_is_no_listing() {
    for (page, _, format, _) in SERVERS {
        let whole = page.trim_ascii_end().len();
        // Each length of the last bytes, where the end is, and some before.
        let cuts = (0..whole).filter(|cut| whole - cut < 80 || cut % 97 == 0);
        for cut in cuts {
            let read = read_at(*format, "/odd/", &page[..cut]);
            assert!(read.is_err(), "{} cut at {cut} of {whole}", format.name());
        }
    }
}

#[test]
fn a_login_page_and_an_index_html_are_no_listings() {
    let login = b"<!DOCTYPE html><html><head><title>Hotel Wi-Fi</title></head><body><h1>Welcome</h1><a href=\"login\">Log in</a></body></html>";
    let index = b"<!DOCTYPE html><html><head><title>My films</title></head><body><h1>Index of my films</h1><ul><li><a href=\"a.mkv\">a</a></ul></body></html>";
    let error = b"{\"error\": \"unauthorized\"}";
    for body in [&login[..], index, error, b"", b"null", b"<", b"\xff\xfe"] {
        for format in ListingFormat::ALL {
            // Old Caddys print null for an empty collection.
            if body == b"null" && format == ListingFormat::Caddy {
                continue;
            }
            assert!(read_at(format, "/odd/", body).is_err(), "{} {body:?}", format.name());
        }
    }
}

#[test]
fn links_that_lead_elsewhere_are_no_members_and_bad_names_are_said() {
    let page = "<html><head><title>Index of /odd/</title></head><body><h1>Index of /odd/</h1><pre>\
        <a href=\"../\">up</a><a href=\"/\">root</a><a href=\"/odd/abs.txt\">abs</a><a href=\"http://h/odd/full.txt\">full</a>\
        <a href=\"http://evil/odd/x\">x</a><a href=\"//evil/y\">y</a><a href=\"deep/er.txt\">deep</a><a href=\"?C=N\">sort</a>\
        <a href=\"#top\">top</a><a href=\"javascript:alert(1)\">js</a><a href=\"%2e%2e\">dots</a><a href=\"a%2fb\">slash</a>\
        <a href=\"%ff\">latin</a><a href=\"bad%zz\">escape</a><a>none</a></pre></body></html>";
    let read = read_at(ListingFormat::NginxHtml, "/odd/", page.as_bytes()).expect("a listing");
    let found: Vec<&str> = read.members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(found, ["abs.txt", "full.txt"]);
    assert_eq!(read.left_out.len(), 4, "{:?}", read.left_out);
}

#[test]
fn a_207_with_a_507_item_says_that_it_is_cut() {
    let text = |more: &str| {
        format!(
            "<D:multistatus xmlns:D=\"DAV:\"><D:response><D:href>/odd/</D:href><D:propstat><D:prop><D:resourcetype>\
             <D:collection/></D:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>{more}</D:multistatus>"
        )
    };
    let read = |more: &str| read_at(ListingFormat::Webdav, "/odd/", text(more).as_bytes());
    assert!(!read("").expect("a listing").is_cut);
    let cut = "<D:response><D:href>/odd/</D:href><D:status>HTTP/1.1 507 Insufficient Storage</D:status></D:response>";
    assert!(read(cut).expect("a listing").is_cut);
    let unknown = "<D:response><D:href>/odd/a</D:href><D:status>HTTP/1.1 403 Forbidden</D:status></D:response>";
    assert_eq!(read(unknown).expect("a listing").left_out.len(), 1);
    for wrong in [
        "<D:response><D:href>/other/a</D:href></D:response>",
        "<D:response><D:href>/odd/a/b</D:href></D:response>",
        "<D:response><D:href>http://evil/odd/a</D:href></D:response>",
        "<D:response></D:response>",
        "&bad;",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    assert!(read_at(ListingFormat::Webdav, "/elsewhere/", text("").as_bytes()).is_err());
}

#[test]
fn keys_that_no_path_can_reach_are_left_out_and_said() {
    let text = "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t=</NextContinuationToken>\
        <EncodingType>url</EncodingType><Contents><Key>odd/</Key></Contents><Contents><Key>odd/a%2Bb+c</Key><Size>3</Size>\
        <ETag>&quot;9-2&quot;</ETag></Contents><Contents><Key>odd/marker/</Key></Contents>\
        <CommonPrefixes><Prefix>odd//</Prefix></CommonPrefixes><CommonPrefixes><Prefix>odd/sub/</Prefix></CommonPrefixes>\
        <CommonPrefixes><Prefix>odd/../</Prefix></CommonPrefixes></ListBucketResult>";
    let read = read_at(ListingFormat::S3, "/odd/", text.as_bytes()).expect("a listing");
    let found: Vec<_> = read
        .members
        .iter()
        .map(|member| (member.name.as_str(), member.tag.as_deref()))
        .collect();
    assert_eq!(found, [("a+b c", Some("\"9-2\"")), ("sub", None)]);
    assert_eq!(read.left_out.len(), 3, "{:?}", read.left_out);
    assert_eq!(read.next.as_deref(), Some("t="));
    let endless = text.replace("<NextContinuationToken>t=</NextContinuationToken>", "");
    assert!(read_at(ListingFormat::S3, "/odd/", endless.as_bytes()).is_err());
}

#[test]
fn fuzzed_pages_are_read_or_refused_in_words() {
    use proptest::prelude::*;
    let mut runner = proptest::test_runner::TestRunner::default();
    let strategy = (
        0..SERVERS.len(),
        proptest::collection::vec((any::<u16>(), any::<u8>()), 1..8),
    );
    let check = |(server, changes): (usize, Vec<(u16, u8)>)| {
        let (page, _, format, _) = &SERVERS[server];
        let mut page = page.to_vec();
        for (at, byte) in changes {
            let at = usize::from(at) % page.len();
            page[at] = byte;
        }
        if let Ok(read) = read_at(*format, "/odd/", &page) {
            let mut names: Vec<_> = read.members.iter().map(|member| &member.name).collect();
            names.dedup();
            prop_assert_eq!(names.len(), read.members.len());
            prop_assert!(
                read.members
                    .iter()
                    .all(|member| TreePath::check_name(&member.name).is_ok())
            );
        }
        Ok(())
    };
    runner.run(&strategy, check).expect("no panic");
}
