//! Pages that servers make of a collection for people: nginx, Apache, lighttpd, Python's `http.server`, rclone.
//!
//! A page is a listing where its heading says so in that server's words, and where it ends as HTML does: one that was cut in
//! the middle of its members has no `</html>`. A login page, a page of an error or an `index.html` has no such heading.
//!
//! Only `href` is believed. What is shown is cut to some width, and escaped or not; sizes are rounded and times are of a
//! zone that is not told. Links that lead to the parent, to another order of the same page or elsewhere are no members, and
//! neither is one that lies deeper than one level.

use super::{ListedMember, ListingFault, ListingPage, PageBuilder, fault};
use crate::config::ListingFormat;
use crate::directory::{MemberKind, TreePath};
use html5gum::{Token, Tokenizer};
use url::Url;

/// The marks that tell a server's listing from any other page.
struct Signature {
    /// The start of the title.
    title: &'static str,
    /// The element of the heading, which begins like the title.
    heading: &'static str,
    /// An element that only that server's pages have; empty for none.
    has: &'static str,
    /// Whether the page has a document type.
    doctype: bool,
    /// The start of a link that each page has, to another order of itself; empty for none.
    sorts: &'static str,
}

fn signature(format: ListingFormat) -> Signature {
    match format {
        ListingFormat::NginxHtml => Signature {
            title: "Index of ",
            heading: "h1",
            has: "pre",
            doctype: false,
            sorts: "",
        },
        ListingFormat::LighttpdHtml => Signature {
            title: "Index of ",
            heading: "h2",
            has: "table",
            doctype: true,
            sorts: "",
        },
        ListingFormat::PythonHtml => Signature {
            title: "Directory listing for ",
            heading: "h1",
            has: "ul",
            doctype: true,
            sorts: "",
        },
        // The template is that of old Caddys, which print it to all who do not ask for JSON.
        ListingFormat::RcloneHtml => Signature {
            title: "/",
            heading: "h1",
            has: "svg",
            doctype: true,
            sorts: "?sort=",
        },
        _ => Signature {
            title: "Index of ",
            heading: "h1",
            has: "",
            doctype: true,
            sorts: "",
        },
    }
}

/// The findings on a page.
#[derive(Debug, Default)]
struct Page {
    has_doctype: bool,
    title: String,
    heading: String,
    has_element: bool,
    ends: bool,
    links: Vec<String>,
}

pub(super) fn read(format: ListingFormat, text: &str, url: &Url) -> Result<ListingPage, ListingFault> {
    let signature = signature(format);
    let page = parse(text, &signature);
    let is_titled = |text: &str| text.trim_start().starts_with(signature.title);
    let is_one = is_titled(&page.title) && is_titled(&page.heading);
    let is_of_server = page.has_doctype == signature.doctype
        && (page.has_element || signature.has.is_empty())
        && (signature.sorts.is_empty() || page.links.iter().any(|link| link.starts_with(signature.sorts)));
    if !is_one || !is_of_server {
        return Err(fault(format, "it is a page of another kind"));
    }
    if !page.ends {
        return Err(ListingFault::Truncated {
            what: "the page has no end",
        });
    }
    let mut builder = PageBuilder::default();
    for link in &page.links {
        add(&mut builder, link, url);
    }
    Ok(builder.finish())
}

fn parse(text: &str, signature: &Signature) -> Page {
    let mut page = Page::default();
    // The element whose text is being read.
    let mut within = String::new();
    for token in Tokenizer::new(text).flatten() {
        match token {
            Token::Doctype(_) => page.has_doctype = true,
            Token::StartTag(tag) => {
                let name = String::from_utf8_lossy(&tag.name).into_owned();
                page.has_element |= name == signature.has;
                if name == "a"
                    && let Some(href) = tag.attributes.get(&b"href"[..])
                {
                    page.links.push(String::from_utf8_lossy(href).into_owned());
                }
                // A link within the heading leaves it the heading.
                if name != "a" {
                    within = name;
                }
            }
            Token::EndTag(tag) => {
                page.ends = *tag.name == b"html"[..];
                if *tag.name != b"a"[..] {
                    within.clear();
                }
            }
            Token::String(text) => {
                let text = String::from_utf8_lossy(&text);
                if !text.trim().is_empty() {
                    page.ends = false;
                }
                if within == "title" {
                    page.title.push_str(&text);
                } else if within == signature.heading {
                    page.heading.push_str(&text);
                }
            }
            Token::Comment(_) | Token::Error(_) => {}
        }
    }
    page
}

/// Adds what a link leads to, where that is a member.
fn add(builder: &mut PageBuilder, link: &str, url: &Url) {
    let Some(rest) = beneath(link.trim(), url) else { return };
    if rest.contains(['?', '#']) {
        return;
    }
    let (segment, kind) = match rest.strip_suffix('/') {
        Some(segment) => (segment, MemberKind::Collection),
        None => (rest, MemberKind::File),
    };
    if segment.is_empty() || segment == "." || segment == ".." || segment.contains('/') {
        return;
    }
    match TreePath::decode_name(segment) {
        Ok(name) => builder.add(ListedMember {
            name,
            kind,
            size: None,
            modified: None,
            tag: None,
        }),
        Err(why) => builder.leave_out(segment, &why),
    }
}

/// The spelled name that a reference has beneath the collection; `None` where it leads elsewhere.
fn beneath<'a>(link: &'a str, url: &Url) -> Option<&'a str> {
    let relative = link.strip_prefix("./").unwrap_or(link);
    // A first segment with a colon in it would be a scheme (RFC 3986 §4.2); a server that means a name writes `./` before it.
    if let Some((scheme, _)) = link.split_once(':')
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        return link.strip_prefix(url.as_str());
    }
    match link.starts_with('/') {
        true => link.strip_prefix(url.path()),
        false => Some(relative),
    }
}
