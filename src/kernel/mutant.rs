//! Bugs planted on purpose, to prove that the simulator's checks find them.
//!
//! `mutant!("name")` is false wherever it stands, and compiles to nothing, unless the feature
//! `planted` is on; only simulation builds set it. There one bug at a time can be planted for the
//! current thread, which is one run. `sim/src/mutants.rs` has the list: what each bug breaks and
//! which check must say so.
//!
//! Invariants:
//! - Without the feature no name is ever planted.
//! - What is planted does not change while a run lasts, so that a run is still its plan.

/// Whether a bug of this name is planted here: `if mutant!("ack-before-sync") { … }`.
#[macro_export]
macro_rules! mutant {
    ($name:literal) => {
        $crate::kernel::mutant::is_planted($name)
    };
}

/// Whether the bug is planted.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is_planted(_: &'static str) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use planted::{is_planted, plant, reached};

#[cfg(feature = "planted")]
mod planted {
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<&'static str>> = const { Cell::new(None) };
        static REACHED: Cell<u64> = const { Cell::new(0) };
    }

    /// Plants one bug, or none, for what this thread runs from now on.
    pub fn plant(name: Option<&'static str>) {
        PLANTED.set(name);
        REACHED.set(0);
    }

    /// Whether the bug is planted. Counts how often a planted one was asked for.
    pub fn is_planted(name: &'static str) -> bool {
        let found = PLANTED.get() == Some(name);
        if found {
            REACHED.set(REACHED.get() + 1);
        }
        found
    }

    /// How often the planted bug was come to.
    pub fn reached() -> u64 {
        REACHED.get()
    }
}
