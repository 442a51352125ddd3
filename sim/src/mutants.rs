//! The bugs that can be planted in the members, each with the check that is there to find it.
//!
//! A bug is a `mutant!("name")` somewhere in the code; `kernel::mutant` says how it is switched.
//! Its entry names the guarantee that it breaks, as a run reports it. Caught means: a run broke,
//! and the first thing that broke is one of those. Anything else does not count, because a check
//! that is only ever saved by another one is not known to work.
//!
//! Invariants:
//! - Every name in the code has one entry, and every entry has its place in the code.
//! - A guided plan is the plan of its seed with some fields drawn otherwise. It breaks nothing by
//!   itself: without the bug it passes, which `cargo sim mutants --clean` shows.

use fated::kernel::Entropy;

use crate::{
    draw,
    faults::{Fault, FaultKind},
    observe::Violation,
    plan::Plan,
};

pub mod consensus;
pub mod members;
pub mod pairs;
pub mod room;
pub mod space;
pub mod state;

/// A planted bug and what must find it.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// Its name in `mutant!`.
    pub name: &'static str,
    /// What it breaks.
    pub breaks: &'static str,
    /// Where the bug comes from: a row of the verification plan, an incident of etcd.
    pub source: &'static str,
    /// What must fire.
    pub checks: &'static [Check],
    /// Makes what it needs more frequent than chance would.
    pub guide: Option<fn(&mut Plan)>,
    /// After this many seeds without its check it counts as missed.
    pub seeds_max: u64,
    /// With fewer faults than these it breaks nothing, whatever clients do.
    pub faults_min: usize,
}

/// What a run says when it broke.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    /// This guarantee did not hold.
    Holds(&'static str),
    /// An assertion of the core failed whose text contains this.
    Asserts(&'static str),
}

/// What a run reports when an assertion failed.
pub const ASSERTION: &str = "no assertion fails";

/// Every planted bug.
pub fn all() -> impl Iterator<Item = &'static Planted> {
    let bugs = consensus::TABLE.iter().chain(members::TABLE);
    let bugs = bugs.chain(state::TABLE).chain(space::TABLE);
    bugs.chain(pairs::TABLE).chain(room::TABLE)
}

impl Planted {
    /// The plan of a seed, guided, with the bug in it.
    pub fn plan(&self, seed: u64) -> Plan {
        Plan {
            planted: Some(self.name.to_owned()),
            ..self.clean_plan(seed)
        }
    }

    /// The same plan without the bug.
    pub fn clean_plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::draw(seed);
        if let Some(guide) = self.guide {
            guide(&mut plan);
            // What the guide has made of it need not be calm, whatever the plan was.
            plan.overload.calm = false;
        }
        plan
    }

    /// Whether this is what had to fire.
    pub fn is_caught_by(&self, violation: &Violation) -> bool {
        self.checks.iter().any(|check| match check {
            Check::Holds(guarantee) => violation.guarantee == *guarantee,
            Check::Asserts(text) => {
                violation.guarantee == ASSERTION && violation.story.contains(text)
            }
        })
    }
}

/// A bug that chance alone finds soon.
const fn planted(
    name: &'static str,
    source: &'static str,
    breaks: &'static str,
    checks: &'static [Check],
) -> Planted {
    Planted {
        name,
        breaks,
        source,
        checks,
        guide: None,
        seeds_max: 60,
        faults_min: 0,
    }
}

/// A bug whose circumstances a guide makes more frequent.
const fn guided(bug: Planted, guide: fn(&mut Plan)) -> Planted {
    Planted {
        guide: Some(guide),
        ..bug
    }
}

/// A bug that needs two faults, one on top of the other.
const fn of_two_faults(bug: Planted) -> Planted {
    Planted {
        faults_min: 2,
        ..bug
    }
}

/// Draws the faults of a plan anew, one about every `mean_ms`, for guided plans. `kind` sees the
/// number of members.
pub fn strike_often(
    plan: &mut Plan,
    mean_ms: u64,
    longest_ms: u64,
    kind: impl Fn(usize, &mut Entropy) -> FaultKind,
) {
    let mut entropy = Entropy::from_seed(plan.seed).fork("guide");
    plan.faults.clear();
    let mut at_ms = entropy.below(2 * mean_ms);
    while at_ms < plan.faults_ms {
        plan.faults.push(Fault {
            at_ms,
            for_ms: draw::log_uniform(10, longest_ms, &mut entropy),
            kind: kind(plan.cluster.members, &mut entropy),
        });
        at_ms += 1 + entropy.below(2 * mean_ms);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::all;

    /// Goal: the table and the code name the same bugs. Method: reads the source for `mutant!`.
    #[test]
    fn every_planted_bug_is_in_the_table_and_in_the_code() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut planted = BTreeSet::new();
        for sources in [here.join("../src"), here.join("src")] {
            collect(&sources, &mut planted);
        }
        let table: BTreeSet<String> = all().map(|bug| bug.name.to_owned()).collect();
        assert_eq!(all().count(), table.len(), "a name stands twice");
        let unlisted: Vec<_> = planted.difference(&table).collect();
        assert!(unlisted.is_empty(), "not in the table: {unlisted:?}");
        let missing: Vec<_> = table.difference(&planted).collect();
        assert!(missing.is_empty(), "nowhere in the code: {missing:?}");
        assert!(!planted.is_empty(), "the text was not found");
    }

    fn collect(directory: &Path, names: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, names);
                continue;
            }
            // Where switches are explained and not used.
            let explains = path.ends_with("kernel/mutant.rs") || path.ends_with("src/mutants.rs");
            if explains || path.extension().is_none_or(|kind| kind != "rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let uses = text.split("mutant!(\"").skip(1);
            names.extend(uses.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }

    /// Goal: a bug is looked for in plans that are data like all others, and a guide draws nothing
    /// that its seed does not decide.
    #[test]
    fn guided_plans_are_data() {
        for bug in all() {
            assert!(!bug.checks.is_empty() && bug.seeds_max > 0, "{}", bug.name);
            for seed in 0..2 {
                let plan = bug.plan(seed);
                assert_eq!(plan, bug.plan(seed), "{}", bug.name);
                let text = serde_json::to_string(&plan).unwrap();
                let read: crate::plan::Plan = serde_json::from_str(&text).unwrap();
                assert_eq!(read, plan, "{}", bug.name);
                assert!(plan.core.len() > plan.cluster.members / 2, "{}", bug.name);
                assert!(plan.core.iter().all(|at| *at < plan.cluster.members));
                assert_eq!(plan.clocks.len(), plan.cluster.members, "{}", bug.name);
                assert!(plan.faults.is_sorted_by_key(|fault| fault.at_ms));
            }
        }
    }
}
