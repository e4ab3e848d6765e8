//! Records of streams, beside the objects that are their logs.
//!
//! A stream's record is a value of the catalog's own tree, `[version byte] + postcard`, under the stream's id. It names
//! its log by id and generation and says how far that had come when the record was written; after a crash the log
//! itself tells (`live::streams`). Records are flushed as they are put: the id was told to a client, which may come
//! back with it. The log of a stream that has ended whole becomes the object of its URL by a copy, so readers of the
//! log are not disturbed.

use crate::api::ObjectState;
use crate::key::ObjectKey;
use crate::store::error::StoreError;
use crate::store::object::Object;
use crate::store::object::progress::Broken;
use crate::store::store::Store;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The first byte of a record: the version of its shape, frozen once released; another shape takes another number.
const VERSION: u8 = 2;

/// The version before, which lacks the digest of the request's body at its end.
const VERSION_WITHOUT_BODY: u8 = 1;

/// A stream as it was when it was last written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRecord {
    /// The canonical URL that was asked.
    pub url: String,
    /// The method.
    pub method: String,
    /// The request asked that it outlive its client.
    pub detached: bool,
    /// Tells one request from another.
    pub request: Option<[u8; 32]>,
    /// When it began, in seconds since 1970.
    pub started: u64,
    /// How far it had come, as a number.
    pub state: u8,
    /// Why it ended, in words.
    pub why: Option<String>,
    /// The status of the upstream's reply.
    pub code: Option<u16>,
    /// When it ended, in seconds since 1970.
    pub ended: Option<u64>,
    /// The log has gone.
    pub gone: bool,
    /// The id and generation of the object that is its log.
    pub log: Option<([u8; 16], u64)>,
    /// The first byte of the log.
    pub first: u64,
    /// The end of the log.
    pub end: u64,
    /// The SHA-256 of the request's body, where all of it was sent.
    pub body: Option<[u8; 32]>,
}

/// A log is copied in pieces of this many bytes: the block that bodies are read in
/// (`docs/decisions/0003-block-size.md`).
const PIECE_BYTES: usize = 256 * 1024;

impl Store {
    /// Makes the ordinary object of `key` from a log that has come to its end: for a blocking thread. The log stays.
    ///
    /// # Errors
    /// Where the disk refuses, or has no room for both.
    pub fn copy(&self, log: &Object, key: &ObjectKey) -> Result<Arc<Object>, StoreError> {
        let length = log.length().unwrap_or_default();
        let mut representation = log.representation();
        representation.variant = None;
        let created = self.create(key, representation)?;
        let object = created.object;
        let copied = (|| {
            let mut at = 0;
            while at < length {
                let piece = log.read_blocking(at, PIECE_BYTES)?;
                self.write(&object, at, &[&piece])?;
                at += piece.len() as u64;
            }
            object
                .presence
                .end_at(length, log.presence.state() == ObjectState::Unverified);
            object.commit()
        })();
        // Whatever became of the copy: the generation before has left the map, and nothing more comes to it.
        if let Some(replaced) = created.replaced {
            replaced.presence.break_for_good(Broken::Superseded);
        }
        match copied {
            Ok(()) => Ok(object),
            Err(error) => {
                self.remove(&object);
                Err(error)
            }
        }
    }

    /// Writes a stream down: for a blocking thread.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn put_stream(&self, id: [u8; 16], record: &StreamRecord) -> Result<(), StoreError> {
        let bytes = postcard::to_extend(record, vec![VERSION]).map_err(|error| StoreError::Damaged {
            what: format!("a stream does not encode: {error}"),
        })?;
        self.shared.catalog.put_stream(id, bytes)?;
        self.shared.catalog.flush()
    }

    /// Forgets a stream: for a blocking thread.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn remove_stream(&self, id: [u8; 16]) -> Result<(), StoreError> {
        self.shared.catalog.remove_stream(id)
    }

    /// All streams that are written down. What does not read is passed over, aloud.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn streams(&self) -> Result<Vec<([u8; 16], StreamRecord)>, StoreError> {
        let all = self.shared.catalog.streams()?;
        let known = all.iter().filter_map(|(id, bytes)| {
            let record = decoded(bytes);
            if record.is_none() {
                tracing::error!("passing over the record of a stream that does not read");
            }
            Some((<[u8; 16]>::try_from(id.as_ref()).ok()?, record?))
        });
        Ok(known.collect())
    }
}

/// The record that these bytes are; `None` where they are none.
fn decoded(bytes: &[u8]) -> Option<StreamRecord> {
    match bytes.split_first()? {
        (&VERSION, rest) => postcard::from_bytes(rest).ok(),
        (&VERSION_WITHOUT_BODY, rest) => {
            // A zero is how `None` is written; all before it has the same shape.
            let mut bytes = rest.to_vec();
            bytes.push(0);
            postcard::from_bytes(&bytes).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_version_1_is_read_without_the_digest_of_its_body() {
        let fixture = include_str!("../../../tests/fixtures/stream-0001.txt");
        let line = fixture.lines().find(|line| !line.starts_with('#')).expect("a record");
        let bytes: Vec<u8> = (0..line.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&line[at..at + 2], 16).expect("hexadecimal"))
            .collect();
        let record = decoded(&bytes).expect("decodes");
        assert_eq!((&*record.url, &*record.method), ("http://h/generate", "POST"));
        assert_eq!(
            (record.request, record.state, record.code),
            (Some([7; 32]), 2, Some(200))
        );
        assert_eq!((record.log, record.first, record.end), (Some(([9; 16], 77)), 10, 1000));
        assert_eq!(record.body, None);
        let again = postcard::to_extend(&record, vec![VERSION]).expect("encodes");
        assert_eq!(decoded(&again), Some(record));
    }
}
