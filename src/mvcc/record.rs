//! The records of bucket `Key`: protobuf `KeyValue` as etcd stores it. A tombstone holds its key
//! and nothing else.

use bytes::{Bytes, BytesMut};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};

use super::revision::{RecordKey, corrupt};
use crate::{kernel::DiskError, pb::mvccpb::KeyValue};

/// What the index and filters need of a record; the value is skipped, not copied.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Header<'a> {
    /// The key.
    pub key: &'a [u8],
    /// When the key came into being.
    pub created: i64,
    /// The main revision of this change.
    pub modified: i64,
    /// Puts since the key came into being, this one included.
    pub version: i64,
    /// The attached lease; zero is none.
    pub lease: i64,
}

/// Bytes of a sheet.
const SHEET_BYTES: usize = 64 * 1024;
/// Larger records have memory of their own.
const SHARED_BYTES_MAX: usize = SHEET_BYTES / 16;

/// Where records are written until they are committed: one behind the other in pieces of memory
/// that each live as long as the last record in them. Records come and go together, batch by batch,
/// and memory of its own for each would be fetched into the processor's caches twice more.
#[derive(Default, Debug)]
pub(super) struct Sheet {
    /// What is left of the piece.
    rest: BytesMut,
}

impl Sheet {
    /// The stored form of a put: what it is stored under, and the record.
    pub fn record(&mut self, at: RecordKey, kv: &KeyValue) -> (Bytes, Bytes) {
        let at = at.encode();
        let (at, record_bytes) = (at.as_slice(), kv.encoded_len());
        if record_bytes > SHARED_BYTES_MAX {
            return (Bytes::copy_from_slice(at), encode(kv));
        }
        if self.rest.capacity() < at.len() + record_bytes {
            self.rest = BytesMut::with_capacity(SHEET_BYTES);
        }
        self.rest.extend_from_slice(at);
        kv.encode_raw(&mut self.rest);
        let mut both = self.rest.split().freeze();
        (both.split_to(at.len()), both)
    }
}

/// The stored form of a put.
pub(super) fn encode(kv: &KeyValue) -> Bytes {
    Bytes::from(kv.encode_to_vec())
}

/// The stored form of a deletion.
pub(super) fn encode_tombstone(key: &Bytes) -> Bytes {
    let kv = KeyValue {
        key: key.clone(),
        ..KeyValue::default()
    };
    encode(&kv)
}

/// The whole record. Key and value share the bytes given.
pub(super) fn decode(record: Bytes) -> Result<KeyValue, DiskError> {
    KeyValue::decode(record).map_err(broken)
}

/// The record without its value.
pub(super) fn header(record: &[u8]) -> Result<Header<'_>, DiskError> {
    parse(record).map_err(broken)
}

fn parse(mut rest: &[u8]) -> Result<Header<'_>, DecodeError> {
    let mut header = Header::default();
    while let [tag, behind @ ..] = rest {
        // The fields in their usual form, told by one byte, without the general decoder.
        match (tag, behind) {
            (0x0a, [len @ 0..0x80, behind @ ..]) if usize::from(*len) <= behind.len() => {
                (header.key, rest) = behind.split_at(usize::from(*len));
                continue;
            }
            (0x10 | 0x18 | 0x20, _) if let Some((number, behind)) = short_varint(behind) => {
                match tag {
                    0x10 => header.created = number,
                    0x18 => header.modified = number,
                    _ => header.version = number,
                }
                rest = behind;
                continue;
            }
            (0x2a, _)
                if let Some((len, behind)) = short_varint(behind)
                    && let Ok(len) = usize::try_from(len)
                    && let Some((_, behind)) = behind.split_at_checked(len) =>
            {
                rest = behind;
                continue;
            }
            (_, _) => {}
        }
        let (field, wire) = decode_key(&mut rest)?;
        match (field, wire) {
            (1, WireType::LengthDelimited) => {
                let len = decode_varint(&mut rest)?;
                let whole = rest;
                let at = usize::try_from(len)
                    .ok()
                    .filter(|len| *len <= whole.len())
                    .ok_or_else(not_one)?;
                (header.key, rest) = whole.split_at(at);
            }
            (2, WireType::Varint) => header.created = decode_varint(&mut rest)? as i64,
            (3, WireType::Varint) => header.modified = decode_varint(&mut rest)? as i64,
            (4, WireType::Varint) => header.version = decode_varint(&mut rest)? as i64,
            (6, WireType::Varint) => header.lease = decode_varint(&mut rest)? as i64,
            (1..=4 | 6, _) => return Err(not_one()),
            (5, wire) if wire != WireType::LengthDelimited => return Err(not_one()),
            _ => skip_field(wire, field, &mut rest, DecodeContext::default())?,
        }
    }
    Ok(header)
}

/// A varint of at most eight bytes, and what is behind it; nothing near the end of a record.
#[inline(always)]
fn short_varint(bytes: &[u8]) -> Option<(i64, &[u8])> {
    const LAST: u64 = 0x8080_8080_8080_8080;
    let word = u64::from_le_bytes(*bytes.first_chunk()?);
    let ends = !word & LAST;
    if ends == 0 {
        return None;
    }
    let len = ends.trailing_zeros() as usize / 8 + 1;
    // Seven bits of each byte up to the last, drawn together in pairs.
    let bits = word & (ends ^ (ends - 1)) & !LAST;
    let bits = (bits & 0x007f_007f_007f_007f) | ((bits & 0x7f00_7f00_7f00_7f00) >> 1);
    let bits = (bits & 0x0000_3fff_0000_3fff) | ((bits & 0x3fff_0000_3fff_0000) >> 2);
    let bits = (bits & 0x0fff_ffff) | ((bits & 0x0fff_ffff_0000_0000) >> 4);
    Some((bits.cast_signed(), &bytes[len..]))
}

/// The decoder's own error for what is no record.
fn not_one() -> DecodeError {
    decode_varint(&mut &[0x80u8][..]).expect_err("a varint that never ends")
}

fn broken(error: DecodeError) -> DiskError {
    corrupt(format!("key-value record does not decode: {error}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::revision::Revision, *};

    proptest! {
        // Goal: the quick parser agrees with the generated one on every record and on every damage.
        #[test]
        fn header_agrees_with_the_whole_record(
            key in prop::collection::vec(any::<u8>(), 0..200),
            value in prop::collection::vec(any::<u8>(), 0..200),
            numbers in any::<[(i64, u8); 4]>(),
            flip in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            // Numbers of all lengths.
            let numbers = numbers.map(|(number, shift)| number >> (shift % 64));
            let [create_revision, mod_revision, version, lease] = numbers;
            let kv = KeyValue {
                key: key.into(), create_revision, mod_revision, version, value: value.into(), lease,
            };
            let mut bytes = encode(&kv).to_vec();
            if let Some((at, byte)) = flip && !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let whole = decode(bytes.clone().into());
            let quick = header(&bytes);
            prop_assert_eq!(quick.is_ok(), whole.is_ok());
            if let (Ok(whole), Ok(quick)) = (whole, quick) {
                prop_assert_eq!(&whole.key[..], quick.key);
                prop_assert_eq!(whole.create_revision, quick.created);
                prop_assert_eq!(whole.mod_revision, quick.modified);
                prop_assert_eq!(whole.version, quick.version);
                prop_assert_eq!(whole.lease, quick.lease);
            }
        }
    }

    // Goal: a record on a sheet is the record, whatever its length and its place.
    #[test]
    fn a_sheet_says_the_same() {
        let mut sheet = Sheet::default();
        let mut written = Vec::new();
        for main in 1..400 {
            let kv = KeyValue {
                key: Bytes::from_static(b"key"),
                mod_revision: main,
                value: vec![main as u8; (main as usize * 37) % (SHARED_BYTES_MAX + 200)].into(),
                ..KeyValue::default()
            };
            let at = RecordKey::put(Revision::new(main, 0));
            written.push((sheet.record(at, &kv), at, kv));
        }
        for ((key, record), at, kv) in written {
            assert_eq!(key, at.encode().to_bytes());
            assert_eq!(record, encode(&kv));
        }
    }

    #[test]
    fn a_tombstone_holds_its_key_only() {
        let record = encode_tombstone(&Bytes::from_static(b"ab"));
        assert_eq!(&record[..], b"\x0a\x02ab");
    }
}
