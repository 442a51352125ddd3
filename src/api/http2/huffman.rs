//! The Huffman code of header strings (RFC 7541 section 5.2 and appendix B), for reading.
//!
//! The code is canonical: it follows from the lengths alone. Codes of one length are consecutive
//! numbers in the order of their symbols, and the first of a length follows the last of the length
//! before it.

use std::sync::LazyLock;

/// The longest code. The longest of all, thirty ones, ends a string and must not be in one.
const BITS_MAX: u32 = 30;
/// Codes that are found by one look: four in five characters of headers, and more.
const SHORT_BITS: u32 = 8;

/// Bits of each symbol's code.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,];

/// The codes of one length.
#[derive(Clone, Copy, Debug)]
struct Group {
    bits: u32,
    /// The first code, and how many there are.
    first: u32,
    count: u32,
    /// Where their symbols begin.
    start: usize,
}

#[derive(Debug)]
struct Table {
    symbols: Vec<u8>,
    /// By what the next bits are: the symbol and its length; no length where the code is longer.
    short: Vec<(u8, u8)>,
    /// Groups of longer codes.
    long: Vec<Group>,
}

static TABLE: LazyLock<Table> = LazyLock::new(Table::new);

impl Table {
    fn new() -> Self {
        let mut table = Self {
            symbols: Vec::with_capacity(LENGTHS.len()),
            short: vec![(0, 0); 1 << SHORT_BITS],
            long: Vec::new(),
        };
        let (mut code, mut before) = (0_u32, 0);
        for bits in 1..=BITS_MAX {
            let start = table.symbols.len();
            let of_length = (0..=u8::MAX).filter(|at| u32::from(LENGTHS[usize::from(*at)]) == bits);
            table.symbols.extend(of_length);
            let symbols = &table.symbols[start..];
            if symbols.is_empty() {
                continue;
            }
            code <<= bits - before;
            before = bits;
            let count = u32::try_from(symbols.len()).expect("at most 256");
            let group = Group {
                bits,
                first: code,
                count,
                start,
            };
            match SHORT_BITS.checked_sub(bits) {
                Some(free) => {
                    for (code, symbol) in (code..).zip(symbols) {
                        let from = (code << free) as usize;
                        table.short[from..from + (1 << free)].fill((*symbol, bits as u8));
                    }
                }
                None => table.long.push(group),
            }
            code += count;
        }
        table
    }
}

/// Appends the text behind the code, at most `room` bytes of it. Returns whether the code is sound.
pub(super) fn decode(coded: &[u8], text: &mut Vec<u8>, room: usize) -> bool {
    let table = &*TABLE;
    let full = text.len() + room;
    // Bits that are still to be read stand at the upper end.
    let (mut window, mut have) = (0_u64, 0_u32);
    let mut rest = coded.iter();
    loop {
        while have <= 56
            && let Some(byte) = rest.next()
        {
            window |= u64::from(*byte) << (56 - have);
            have += 8;
        }
        if have == 0 {
            return true;
        }
        let (symbol, bits) = match table.short[(window >> (64 - SHORT_BITS)) as usize] {
            (symbol, bits @ 1..) => (symbol, u32::from(bits)),
            (_, 0) => match long(table, window) {
                Some(found) => found,
                None => return is_padding(window, have),
            },
        };
        if bits > have {
            return is_padding(window, have);
        }
        if text.len() == full {
            return false;
        }
        text.push(symbol);
        window <<= bits;
        have -= bits;
    }
}

fn long(table: &Table, window: u64) -> Option<(u8, u32)> {
    table.long.iter().find_map(|group| {
        let code = u32::try_from(window >> (64 - group.bits)).expect("30 bits at most");
        let at = code.checked_sub(group.first)?;
        let symbol = (at < group.count).then(|| table.symbols[group.start + at as usize])?;
        Some((symbol, group.bits))
    })
}

/// What ends a string: less than a byte, and all ones.
fn is_padding(window: u64, have: u32) -> bool {
    have < 8 && window >> (64 - have) == (1 << have) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The code of every symbol, made in another way than the table is.
    fn codes() -> Vec<(u32, u32)> {
        let mut order: Vec<u8> = (0..=u8::MAX).collect();
        order.sort_by_key(|symbol| (LENGTHS[usize::from(*symbol)], *symbol));
        let mut codes = vec![(0, 0); 256];
        let (mut next, mut before) = (0_u64, 0);
        for symbol in order {
            let bits = u32::from(LENGTHS[usize::from(symbol)]);
            next <<= bits - before;
            before = bits;
            codes[usize::from(symbol)] = (u32::try_from(next).unwrap(), bits);
            next += 1;
        }
        // The one code that is left over is that of the end.
        assert_eq!(next << (BITS_MAX - before), (1 << BITS_MAX) - 1);
        codes
    }

    fn encode(text: &[u8]) -> Vec<u8> {
        let codes = codes();
        let mut bits: Vec<bool> = Vec::new();
        for byte in text {
            let (code, length) = codes[usize::from(*byte)];
            bits.extend((0..length).rev().map(|at| code >> at & 1 == 1));
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        let byte = |bits: &[bool]| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
        bits.chunks(8).map(byte).collect()
    }

    fn decoded(coded: &[u8]) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        decode(coded, &mut text, 1 << 20).then_some(text)
    }

    // Examples of RFC 7541 appendix C.4 and C.6.
    #[test]
    fn examples_of_the_rule() {
        let example = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(decoded(&example).as_deref(), Some(&b"www.example.com"[..]));
        assert_eq!(decoded(&[0x64, 0x02]).as_deref(), Some(&b"302"[..]));
        assert_eq!(decoded(&[]).as_deref(), Some(&b""[..]));
    }

    #[test]
    fn unsound_code_is_refused() {
        assert_eq!(decoded(&[0xff]), None, "a byte of padding");
        assert_eq!(decoded(&[0xff; 4]), None, "the end inside");
        assert_eq!(decoded(&[0x00]), None, "padding of zeros");
        let mut text = Vec::new();
        assert!(!decode(&encode(b"abc"), &mut text, 2), "too long");
        assert!(decode(&encode(b"abc"), &mut text, 3), "just as long");
    }

    proptest! {
        #[test]
        fn all_text_comes_back(text: Vec<u8>) {
            prop_assert_eq!(decoded(&encode(&text)), Some(text));
        }

        #[test]
        fn no_bytes_do_harm(bytes: Vec<u8>) {
            if let Some(text) = decoded(&bytes) {
                prop_assert_eq!(encode(&text), bytes);
            }
        }
    }
}
