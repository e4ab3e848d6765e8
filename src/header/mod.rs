//! RFC 9110 fields, read and printed. Pure: text in, values out.
//!
//! Everything hostile in a header is met here and becomes a value or is ignored as the RFC says;
//! the layers above never look at raw text again.

mod cache_control;
mod cache_status;
mod content_range;
mod date;
mod digest;
mod forwarding;
mod head_size;
mod precondition;
mod prefer;
mod range;
mod text;
mod upload;
mod validator;

pub use cache_control::{CacheControl, DirectiveScope, SURROGATE};
pub use cache_status::{CacheStatus, Forwarded};
pub use content_range::ContentRange;
pub use date::{parse_date, print_date};
pub(crate) use digest::byte_sequence;
pub use digest::{Claim, claim, repr_digest, stated_sha256, wants_sha256};
pub use forwarding::{end_to_end, is_forwarding};
pub use head_size::{MAX_REPLY_HEAD_BYTES, head_bytes};
pub use precondition::{Conditions, Current, Known, MalformedCondition, Preconditions, Verdict};
pub use prefer::{preferred_wait, prefers_async};
pub use range::{FirstWanted, MAX_RANGES, Selection, first_wanted, select, select_one};
pub use text::{codes_content, text_of, value_of};
pub use upload::{boolean, count};
pub use validator::{EntityTag, OverlapValidator, StrongValidator, Validators};

/// Splits a list field at its commas, but not inside quoted strings; parts come trimmed, never empty.
pub(crate) fn list_members(field: &str) -> impl Iterator<Item = &str> {
    let mut rest = field;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let cut = list_cut(rest);
            let member = rest[..cut].trim();
            rest = rest.get(cut + 1..).unwrap_or("");
            if !member.is_empty() {
                return Some(member);
            }
        }
        None
    })
}

fn list_cut(text: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    text.len()
}
