//! A row of seeds on several threads.
//!
//! Invariant: a seed's result goes to the taker as soon as it is there, one at a time, and is kept
//! nowhere else; so a batch of any length needs the memory of the runs on their way.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::Place;

impl Place {
    /// How many threads work.
    pub fn threads(&self) -> usize {
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        self.jobs.unwrap_or_else(cores).max(1)
    }

    /// Does the work for each seed from the first on, until there were `count` of them or `more`
    /// wants none, and hands over what came of it.
    pub fn each<T: Send>(
        &self,
        count: u64,
        more: impl Fn() -> bool + Sync,
        work: impl Fn(u64) -> T + Sync,
        take: impl FnMut(u64, T) + Send,
    ) {
        let next = AtomicU64::new(0);
        let take = Mutex::new(take);
        thread::scope(|scope| {
            for _ in 0..self.threads() {
                scope.spawn(|| {
                    while more() {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return;
                        }
                        let seed = self.from.wrapping_add(number);
                        let result = work(seed);
                        (take.lock().expect("no taker panics"))(seed, result);
                    }
                });
            }
        });
    }
}
