//! Work that takes more than one request: leases, locks, queues, Kubernetes' objects, upkeep.
//!
//! A client does one job at a time. A job says what to ask next and hears what became of it; what
//! all clients know together (leases, items, hashes) lies on one desk. The judges of histories see
//! every request; what they cannot judge, because it spans requests (locks, queues, hashes,
//! snapshots), is judged here.
//!
//! Invariants: a job never sends the same write twice; it draws nothing, so that the script alone
//! decides what is asked.

use std::{collections::BTreeMap, fmt::Debug};

use fated::kernel::{Request, Response, SnapshotId};

use crate::{client::Outcome, counters::Counters, observe::Violation, script::What};

pub mod downgrades;
mod kube;
mod leases;
mod locks;
mod queues;
pub mod requests;
mod upkeep;
mod wide;

use requests::Author;

/// What a job wants.
#[derive(Debug)]
pub enum Turn {
    /// The answer to this.
    Ask(Request),
    /// The answer of this member to this.
    AskAt(usize, Request),
    /// To wait.
    Pause(u64),
    /// Nothing more.
    Done,
}

/// One piece of work of a client.
pub trait Job: Debug + Send {
    /// What is to be done next.
    fn next(&mut self, desk: &mut Desk<'_>) -> Turn;
    /// What became of it.
    fn hear(&mut self, desk: &mut Desk<'_>, outcome: &Outcome);
}

/// What a job may look at and write down.
#[derive(Debug)]
pub struct Desk<'a> {
    /// Virtual time.
    pub now: u64,
    /// When the last request was sent.
    pub called: u64,
    /// Who asks.
    pub author: Author,
    /// Members of the cluster.
    pub members: usize,
    /// The last revision that the client has heard of.
    pub revision: i64,
    /// Where each key stood when this client saw it last.
    pub seen: &'a BTreeMap<u64, i64>,
    /// What all clients know together.
    pub shared: &'a mut Shared,
    /// What happened.
    pub counters: &'a mut Counters,
}

/// What all clients know together.
#[derive(Debug, Default)]
pub struct Shared {
    leases: leases::Register,
    holds: locks::Holds,
    items: queues::Items,
    objects: kube::Objects,
    hashes: upkeep::Hashes,
    /// Snapshots that were read whole: the index they end at, and the state they claim.
    pub snapshots: Vec<(u64, u64)>,
    /// Snapshots that nobody reads any more: their member lets them go.
    pub abandoned: Vec<(usize, SnapshotId)>,
    /// What was found broken.
    pub broken: Option<Violation>,
    /// How far clocks may be off, in millionths.
    pub drift_ppm: u64,
    /// Forward jumps of clocks.
    pub jumps: Vec<(u64, u64)>,
}

impl Shared {
    /// Nothing is known yet, but for how far clocks may be off.
    pub fn new(drift_ppm: u64) -> Self {
        Self {
            drift_ppm,
            ..Self::default()
        }
    }

    fn fail(&mut self, guarantee: &'static str, story: String) {
        self.broken
            .get_or_insert_with(|| Violation::new(guarantee, story));
    }

    /// How long a lease lives at least that was granted or renewed by a request sent then.
    fn lives_until(&self, called: u64, seconds: i64) -> u64 {
        let nanos = u64::try_from(seconds).unwrap_or(0) * 1_000_000_000;
        let nanos = nanos - nanos / 1_000_000 * self.drift_ppm.min(1_000_000);
        let until = called + nanos;
        let jumps = self
            .jumps
            .iter()
            .filter(|(at, _)| (called..=until).contains(at));
        let lost = jumps.map(|(_, by)| *by).sum();
        until.saturating_sub(lost)
    }

    /// The revision of the last complete list of objects, for who watches from there.
    pub fn listed(&self) -> i64 {
        self.objects.listed
    }

    /// The queues as they must be at the end, compared with what is there.
    pub fn judge_queues(&mut self, there: &[Vec<u8>]) {
        if let Some(story) = self.items.judge(there) {
            self.fail("an item of a queue is taken exactly once", story);
        }
    }

    /// Whether anybody used a queue.
    pub fn has_items(&self) -> bool {
        self.items.is_used()
    }

    /// Whether a lease was ever granted.
    pub fn has_leases(&self) -> bool {
        self.leases.is_used()
    }
}

/// The job of a step, if it is one.
pub fn job(what: &What) -> Option<Box<dyn Job>> {
    Some(match what {
        What::Look(step) => wide::look(step),
        What::Wide(step) => wide::wide(step),
        What::Lease(step) => leases::job(step),
        What::Lock(step) => locks::job(step),
        What::Queue(step) => queues::job(step),
        What::Kube(step) => kube::job(step),
        What::Upkeep(step) => upkeep::job(step),
        What::Put { .. }
        | What::Get { .. }
        | What::Range { .. }
        | What::Delete { .. }
        | What::DeleteRange { .. }
        | What::Swap { .. }
        | What::Txn { .. }
        | What::Compact { .. } => return None,
    })
}

/// All keys of the queues.
pub fn queue_prefix() -> &'static str {
    queues::PREFIX
}

/// A job of one request whose answer matters to nobody but the judges.
struct Once<F> {
    ask: Option<F>,
}

impl<F> Once<F> {
    fn new(ask: F) -> Self {
        Self { ask: Some(ask) }
    }
}

impl<F> Debug for Once<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Once")
    }
}

impl<F: FnOnce(&mut Desk<'_>) -> Turn + Send> Job for Once<F> {
    fn next(&mut self, desk: &mut Desk<'_>) -> Turn {
        self.ask.take().map_or(Turn::Done, |ask| ask(desk))
    }

    fn hear(&mut self, _: &mut Desk<'_>, _: &Outcome) {}
}

/// The answer, if there is a good one.
fn answer(outcome: &Outcome) -> Option<&Response> {
    match outcome {
        Outcome::Ok(response) => Some(response),
        Outcome::Open | Outcome::Failed(_) | Outcome::Refused | Outcome::Unknown => None,
    }
}
