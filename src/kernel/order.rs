//! The order of keys, everywhere: that of their bytes.

use std::cmp::Ordering;

/// The order of two keys. Keys are short, so eight bytes at a time without a call is quicker than
/// the system's comparison: a restart compares each key with some thirty others.
#[inline(always)]
pub fn compare(left: &[u8], right: &[u8]) -> Ordering {
    let (left_words, left_rest) = left.as_chunks::<8>();
    let (right_words, right_rest) = right.as_chunks::<8>();
    for (left, right) in left_words.iter().zip(right_words) {
        let (left, right) = (u64::from_be_bytes(*left), u64::from_be_bytes(*right));
        if left != right {
            return left.cmp(&right);
        }
    }
    // One of them is at its end but for less than a word, unless the other goes on.
    match left_words.len().cmp(&right_words.len()) {
        Ordering::Equal if left.len() == right.len() => {
            // All words are equal, so the last eight bytes differ where the rest does.
            match (left.last_chunk(), right.last_chunk()) {
                (Some(left), Some(right)) => {
                    u64::from_be_bytes(*left).cmp(&u64::from_be_bytes(*right))
                }
                (_, _) => compare_few(left_rest, right_rest),
            }
        }
        Ordering::Equal => compare_few(left_rest, right_rest),
        Ordering::Less | Ordering::Greater => {
            let from = left_words.len().min(right_words.len()) * 8;
            left[from..].cmp(&right[from..])
        }
    }
}

/// The order of less than eight bytes each.
#[inline]
fn compare_few(left: &[u8], right: &[u8]) -> Ordering {
    for (left, right) in left.iter().zip(right) {
        if left != right {
            return left.cmp(right);
        }
    }
    left.len().cmp(&right.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_order_of_bytes(
            left in prop::collection::vec(0..3u8, 0..40),
            right in prop::collection::vec(0..3u8, 0..40),
        ) {
            prop_assert_eq!(compare(&left, &right), left.cmp(&right));
            // Keys that have much in common.
            for common in 0..left.len() {
                let other = [&left[..common], &right[..]].concat();
                prop_assert_eq!(compare(&left, &other), left.cmp(&other));
                let len = other.len().min(left.len());
                let (one, other) = (&left[..len], &other[..len]);
                prop_assert_eq!(compare(one, other), one.cmp(other));
            }
        }
    }
}
