//! What is stored beside the buckets, in the transaction of each commit.
//!
//! The internal database holds one record under `state`:
//!
//! ```text
//! version u32 | term u64 | index u64 | state hash u64 | surplus u64 | filled u64 | crc32 u32
//! ```
//!
//! Numbers are big-endian. `surplus` is by how many the records outnumber the entries of the
//! buckets, because a long-key entry may hold several (see `longkey`). `filled` is how many bytes
//! of leaves the entries of the buckets take, from version 2 on; a store of version 1 stays one,
//! without that number, until it is rewritten.

use bytes::BufMut;

use crate::kernel::{EntryId, LogIndex, Term};

const STATE_VERSION: u32 = 2;
const STATE_BYTES: usize = 48;
/// The version without `filled`.
const STATE_VERSION_UNFILLED: u32 = 1;
const STATE_BYTES_UNFILLED: usize = 40;
/// What is stored beside the buckets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    pub consistent: EntryId,
    pub state_hash: u64,
    pub surplus: u64,
    pub filled: Option<u64>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            consistent: EntryId::default(),
            state_hash: 0,
            surplus: 0,
            filled: Some(0),
        }
    }
}

/// What writes change of a table: the surplus of records over entries, and the bytes of leaves that
/// entries take.
#[derive(Clone, Copy, Default, Debug)]
pub struct Change {
    pub surplus: i64,
    pub filled: i64,
}

impl State {
    /// Counts what writes have changed; nothing when the numbers do not fit.
    pub fn changed(self, change: Change) -> Option<Self> {
        let filled = match self.filled {
            Some(filled) => Some(filled.checked_add_signed(change.filled)?),
            None => None,
        };
        Some(Self {
            surplus: self.surplus.checked_add_signed(change.surplus)?,
            filled,
            ..self
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut record = Vec::with_capacity(STATE_BYTES);
        record.put_u32(match self.filled {
            Some(_) => STATE_VERSION,
            None => STATE_VERSION_UNFILLED,
        });
        record.put_u64(self.consistent.term.get());
        record.put_u64(self.consistent.index.get());
        record.put_u64(self.state_hash);
        record.put_u64(self.surplus);
        if let Some(filled) = self.filled {
            record.put_u64(filled);
        }
        record.put_u32(crc32fast::hash(&record));
        record
    }

    pub fn decode(record: &[u8]) -> Option<Self> {
        let (body, crc) = record.split_last_chunk::<4>()?;
        let (version, body_rest) = body.split_first_chunk::<4>()?;
        let is_filled = match (u32::from_be_bytes(*version), record.len()) {
            (STATE_VERSION, STATE_BYTES) => true,
            (STATE_VERSION_UNFILLED, STATE_BYTES_UNFILLED) => false,
            _ => return None,
        };
        if crc32fast::hash(body) != u32::from_be_bytes(*crc) {
            return None;
        }
        let mut words = body_rest
            .chunks_exact(8)
            .map(|word| u64::from_be_bytes(word.try_into().expect("chunks of eight")));
        let (term, index) = (Term::new(words.next()?), LogIndex::new(words.next()?));
        Some(Self {
            consistent: EntryId::new(term, index),
            state_hash: words.next()?,
            surplus: words.next()?,
            filled: words.next().filter(|_| is_filled),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(filled: Option<u64>) -> State {
        State {
            consistent: EntryId::new(Term::new(3), LogIndex::new(77)),
            state_hash: 0xABCD_EF01_2345_6789,
            surplus: 12,
            filled,
        }
    }

    /// Goal: a record of either version is read, keeps its version, and no harmed one is taken.
    #[test]
    fn both_versions_are_read_and_harm_is_seen() {
        for (state, bytes, version) in [
            (state(Some(4711)), STATE_BYTES, 2),
            (state(None), STATE_BYTES_UNFILLED, 1),
        ] {
            let record = state.encode();
            assert_eq!((record.len(), record[3]), (bytes, version));
            assert_eq!(State::decode(&record), Some(state));
            for at in 0..record.len() {
                let mut harmed = record.clone();
                harmed[at] ^= 0x10;
                assert_eq!(State::decode(&harmed), None, "harmed at {at}");
                assert_eq!(State::decode(&record[..at]), None, "cut at {at}");
            }
        }
    }
}
