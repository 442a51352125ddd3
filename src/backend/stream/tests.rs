//! Round trips in pieces of every size, and damage of every kind.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::backend::{Backend, Memory, memory::Image};

fn image(pairs: &[(u8, Vec<u8>, Vec<u8>)], index: u64) -> Image {
    let mut batch = WriteBatch::default();
    for (bucket, key, value) in pairs {
        let bucket = Bucket::ALL[usize::from(*bucket) % Bucket::ALL.len()];
        let key = Bytes::copy_from_slice(key);
        batch.put(bucket, key, Bytes::copy_from_slice(value));
    }
    batch.consistent = EntryId::new(Term::new(3), LogIndex::new(index));
    batch.state_hash = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let memory = Memory::default();
    memory.commit(&batch).unwrap();
    memory.image()
}

fn chunks(image: &Image, bytes_max: usize) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let mut cursor = None;
    loop {
        let (chunk, next) = read_chunk(image, cursor.as_ref(), bytes_max).unwrap();
        chunks.push(chunk);
        match next {
            None => return chunks,
            Some(next) => cursor = Some(next),
        }
    }
}

fn stream(image: &Image) -> Vec<u8> {
    chunks(image, 100).concat()
}

/// Decodes a whole stream that comes in pieces.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Image, StreamError> {
    let memory = Memory::default();
    let mut decoder = Decoder::new();
    for piece in pieces {
        decoder.push(piece)?;
        memory.commit(&decoder.take()).unwrap();
    }
    let trailer = decoder.finish()?;
    assert_eq!(memory.image().extent().unwrap().records, trailer.records);
    Ok(memory.image())
}

fn sample() -> Image {
    let pairs: Vec<_> = (0..60_u8)
        .map(|key| (key % 10, vec![key; 1 + usize::from(key)], vec![key; 20]))
        .collect();
    image(&pairs, 77)
}

fn pairs() -> impl Strategy<Value = Vec<(u8, Vec<u8>, Vec<u8>)>> {
    let value = prop_oneof![4 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 30_000..40_000)];
    vec((any::<u8>(), vec(any::<u8>(), 1..6), value), 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Goal: what goes in comes out, however it is cut. Method: random images, chunk sizes, pieces.
    #[test]
    fn comes_back(pairs in pairs(), index in 1..9_u64, bytes_max in 1..90_000_usize,
                  piece in 1..70_000_usize) {
        let image = image(&pairs, index);
        let chunks = chunks(&image, bytes_max);
        for chunk in &chunks {
            let (batch, _) = decode_chunk(chunk).unwrap();
            let alone = batch.writes.values().map(|writes| writes.len()).sum::<usize>() <= 1;
            // The last chunk may run over by the trailer.
            prop_assert!(alone || chunk.len() <= bytes_max + HEADER_BYTES + 2 * 50);
        }
        let whole = chunks.concat();
        prop_assert_eq!(&decode(chunks.iter().map(|chunk| &chunk[..])).unwrap(), &image);
        prop_assert_eq!(&decode(whole.chunks(piece)).unwrap(), &image);
        let estimate = bytes_estimate(&image).unwrap();
        prop_assert!(estimate.abs_diff(whole.len() as u64) <= whole.len() as u64 / 10 + 200);
    }

    /// Goal: bytes from anywhere never panic and are never taken for an image.
    #[test]
    fn noise_is_refused(bytes in vec(any::<u8>(), 0..300), magic in any::<bool>()) {
        let mut bytes = bytes;
        if magic {
            let start = stream(&sample())[..HEADER_BYTES].to_vec();
            bytes.splice(0..0, start);
        }
        prop_assert!(decode([&bytes[..]]).is_err());
        prop_assert!(decode_chunk(&bytes).is_err() || bytes.len() == HEADER_BYTES && magic);
    }
}

/// Goal: each damaged byte is noticed. Method: change each byte of a stream in turn.
#[test]
fn every_byte_counts() {
    let whole = stream(&sample());
    for at in 0..whole.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= change;
            let error = decode([&damaged[..]]).unwrap_err();
            assert!(error.offset <= at as u64, "{error}, changed at {at}");
            assert_eq!(DiskError::from(error).kind, DiskErrorKind::Corrupt);
        }
    }
}

/// Goal: a stream that ends early is noticed. Method: cut it at each byte.
#[test]
fn every_cut_is_noticed() {
    let whole = stream(&sample());
    for end in 0..whole.len() {
        assert_eq!(
            decode([&whole[..end]]).unwrap_err().flaw,
            StreamFlaw::Truncated
        );
    }
}

/// Goal: chunks that are lost, repeated or swapped are noticed.
#[test]
fn every_chunk_counts() {
    let chunks = chunks(&sample(), 200);
    assert!(chunks.len() > 10);
    let slices: Vec<&[u8]> = chunks.iter().map(|chunk| &chunk[..]).collect();
    for at in 0..slices.len() {
        let mut lost = slices.clone();
        lost.remove(at);
        assert!(decode(lost).is_err(), "lost chunk {at}");
        let mut twice = slices.clone();
        twice.insert(at, slices[at]);
        assert!(decode(twice).is_err(), "repeated chunk {at}");
        if at > 0 {
            let mut swapped = slices.clone();
            swapped.swap(at - 1, at);
            assert!(decode(swapped).is_err(), "swapped chunk {at}");
        }
    }
}

/// Goal: a record that comes twice is refused even when the trailer counts it twice.
#[test]
fn repeated_record() {
    let image = image(&[(0, b"key".to_vec(), b"value".to_vec())], 1);
    let whole = stream(&image);
    let trailer_at = whole.len() - BLOCK_HEAD_BYTES - TRAILER_BYTES;
    let record = &whole[HEADER_BYTES..trailer_at];
    let mut payload = whole[trailer_at + BLOCK_HEAD_BYTES..].to_vec();
    payload[TRAILER_BYTES - 1] += 1;
    let mut trailer = BytesMut::new();
    put_block(&mut trailer, KIND_TRAILER, &payload);
    let error = decode([&whole[..trailer_at], record, &trailer[..]]).unwrap_err();
    assert_eq!(error.flaw, StreamFlaw::Order);
}

/// Goal: an error stays, whatever comes after it.
#[test]
fn failure_stays() {
    let whole = stream(&sample());
    let mut decoder = Decoder::new();
    let error = decoder.push(&whole[1..]).unwrap_err();
    assert_eq!(error.flaw, StreamFlaw::Magic);
    assert_eq!(decoder.push(&whole), Err(error));
    assert_eq!(decoder.finish(), Err(error));
}

/// Goal: a stream of a later format is named as such.
#[test]
fn later_version() {
    let mut whole = stream(&sample());
    whole[11] = 2;
    let crc = crc32fast::hash(&whole[..12]);
    whole[12..16].copy_from_slice(&crc.to_be_bytes());
    let error = decode([&whole[..]]).unwrap_err();
    assert_eq!(error.flaw, StreamFlaw::Version(2));
}

/// Goal: any length can be padded to the alignment, and the padding is read over.
#[test]
fn padded() {
    for stream_bytes in 0..2 * ALIGNMENT_BYTES {
        let padding = padding(stream_bytes);
        assert!((stream_bytes + padding.len() as u64).is_multiple_of(ALIGNMENT_BYTES));
        assert!((padding.len() as u64) < ALIGNMENT_BYTES + BLOCK_HEAD_BYTES as u64);
    }
    let image = sample();
    let whole = stream(&image);
    let fill = padding(whole.len() as u64);
    assert_eq!(decode([&whole[..], &fill[..]]).unwrap(), image);
    assert!(
        decode([&fill[..], &whole[..]]).is_err(),
        "padding comes last"
    );
    assert!(
        decode([&whole[..], &[0; 40][..]]).is_err(),
        "zeros are no block"
    );
}

/// Goal: an empty store has a stream too.
#[test]
fn empty() {
    let image = Image::default();
    assert_eq!(chunks(&image, 1).len(), 1);
    assert_eq!(decode([&stream(&image)[..]]).unwrap(), image);
}

/// Goal: an impossible length is refused before memory is taken for it.
#[test]
fn impossible_length() {
    let mut decoder = Decoder::new();
    decoder.push(&stream(&sample())[..HEADER_BYTES]).unwrap();
    let head = [KIND_RECORDS, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    assert_eq!(decoder.push(&head).unwrap_err().flaw, StreamFlaw::Block);
}
