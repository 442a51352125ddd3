//! Goal: the proof is worth something. Method: the histories are right before they are spoilt,
//! every trial is judged as is due, and each weakness misses exactly what names it.

use std::collections::BTreeSet;

use super::story::{base, watched};
use super::*;
use crate::check::plain;

#[test]
fn the_stories_are_right_before_they_are_spoilt() {
    for story in [base(), watched()] {
        for commits in [true, false] {
            let mut history = story.history.clone();
            if !commits {
                history.commits.clear();
            }
            let report = check::check(&history, &Options::default());
            assert!(report.is_ok(), "{report}");
            assert_eq!(report.plain, plain::Verdict::Ordered);
        }
    }
}

#[test]
fn each_trial_is_judged_as_is_due() {
    let trials = trials();
    assert!(trials.len() >= 50);
    for trial in trials {
        let report = trial.judge(&[]);
        assert!(trial.is_judged_right(&[]), "{}:\n{report}", trial.name);
        let Some(guarantee) = trial.expected else {
            continue;
        };
        let mut named = report.violations.iter();
        let named = named.find(|v| v.guarantee == guarantee).unwrap();
        let is_watch = format!("{guarantee:?}").starts_with("Watch");
        let is_named = !named.ops.is_empty() || named.text.contains("revision");
        let says_nothing = [Guarantee::Format, Guarantee::Undecided].contains(&guarantee);
        assert!(
            is_watch || is_named || says_nothing,
            "{}: {named}",
            trial.name
        );
    }
}

#[test]
fn a_broken_checker_misses_what_it_no_longer_looks_at() {
    let mut used: BTreeSet<Weakness> = BTreeSet::new();
    for trial in trials() {
        for weakness in &trial.needs {
            used.insert(*weakness);
            assert!(
                !trial.is_judged_right(&[*weakness]),
                "{}: judged well in spite of {weakness:?}\n{}",
                trial.name,
                trial.judge(&[*weakness])
            );
        }
    }
    assert_eq!(used, Weakness::ALL.into_iter().collect());
}

#[test]
fn the_proof_turns_red_under_every_broken_checker() {
    let proof = proof();
    assert!(proof.holds(), "{proof:?}");
}

#[test]
fn the_plain_search_covers_for_a_broken_guided_one() {
    let blind = [Weakness::KeysOnly, Weakness::NoHeaders];
    let mut covered = 0;
    for mut trial in trials() {
        if trial.expected != Some(Guarantee::Linearizable) {
            continue;
        }
        let needs: Vec<Weakness> = trial.needs.clone();
        for weakness in needs
            .into_iter()
            .filter(|weakness| blind.contains(weakness))
        {
            trial.options.plain_ops_max = 0;
            assert!(!trial.is_judged_right(&[weakness]), "{}", trial.name);
            trial.options.plain_ops_max = 300;
            assert!(trial.is_judged_right(&[weakness]), "{}", trial.name);
            covered += 1;
        }
    }
    assert!(covered >= 3);
}

/// Goal: a broken lease shows when it breaks, not when it was granted, so that what is told and
/// kept of a run goes up to there.
#[test]
fn a_broken_lease_shows_when_it_breaks() {
    let at_its_end = [Guarantee::LeaseEarly, Guarantee::LeaseLate];
    let mut seen = 0;
    for trial in trials() {
        let Some(guarantee) = trial.expected.filter(|it| at_its_end.contains(it)) else {
            continue;
        };
        let report = trial.judge(&[]);
        let mut named = report.violations.iter();
        let named = named.find(|it| it.guarantee == guarantee).unwrap();
        let op = trial.history.ops.iter().find(|op| op.id == named.ops[0]);
        let answered = op.and_then(|op| op.ret).unwrap();
        assert!(named.time > answered, "{}: {named}", trial.name);
        seen += 1;
    }
    assert!(seen >= 5, "{seen}");
}
