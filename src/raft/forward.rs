//! Takes each forwarded proposal at most once, however often the network delivers it.
//!
//! A forward is bound to a term, so only one leader can ever take it; within the term it has a
//! number. The leader remembers, per sender and boot, which of the latest numbers it has seen;
//! older ones are dropped.

use std::collections::{BTreeMap, VecDeque};

use crate::kernel::MemberId;

/// Boots remembered per sender and term. A message would have to outlive that many restarts to get
/// through.
const BOOTS_MAX: usize = 8;

/// What one leader has taken in its term.
#[derive(Clone, Debug, Default)]
pub struct Forwards {
    seen: BTreeMap<MemberId, VecDeque<(u64, Window)>>,
}

/// The latest numbers of one boot. Bit `i` stands for `highest - i`.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    highest: u64,
    bits: u64,
}

impl Forwards {
    /// Whether this forward is new; it is not new any more afterwards.
    pub fn accept(&mut self, from: MemberId, boot: u64, sequence: u64) -> bool {
        let boots = self.seen.entry(from).or_default();
        if let Some((_, window)) = boots.iter_mut().find(|(known, _)| *known == boot) {
            return window.accept(sequence);
        }
        if boots.len() == BOOTS_MAX {
            boots.pop_front();
        }
        let mut window = Window::default();
        let new = window.accept(sequence);
        boots.push_back((boot, window));
        new
    }

    /// Forgets everything: a new term.
    pub fn clear(&mut self) {
        self.seen.clear();
    }
}

impl Window {
    fn accept(&mut self, sequence: u64) -> bool {
        if sequence > self.highest {
            let step = u32::try_from(sequence - self.highest).unwrap_or(u32::MAX);
            self.bits = self.bits.checked_shl(step).unwrap_or(0) | 1;
            self.highest = sequence;
            return true;
        }
        let bit = u32::try_from(self.highest - sequence).unwrap_or(u32::MAX);
        let mask = 1u64.checked_shl(bit).unwrap_or(0);
        let new = mask != 0 && self.bits & mask == 0;
        self.bits |= mask;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn nothing_is_taken_twice(numbers in prop::collection::vec((1u64..3, 1u64..200), 0..200)) {
            let mut forwards = Forwards::default();
            let mut taken = BTreeSet::new();
            for (boot, number) in numbers {
                let newest = taken.range((boot, 0)..=(boot, u64::MAX)).next_back().copied();
                let accepted = forwards.accept(MemberId::new(1), boot, number);
                if accepted {
                    prop_assert!(taken.insert((boot, number)), "{} was taken twice", number);
                } else {
                    let old = newest.is_some_and(|(_, newest)| number + 64 <= newest);
                    prop_assert!(old || taken.contains(&(boot, number)), "{} was lost", number);
                }
            }
        }
    }
}
