//! The encoded stream of an image: the same for every backend, sent from member to member and saved
//! by the Snapshot call.
//!
//! ```text
//! stream  := header block(records)* block(trailer) block(padding)*
//! header  := "fatedimg" | version u32 | crc32 of the 12 bytes before, u32
//! block   := kind u8 | length u32 | crc32 of kind, length and payload, u32 | payload
//! records := (bucket u8 | key length varint | value length varint | key | value)*
//! trailer := term u64 | index u64 | state hash u64 | records in the stream u64
//! padding := zero bytes
//! ```
//!
//! Numbers are big-endian; a varint has seven bits a byte, lowest first.
//!
//! Invariants: records ascend strictly by bucket and key over the whole stream, so a block that is
//! lost, repeated or moved is noticed by order or count; a chunk is a whole number of blocks; the
//! first chunk begins with the header and the last one ends with the trailer.

use std::{
    fmt,
    ops::{ControlFlow, Range},
};

use bytes::{BufMut, Bytes, BytesMut};

use super::{Bucket, ReadSnapshot, WriteBatch};
use crate::kernel::{DiskError, DiskErrorKind, EntryId, LogIndex, StoreCursor, Term};

/// The first bytes of every stream.
pub const MAGIC: [u8; 8] = *b"fatedimg";
/// The only version there is so far.
pub const VERSION: u32 = 1;
/// A saved stream is padded to a multiple of this.
pub const ALIGNMENT_BYTES: u64 = 512;

/// A block closes when it has come to this size; a larger record has one of its own.
const BLOCK_BYTES: usize = 32 * 1024;
/// No block is larger; a length above means damage, found before memory is taken for it.
const BLOCK_BYTES_MAX: usize = 256 * 1024 * 1024;
const HEADER_BYTES: usize = MAGIC.len() + 8;
const BLOCK_HEAD_BYTES: usize = 9;
const TRAILER_BYTES: usize = 32;
/// Bucket and two lengths, for the usual sizes.
const RECORD_HEAD_BYTES: u64 = 4;

/// Room that a chunk is given at once.
const CHUNK_ROOM_BYTES: usize = 1024 * 1024;

const KIND_RECORDS: u8 = 1;
const KIND_TRAILER: u8 = 2;
const KIND_PADDING: u8 = 3;

const _: () = assert!(BLOCK_BYTES < BLOCK_BYTES_MAX);
const _: () = assert!(BLOCK_HEAD_BYTES < ALIGNMENT_BYTES as usize);

/// What the end of a stream says of the whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trailer {
    /// The last entry whose effects are inside.
    pub consistent: EntryId,
    /// The state machine's running hash after it.
    pub state_hash: u64,
    /// Records before the trailer.
    pub records: u64,
}

/// Reads the chunk after the cursor: whole blocks of about `bytes_max`, more only for one record
/// that is larger. No cursor in the answer means that the trailer is inside. Keeps no state between
/// calls.
pub fn read_chunk<S: ReadSnapshot>(
    snapshot: &S,
    cursor: Option<&StoreCursor>,
    bytes_max: usize,
) -> Result<(Bytes, Option<StoreCursor>), DiskError> {
    let mut encoder = Encoder::new(bytes_max);
    let (first, from) = match cursor {
        None => {
            encoder.header();
            (0, Bytes::new())
        }
        Some(cursor) => (cursor.bucket, successor(&cursor.key)),
    };
    for bucket in Bucket::ALL {
        if bucket.number() < first {
            continue;
        }
        let from: &[u8] = if bucket.number() == first { &from } else { &[] };
        let mut full = false;
        snapshot.range(bucket, from, None, &mut |key, value| {
            full = !encoder.maybe_record(bucket, key, value);
            if full {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        if full {
            let next = encoder.cursor();
            assert!(next.is_some(), "a chunk is full of nothing");
            return Ok((encoder.finish(), next));
        }
    }
    encoder.trailer(Trailer {
        consistent: snapshot.consistent()?,
        state_hash: snapshot.state_hash()?,
        records: snapshot.extent()?.records,
    });
    Ok((encoder.finish(), None))
}

/// About how long the stream of a snapshot will be.
pub fn bytes_estimate<S: ReadSnapshot>(snapshot: &S) -> Result<u64, DiskError> {
    let extent = snapshot.extent()?;
    let frame = HEADER_BYTES + 2 * BLOCK_HEAD_BYTES + TRAILER_BYTES;
    Ok(extent.bytes + extent.records * RECORD_HEAD_BYTES + frame as u64)
}

/// What to append to a saved stream so that its length is a multiple of 512; empty when it is.
pub fn padding(stream_bytes: u64) -> Bytes {
    let head = BLOCK_HEAD_BYTES as u64;
    if stream_bytes.is_multiple_of(ALIGNMENT_BYTES) {
        return Bytes::new();
    }
    let total = (stream_bytes + head).next_multiple_of(ALIGNMENT_BYTES) - stream_bytes;
    let zeros = usize::try_from(total - head).expect("less than two alignments");
    let mut out = BytesMut::new();
    put_block(&mut out, KIND_PADDING, &vec![0; zeros]);
    out.freeze()
}

/// The records of one chunk on its own. Order and damage inside the chunk are checked; that no
/// chunk is missing is what `Decoder` adds.
pub fn decode_chunk(chunk: &[u8]) -> Result<(WriteBatch, Option<Trailer>), StreamError> {
    let mut decoder = Decoder::new();
    if !chunk.starts_with(&MAGIC[..1]) {
        decoder.stage = Stage::Records;
        decoder.partial = true;
    }
    decoder.push(chunk)?;
    if decoder.buffer.is_empty() && !chunk.is_empty() {
        let batch = decoder.take();
        Ok((batch, decoder.trailer))
    } else {
        Err(decoder.error(StreamFlaw::Truncated))
    }
}

/// Reads a stream that arrives in pieces of any size.
///
/// Invariant: once it has failed it stays failed, with the first error.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    /// Where the buffer begins in the stream.
    offset: u64,
    stage: Stage,
    /// Whether the stream is one chunk from the middle, whose trailer counts records not seen here.
    partial: bool,
    last: Option<(Bucket, Bytes)>,
    records: u64,
    batch: WriteBatch,
    trailer: Option<Trailer>,
    failed: Option<StreamError>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Header,
    Records,
    Padding,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder at the begin of a stream.
    pub fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            offset: 0,
            stage: Stage::Header,
            partial: false,
            last: None,
            records: 0,
            batch: WriteBatch::default(),
            trailer: None,
            failed: None,
        }
    }

    /// Takes the next bytes of the stream; what they complete is ready for `take`.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.buffer.extend_from_slice(bytes);
        let result = self.advance();
        self.failed = result.err();
        result
    }

    /// The records decoded since the last call. The one with the trailer carries consistent index
    /// and state hash.
    pub fn take(&mut self) -> WriteBatch {
        std::mem::take(&mut self.batch)
    }

    /// Bytes of records that wait for `take`.
    pub fn pending_bytes(&self) -> usize {
        self.batch.bytes
    }

    /// The trailer, once it was read.
    pub fn trailer(&self) -> Option<Trailer> {
        self.trailer
    }

    /// Confirms that the stream was complete and undamaged.
    pub fn finish(&self) -> Result<Trailer, StreamError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.trailer {
            Some(trailer) if self.buffer.is_empty() => Ok(trailer),
            Some(_) | None => Err(self.error(StreamFlaw::Truncated)),
        }
    }

    fn advance(&mut self) -> Result<(), StreamError> {
        if self.stage == Stage::Header {
            if self.buffer.len() < HEADER_BYTES {
                return Ok(());
            }
            self.check_header()?;
            self.consume(HEADER_BYTES);
            self.stage = Stage::Records;
        }
        while let Some((kind, payload)) = self.block()? {
            let whole = BLOCK_HEAD_BYTES + payload.len();
            match (kind, self.stage) {
                (KIND_RECORDS, Stage::Records) => self.on_records(&payload)?,
                (KIND_TRAILER, Stage::Records) => self.on_trailer(&payload)?,
                (KIND_PADDING, Stage::Padding) if payload.iter().all(|byte| *byte == 0) => {}
                _ => return Err(self.error(StreamFlaw::Block)),
            }
            self.offset += whole as u64;
        }
        Ok(())
    }

    fn check_header(&self) -> Result<(), StreamError> {
        let head = &self.buffer[..HEADER_BYTES];
        if head[..MAGIC.len()] != MAGIC {
            return Err(self.error(StreamFlaw::Magic));
        }
        if crc32fast::hash(&head[..12]) != number(&head[12..16]) {
            return Err(self.error(StreamFlaw::Checksum));
        }
        match number(&head[8..12]) {
            VERSION => Ok(()),
            other => Err(self.error(StreamFlaw::Version(other))),
        }
    }

    /// Cuts the next whole block off the buffer; `offset` stays at its begin for error texts.
    fn block(&mut self) -> Result<Option<(u8, Bytes)>, StreamError> {
        if self.buffer.len() < BLOCK_HEAD_BYTES {
            return Ok(None);
        }
        let kind = self.buffer[0];
        let length = number(&self.buffer[1..5]) as usize;
        if length > BLOCK_BYTES_MAX {
            return Err(self.error(StreamFlaw::Block));
        }
        if self.buffer.len() < BLOCK_HEAD_BYTES + length {
            return Ok(None);
        }
        let mut block = self.buffer.split_to(BLOCK_HEAD_BYTES + length).freeze();
        let payload = block.split_off(BLOCK_HEAD_BYTES);
        if block_checksum(kind, &payload) != number(&block[5..9]) {
            return Err(self.error(StreamFlaw::Checksum));
        }
        Ok(Some((kind, payload)))
    }

    fn on_records(&mut self, payload: &Bytes) -> Result<(), StreamError> {
        let mut at = 0;
        while at < payload.len() {
            let Some((bucket, key, value)) = split_record(payload, &mut at) else {
                return Err(self.error(StreamFlaw::Block));
            };
            let ascends = self
                .last
                .as_ref()
                .is_none_or(|(last, before)| (*last, before) < (bucket, &key));
            if !ascends {
                return Err(self.error(StreamFlaw::Order));
            }
            self.last = Some((bucket, key.clone()));
            self.records += 1;
            self.batch.put(bucket, key, value);
        }
        Ok(())
    }

    fn on_trailer(&mut self, payload: &[u8]) -> Result<(), StreamError> {
        if payload.len() != TRAILER_BYTES {
            return Err(self.error(StreamFlaw::Block));
        }
        let (term, index) = (long(&payload[..8]), long(&payload[8..16]));
        let trailer = Trailer {
            consistent: EntryId::new(Term::new(term), LogIndex::new(index)),
            state_hash: long(&payload[16..24]),
            records: long(&payload[24..32]),
        };
        if trailer.records != self.records && !self.partial {
            return Err(self.error(StreamFlaw::Count));
        }
        self.batch.consistent = trailer.consistent;
        self.batch.state_hash = trailer.state_hash;
        self.trailer = Some(trailer);
        self.stage = Stage::Padding;
        Ok(())
    }

    fn consume(&mut self, bytes: usize) {
        let _ = self.buffer.split_to(bytes);
        self.offset += bytes as u64;
    }

    fn error(&self, flaw: StreamFlaw) -> StreamError {
        StreamError {
            offset: self.offset,
            flaw,
        }
    }
}

/// Why a stream was refused, and the block where that was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamError {
    /// Begin of the block, in bytes from the begin of the stream.
    pub offset: u64,
    /// What is wrong with it.
    pub flaw: StreamFlaw,
}

/// What can be wrong with a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamFlaw {
    /// It does not begin as an image does.
    Magic,
    /// It was written by another version.
    Version(u32),
    /// Header or block do not match their checksum.
    Checksum,
    /// A block of no known kind, out of place, or malformed inside.
    Block,
    /// A record at or below the one before it.
    Order,
    /// The trailer counts other records than there were.
    Count,
    /// The stream ended early.
    Truncated,
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image stream, block at byte {}: ", self.offset)?;
        match self.flaw {
            StreamFlaw::Magic => f.write_str("not an image"),
            StreamFlaw::Version(version) => {
                write!(f, "format version {version}, only {VERSION} is known")
            }
            StreamFlaw::Checksum => f.write_str("checksum mismatch"),
            StreamFlaw::Block => f.write_str("malformed or misplaced block"),
            StreamFlaw::Order => f.write_str("records out of order"),
            StreamFlaw::Count => f.write_str("records are missing"),
            StreamFlaw::Truncated => f.write_str("ended early"),
        }
    }
}

impl std::error::Error for StreamError {}

impl From<StreamError> for DiskError {
    fn from(error: StreamError) -> Self {
        Self::new(DiskErrorKind::Corrupt, error.to_string())
    }
}

/// Builds one chunk. Records are written where they stay, and the head of a block in front of it
/// when it closes.
struct Encoder {
    out: Vec<u8>,
    /// Where the open block begins.
    open: Option<usize>,
    bytes_max: usize,
    last_bucket: Option<Bucket>,
    /// Where the last key lies.
    last_key: Range<usize>,
}

impl Encoder {
    fn new(bytes_max: usize) -> Self {
        Self {
            out: Vec::with_capacity(bytes_max.min(CHUNK_ROOM_BYTES)),
            open: None,
            bytes_max,
            last_bucket: None,
            last_key: 0..0,
        }
    }

    fn cursor(&self) -> Option<StoreCursor> {
        self.last_bucket.map(|bucket| StoreCursor {
            bucket: bucket.number(),
            key: Bytes::copy_from_slice(&self.out[self.last_key.clone()]),
        })
    }

    fn header(&mut self) {
        self.out.put_slice(&MAGIC);
        self.out.put_u32(VERSION);
        self.out.put_u32(crc32fast::hash(&self.out));
    }

    /// Adds a record unless the chunk is full; the first one always fits.
    fn maybe_record(&mut self, bucket: Bucket, key: &[u8], value: &[u8]) -> bool {
        let bytes =
            1 + varint_bytes(key.len()) + varint_bytes(value.len()) + key.len() + value.len();
        assert!(bytes <= BLOCK_BYTES_MAX, "a record of {bytes} bytes");
        if let Some(begin) = self.open
            && self.out.len() - begin - BLOCK_HEAD_BYTES + bytes > BLOCK_BYTES
        {
            self.close();
        }
        let head = if self.open.is_some() {
            0
        } else {
            BLOCK_HEAD_BYTES
        };
        let total = self.out.len() + head + bytes;
        if self.last_bucket.is_some() && total > self.bytes_max {
            return false;
        }
        if self.open.is_none() {
            self.open = Some(self.out.len());
            self.out.put_slice(&[0; BLOCK_HEAD_BYTES]);
        }
        self.out.reserve(bytes);
        self.out.put_u8(bucket.number());
        put_varint(&mut self.out, key.len());
        put_varint(&mut self.out, value.len());
        self.last_bucket = Some(bucket);
        self.last_key = self.out.len()..self.out.len() + key.len();
        self.out.put_slice(key);
        self.out.put_slice(value);
        true
    }

    fn trailer(&mut self, trailer: Trailer) {
        self.close();
        let mut payload = Vec::with_capacity(TRAILER_BYTES);
        payload.put_u64(trailer.consistent.term.get());
        payload.put_u64(trailer.consistent.index.get());
        payload.put_u64(trailer.state_hash);
        payload.put_u64(trailer.records);
        put_block(&mut self.out, KIND_TRAILER, &payload);
    }

    fn close(&mut self) {
        if let Some(begin) = self.open.take() {
            let (head, payload) = self.out[begin..].split_at_mut(BLOCK_HEAD_BYTES);
            put_block_head(&mut &mut *head, KIND_RECORDS, payload);
        }
    }

    fn finish(mut self) -> Bytes {
        self.close();
        self.out.into()
    }
}

fn put_block(out: &mut impl BufMut, kind: u8, payload: &[u8]) {
    put_block_head(out, kind, payload);
    out.put_slice(payload);
}

fn put_block_head(out: &mut impl BufMut, kind: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("blocks are bounded");
    out.put_u8(kind);
    out.put_u32(length);
    out.put_u32(block_checksum(kind, payload));
}

fn block_checksum(kind: u8, payload: &[u8]) -> u32 {
    let length = u32::try_from(payload.len()).expect("blocks are bounded");
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[kind]);
    crc.update(&length.to_be_bytes());
    crc.update(payload);
    crc.finalize()
}

/// The record at `at`, sharing the payload's memory; `None` when it is malformed.
fn split_record(payload: &Bytes, at: &mut usize) -> Option<(Bucket, Bytes, Bytes)> {
    let bucket = Bucket::from_number(*payload.get(*at)?)?;
    *at += 1;
    let key_bytes = split_varint(payload, at)?;
    let value_bytes = split_varint(payload, at)?;
    let key_end = at.checked_add(key_bytes)?;
    let value_end = key_end.checked_add(value_bytes)?;
    if key_bytes == 0 || value_end > payload.len() {
        return None;
    }
    let key = payload.slice(*at..key_end);
    let value = payload.slice(key_end..value_end);
    *at = value_end;
    Some((bucket, key, value))
}

fn split_varint(payload: &[u8], at: &mut usize) -> Option<usize> {
    let mut value = 0;
    for shift in (0..35).step_by(7) {
        let byte = *payload.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(value).ok();
        }
    }
    None
}

fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn varint_bytes(value: usize) -> usize {
    let bits = usize::BITS - value.leading_zeros();
    (bits.max(1)).div_ceil(7) as usize
}

/// The least key above this one.
fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes were cut"))
}

fn long(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("eight bytes were cut"))
}

#[cfg(test)]
mod tests;
