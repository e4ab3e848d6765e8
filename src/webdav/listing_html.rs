//! The HTML of a collection: a table that can be sorted, and a player.
//!
//! No page has a script: sorting is a link, and the player is the browser's. The policy that is sent with a page
//! allows none either, and every name goes through [`Escaped`], so a name that looks like markup is only a name.

use super::escape::Escaped;
use super::listing_view::{Listing, ListingView, Sort, href, playable, rfc3339};
use crate::directory::{Member, MemberKind, TreePath};
use std::cmp::Ordering;
use std::fmt::Write as _;

/// The `Content-Security-Policy` of these pages.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; media-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'";

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.2rem;overflow-wrap:anywhere}a{color:inherit}nav a{text-decoration:none}\
table{width:100%;border-collapse:collapse}th{text-align:left;border-bottom:1px solid #8888}\
td,th{padding:.25rem .5rem}tr:hover td{background:#8882}\
td:first-child{overflow-wrap:anywhere}.n{text-align:right;white-space:nowrap}\
video,img{max-width:100%;max-height:80vh;display:block;margin:auto}audio{width:100%}footer{color:#888;font-size:.85rem}";

/// The members in that order; collections come first.
pub(super) fn sorted(listing: &Listing, sort: Sort, descending: bool) -> Vec<&Member> {
    let mut members: Vec<&Member> = listing.members.iter().collect();
    members.sort_by(|left, right| {
        let by_name = || natural_order(&left.name, &right.name);
        let order = match sort {
            Sort::Name => by_name(),
            Sort::Size => left.stamp.size.cmp(&right.stamp.size).then_with(by_name),
            Sort::Modified => left.stamp.modified.cmp(&right.stamp.modified).then_with(by_name),
        };
        let order = if descending { order.reverse() } else { order };
        left.kind.cmp(&right.kind).then(order)
    });
    members
}

/// Natural order: without regard to case, and 2 before 10.
fn natural_order(left: &str, right: &str) -> Ordering {
    let (mut a, mut b) = (left.chars().peekable(), right.chars().peekable());
    loop {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return left.cmp(right),
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (x, y) = (next_number(&mut a), next_number(&mut b));
                x.len().cmp(&y.len()).then_with(|| x.cmp(&y))
            }
            (Some(x), Some(y)) => {
                let order = x.to_lowercase().cmp(y.to_lowercase());
                a.next();
                b.next();
                order
            }
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// The digits at the start of the rest, without leading zeros.
fn next_number(text: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut digits = String::new();
    while let Some(digit) = text.next_if(char::is_ascii_digit) {
        if !(digits.is_empty() && digit == '0') {
            digits.push(digit);
        }
    }
    digits
}

/// The page of a collection.
pub(super) fn listing_page(path: &TreePath, listing: &Listing, view: &ListingView) -> String {
    let mut page = page_start(&path.to_string(), &breadcrumbs(path));
    page.push_str("<table><thead><tr>");
    for (sort, name, class) in [
        (Sort::Name, "name", ""),
        (Sort::Size, "size", " class=n"),
        (Sort::Modified, "modified", " class=n"),
    ] {
        let current = view.sort == sort;
        let order = if current && !view.descending { "desc" } else { "asc" };
        let mark = match (current, view.descending) {
            (true, false) => " ▲",
            (true, true) => " ▼",
            _ => "",
        };
        // Writing to a string does not fail, here and below.
        let _ = write!(
            page,
            "<th{class}><a href=\"?sort={name}&amp;order={order}\">{name}</a>{mark}"
        );
    }
    page.push_str("<th></thead><tbody>\n");
    if !path.is_root() {
        page.push_str("<tr><td><a href=\"../\">../</a><td><td><td>\n");
    }
    let mut plays = false;
    let members = match listing.cut {
        true => listing.members.iter().collect(),
        false => sorted(listing, view.sort, view.descending),
    };
    for member in members {
        plays |= matches!(playable(path, member), Some("video" | "audio"));
        write_row(&mut page, path, member);
    }
    page.push_str("</tbody></table>\n");
    if let Some(next) = &listing.next {
        let _ = writeln!(page, "<nav><a href=\"{}\">more →</a></nav>", Escaped(next));
    }
    page.push_str("<footer>");
    let _ = write!(page, "{} entries", listing.total);
    if listing.skipped > 0 {
        let _ = write!(page, " · {} that no link leads to", listing.skipped);
    }
    if !listing.complete {
        page.push_str(", and perhaps more: the directory is changing");
    }
    if plays {
        page.push_str(" · <a href=\"?as=m3u\">playlist</a>");
    }
    page.push_str(" · <a href=\"?as=json\">JSON</a></footer>\n");
    page
}

fn write_row(page: &mut String, path: &TreePath, member: &Member) {
    let slash = if member.kind == MemberKind::Collection { "/" } else { "" };
    let mark = if member.link { " ↗" } else { "" };
    let size = match member.kind {
        MemberKind::Collection => String::new(),
        MemberKind::File => human_size(member.stamp.size),
    };
    let time = rfc3339(member);
    let shown = time.get(..16).unwrap_or_default().replace('T', " ");
    let _ = write!(
        page,
        "<tr><td><a href=\"{}\">{}{slash}</a>{mark}<td class=n title=\"{} bytes\">{size}<td class=n><time datetime=\"{time}\">{shown}</time><td>",
        href(member),
        Escaped(&member.name),
        member.stamp.size,
    );
    if playable(path, member).is_some() {
        let _ = write!(page, "<a href=\"?play={}\">play</a>", query_value(&member.name));
    }
    page.push('\n');
}

/// The page that plays one member; `None` where there is nothing of that name to play.
pub(super) fn player_page(path: &TreePath, listing: &Listing, name: &str) -> Option<String> {
    let members = sorted(listing, Sort::Name, false);
    let shown: Vec<&Member> = members
        .into_iter()
        .filter(|member| playable(path, member).is_some())
        .collect();
    let at = shown.iter().position(|member| member.name == name)?;
    let member = shown[at];
    let source = href(member);
    let mut page = page_start(name, &Escaped(name).to_string());
    match playable(path, member)? {
        "video" => {
            let _ = write!(page, "<video controls autoplay src=\"{source}\">");
            write_subtitles(&mut page, listing, name);
            page.push_str("</video>\n");
        }
        "audio" => {
            let _ = writeln!(page, "<audio controls autoplay src=\"{source}\"></audio>");
        }
        _ => {
            let _ = writeln!(page, "<img src=\"{source}\" alt=\"\">");
        }
    }
    page.push_str("<nav><a href=\"./\">↑ back</a>");
    let neighbours = [(at.checked_sub(1), "← "), (Some(at + 1), "→ ")];
    for (index, arrow) in neighbours {
        if let Some(other) = index.and_then(|index| shown.get(index)) {
            let _ = write!(
                page,
                " · <a href=\"?play={}\">{arrow}{}</a>",
                query_value(&other.name),
                Escaped(&other.name)
            );
        }
    }
    let _ = writeln!(page, " · <a href=\"{source}\" download>download</a></nav>");
    Some(page)
}

/// Writes tracks for the subtitles beside a film: `film.vtt` and `film.de.vtt` beside `film.mkv`.
fn write_subtitles(page: &mut String, listing: &Listing, name: &str) {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    for member in &listing.members {
        let between = member
            .name
            .strip_prefix(stem)
            .and_then(|rest| rest.strip_suffix(".vtt"));
        if let Some(language) = between.filter(|between| between.is_empty() || between.starts_with('.')) {
            let language = language.trim_start_matches('.');
            let label = if language.is_empty() { "subtitles" } else { language };
            let _ = write!(
                page,
                "<track kind=subtitles src=\"{}\" label=\"{}\">",
                href(member),
                Escaped(label)
            );
        }
    }
}

fn page_start(title: &str, heading: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{}</title><style>{STYLE}</style>\n<h1>{heading}</h1>\n",
        Escaped(title)
    )
}

/// The path as links to the collections that it is in.
fn breadcrumbs(path: &TreePath) -> String {
    let mut text = format!("<nav><a href=\"./{}\">millpond</a> /", "../".repeat(path.names().len()));
    for (depth, name) in path.names().iter().enumerate() {
        let up = "../".repeat(path.names().len() - depth - 1);
        let _ = write!(text, " <a href=\"./{up}\">{}</a> /", Escaped(name));
    }
    text.push_str("</nav>");
    text
}

fn query_value(value: &str) -> String {
    url::form_urlencoded::byte_serialize(value.as_bytes()).collect()
}

fn human_size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let index = (bytes.max(1).ilog2() / 10) as usize;
    match index {
        0 => format!("{bytes} B"),
        _ => format!("{:.1} {}", bytes as f64 / (1u64 << (10 * index)) as f64, units[index]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_as_people_count() {
        let mut names = vec!["b", "Episode 10", "episode 2", "Episode 02b", "a", "episode 1", "Ä"];
        names.sort_by(|left, right| natural_order(left, right));
        assert_eq!(
            names,
            ["a", "b", "episode 1", "episode 2", "Episode 02b", "Episode 10", "Ä"]
        );
    }

    #[test]
    fn sizes_are_told_as_people_read_them() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (u64::MAX, "16.0 EiB")] {
            assert_eq!(human_size(bytes), text);
        }
    }
}
