//! Is there an order of the operations that explains every answer? A search over what clients saw
//! alone, after Wing and Gong, with Lowe's rule of placing operations only when one must be.
//!
//! The history is read in the order of time with a set of states that are possible so far. When an
//! operation returns, every state in which it is not placed yet is replaced by all states that
//! come from placing other open operations and then it. No state left: no order exists.
//!
//! Revisions guide it; each cut is sound:
//! 1. A revision is one step. If an operation claims it, no other can be that step.
//! 2. Where nobody claims a revision, an unknown operation, a revocation or the end of a lease may
//!    fill it, if that does what is known of the revision.
//! 3. A known operation that names a revision is placed before the next step, and one without
//!    effect as soon as it fits: that takes no possibility away. A grant is not: what fails
//!    because the lease is missing may yet come before it.
//! 4. What is not asked for (the end of an idle lease, an unknown grant) is placed only if the
//!    answer of an open operation depends on it.
//! 5. Of unknown operations that are alike, the first one is tried for all.
//! 6. A state that another one has with fewer unknown operations used up is dropped: what can come
//!    from it can come from the other.
//!
//! Of many possible states the search goes on with a few and sets the others aside, to turn back to
//! them if those lead nowhere: one order is enough. What nobody ever reads can be in a thousand
//! states, and any of them will do.
//!
//! Memory holds the open operations and the possible states, not the history: wherever nothing is
//! open and one state is left, the search starts anew from it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::alike::Alike;
use super::evidence::{Evidence, Sources};
use super::prepare::{Kind, Moment, Prepared, events_by_time};
use super::witness::Witness;
use super::{Guarantee, Options, Timeline, TimelineEntry, Violation, Weakness};
use crate::history::*;
use crate::model::{Model, agree, agrees};

mod advance;
mod aside;
mod explore;
mod maybes;

use aside::Aside;
use maybes::Maybes;

/// One step of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Move {
    /// An operation, by its place.
    Op(usize),
    /// The end of a lease that nobody asked for.
    Expire(i64),
}

/// What the search found.
#[derive(Debug)]
pub struct Search {
    /// Why there is no order, or that none was found in time.
    pub violation: Option<Violation>,
    /// Why no order fits what stale reads and watches saw, if there is one for all others.
    pub doubt: Option<Violation>,
    /// Whether the committed log had to say what became of unknown operations.
    pub by_log: bool,
    /// An order, if there is one.
    pub timeline: Option<Timeline>,
    /// How many returns it came through.
    pub prefix: usize,
    /// Ids of the last operations of the longest order.
    pub prefix_tail: Vec<u64>,
    /// Steps taken.
    pub steps: u64,
}

/// A state that is possible so far.
#[derive(Clone, Debug)]
struct State {
    model: Model,
    /// Open operations that it has placed, in order of place.
    placed: Vec<usize>,
    /// The last entry of its order in the tape.
    tape: usize,
    /// Steps since a state of its order was kept whole.
    since: usize,
}

impl State {
    fn print(&self) -> u64 {
        print_of(&self.model, &self.placed)
    }
}

fn print_of(model: &Model, placed: &[usize]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (model.fingerprint(), placed).hash(&mut hasher);
    hasher.finish()
}

/// Orders of many states that share their beginnings: each entry names the one before it.
#[derive(Debug)]
struct Tape(Vec<(usize, Move)>);

/// Where every order begins.
const TAPE_START: usize = usize::MAX;

impl Tape {
    fn push(&mut self, before: usize, step: Move) -> usize {
        self.0.push((before, step));
        self.0.len() - 1
    }

    /// The entry before one.
    fn before(&self, at: usize) -> usize {
        self.0[at].0
    }

    /// The last steps of an order, newest first.
    fn back_from(&self, last: usize) -> impl Iterator<Item = Move> + '_ {
        let mut at = last;
        std::iter::from_fn(move || {
            let (before, step) = *self.0.get(at)?;
            at = before;
            Some(step)
        })
    }
}

/// Searches with all evidence. If that finds no order, but answers alone have one, then the
/// watches are wrong and not the order; their own check will say so.
///
/// Where unknown outcomes leave too many orders, the log decides what became of them, if there is
/// one; the order itself is still searched for.
pub fn search(prepared: &Prepared<'_>, log: Option<&Timeline>, options: &Options) -> Search {
    let Some(log) = log else {
        return search_by(prepared, None, options);
    };
    let ops = prepared.ops.len() as u64;
    let limited = Options {
        steps_max: options.steps_max.min(STEPS_BEFORE_LOG + STEPS_PER_OP * ops),
        ..options.clone()
    };
    let found = search_by(prepared, None, &limited);
    match &found.violation {
        Some(violation) if violation.guarantee == Guarantee::Undecided => Search {
            by_log: true,
            ..search_by(prepared, Some(log), options)
        },
        Some(_) | None => found,
    }
}

/// How long the search goes on without asking the log. One that does not get lost takes three to
/// six steps for each operation.
const STEPS_PER_OP: u64 = 15;
const STEPS_BEFORE_LOG: u64 = 20_000;

fn search_by(prepared: &Prepared<'_>, log: Option<&Timeline>, options: &Options) -> Search {
    let all = search_with(prepared, Sources::All, log, options);
    let is_refuted = |search: &Search| {
        search
            .violation
            .as_ref()
            .is_some_and(|v| v.guarantee == Guarantee::Linearizable)
    };
    if is_refuted(&all) {
        let answers = search_with(prepared, Sources::Answers, log, options);
        if answers.violation.is_none() {
            return Search {
                doubt: all.violation,
                ..answers
            };
        }
    }
    all
}

fn search_with(
    prepared: &Prepared<'_>,
    sources: Sources,
    log: Option<&Timeline>,
    options: &Options,
) -> Search {
    let mut evidence = Evidence::gather(prepared, sources);
    if let Some(log) = log {
        evidence.believe(prepared, log);
    }
    let witness = match sources {
        Sources::All => Witness::gather(prepared),
        Sources::Answers => Witness::default(),
    };
    let mut searcher = Searcher {
        witness,
        prepared,
        options,
        open: Vec::new(),
        maybes: Maybes::default(),
        alike: Alike::new(prepared),
        states: vec![State {
            model: Model::new(&prepared.history.meta),
            placed: Vec::new(),
            tape: TAPE_START,
            since: 0,
        }],
        tape: Tape(Vec::new()),
        steps: 0,
        at: 0,
        returned: 0,
        aside: Aside::default(),
        claimed: evidence.claims.keys().copied().collect(),
        evidence,
    };
    let verdict = searcher.run();
    searcher.conclude(verdict.err())
}

/// Why a search ends early.
#[derive(Clone, Debug)]
enum End {
    /// This operation (none: a revision that something shows) cannot be placed.
    Refuted(Option<usize>, String),
    /// Too many steps or states.
    GaveUp(String),
}

struct Searcher<'p, 'h> {
    prepared: &'p Prepared<'h>,
    options: &'p Options,
    evidence: Evidence,
    /// The revisions that are claimed, rising.
    claimed: Vec<i64>,
    witness: Witness<'h>,
    /// Operations that are called and not returned, and have a place in every order. Unknown ones
    /// among them are those whose revision was found out.
    open: Vec<usize>,
    /// Unknown operations that are called and may or may not have a place.
    maybes: Maybes,
    alike: Alike,
    states: Vec<State>,
    tape: Tape,
    steps: u64,
    /// How many calls and returns are behind.
    at: usize,
    returned: usize,
    aside: Aside,
}

impl Searcher<'_, '_> {
    fn run(&mut self) -> Result<(), End> {
        if let Some((_, place, text)) = self.evidence.clash.clone() {
            return Err(End::Refuted(Some(place), text));
        }
        let ops = self.prepared.ops.iter().enumerate();
        let known = ops
            .filter(|(place, op)| op.kind != Kind::Aside && !self.evidence.absent.contains(place));
        let sources = known.map(|(place, op)| (place, op.source));
        let events = events_by_time(sources, self.options);
        loop {
            match self.walk(&events) {
                Err(End::Refuted(place, text)) => {
                    if let Some(end) = self.turn_back(End::Refuted(place, text), &events) {
                        return Err(end);
                    }
                }
                outcome @ (Ok(()) | Err(End::GaveUp(_))) => return outcome,
            }
        }
    }

    /// Goes through the rest of the history with the states at hand.
    fn walk(&mut self, events: &[(Time, Moment, usize)]) -> Result<(), End> {
        while let Some((_, moment, place)) = events.get(self.at).copied() {
            self.at += 1;
            match moment {
                Moment::Call if self.is_maybe(place) => {
                    let kind = self.prepared.ops[place].kind;
                    self.maybes.push(kind, self.alike.class_of(place), place);
                }
                Moment::Call => self.open.push(place),
                Moment::Return => self.on_return(place)?,
            }
        }
        self.finish()
    }

    fn is_maybe(&self, place: usize) -> bool {
        let known = self.prepared.ops[place].source.ret.is_some();
        !known && !self.evidence.found.contains_key(&place)
    }

    fn on_return(&mut self, place: usize) -> Result<(), End> {
        if self
            .states
            .iter()
            .any(|state| !state.placed.contains(&place))
        {
            self.advance(Goal::Place(place), self.at - 1)?;
        }
        self.returned += 1;
        self.close(place);
        self.set_aside()?;
        self.close_common();
        Ok(())
    }

    /// Unknown operations that every state has placed are over.
    fn close_common(&mut self) {
        let Some((first, rest)) = self.states.split_first() else {
            return;
        };
        let unknown = |place: &usize| self.prepared.ops[*place].source.ret.is_none();
        let everywhere = |place: &usize| rest.iter().all(|state| state.placed.contains(place));
        let placed = first.placed.iter().copied();
        let common: Vec<usize> = placed.filter(|p| unknown(p) && everywhere(p)).collect();
        for place in common {
            self.close(place);
        }
    }

    fn close(&mut self, place: usize) {
        self.open.retain(|open| *open != place);
        if self.prepared.ops[place].source.ret.is_none() {
            let class = self.alike.class_of(place);
            self.maybes
                .remove(self.prepared.ops[place].kind, class, place);
        }
        for state in &mut self.states {
            state.placed.retain(|placed| *placed != place);
        }
    }

    /// Revisions that only a watch has shown must be explained too.
    fn finish(&mut self) -> Result<(), End> {
        while let Some(lowest) = self.states.iter().map(|state| state.model.revision()).min() {
            if lowest >= self.evidence.last_revision {
                break;
            }
            self.advance(Goal::Revision(lowest + 1), self.at)?;
            self.at += 1;
            self.set_aside()?;
        }
        Ok(())
    }

    fn take(&mut self, state: &mut State, step: Move) {
        let answer = match step {
            Move::Op(place) => {
                state.placed.push(place);
                state.model.step(&self.prepared.ops[place].request)
            }
            Move::Expire(lease) => state.model.step(&end_of(lease)),
        };
        assert!(
            answer.is_ok() || matches!(step, Move::Op(_)),
            "an end of a lease was tried before"
        );
        state.tape = self.tape.push(state.tape, step);
        state.since += 1;
    }

    fn refute(&self, goal: Goal, why: Option<Why>) -> End {
        let place = match goal {
            Goal::Place(place) => Some(place),
            Goal::Revision(_) => None,
        };
        if let Some(why) = why {
            return End::Refuted(Some(why.place), why.text);
        }
        let state = self.states.last().expect("a search always has a state");
        let revision = state.model.revision();
        let wanted = match goal {
            Goal::Place(place) => self.prepared.ops[place].kind.revision(),
            Goal::Revision(revision) => Some(revision),
        };
        let text = match wanted {
            Some(wanted) if wanted < revision => {
                format!("answered at revision {wanted}, but {revision} was already there")
            }
            Some(wanted) if wanted > revision + 1 || place.is_none() => {
                format!(
                    "no operation explains revision {} (of {wanted})",
                    revision + 1
                )
            }
            Some(_) | None => {
                let place = place.expect("a goal that is a revision was explained above");
                let op = &self.prepared.ops[place];
                let mut model = state.model.clone();
                let answer = model.step(&op.request);
                let verdict = agree(&model, &op.request, &answer, &op.source.outcome);
                verdict
                    .err()
                    .unwrap_or("cannot be placed in any order".into())
            }
        };
        End::Refuted(place, text)
    }

    fn conclude(self, end: Option<End>) -> Search {
        let state = self.states.last();
        let mut tape = state.map_or(TAPE_START, |state| state.tape);
        let mut prefix = self.returned;
        if let (Some(_), Some(farthest)) = (&end, &self.aside.farthest) {
            (tape, prefix) = (farthest.tape, farthest.returned);
        }
        let tail = self.tape.back_from(tape).filter_map(|step| match step {
            Move::Op(place) => Some(self.prepared.ops[place].source.id),
            Move::Expire(_) => None,
        });
        let mut prefix_tail: Vec<u64> = tail.take(PREFIX_TAIL).collect();
        prefix_tail.reverse();
        let violation = match end {
            None => None,
            Some(End::GaveUp(_)) if self.options.is_weak(Weakness::GivingUpPasses) => None,
            Some(end) => Some(self.violation(end)),
        };
        Search {
            timeline: violation.is_none().then(|| self.timeline(tape)),
            violation,
            doubt: None,
            by_log: false,
            prefix,
            prefix_tail,
            steps: self.steps,
        }
    }

    fn violation(&self, end: End) -> Violation {
        let (guarantee, place, text) = match end {
            End::Refuted(place, text) => (Guarantee::Linearizable, place, text),
            End::GaveUp(text) => (Guarantee::Undecided, None, format!("gave up: {text}")),
        };
        if let Some(place) = place {
            return super::prepare::broken(guarantee, &self.prepared.ops[place], text);
        }
        let last = self
            .prepared
            .ops
            .iter()
            .filter_map(|op| op.source.ret)
            .max();
        Violation {
            guarantee,
            ops: Vec::new(),
            time: last.unwrap_or(0),
            text,
        }
    }

    /// Unknown writes that nobody has found out.
    fn unresolved(&self) -> Vec<usize> {
        let ops = self.prepared.ops.iter().enumerate();
        let maybes = ops
            .filter(|(_, op)| op.kind == Kind::MaybeWrite)
            .map(|(place, _)| place);
        maybes
            .filter(|place| !self.evidence.found.contains_key(place))
            .collect()
    }

    /// Replays an order with all versions kept.
    fn timeline(&self, tape: usize) -> Timeline {
        let mut steps: Vec<Move> = self.tape.back_from(tape).collect();
        steps.reverse();
        let mut model = Model::with_archive(&self.prepared.history.meta);
        let mut entries = Vec::with_capacity(steps.len());
        for step in steps {
            let (op, request) = match step {
                Move::Op(place) => {
                    let op = &self.prepared.ops[place];
                    if matches!(op.kind, Kind::Read(_)) {
                        continue;
                    }
                    (Some(place), op.request.clone().into_owned())
                }
                Move::Expire(lease) => (None, end_of(lease)),
            };
            if model.step(&request).is_ok() {
                entries.push(TimelineEntry {
                    op,
                    request,
                    revision: model.revision(),
                    time: None,
                });
            }
        }
        let archive = model.into_archive().expect("it was made with one");
        Timeline {
            entries,
            archive,
            unresolved: self.unresolved(),
            is_log: false,
        }
    }
}

/// How many operations of the longest order a report names.
const PREFIX_TAIL: usize = 8;

fn end_of(lease: i64) -> Request {
    Request::LeaseRevoke(LeaseRequest { id: lease })
}

/// What must be reached next.
#[derive(Clone, Copy, Debug)]
enum Goal {
    /// That an operation is placed.
    Place(usize),
    /// That a revision is there.
    Revision(i64),
}

impl Goal {
    fn is_reached(self, state: &State) -> bool {
        match self {
            Goal::Place(place) => state.placed.contains(&place),
            Goal::Revision(revision) => state.model.revision() >= revision,
        }
    }
}

/// The operation that a search could not get past, at the highest revision that it reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Why {
    revision: i64,
    place: usize,
    text: String,
}
