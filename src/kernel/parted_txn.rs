//! The answer to a transaction whose ranges are already encoded.
//!
//! As in `PartedRange` a record becomes bytes of the message when it is read, and stays that. What
//! is around the records is known only when all of them are read, and the header only to the member
//! that answers, so that is put around them at the end.
//!
//! Invariants: there are records only where the response is a range, and that has none of its own;
//! a part is a whole number of records; whoever reads a record from a store checks it before.

use bytes::Bytes;
use prost::{
    Message,
    encoding::{self, WireType},
};

use super::PartedRange;
use crate::pb::etcdserverpb::{
    RangeResponse, ResponseOp, TxnResponse, response_op::Response as Operated,
};

/// Field number of `TxnResponse.responses`.
const RESPONSES_TAG: u32 = 3;
/// Field number of `ResponseOp.response_range`.
const RANGE_TAG: u32 = 1;

/// An answer with some records in parts.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct PartedTxn {
    /// Everything but those records.
    pub rest: TxnResponse,
    /// For each response of it the records that belong to it, as they lie in the message.
    pub records: Vec<Vec<Bytes>>,
}

impl PartedTxn {
    /// Adds the answer to a range.
    pub fn push_range(&mut self, range: PartedRange) {
        let response = Some(Operated::ResponseRange(range.rest));
        self.rest.responses.push(ResponseOp { response });
        self.records.push(range.parts);
    }

    /// Adds the answer to any operation.
    pub fn push(&mut self, response: ResponseOp) {
        self.rest.responses.push(response);
        self.records.push(Vec::new());
    }

    /// Whether there are records in parts at all.
    pub fn is_parted(&self) -> bool {
        self.records.iter().any(|parts| !parts.is_empty())
    }

    /// The size of the whole message.
    pub fn encoded_len(&self) -> usize {
        let head = TxnResponse {
            header: self.rest.header,
            succeeded: self.rest.succeeded,
            responses: Vec::new(),
        };
        let responses = self.responses().map(|(response, parts)| match parts {
            [] => encoding::message::encoded_len(RESPONSES_TAG, response),
            _ => field_len(
                RESPONSES_TAG,
                field_len(RANGE_TAG, range_len(response, parts)),
            ),
        });
        head.encoded_len() + responses.sum::<usize>()
    }

    /// The whole message behind what is already in `out`, as parts.
    pub fn into_message(mut self, mut out: Vec<u8>) -> Vec<Bytes> {
        let responses = std::mem::take(&mut self.rest.responses);
        self.rest.encode(&mut out).expect(GROWS);
        let mut message = Vec::new();
        for (response, parts) in responses.into_iter().zip(self.records) {
            if parts.is_empty() {
                encoding::message::encode(RESPONSES_TAG, &response, &mut out);
                continue;
            }
            let len = range_len(&response, &parts);
            put_field(RESPONSES_TAG, field_len(RANGE_TAG, len), &mut out);
            put_field(RANGE_TAG, len, &mut out);
            range_of(&response).encode(&mut out).expect(GROWS);
            for part in parts {
                if part.len() < COPIED_BYTES_MAX {
                    out.extend_from_slice(&part);
                } else {
                    message.push(std::mem::take(&mut out).into());
                    message.push(part);
                }
            }
        }
        message.push(out.into());
        message
    }

    /// The answer as one message. Keys and values share the bytes of the parts.
    pub fn joined(self) -> TxnResponse {
        let mut whole = self.rest;
        for (response, parts) in whole.responses.iter_mut().zip(self.records) {
            if let Some(Operated::ResponseRange(range)) = &mut response.response {
                let rest = std::mem::take(range);
                *range = PartedRange { rest, parts }.joined();
            }
        }
        whole
    }

    fn responses(&self) -> impl Iterator<Item = (&ResponseOp, &[Bytes])> {
        let parts = self.records.iter().map(Vec::as_slice);
        self.rest.responses.iter().zip(parts)
    }
}

/// What is smaller is copied to what is before it: a piece of its own costs more.
const COPIED_BYTES_MAX: usize = 64 * 1024;

/// Why encoding cannot fail.
const GROWS: &str = "a growing buffer has room";

fn range_of(response: &ResponseOp) -> &RangeResponse {
    match &response.response {
        Some(Operated::ResponseRange(range)) => range,
        other => unreachable!("records of {other:?}"),
    }
}

fn range_len(response: &ResponseOp, parts: &[Bytes]) -> usize {
    range_of(response).encoded_len() + parts.iter().map(Bytes::len).sum::<usize>()
}

fn field_len(tag: u32, len: usize) -> usize {
    encoding::key_len(tag) + encoding::encoded_len_varint(len as u64) + len
}

fn put_field(tag: u32, len: usize, out: &mut Vec<u8>) {
    encoding::encode_key(tag, WireType::LengthDelimited, out);
    encoding::encode_varint(len as u64, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::{
        etcdserverpb::{PutResponse, ResponseHeader},
        mvccpb::KeyValue,
    };

    fn records(from: usize, value_bytes: usize) -> Vec<KeyValue> {
        let record = |number: usize| KeyValue {
            key: Bytes::from(format!("k{number}")),
            value: Bytes::from(vec![b'v'; value_bytes]),
            mod_revision: number as i64,
            ..KeyValue::default()
        };
        (from..from + 5).map(record).collect()
    }

    // Goal: small parts and large ones, and what stands between them, are the message of the plain
    // answer.
    #[test]
    fn parts_are_the_message() {
        let header = Some(ResponseHeader {
            revision: 7,
            ..ResponseHeader::default()
        });
        let mut parted = PartedTxn::default();
        let mut plain = Vec::new();
        for (from, value_bytes) in [(0, 3), (10, 40_000), (20, 0)] {
            let kvs = records(from, value_bytes);
            let rest = RangeResponse {
                header,
                count: 9,
                ..RangeResponse::default()
            };
            let parts = kvs.chunks(3).map(PartedRange::part_of).collect();
            parted.push_range(PartedRange {
                rest: rest.clone(),
                parts,
            });
            let put = ResponseOp {
                response: Some(Operated::ResponsePut(PutResponse::default())),
            };
            parted.push(put.clone());
            let response = Some(Operated::ResponseRange(RangeResponse { kvs, ..rest }));
            plain.extend([ResponseOp { response }, put]);
        }
        parted.rest.header = header;
        parted.rest.succeeded = true;
        let plain = TxnResponse {
            header,
            succeeded: true,
            responses: plain,
        };
        assert!(parted.is_parted());
        assert_eq!(parted.encoded_len(), plain.encoded_len());
        assert!(parted.clone().joined() == plain);
        let message = parted.into_message(b"head".to_vec());
        assert!(message.len() > 3, "large parts are not copied");
        let message = message.concat();
        assert_eq!(message.len(), 4 + plain.encoded_len());
        assert!(TxnResponse::decode(&message[4..]).unwrap() == plain);
    }
}
