//! Keys longer than LMDB takes. All keys of one first `PREFIX_BYTES` share an entry under that
//! prefix, whose value lists the rest of each key with its value, in order; so the order of entries
//! and lists together is the order of keys. Revisions and ids never get that long; names of users
//! and roles may.
//!
//! ```text
//! bin    := record*
//! record := suffix length u32 | suffix | value length u32 | value   (big-endian)
//! ```

/// The longest key LMDB takes. A shorter key stands for itself; from this length on it is a prefix.
pub const PREFIX_BYTES: usize = 511;

/// A bin after a change.
pub struct Edit {
    pub bin: Vec<u8>,
    pub records_before: usize,
    pub records_after: usize,
}

/// The records of a bin in order; `None` once it is malformed.
pub fn records(bin: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    let mut rest = Some(bin);
    std::iter::from_fn(move || {
        let bin = rest.take().filter(|bin| !bin.is_empty())?;
        let record = split_record(bin);
        rest = record.map(|(_, _, after)| after);
        Some(record.map(|(suffix, value, _)| (suffix, value)))
    })
}

/// The value of a suffix, if it is there; the outer `None` is a malformed bin.
pub fn find<'a>(bin: &'a [u8], wanted: &[u8]) -> Option<Option<&'a [u8]>> {
    for record in records(bin) {
        let (suffix, value) = record?;
        if suffix == wanted {
            return Some(Some(value));
        }
    }
    Some(None)
}

/// A bin with one suffix set or, without a value, removed; `None` when it is malformed.
pub fn edit(bin: &[u8], suffix: &[u8], value: Option<&[u8]>) -> Option<Edit> {
    let before: Vec<_> = records(bin).collect::<Option<_>>()?;
    let mut after = before.clone();
    match (
        after.binary_search_by(|(present, _)| (*present).cmp(suffix)),
        value,
    ) {
        (Ok(at), Some(value)) => after[at].1 = value,
        (Err(at), Some(value)) => after.insert(at, (suffix, value)),
        (Ok(at), None) => drop(after.remove(at)),
        (Err(_), None) => {}
    }
    let mut out = Vec::with_capacity(bin.len() + suffix.len() + 8);
    for (suffix, value) in &after {
        put_bytes(&mut out, suffix);
        put_bytes(&mut out, value);
    }
    Some(Edit {
        bin: out,
        records_before: before.len(),
        records_after: after.len(),
    })
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("requests are bounded far below 4 GiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

fn split_record(bin: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (suffix, bin) = split_bytes(bin)?;
    let (value, bin) = split_bytes(bin)?;
    Some((suffix, value, bin))
}

fn split_bytes(bin: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bin.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}
