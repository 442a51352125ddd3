//! The answer to a range whose records are already encoded.
//!
//! A large answer is read part by part and sent part by part. One list that grows is copied as a
//! whole again and again, records of their own take more memory than their bytes, and whoever
//! encodes them at the end does all of it once more. So each record becomes bytes of the message
//! when it is read, and stays that.
//!
//! Invariants: a part is a whole number of records and none is empty; whoever reads a record from
//! a store checks it before it is appended.

use bytes::Bytes;
use prost::{
    Message,
    encoding::{self, WireType},
};

use crate::pb::{etcdserverpb::RangeResponse, mvccpb::KeyValue};

/// Field number of `RangeResponse.kvs`.
const RECORDS_TAG: u32 = 2;

/// An answer in parts.
#[derive(Clone, PartialEq, Debug)]
pub struct PartedRange {
    /// Everything but the records.
    pub rest: RangeResponse,
    /// The records in order, as they lie in the message.
    pub parts: Vec<Bytes>,
}

impl PartedRange {
    /// How many bytes an encoded record adds to a part.
    pub fn appended_bytes(record: &[u8]) -> usize {
        let length = encoding::encoded_len_varint(record.len() as u64);
        encoding::key_len(RECORDS_TAG) + length + record.len()
    }

    /// Adds an encoded record to a part.
    pub fn append(part: &mut Vec<u8>, record: &[u8]) {
        encoding::encode_key(RECORDS_TAG, WireType::LengthDelimited, part);
        encoding::encode_varint(record.len() as u64, part);
        part.extend_from_slice(record);
    }

    /// Records as a part.
    pub fn part_of(records: &[KeyValue]) -> Bytes {
        let bytes = records
            .iter()
            .map(|kv| encoding::message::encoded_len(RECORDS_TAG, kv));
        let mut part = Vec::with_capacity(bytes.sum());
        for kv in records {
            encoding::message::encode(RECORDS_TAG, kv, &mut part);
        }
        Bytes::from(part)
    }

    /// The size of the whole message.
    pub fn encoded_len(&self) -> usize {
        assert!(self.rest.kvs.is_empty(), "records lie in parts");
        self.rest.encoded_len() + self.parts.iter().map(Bytes::len).sum::<usize>()
    }

    /// The whole message behind what is already in `out`, as parts.
    pub fn into_message(self, mut out: Vec<u8>) -> Vec<Bytes> {
        let mut rest = self.rest;
        if let Some(header) = rest.header.take() {
            encoding::message::encode(1, &header, &mut out);
        }
        let ends = |bytes: Vec<u8>| [Bytes::from(bytes)].into_iter();
        let tail = rest.encode_to_vec();
        ends(out).chain(self.parts).chain(ends(tail)).collect()
    }

    /// Takes the last record away.
    pub fn pop(&mut self) {
        let part = self.parts.last_mut().expect("there is a record");
        let (mut rest, mut last) = (&part[..], 0);
        while !rest.is_empty() {
            last = part.len() - rest.len();
            skip(&mut rest);
        }
        part.truncate(last);
        if last == 0 {
            self.parts.pop();
        }
    }

    /// The records of parts. Keys and values share their bytes.
    pub fn records(parts: Vec<Bytes>) -> Vec<KeyValue> {
        let rest = RangeResponse::default();
        Self { rest, parts }.joined().kvs
    }

    /// The answer as one message. Keys and values share the bytes of the parts.
    pub fn joined(self) -> RangeResponse {
        let mut whole = self.rest;
        for part in self.parts {
            whole.merge(part).expect(WHOLE);
        }
        whole
    }
}

/// Why the bytes of a part can be decoded.
const WHOLE: &str = "a part is whole records that were checked";

fn skip(rest: &mut &[u8]) {
    encoding::decode_key(rest).expect(WHOLE);
    let len = encoding::decode_varint(rest).expect(WHOLE);
    let len = usize::try_from(len).expect(WHOLE);
    *rest = &rest[len..];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::etcdserverpb::ResponseHeader;

    fn record(number: usize) -> KeyValue {
        KeyValue {
            key: Bytes::from(format!("k{number}")),
            value: Bytes::from(vec![b'v'; number * 50]),
            mod_revision: number as i64,
            ..KeyValue::default()
        }
    }

    // Goal: parts are the bytes of the message, however they were made, and the last record can go.
    #[test]
    fn parts_are_the_message() {
        let kvs: Vec<_> = (0..7).map(record).collect();
        let mut whole = RangeResponse {
            header: Some(ResponseHeader {
                revision: 9,
                ..ResponseHeader::default()
            }),
            kvs,
            more: true,
            count: 30,
        };
        let mut appended = Vec::new();
        for kv in &whole.kvs[3..] {
            PartedRange::append(&mut appended, &kv.encode_to_vec());
        }
        let mut parted = PartedRange {
            rest: RangeResponse {
                kvs: Vec::new(),
                ..whole.clone()
            },
            parts: vec![PartedRange::part_of(&whole.kvs[..3]), appended.into()],
        };
        loop {
            assert_eq!(parted.encoded_len(), whole.encoded_len());
            assert_eq!(parted.clone().joined(), whole);
            assert!(parted.parts.iter().all(|part| !part.is_empty()));
            let message = parted.clone().into_message(b"head".to_vec()).concat();
            assert_eq!(RangeResponse::decode(&message[4..]).unwrap(), whole);
            if whole.kvs.pop().is_none() {
                break;
            }
            parted.pop();
        }
        assert_eq!(parted.parts.len(), 0);
    }
}
