//! What happened, counted: a fault counts when it changed something, not when it was planned.

pub mod required;

use std::collections::BTreeMap;

/// Counts by name, in the order of names.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    /// Counts; nothing is entered for zero.
    pub fn add(&mut self, name: &'static str, by: u64) {
        if by > 0 {
            *self.0.entry(name).or_default() += by;
        }
    }

    /// Counts one.
    pub fn hit(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            self.add(name, *count);
        }
    }

    /// One count; zero for what never happened.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// All counts.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(name, count)| (*name, *count))
    }
}
