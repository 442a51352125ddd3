//! Judges a history: which guarantee is broken, and by which operation.
//!
//! The order of the checks, each standing on those before it:
//! 1. [`prepare`]: the file keeps the rules that span lines.
//! 2. [`oracle`]: if the committed log is known, it is replayed and compared with every answer.
//! 3. [`linearizable`]: a search over what clients saw alone, guided by revisions.
//! 4. [`plain`]: the same without guidance, for short histories, so that an error in the guidance
//!    cannot hide.
//! 5. [`watch`], [`serializable`], [`lease`]: against the order that 2 or 3 found.
//!
//! Invariants:
//! - A search that gives up has failed. No check passes because it could not decide.
//! - Without weaknesses, a violation is reported only if no order of the operations explains what
//!   was seen; the checks err on the side of silence, never of noise.

use std::collections::BTreeSet;
use std::fmt;
use std::io::BufRead;

use serde::Serialize;

use crate::history::*;

pub mod absent;
pub mod alike;
pub mod evidence;
pub mod facts;
pub mod lease;
pub mod linearizable;
pub mod oracle;
pub mod plain;
pub mod prepare;
pub mod serializable;
#[cfg(test)]
mod tests;
pub mod times;
pub mod watch;
mod weak;
pub mod witness;

pub use prepare::{Kind, Prepared, Timeline, TimelineEntry};

/// What a cluster promises, each named by what breaks if it is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// The history itself makes no sense: the recorder is wrong, not the cluster.
    Format,
    /// Every operation takes effect at one moment between call and return.
    Linearizable,
    /// The search ended without an answer, which is a failure of its own.
    Undecided,
    /// What was acknowledged is in the committed log, once.
    Committed,
    /// A read at a named revision, or a stale one, shows one state that was true.
    Serializable,
    /// Events match what was asked for.
    WatchFilter,
    /// Events come in the order of revisions.
    WatchOrdered,
    /// No event comes twice.
    WatchUnique,
    /// The events of a revision come together.
    WatchAtomic,
    /// After a progress notification nothing older comes.
    WatchBookmarkable,
    /// A watch from a revision begins with the first event from there on.
    WatchResumable,
    /// No event between the first and the last is missing, and none is made up.
    WatchReliable,
    /// Events carry the pair before them, and tell creation from change.
    WatchPrevKv,
    /// A watch is created before it speaks, and silent after its end.
    WatchLifetime,
    /// A watch that fell behind a compaction is told so, truthfully.
    WatchCompacted,
    /// A lease does not end before its time.
    LeaseEarly,
    /// A lease ends when its time is over.
    LeaseLate,
    /// Answers about leases are true.
    LeaseAnswer,
}

/// Ways to break a checker, so that tests can show what each part of it is good for. Nothing but
/// tests and the simulator's own proof sets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Weakness {
    NoRealTime,
    UnknownNeverApplied,
    KeysOnly,
    NoHeaders,
    NoErrors,
    NoCommitted,
    GivingUpPasses,
    NoSerializable,
    NoFilter,
    NoOrder,
    NoUnique,
    NoAtomic,
    NoBookmark,
    NoResume,
    NoReliable,
    NoPrevKv,
    NoLifetime,
    NoCompacted,
    NoLeaseEarly,
    NoLeaseLate,
    NoLeaseAnswer,
}

impl Weakness {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::NoRealTime,
        Self::UnknownNeverApplied,
        Self::KeysOnly,
        Self::NoHeaders,
        Self::NoErrors,
        Self::NoCommitted,
        Self::GivingUpPasses,
        Self::NoSerializable,
        Self::NoFilter,
        Self::NoOrder,
        Self::NoUnique,
        Self::NoAtomic,
        Self::NoBookmark,
        Self::NoResume,
        Self::NoReliable,
        Self::NoPrevKv,
        Self::NoLifetime,
        Self::NoCompacted,
        Self::NoLeaseEarly,
        Self::NoLeaseLate,
        Self::NoLeaseAnswer,
    ];
}

/// What to check, and how hard.
#[derive(Clone, Debug)]
pub struct Options {
    /// Up to how many operations the plain search runs too.
    pub plain_ops_max: usize,
    /// How many steps a search may take before it gives up.
    pub steps_max: u64,
    /// How the checkers are broken.
    pub weak: BTreeSet<Weakness>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            plain_ops_max: 300,
            steps_max: 20_000_000,
            weak: BTreeSet::new(),
        }
    }
}

impl Options {
    /// Whether the checkers are broken in this way.
    pub fn is_weak(&self, weakness: Weakness) -> bool {
        self.weak.contains(&weakness)
    }
}

/// One broken promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// What is broken.
    pub guarantee: Guarantee,
    /// The operations that show it, by id; empty for a watch stream.
    pub ops: Vec<u64>,
    /// When it shows.
    pub time: Time,
    /// What was seen and what was right.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}: {}", self.guarantee, self.time, self.text)?;
        if !self.ops.is_empty() {
            write!(f, " (operations {:?})", self.ops)?;
        }
        Ok(())
    }
}

/// The verdict on a history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Operations in the history.
    pub ops: usize,
    /// Those with an unknown outcome.
    pub unknown: usize,
    /// Watch lines.
    pub watch_lines: usize,
    /// Entries of the committed log.
    pub commits: usize,
    /// How many operations, by the order of their returns, have an order that explains them all.
    pub linearizable_prefix: usize,
    /// The end of that order: ids of the last operations placed, oldest first.
    pub prefix_tail: Vec<u64>,
    /// Whether the search needed the log to know what became of unknown operations.
    pub by_log: bool,
    /// What the plain search came to.
    pub plain: plain::Verdict,
    /// Steps that the search took.
    pub steps: u64,
    /// Everything found, the first guarantee first. Empty if all is well.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Whether nothing is broken.
    pub fn is_ok(&self) -> bool {
        self.violations.is_empty()
    }

    /// Whether this guarantee is among the broken.
    pub fn breaks(&self, guarantee: Guarantee) -> bool {
        self.violations
            .iter()
            .any(|violation| violation.guarantee == guarantee)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} operations ({} unknown), {} watch lines, {} log entries",
            self.ops, self.unknown, self.watch_lines, self.commits
        )?;
        if self.is_ok() {
            return write!(f, "no guarantee is broken");
        }
        for violation in &self.violations {
            writeln!(f, "{violation}")?;
        }
        write!(
            f,
            "the first {} operations have an order, ending in {:?}",
            self.linearizable_prefix, self.prefix_tail
        )
    }
}

/// Reads a history and judges it.
pub fn run(input: impl BufRead) -> Result<Report, ReadError> {
    Ok(check(&History::read(input)?, &Options::default()))
}

/// Judges a history.
pub fn check(history: &History, options: &Options) -> Report {
    let mut report = Report {
        ops: history.ops.len(),
        unknown: history.ops.iter().filter(|op| op.ret.is_none()).count(),
        watch_lines: history.watches.len(),
        commits: history.commits.len(),
        ..Report::default()
    };
    let prepared = match Prepared::new(history, options) {
        Ok(prepared) => prepared,
        Err(violation) => {
            report.violations.push(violation);
            return report;
        }
    };
    report.violations.extend(prepared.timeless_violations());

    let mut timeline = None;
    if !history.commits.is_empty() {
        let replay = oracle::replay(&prepared, options);
        report.violations.extend(replay.violations);
        timeline = Some(replay.timeline);
    }
    let search = linearizable::search(&prepared, timeline.as_ref(), options);
    report.linearizable_prefix = search.prefix;
    report.prefix_tail = search.prefix_tail;
    report.steps = search.steps;
    report.by_log = search.by_log;
    let is_linearizable = search.violation.is_none();
    // An order that a known log gives and the search denies is denied by what a watch or a stale
    // read said: those are judged first.
    let is_late = !history.commits.is_empty() && report.is_ok();
    let (first, late) = match is_late {
        true => (None, search.violation),
        false => (search.violation, None),
    };
    report.violations.extend(first);
    if is_linearizable && history.ops.len() <= options.plain_ops_max {
        let (verdict, violation) = plain::search(&prepared, options);
        report.plain = verdict;
        report.violations.extend(violation);
    }
    if timeline.is_none() {
        timeline = search.timeline;
    }
    let found = watch::check(&prepared, timeline.as_ref(), options);
    report.violations.extend(found);
    if let Some(timeline) = &timeline {
        let found = serializable::check(&prepared, timeline, options);
        report.violations.extend(found);
        let found = lease::check(&prepared, timeline, options);
        report.violations.extend(found);
    }
    report.violations.extend(late);
    // No order fits all that was seen, so something is wrong even if no check can name it.
    if report.is_ok() && options.weak.is_empty() {
        report.violations.extend(search.doubt);
    }
    report
}
