//! Shapes of random choice that plans and devices share.

use fated::kernel::Entropy;

/// A number from `low` to `high` whose logarithm is spread evenly: small ones are as likely as
/// large ones. `low` must not be zero.
pub fn log_uniform(low: u64, high: u64, entropy: &mut Entropy) -> u64 {
    assert!(0 < low && low <= high, "an empty range was asked for");
    let octaves = u64::from((high / low).ilog2());
    let floor = low << entropy.below(octaves + 1);
    entropy.between(floor, (floor * 2 - 1).max(floor).min(high))
}

/// The number or its negative.
pub fn signed(number: u64, entropy: &mut Entropy) -> i64 {
    let number = i64::try_from(number).expect("plans hold small numbers");
    if entropy.one_in(2) { number } else { -number }
}

/// An index below `count`.
pub fn index(count: usize, entropy: &mut Entropy) -> usize {
    usize(entropy.below(count as u64))
}

/// True this many times in a million.
pub fn chance(ppm: u64, entropy: &mut Entropy) -> bool {
    ppm > 0 && entropy.below(1_000_000) < ppm
}

/// `size` different numbers below `count`, in order.
pub fn subset(count: usize, size: usize, entropy: &mut Entropy) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).collect();
    while all.len() > size {
        all.remove(index(all.len(), entropy));
    }
    all
}

/// A small number as a size.
pub fn usize(number: u64) -> usize {
    usize::try_from(number).expect("a size fits")
}
