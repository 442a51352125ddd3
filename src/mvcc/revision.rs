//! Revisions, and their form as keys of bucket `Key`.
//!
//! ```text
//! main, 8 bytes big-endian | '_' | sub, 8 bytes big-endian | 't' only on a tombstone
//! ```
//!
//! Invariant: byte order of the keys is the order of the revisions.

use bytes::Bytes;

use crate::kernel::{DiskError, DiskErrorKind};

const SEPARATOR: u8 = b'_';
const TOMBSTONE: u8 = b't';
const PLAIN_BYTES: usize = 17;
const MARKED_BYTES: usize = 18;

/// A point in the history: the transaction, and the change within it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Revision {
    /// Which transaction; clients see this number only.
    pub main: i64,
    /// Which change of the transaction, from zero.
    pub sub: u32,
}

/// What a record is stored under.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct RecordKey {
    /// When the change happened.
    pub revision: Revision,
    /// Whether the change removed its key.
    pub tombstone: bool,
}

/// A record key as bytes, on the stack.
#[derive(Clone, Copy, Debug)]
pub(super) struct EncodedKey {
    bytes: [u8; MARKED_BYTES],
    len: usize,
}

impl Revision {
    /// A revision by its two numbers.
    pub const fn new(main: i64, sub: u32) -> Self {
        Self { main, sub }
    }

    /// The smallest record key of a main revision.
    pub(super) fn floor(main: i64) -> EncodedKey {
        RecordKey::put(Self::new(main, 0)).encode()
    }
}

impl RecordKey {
    /// The key of a put.
    pub const fn put(revision: Revision) -> Self {
        Self {
            revision,
            tombstone: false,
        }
    }

    /// The key of a deletion.
    pub const fn tombstone(revision: Revision) -> Self {
        Self {
            revision,
            tombstone: true,
        }
    }

    /// The stored form.
    pub fn encode(self) -> EncodedKey {
        assert!(self.revision.main >= 0, "a revision is never negative");
        let mut bytes = [TOMBSTONE; MARKED_BYTES];
        bytes[..8].copy_from_slice(&self.revision.main.to_be_bytes());
        bytes[8] = SEPARATOR;
        bytes[9..PLAIN_BYTES].copy_from_slice(&u64::from(self.revision.sub).to_be_bytes());
        let len = if self.tombstone {
            MARKED_BYTES
        } else {
            PLAIN_BYTES
        };
        EncodedKey { bytes, len }
    }

    /// Reads the stored form; anything else is corruption.
    pub fn decode(bytes: &[u8]) -> Result<Self, DiskError> {
        Self::parse(bytes).ok_or_else(|| corrupt(format!("record key {bytes:?} is no revision")))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let tombstone = match bytes.len() {
            PLAIN_BYTES => false,
            MARKED_BYTES if bytes[PLAIN_BYTES] == TOMBSTONE => true,
            _ => return None,
        };
        if bytes[8] != SEPARATOR {
            return None;
        }
        let main = u64::from_be_bytes(bytes[..8].try_into().ok()?);
        let sub = u64::from_be_bytes(bytes[9..PLAIN_BYTES].try_into().ok()?);
        let revision = Revision {
            main: i64::try_from(main).ok()?,
            sub: u32::try_from(sub).ok()?,
        };
        Some(Self {
            revision,
            tombstone,
        })
    }
}

impl EncodedKey {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The bytes, owned.
    pub fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self.as_slice())
    }
}

/// What was read is not what was written.
pub(super) fn corrupt(detail: String) -> DiskError {
    DiskError::new(DiskErrorKind::Corrupt, detail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_key() -> impl Strategy<Value = RecordKey> {
        let main = prop_oneof![0..300i64, 0..=i64::MAX];
        (main, any::<u32>(), any::<bool>()).prop_map(|(main, sub, tombstone)| RecordKey {
            revision: Revision::new(main, sub),
            tombstone,
        })
    }

    proptest! {
        // Goal: nothing is lost, and bytes sort as revisions do.
        #[test]
        fn keys_come_back_and_keep_their_order(a in any_key(), b in any_key()) {
            let (left, right) = (a.encode(), b.encode());
            prop_assert_eq!(RecordKey::decode(left.as_slice()).unwrap(), a);
            prop_assert_eq!(left.as_slice().cmp(right.as_slice()), a.cmp(&b));
        }

        // Goal: no bytes panic, and what is accepted has one form only.
        #[test]
        fn foreign_bytes_are_refused_or_canonical(
            bytes in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            if let Ok(key) = RecordKey::decode(&bytes) {
                prop_assert_eq!(&key.encode().to_bytes()[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn damaged_keys_are_corruption() {
        let good = RecordKey::tombstone(Revision::new(5, 1)).encode();
        for (at, byte) in [(0, 0x80), (8, b'-'), (9, 1), (17, b'x')] {
            let mut bytes = good.as_slice().to_vec();
            bytes[at] = byte;
            let error = RecordKey::decode(&bytes).expect_err("one byte is wrong");
            assert_eq!(error.kind, DiskErrorKind::Corrupt);
        }
    }
}
