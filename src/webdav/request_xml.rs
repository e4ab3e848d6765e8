//! The XML bodies of PROPFIND and PROPPATCH, read. Pure.
//!
//! Names are resolved to their namespaces here and nowhere else. The value of a property is written anew, with each
//! element's namespace spelled out and text escaped, so that it means the same in any document that it is put into
//! later. A document type is refused: no entity but those of XML itself is known. Depth, count and length of names are
//! bounded, for names are repeated in the answer for every member.

use super::escape::Escaped;
use crate::directory::PropertyName;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{NamespaceResolver, ResolveResult};
use quick_xml::reader::NsReader;
use std::fmt::Write as _;

/// The properties that one request may name: a judgement. They are repeated for each member of a collection.
const MAX_NAMED: usize = 256;

/// The length of their names together, in bytes: a judgement.
const MAX_NAMES_BYTES: usize = 8 * 1024;

/// The deepest element: a judgement.
const MAX_DEPTH: usize = 32;

pub(super) const DAV: &str = "DAV:";

/// The properties that a PROPFIND asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RequestedProperties {
    All,
    Names,
    Named(Vec<PropertyName>),
}

/// One instruction of a PROPPATCH; its value is XML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PropertyInstruction {
    pub(super) name: PropertyName,
    /// The new value; `None` removes the property.
    pub(super) value: Option<String>,
}

/// Reads the body of a PROPFIND. No body asks for all properties (RFC 4918 §9.1).
pub(super) fn read_propfind(body: &[u8]) -> Result<RequestedProperties, String> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(RequestedProperties::All);
    }
    let mut reader = NsReader::from_reader(body);
    let (mut names, mut props, mut depth) = (Vec::new(), 0, 0);
    let mut wanted = None;
    loop {
        let (space, event) = reader
            .read_resolved_event()
            .map_err(|error| format!("the body is not XML: {error}"))?;
        let space = match space {
            ResolveResult::Bound(space) => space.as_ref().to_owned(),
            ResolveResult::Unbound => String::new(),
            ResolveResult::Unknown(prefix) => {
                return Err(format!("the body uses the prefix {prefix:?} without a namespace"));
            }
        };
        let (element, opens) = match &event {
            Event::Start(element) => (element, true),
            Event::Empty(element) => (element, false),
            Event::End(_) => {
                depth -= 1;
                if props > depth {
                    props = 0;
                }
                continue;
            }
            Event::DocType(_) => return Err("the body has a document type, which is not read".to_owned()),
            Event::Eof => break,
            _ => continue,
        };
        let local = element.local_name().as_ref().to_owned();
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        if local.is_empty() || !local.chars().all(plain) {
            return Err(format!("the body has {local:?}, which is no name"));
        }
        match local.as_str() {
            _ if props > 0 && depth == props => names.push((space, local)),
            _ if props > 0 => {}
            "prop" if space == DAV && opens => props = depth + 1,
            "allprop" if space == DAV => wanted = Some(RequestedProperties::All),
            "propname" if space == DAV => wanted = Some(RequestedProperties::Names),
            _ => {}
        }
        if opens {
            depth += 1;
        }
        let bytes: usize = names
            .iter()
            .map(|(space, name): &PropertyName| space.len() + name.len())
            .sum();
        if names.len() > MAX_NAMED || bytes > MAX_NAMES_BYTES || depth > MAX_DEPTH {
            return Err("the body names more properties than are looked at".to_owned());
        }
    }
    match depth {
        0 => Ok(wanted.unwrap_or(RequestedProperties::Named(names))),
        _ => Err("the body is not XML: it ends within an element".to_owned()),
    }
}

/// Reads the instructions of a PROPPATCH, in their order (RFC 4918 §9.2).
pub(super) fn read_proppatch(body: &[u8]) -> Result<Vec<PropertyInstruction>, String> {
    let mut reader = NsReader::from_reader(body);
    let (mut found, mut open) = (Vec::<PropertyInstruction>::new(), Vec::<PropertyName>::new());
    // `sets`: whether the properties that come are set or removed. `inside`: the depth of the property whose value is
    // being read.
    let (mut sets, mut inside) = (None, None);
    loop {
        let event = reader
            .read_event()
            .map_err(|error| format!("the body is not XML: {error}"))?;
        let resolver = reader.resolver();
        match event {
            Event::Start(element) => {
                let name = resolved_name(resolver, &element)?;
                match (inside, sets) {
                    (Some(_), _) => write_value(&mut found, |value| {
                        write_start_tag(value, &name, resolver, &element, false)
                    })?,
                    (None, Some(set)) if open.last().is_some_and(|above| is_dav(above, "prop")) => {
                        found.push(instruction(&name, set)?);
                        inside = Some(open.len());
                    }
                    (None, _) if is_dav(&name, "set") => sets = Some(true),
                    (None, _) if is_dav(&name, "remove") => sets = Some(false),
                    _ => {}
                }
                open.push(name);
            }
            Event::Empty(element) => {
                let name = resolved_name(resolver, &element)?;
                match (inside, sets) {
                    (Some(_), _) => write_value(&mut found, |value| {
                        write_start_tag(value, &name, resolver, &element, true)
                    })?,
                    (None, Some(set)) if open.last().is_some_and(|above| is_dav(above, "prop")) => {
                        found.push(instruction(&name, set)?);
                    }
                    _ => {}
                }
            }
            Event::End(_) => {
                let name = open.pop().unwrap_or_default();
                match inside {
                    Some(depth) if depth == open.len() => inside = None,
                    Some(_) => write_value(&mut found, |value| {
                        value.push_str(&format!("</{}>", name.1));
                        Ok(())
                    })?,
                    None => {}
                }
            }
            Event::Text(text) if inside.is_some() => write_text(&mut found, &text)?,
            Event::CData(text) if inside.is_some() => write_text(&mut found, &text)?,
            Event::GeneralRef(name) if inside.is_some() => {
                write_value(&mut found, |value| write_reference(value, &name))?;
            }
            Event::DocType(_) => return Err("the body has a document type, which is not read".to_owned()),
            Event::Eof => break,
            _ => {}
        }
        if found.len() > MAX_NAMED || open.len() > MAX_DEPTH {
            return Err("the body names more properties than are looked at".to_owned());
        }
    }
    match (open.is_empty(), found.is_empty()) {
        (false, _) => Err("the body is not XML: it ends within an element".to_owned()),
        (true, true) => Err("the body names no property; write <propertyupdate xmlns=\"DAV:\">".to_owned()),
        (true, false) => Ok(found),
    }
}

fn write_text(found: &mut [PropertyInstruction], text: &str) -> Result<(), String> {
    write_value(found, |value| {
        value.push_str(&Escaped(text).to_string());
        Ok(())
    })
}

/// A reference to a character or to one of XML's own entities; others are declared nowhere.
fn write_reference(value: &mut String, name: &str) -> Result<(), String> {
    let is_known = matches!(name, "amp" | "lt" | "gt" | "apos" | "quot") || name.starts_with('#');
    if !is_known {
        return Err(format!("the body has the entity {name:?}, which is not declared"));
    }
    value.push_str(&format!("&{name};"));
    Ok(())
}

fn is_dav((space, local): &PropertyName, name: &str) -> bool {
    space == DAV && local == name
}

fn instruction(name: &PropertyName, set: bool) -> Result<PropertyInstruction, String> {
    if name.0.len() + name.1.len() > MAX_NAMES_BYTES {
        return Err("the body names a property with a longer name than is kept".to_owned());
    }
    Ok(PropertyInstruction {
        name: name.clone(),
        value: set.then(String::new),
    })
}

/// Appends to the value of the last property; a removed one has no value.
fn write_value(
    found: &mut [PropertyInstruction],
    write: impl FnOnce(&mut String) -> Result<(), String>,
) -> Result<(), String> {
    match found.last_mut().and_then(|last| last.value.as_mut()) {
        Some(value) => write(value),
        None => Ok(()),
    }
}

/// Writes a start tag within a value, with its namespaces spelled out.
fn write_start_tag(
    value: &mut String,
    (space, local): &PropertyName,
    resolver: &NamespaceResolver,
    element: &BytesStart<'_>,
    closed: bool,
) -> Result<(), String> {
    // Writing to a string does not fail, here and below.
    let _ = write!(value, "<{local} xmlns=\"{}\"", Escaped(space));
    for (index, attribute) in element.attributes().enumerate() {
        let attribute = attribute.map_err(|error| format!("the body is not XML: {error}"))?;
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        let (bound, name) = resolver.resolve_attribute(attribute.key);
        let name = name.into_inner();
        check_name(name)?;
        let content = attribute
            .normalized_value(quick_xml::XmlVersion::Implicit1_0)
            .map_err(|error| format!("the body is not XML: {error}"))?;
        let content = Escaped(&content);
        let _ = match (attribute.key.prefix().map(|prefix| prefix.into_inner()), bound) {
            (None, _) => write!(value, " {name}=\"{content}\""),
            (Some("xml"), _) => write!(value, " xml:{name}=\"{content}\""),
            (Some(_), ResolveResult::Bound(space)) => {
                let space = Escaped(space.0);
                write!(value, " xmlns:a{index}=\"{space}\" a{index}:{name}=\"{content}\"")
            }
            (Some(prefix), _) => return Err(format!("the body uses the prefix {prefix:?} without a namespace")),
        };
    }
    value.push_str(if closed { "/>" } else { ">" });
    Ok(())
}

fn resolved_name(resolver: &NamespaceResolver, element: &BytesStart<'_>) -> Result<PropertyName, String> {
    let (space, local) = resolver.resolve_element(element.name());
    let local = local.into_inner();
    check_name(local)?;
    let space = match space {
        ResolveResult::Bound(space) => space.0.to_owned(),
        ResolveResult::Unbound => String::new(),
        ResolveResult::Unknown(prefix) => {
            return Err(format!("the body uses the prefix {prefix:?} without a namespace"));
        }
    };
    Ok((space, local.to_owned()))
}

fn check_name(local: &str) -> Result<(), String> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    match !local.is_empty() && local.chars().all(plain) {
        true => Ok(()),
        false => Err(format!("the body has {local:?}, which is no name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn these(names: &[(&str, &str)]) -> RequestedProperties {
        RequestedProperties::Named(
            names
                .iter()
                .map(|(space, name)| ((*space).to_owned(), (*name).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn propfind_bodies_of_clients_are_read() {
        let rclone = b"<?xml version=\"1.0\"?><d:propfind xmlns:d=\"DAV:\" xmlns:oc=\"http://owncloud.org/ns\"><d:prop><d:getetag/><oc:size/></d:prop></d:propfind>";
        assert_eq!(
            read_propfind(rclone),
            Ok(these(&[("DAV:", "getetag"), ("http://owncloud.org/ns", "size")]))
        );
        let plain = b"<propfind xmlns=\"DAV:\"><allprop/></propfind>";
        assert_eq!(read_propfind(plain), Ok(RequestedProperties::All));
        assert_eq!(
            read_propfind(b"<propfind xmlns='DAV:'><propname/></propfind>"),
            Ok(RequestedProperties::Names)
        );
        assert_eq!(read_propfind(b" \n"), Ok(RequestedProperties::All));
    }

    #[test]
    fn instructions_are_read_in_their_order_with_values_that_stand_alone() {
        let update = b"<D:propertyupdate xmlns:D='DAV:' xmlns:Z='z:'><D:set><D:prop><Z:a>1 &lt; <Z:b Z:k='\"' xml:lang='de'>2</Z:b><c/></Z:a><Z:d/></D:prop></D:set><D:remove><D:prop><Z:c/></D:prop></D:remove></D:propertyupdate>";
        let name = |local: &str| ("z:".to_owned(), local.to_owned());
        let value = "1 &lt; <b xmlns=\"z:\" xmlns:a0=\"z:\" a0:k=\"&quot;\" xml:lang=\"de\">2</b><c xmlns=\"\"/>";
        let wanted = [
            (name("a"), Some(value.to_owned())),
            (name("d"), Some(String::new())),
            (name("c"), None),
        ];
        let wanted = wanted.map(|(name, value)| PropertyInstruction { name, value });
        assert_eq!(read_proppatch(update), Ok(wanted.to_vec()));
        for body in [
            "",
            "<a/>",
            "<D:propertyupdate xmlns:D='DAV:'><D:set><D:prop><a>&x;</a></D:prop></D:set></D:propertyupdate>",
        ] {
            assert!(read_proppatch(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn a_malformed_or_expanding_propfind_is_refused() {
        for body in [
            "<propfind",
            "<a><b></a>",
            "<propfind xmlns='DAV:'>",
            "<x:propfind/>",
            "<!DOCTYPE a [<!ENTITY b 'c'>]><propfind xmlns='DAV:'/>",
        ] {
            assert!(read_propfind(body.as_bytes()).is_err(), "{body}");
        }
        // Few bytes of request would become many of answer, once for each member.
        let long = format!(
            "<propfind xmlns='DAV:' xmlns:z='{}'><prop>{}</prop></propfind>",
            "n".repeat(30_000),
            "<z:a/>".repeat(100)
        );
        assert!(read_propfind(long.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_xml_bodies_do_not_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_propfind(&body);
            let _ = read_proppatch(&body);
        }
    }

    #[test]
    fn fuzzed_bodies_are_read_or_refused() {
        crate::fuzzing::fuzz("webdav_body", |body| {
            let _ = (read_propfind(body), read_proppatch(body));
        });
    }
}
