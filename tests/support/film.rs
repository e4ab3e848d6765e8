//! Bodies that tell on themselves: the byte at offset `n` is a function of `n` and the edition.

/// A synthetic file of any length; it costs no memory.
#[derive(Debug, Clone)]
pub(crate) struct Film {
    pub(crate) len: u64,
    pub(crate) etag: Option<String>,
    pub(crate) edition: u64,
}

impl Film {
    pub(crate) fn new(len: u64) -> Self {
        Self::edition(len, 1)
    }

    pub(crate) fn edition(len: u64, edition: u64) -> Self {
        Self {
            len,
            etag: Some(format!("\"edition-{edition}\"")),
            edition,
        }
    }

    pub(crate) fn with_etag(mut self, etag: Option<&str>) -> Self {
        self.etag = etag.map(str::to_owned);
        self
    }

    fn word(&self, index: u64) -> [u8; 8] {
        // splitmix64: neighbouring words have nothing in common.
        let mut x = index
            .wrapping_add(self.edition << 48)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)).to_le_bytes()
    }

    /// The bytes `start..end`.
    pub(crate) fn bytes(&self, start: u64, end: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity((end - start) as usize + 16);
        for index in start / 8..end.div_ceil(8) {
            bytes.extend_from_slice(&self.word(index));
        }
        let skip = (start % 8) as usize;
        bytes.drain(..skip);
        bytes.truncate((end - start) as usize);
        bytes
    }

    /// Panics with the offset of the first byte that is not the film's at `at`.
    #[track_caller]
    pub(crate) fn check(&self, at: u64, bytes: &[u8]) {
        for (index, chunk) in bytes.chunks(1 << 20).enumerate() {
            let from = at + ((index as u64) << 20);
            let wanted = self.bytes(from, from + chunk.len() as u64);
            if wanted != chunk {
                let wrong = wanted
                    .iter()
                    .zip(chunk)
                    .position(|(left, right)| left != right)
                    .unwrap_or(0);
                panic!(
                    "the byte at {} is not that of edition {}",
                    from + wrong as u64,
                    self.edition
                );
            }
        }
    }
}
