//! The body of a request as it comes: in batches, and summed on the way.
//!
//! A batch is worth a hop to a thread that may wait for the disk. A body that breaks off, or is silent for too long, ends
//! with the problem to be answered, after the pieces before it were given: what came of an upload counts.

use crate::crypto::digest::{Context, SHA256, SHA512};
use crate::directory::{DirectoryError, ReceivedBody};
use crate::header::Claim;
use crate::proxy::Problem;
use actix_http::Payload;
use actix_http::error::PayloadError;
use actix_web::http::StatusCode;
use bytes::Bytes;
use futures::StreamExt;
use std::time::Duration;

/// The bytes of a body that are gathered for one write: a judgement. More would hold more memory for each connection,
/// fewer would hop to a thread more often.
const BATCH_BYTES: usize = 1 << 20;

/// The longest silence of a client that sends: a judgement.
const IDLE: Duration = Duration::from_secs(300);

/// A request body in batches that are each worth a hop to a thread. `next` can be cancelled without loss: what has
/// come stays in the batch.
pub(super) struct BodyBatches {
    payload: Payload,
    total: u64,
    length: Option<u64>,
    /// Pieces that have come and were not taken yet.
    batch: Vec<Bytes>,
    bytes: usize,
    /// The end of the body, told only after the pieces before it.
    ended: Option<Result<(), Problem>>,
}

impl BodyBatches {
    pub(super) fn new(payload: Payload, length: Option<u64>) -> Self {
        Self {
            payload,
            total: 0,
            length,
            batch: Vec::new(),
            bytes: 0,
            ended: None,
        }
    }

    /// The next batch; `None` at the end. `allows` is asked with the number of bytes so far.
    pub(super) async fn next(
        &mut self,
        allows: impl Fn(u64) -> Result<(), Problem>,
    ) -> Result<Option<Vec<Bytes>>, Problem> {
        while self.ended.is_none() && self.bytes < BATCH_BYTES {
            match actix_web::rt::time::timeout(IDLE, self.payload.next()).await {
                Ok(Some(Ok(piece))) => {
                    let total = self.total + piece.len() as u64;
                    if let Err(problem) = allows(total) {
                        self.ended = Some(Err(problem));
                        break;
                    }
                    self.total = total;
                    self.bytes += piece.len();
                    self.batch.push(piece);
                }
                Ok(Some(Err(error))) => self.ended = Some(Err(self.cut(&error))),
                Ok(None) if self.length.is_some_and(|length| length != self.total) => {
                    self.ended = Some(Err(self.cut(&PayloadError::Incomplete(None))));
                }
                Ok(None) => self.ended = Some(Ok(())),
                Err(_) => {
                    let what = "nothing more of the body came for five minutes";
                    self.ended = Some(Err(Problem::of_origin(StatusCode::REQUEST_TIMEOUT, what)));
                }
            }
        }
        match self.rest() {
            batch if !batch.is_empty() => Ok(Some(batch)),
            _ => self.ended.take().unwrap_or(Ok(())).map(|()| None),
        }
    }

    /// Takes the pieces that have come.
    pub(super) fn rest(&mut self) -> Vec<Bytes> {
        self.bytes = 0;
        std::mem::take(&mut self.batch)
    }

    fn cut(&self, error: &PayloadError) -> Problem {
        let what = format!("the body did not come whole ({error}): {} bytes came", self.total);
        Problem::of_origin(StatusCode::BAD_REQUEST, what)
    }
}

/// The running digests that a client's claims are checked against. A whole file's SHA-256 is taken by `IncomingBody`
/// in any case.
pub(super) struct DigestCheck {
    claims: Vec<Claim>,
    sha256: Option<Context>,
    sha512: Option<Context>,
}

impl DigestCheck {
    pub(super) fn new(claims: &[Claim]) -> Self {
        let wanted = claims.iter().any(|claim| matches!(claim, Claim::Sha512(_)));
        Self {
            claims: claims.to_vec(),
            sha256: None,
            sha512: wanted.then(|| Context::new(&SHA512)),
        }
    }

    /// Digests of bytes that are not a whole file, so their SHA-256 is taken here as well.
    pub(super) fn of_content(claims: &[Claim]) -> Self {
        let wanted = claims.iter().any(|claim| matches!(claim, Claim::Sha256(_)));
        Self {
            sha256: wanted.then(|| Context::new(&SHA256)),
            ..Self::new(claims)
        }
    }

    /// Digests of a body that is already received: it is read again, if a claim needs more than its SHA-256.
    pub(super) fn of(claims: &[Claim], received: &ReceivedBody) -> Result<Self, DirectoryError> {
        let mut check = Self::new(claims);
        if check.sha512.is_some() {
            received.each_block(|block| check.update(block))?;
        }
        Ok(check)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        for sum in [&mut self.sha256, &mut self.sha512].into_iter().flatten() {
            sum.update(bytes);
        }
    }

    /// Fails unless every claim about the body holds.
    pub(super) fn verify(self, received: &ReceivedBody) -> Result<(), DirectoryError> {
        self.compare(&received.digest)
    }

    /// The same for the bytes that came with one request.
    pub(super) fn verify_content(mut self) -> Result<(), DirectoryError> {
        let sha256 = self.sha256.take().map(Context::finish);
        self.compare(sha256.as_ref().map_or(&[], |sum| sum.as_ref()))
    }

    fn compare(self, sha256: &[u8]) -> Result<(), DirectoryError> {
        let sha512 = self.sha512.map(Context::finish);
        for claim in &self.claims {
            let (holds, name) = match claim {
                Claim::Sha256(claimed) => (claimed == sha256, "sha-256"),
                Claim::Sha512(claimed) => {
                    let sum = sha512.as_ref().map(|sum| sum.as_ref());
                    (Some(claimed.as_slice()) == sum, "sha-512")
                }
            };
            if !holds {
                return Err(DirectoryError::WrongDigest(name));
            }
        }
        Ok(())
    }
}
