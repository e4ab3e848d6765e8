//! PROPPATCH (RFC 4918 §9.2): properties set and removed, all of the instructions or none.
//!
//! Of the live properties the time of the last change can be set, under the three names that clients use for it; the others
//! are the file system's own, and protected. All other properties are kept as they come (`directory::dead_properties`).

use super::escape::Escaped;
use super::locked_writer::LockScope;
use super::multistatus::{ALLPROP, DOCUMENT_END, OTHER_LIVE, document_start, multistatus, write_empty};
use super::request_xml::{self, DAV, PropertyInstruction};
use super::{DirectoryService, problem_of};
use crate::directory::{DirectoryError, PrereadDigest, PropertyPatch, TreePath, TreeWriter};
use crate::header::{Preconditions, parse_date};
use crate::proxy::Problem;
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

/// The namespace of Windows' `Win32LastModifiedTime`. The other two names for a file's time are the RFC's
/// `getlastmodified` and rclone's `lastmodified`, both in `DAV:`.
const MICROSOFT: &str = "urn:schemas-microsoft-com:";

impl DirectoryService {
    /// The answer to PROPPATCH: all instructions are carried out, or none (RFC 4918 §9.2).
    pub(super) async fn proppatch(
        &self,
        path: &TreePath,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<HttpResponse, Problem> {
        let conditions = super::put_request::read_preconditions(headers)?;
        self.require_precondition(&conditions)?;
        let instructions = match request_xml::read_proppatch(body) {
            Ok(instructions) => instructions,
            Err(mistake) => return Err(Problem::of_origin(StatusCode::BAD_REQUEST, mistake)),
        };
        let patches: Vec<_> = instructions.iter().map(patches_of).collect();
        let href = format!("{}{path}", self.settings.prefix);
        if patches.iter().any(Option::is_none) {
            let verdicts = patches.iter().map(|patch| match patch {
                Some(_) => InstructionStatus::Dependent,
                None => InstructionStatus::Protected,
            });
            return Ok(multistatus(proppatch_document(&href, &instructions, verdicts)));
        }
        let (of, locked) = (path.clone(), LockScope::Paths(vec![path.clone()]));
        let all: Vec<PropertyPatch> = patches.into_iter().flatten().flatten().collect();
        let work = move |writer: &TreeWriter, preread: &PrereadDigest, conditions: &Preconditions, (): &mut ()| {
            writer.patch_properties(&of, &all, conditions, preread)
        };
        let locked_writer = self.locked_writer().map_err(|error| problem_of(&error))?;
        let verdict = match locked_writer.write(path, &locked, conditions, (), work).await {
            Ok(()) => InstructionStatus::Done,
            Err(DirectoryError::NoRoom) => InstructionStatus::NoRoom,
            Err(error) => return Err(problem_of(&error)),
        };
        let verdicts = instructions.iter().map(|_| verdict);
        Ok(multistatus(proppatch_document(&href, &instructions, verdicts)))
    }
}

/// The status of one instruction in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InstructionStatus {
    Done,
    Protected,
    /// Another instruction of the request has failed, so this one was not carried out.
    Dependent,
    NoRoom,
}

impl InstructionStatus {
    const EACH: [Self; 4] = [Self::Done, Self::Protected, Self::Dependent, Self::NoRoom];

    fn status(self) -> &'static str {
        match self {
            Self::Done => "200 OK",
            Self::Protected => "403 Forbidden",
            Self::Dependent => "424 Failed Dependency",
            Self::NoRoom => "507 Insufficient Storage",
        }
    }
}

/// The patches that an instruction makes; `None` where the property is live and protected.
fn patches_of(PropertyInstruction { name, value }: &PropertyInstruction) -> Option<Vec<PropertyPatch>> {
    let seconds = |text: &str| {
        let date = parse_date(text).map(|date| match date.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
        });
        date.or_else(|| text.trim().parse().ok())
    };
    let modified = value.as_deref().and_then(seconds).map(PropertyPatch::Modified);
    let keep = match value {
        Some(value) => PropertyPatch::Set(name.clone(), value.clone()),
        None => PropertyPatch::Remove(name.clone()),
    };
    match (name.0.as_str(), name.1.as_str()) {
        (DAV, "getlastmodified" | "lastmodified") => modified.map(|patch| vec![patch]),
        (MICROSOFT, "Win32LastModifiedTime") => Some(modified.into_iter().chain([keep]).collect()),
        (DAV, name) if ALLPROP.contains(&name) || OTHER_LIVE.contains(&name) => None,
        _ => Some(vec![keep]),
    }
}

fn proppatch_document(
    href: &str,
    instructions: &[PropertyInstruction],
    verdicts: impl Iterator<Item = InstructionStatus>,
) -> String {
    let verdicts: Vec<InstructionStatus> = verdicts.collect();
    let mut text = document_start();
    let _ = write!(text, "<D:response><D:href>{}</D:href>", Escaped(href));
    for verdict in InstructionStatus::EACH {
        let named = instructions
            .iter()
            .zip(&verdicts)
            .filter(|(_, other)| **other == verdict);
        let names: Vec<_> = named.map(|(instruction, _)| &instruction.name).collect();
        if names.is_empty() {
            continue;
        }
        text.push_str("<D:propstat><D:prop>");
        names.into_iter().for_each(|name| write_empty(&mut text, name));
        let _ = write!(text, "</D:prop><D:status>HTTP/1.1 {}</D:status>", verdict.status());
        if verdict == InstructionStatus::Protected {
            text.push_str("<D:error><D:cannot-modify-protected-property/></D:error>");
        }
        text.push_str("</D:propstat>");
    }
    text.push_str("</D:response>\n");
    text.push_str(DOCUMENT_END);
    text
}
