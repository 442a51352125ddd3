//! Ways from one state to a goal, all of them if that does not take too long. The state is changed
//! in place and put back.

use std::collections::{BTreeMap, BTreeSet};

use super::advance::Bounds;
use super::*;

/// A search from one state.
pub(super) struct Explorer<'s, 'p, 'h> {
    prepared: &'p Prepared<'h>,
    options: &'p Options,
    evidence: &'s Evidence,
    witness: &'s Witness<'h>,
    open: &'s [usize],
    maybes: &'s Maybes,
    state: &'s mut State,
    goal: Goal,
    bounds: Bounds,
    /// Revisions that known operations claim, rising.
    claimed: &'s [i64],
    path: Vec<Move>,
    /// States that were looked at, and with how many guesses left.
    seen: BTreeMap<u64, usize>,
    steps_left: u64,
    /// How many guesses may still be made on this path.
    guesses_left: usize,
    /// Steps taken.
    pub(super) steps: u64,
    found: Found,
}

/// What a search from one state has found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The ways.
    pub(super) paths: Vec<Vec<Move>>,
    /// Whether there may be ways with more guesses.
    pub(super) is_bounded: bool,
    /// Whether it was left before all ways were found.
    pub(super) is_cut_short: bool,
    /// What stood in the way.
    pub(super) why: Option<Why>,
}

impl<'s, 'p, 'h> Explorer<'s, 'p, 'h> {
    pub(super) fn new(
        searcher: &'s Searcher<'p, 'h>,
        state: &'s mut State,
        goal: Goal,
        bounds: Bounds,
    ) -> Explorer<'s, 'p, 'h> {
        let mut explorer = Explorer {
            prepared: searcher.prepared,
            options: searcher.options,
            evidence: &searcher.evidence,
            witness: &searcher.witness,
            open: &searcher.open,
            maybes: &searcher.maybes,
            state,
            goal,
            bounds,
            claimed: &searcher.claimed,
            path: Vec::new(),
            seen: BTreeMap::new(),
            steps_left: searcher.options.steps_max.saturating_sub(searcher.steps),
            guesses_left: 0,
            steps: 0,
            found: Found::default(),
        };
        explorer.guesses_left = explorer.guesses_needed().saturating_add(bounds.reach);
        explorer
    }

    pub(super) fn into_found(self) -> Found {
        self.found
    }

    /// Finds ways; an error if there are too many steps to take.
    pub(super) fn run(&mut self) -> Result<(), End> {
        let mark = self.state.model.mark();
        let outcome = self.node();
        assert_eq!(self.state.model.mark(), mark, "every step was taken back");
        assert!(self.path.is_empty(), "every step was taken back");
        outcome
    }

    /// How many guesses it takes at least from here to the goal: each revision on the way that
    /// nobody claims, but for those that known revocations may fill.
    fn guesses_needed(&self) -> usize {
        let current = self.state.model.revision();
        let until = match self.goal {
            Goal::Revision(revision) => revision,
            Goal::Place(place) => self.op(place).kind.revision().unwrap_or(current),
        };
        if until <= current {
            return 0;
        }
        let up_to = |revision| self.claimed.partition_point(|claimed| *claimed <= revision);
        let claimed = up_to(until) - up_to(current);
        let waiting = self.waiting();
        let is_revocation = |place: &&usize| matches!(self.op(**place).kind, Kind::Revoke(_));
        let revocations = waiting.iter().filter(is_revocation).count();
        let unclaimed = (until - current) as usize - claimed;
        unclaimed.saturating_sub(revocations)
    }

    /// Whether others are to have their turn first.
    fn is_enough(&self) -> bool {
        self.steps > self.bounds.effort || self.found.paths.len() >= self.bounds.ways
    }

    fn op(&self, place: usize) -> &'p super::super::prepare::Op<'h> {
        &self.prepared.ops[place]
    }

    /// Open operations with a place in every order that are not placed yet.
    fn waiting(&self) -> Vec<usize> {
        let placed = &self.state.placed;
        let open = self.open.iter().copied();
        open.filter(|place| !placed.contains(place)).collect()
    }

    /// One state on the way: first what may be placed at once, then every choice.
    fn node(&mut self) -> Result<(), End> {
        let (mark, length) = (self.state.model.mark(), self.path.len());
        let outcome = self.settle_and_choose();
        self.state.model.take_back(mark);
        while self.path.len() > length {
            if let Some(Move::Op(_)) = self.path.pop() {
                self.state.placed.pop();
            }
        }
        outcome
    }

    fn settle_and_choose(&mut self) -> Result<(), End> {
        if self.is_enough() {
            self.found.is_cut_short = true;
            return Ok(());
        }
        if !self.settle()? {
            return Ok(());
        }
        let mut placed = self.state.placed.clone();
        placed.sort_unstable();
        let guesses_left = self.guesses_left;
        let print = print_of(&self.state.model, &placed);
        // With more guesses left there is more to find.
        let been = self.seen.insert(print, guesses_left);
        if been.is_some_and(|before| before >= guesses_left) {
            return Ok(());
        }
        if self.goal.is_reached(self.state) {
            self.found.paths.push(self.path.clone());
            return Ok(());
        }
        if self.guesses_needed() > guesses_left {
            self.found.is_bounded = true;
            return Ok(());
        }
        self.choose_beside()?;
        self.choose_revision()
    }

    /// Places reads that fit here; false if one that belongs here does not fit, so that this state
    /// is impossible.
    fn settle(&mut self) -> Result<bool, End> {
        for place in self.waiting() {
            let kind = self.op(place).kind;
            let current = self.state.model.revision();
            let due = kind.revision();
            let is_late = match kind {
                Kind::Write(at) => at <= current,
                Kind::Read(_)
                | Kind::Grant(_)
                | Kind::Revoke(_)
                | Kind::Compact
                | Kind::Aside
                | Kind::MaybeWrite
                | Kind::MaybeGrant
                | Kind::MaybeCompact => due.is_some_and(|due| due < current),
            };
            if let (true, Some(due)) = (is_late, due) {
                self.note(
                    place,
                    format!("names revision {due}, but {current} came before it"),
                );
                return Ok(false);
            }
            let Kind::Read(at) = kind else { continue };
            if at.is_none_or(|at| at == current) && !self.attempt(place)? && at.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn lease_is_free(&self, leases: &BTreeSet<i64>) -> bool {
        leases
            .iter()
            .all(|lease| !self.state.model.leases().contains_key(lease))
    }

    /// Takes the step of an operation if its answer agrees; else changes nothing.
    fn attempt(&mut self, place: usize) -> Result<bool, End> {
        self.count()?;
        let op = self.op(place);
        let mark = self.state.model.mark();
        let answer = self.state.model.step(&op.request);
        let weakened = self.weakened(place);
        let outcome = weakened.as_ref().unwrap_or(&op.source.outcome);
        if !agrees(&self.state.model, &op.request, &answer, outcome) {
            if self.is_news(place) {
                let verdict = agree(&self.state.model, &op.request, &answer, outcome);
                let text = verdict.expect_err("they do not agree");
                self.state.model.take_back(mark);
                self.note(place, text);
            }
            self.state.model.take_back(mark);
            return Ok(false);
        }
        self.path.push(Move::Op(place));
        self.state.placed.push(place);
        Ok(true)
    }

    /// What a broken checker takes for the answer.
    fn weakened(&mut self, place: usize) -> Option<Outcome> {
        if self.options.weak.is_empty() {
            return None;
        }
        super::super::weak::outcome(self.options, &self.state.model, self.op(place))
    }

    fn count(&mut self) -> Result<(), End> {
        self.steps += 1;
        if self.steps > self.steps_left {
            return Err(End::GaveUp(format!(
                "more than {} steps",
                self.options.steps_max
            )));
        }
        Ok(())
    }

    /// Whether that an operation does not fit here says more than what was noted before.
    fn is_news(&self, place: usize) -> bool {
        let revision = self.state.model.revision();
        let known = self.found.why.as_ref();
        known.is_none_or(|why| (why.revision, why.place) != (revision, place))
    }

    fn note(&mut self, place: usize, text: String) {
        // An operation that may be placed anywhere stands in nobody's way but its own.
        let is_goal = matches!(self.goal, Goal::Place(goal) if goal == place);
        if !is_goal && self.op(place).kind.revision().is_none() {
            return;
        }
        let revision = self.state.model.revision();
        if self
            .found
            .why
            .as_ref()
            .is_none_or(|why| why.revision <= revision)
        {
            self.found.why = Some(Why {
                revision,
                place,
                text,
            });
        }
    }

    /// Steps that leave the revision as it is.
    fn choose_beside(&mut self) -> Result<(), End> {
        let current = self.state.model.revision();
        let mut places = self.waiting();
        places.retain(|place| {
            let op = self.op(*place);
            match op.kind {
                Kind::Compact => true,
                Kind::Grant(at) => at == current && self.lease_is_free(&op.leases),
                Kind::Revoke(at) => at == current && !self.has_keys(&op.leases),
                Kind::Aside
                | Kind::Read(_)
                | Kind::Write(_)
                | Kind::MaybeWrite
                | Kind::MaybeGrant
                | Kind::MaybeCompact => false,
            }
        });
        if self.is_compaction_wanted() {
            places.extend(self.maybes.compactions(&self.state.placed));
        }
        let mut grants: Vec<usize> = self.maybes.grants(&self.state.placed).collect();
        grants.retain(|place| self.is_lease_wanted(&self.op(*place).leases));
        places.extend(grants);
        for place in places {
            self.branch(place, None)?;
        }
        for lease in self.unwanted_leases() {
            if self.state.model.keys_of(lease).is_empty() {
                self.expire(lease, None)?;
            }
        }
        Ok(())
    }

    /// Steps to the next revision.
    fn choose_revision(&mut self) -> Result<(), End> {
        let current = self.state.model.revision();
        let waiting = self.waiting();
        // A grant of this revision must come before the next.
        let held = |place: &usize| self.op(*place).kind == Kind::Grant(current);
        if waiting.iter().any(held) {
            return Ok(());
        }
        let next = current + 1;
        if let Some(&claimant) = self.evidence.claims.get(&next) {
            if waiting.contains(&claimant) {
                self.branch(claimant, Some(next))?;
            }
            return Ok(());
        }
        for place in waiting {
            let op = self.op(place);
            let in_time = self.witness.is_in_time(next, op.source.call);
            if in_time && op.kind == Kind::Revoke(next) && self.has_keys(&op.leases) {
                self.branch(place, Some(next))?;
            }
        }
        let writes: Vec<usize> = self.maybes.writes(&self.state.placed).collect();
        for place in writes {
            let op = self.op(place);
            let in_time = self.witness.is_in_time(next, op.source.call);
            if in_time && self.evidence.allows_request(next, &op.request) {
                self.branch(place, Some(next))?;
            }
        }
        let kvs = self.state.model.kvs().values();
        let leases: BTreeSet<i64> = kvs.map(|kv| kv.lease).filter(|lease| *lease != 0).collect();
        for lease in leases {
            if self.evidence.allows_end(next, lease) {
                self.expire(lease, Some(next))?;
            }
        }
        Ok(())
    }

    /// Goes on from an operation placed here, if it makes just this revision (none: no new one).
    fn branch(&mut self, place: usize, revision: Option<i64>) -> Result<(), End> {
        let (mark, before) = (self.state.model.mark(), self.state.model.revision());
        let is_guess = self.op(place).source.ret.is_none() && !self.open.contains(&place);
        if is_guess && self.guesses_left == 0 {
            self.found.is_bounded = true;
            return Ok(());
        }
        if !self.attempt(place)? {
            return Ok(());
        }
        self.guesses_left -= usize::from(is_guess);
        let wanted = revision.unwrap_or(before);
        let fits = self.state.model.revision() == wanted
            && (revision.is_none() || self.is_seen_so(wanted, Some(self.op(place).source.call)));
        let outcome = if fits { self.node() } else { Ok(()) };
        self.guesses_left += usize::from(is_guess);
        self.state.model.take_back(mark);
        self.state.placed.pop();
        self.path.pop();
        outcome
    }

    fn expire(&mut self, lease: i64, revision: Option<i64>) -> Result<(), End> {
        if self.guesses_left == 0 {
            self.found.is_bounded = true;
            return Ok(());
        }
        self.guesses_left -= 1;
        self.count()?;
        let mark = self.state.model.mark();
        let answer = self.state.model.step(&end_of(lease));
        let fits = answer.is_ok() && revision.is_none_or(|at| self.is_seen_so(at, None));
        self.path.push(Move::Expire(lease));
        let outcome = if fits { self.node() } else { Ok(()) };
        self.path.pop();
        self.guesses_left += 1;
        self.state.model.take_back(mark);
        outcome
    }

    /// Whether the step that was just taken to a revision is what others saw of it.
    fn is_seen_so(&mut self, revision: i64, call: Option<Time>) -> bool {
        self.evidence.allows(revision, self.state.model.events())
            && self.witness.allows(&mut self.state.model, call)
    }

    fn has_keys(&self, leases: &BTreeSet<i64>) -> bool {
        leases
            .iter()
            .any(|lease| !self.state.model.keys_of(*lease).is_empty())
    }

    /// Whether an operation that waits, or an unknown one that may be the next step, could need one
    /// of these leases, which is not there.
    fn is_lease_wanted(&self, leases: &BTreeSet<i64>) -> bool {
        if !self.lease_is_free(leases) {
            return false;
        }
        let next = self.state.model.revision() + 1;
        let mut wishers = self.waiting();
        if !self.evidence.claims.contains_key(&next) {
            wishers.extend(self.maybes.writes(&self.state.placed));
        }
        let names = |place: &usize| !self.op(*place).leases.is_disjoint(leases);
        wishers.iter().any(names)
    }

    /// Whether an operation that waits could have met a compaction.
    fn is_compaction_wanted(&self) -> bool {
        self.waiting().iter().any(|place| {
            let Outcome::Failed(failure) = &self.op(*place).source.outcome else {
                return false;
            };
            crate::model::Refusal::of(failure) == Some(crate::model::Refusal::Compacted)
        })
    }

    /// Leases of the state whose end an operation that waits may depend on.
    fn unwanted_leases(&self) -> BTreeSet<i64> {
        let mut leases = BTreeSet::new();
        for place in self.waiting() {
            let op = self.op(place);
            let depends = match op.kind {
                Kind::Grant(_) => true,
                Kind::Read(_) => matches!(op.source.outcome, Outcome::Failed(_)),
                Kind::Aside
                | Kind::Write(_)
                | Kind::Revoke(_)
                | Kind::Compact
                | Kind::MaybeWrite
                | Kind::MaybeGrant
                | Kind::MaybeCompact => false,
            };
            if depends {
                leases.extend(&op.leases);
            }
        }
        leases.retain(|lease| self.state.model.leases().contains_key(lease));
        leases
    }
}
