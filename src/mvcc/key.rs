//! Keys as the index holds them, and ranges of keys as clients name them.

use std::{borrow::Borrow, cmp::Ordering, fmt};

use crate::kernel::order::compare;

/// Longest key that needs no allocation of its own. Chosen so that `Key` fills 24 bytes.
const INLINE_BYTES_MAX: usize = 22;

const _: () = assert!(size_of::<Key>() == 24);

/// A key of the index: short ones inside, long ones on the heap without spare room.
///
/// Invariant: ordered and equal exactly as its bytes are.
#[derive(Clone)]
pub(super) enum Key {
    Inline {
        len: u8,
        bytes: [u8; INLINE_BYTES_MAX],
    },
    Heap(Box<[u8]>),
}

/// The keys a request speaks of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyRange<'a> {
    /// This key.
    One(&'a [u8]),
    /// Keys from `from` on, up to but without `to`; no `to` means to the end.
    Span {
        /// The first key.
        from: &'a [u8],
        /// The first key that is no longer in it.
        to: Option<&'a [u8]>,
    },
}

impl Key {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Self::Heap(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Self {
        if key.len() > INLINE_BYTES_MAX {
            return Self::Heap(key.into());
        }
        let mut bytes = [0; INLINE_BYTES_MAX];
        bytes[..key.len()].copy_from_slice(key);
        Self::Inline {
            len: key.len() as u8,
            bytes,
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.as_slice(), other.as_slice())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_slice().escape_ascii())
    }
}

impl<'a> KeyRange<'a> {
    /// Every key.
    pub const ALL: Self = Self::Span {
        from: b"",
        to: None,
    };

    /// Reads etcd's two fields: an empty end means one key, a zero byte means to the end.
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        match range_end {
            b"" => Self::One(key),
            b"\0" => Self::Span {
                from: key,
                to: None,
            },
            _ => Self::Span {
                from: key,
                to: Some(range_end),
            },
        }
    }

    /// Whether the range covers a key.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => *one == key,
            Self::Span { from, to } => key >= *from && to.is_none_or(|to| key < to),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_order_as_their_bytes(
            a in prop::collection::vec(0..3u8, 0..40),
            b in prop::collection::vec(0..3u8, 0..40),
        ) {
            let (left, right) = (Key::from(&a[..]), Key::from(&b[..]));
            prop_assert_eq!(left.as_slice(), &a[..]);
            prop_assert_eq!(left.cmp(&right), a.cmp(&b));
            prop_assert_eq!(left == right, a == b);
        }
    }

    #[test]
    fn ends_are_read_as_etcd_reads_them() {
        assert!(KeyRange::new(b"b", b"").contains(b"b"));
        assert!(!KeyRange::new(b"b", b"").contains(b"b\0"));
        assert!(KeyRange::new(b"b", b"\0").contains(b"zz"));
        assert!(!KeyRange::new(b"b", b"\0").contains(b"a"));
        assert!(KeyRange::new(b"\0", b"\0").contains(b"\0"));
        assert!(!KeyRange::new(b"b", b"d").contains(b"d"));
        assert!(!KeyRange::new(b"d", b"b").contains(b"c"));
    }
}
