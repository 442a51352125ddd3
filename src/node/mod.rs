//! One member: its actors and how they are wired. The only place where actors meet.
//!
//! A step takes events in as mail, fires deadlines that have passed in a fixed order, and then
//! drains the mailbox. When it is empty, the actors that group work (frontend, consensus, journal)
//! put out what has gathered, which may make new mail, until nothing is left. So everything that
//! came in together travels together: one append, one message per peer, one write to the log.
//!
//! Invariants: a step ends with an empty mailbox; nothing depends on anything but the events, the
//! time handed in, and the seed.

pub mod alone;
pub mod applier;
pub mod boot;
pub mod config;
pub mod consensus;
pub mod figures;
pub mod frontend;
pub mod integrity;
pub mod journal;
pub mod leases;
pub mod log_bytes;
pub mod mail;
pub mod peers;
pub mod pending;
pub mod query;
pub mod reconfigure;
pub mod respond;
pub mod snapshots;
pub mod ticket;
pub mod upkeep;
pub mod watches;
pub mod wire;

use std::mem;

pub use crate::apply::InitialMember;
pub use config::{NodeConfig, RewriteRules};

use self::{
    applier::Applier,
    consensus::Consensus,
    frontend::{Crowd, Frontend},
    integrity::Integrity,
    journal::Journal,
    leases::Leases,
    mail::{
        ApplierInput, ConsensusInput, FrontendInput, JournalInput, Mail, PeersInput,
        SnapshotsInput, WatchesInput,
    },
    peers::Peers,
    snapshots::Snapshots,
    ticket::{Owner, owner_of},
    upkeep::Upkeep,
    watches::Watches,
};
use crate::{
    backend::Backend,
    kernel::{
        Context, Effect, Entropy, Event, Instant, MemberId, Outbox, Request, Signal, WallTime,
        limits, trace::TraceLine,
    },
    mutant,
    raft::Role,
};

/// One member of the cluster, without clock, threads, files or sockets.
#[derive(Debug)]
pub struct Node<B: Backend> {
    member: MemberId,
    entropy: Entropy,
    outbox: Outbox<Mail>,
    frontend: Frontend,
    consensus: Consensus,
    journal: Journal,
    applier: Applier<B>,
    watches: Watches,
    leases: Leases,
    peers: Peers,
    snapshots: Snapshots,
    integrity: Integrity,
    upkeep: Upkeep,
    started: bool,
    advance_ticks: u32,
    /// Where the members are reached, as known at boot.
    known: Vec<(MemberId, Vec<String>)>,
}

impl<B: Backend> Node<B> {
    /// Takes in what happened and puts out what must be done. `events` comes back empty.
    pub fn step(
        &mut self,
        now: Instant,
        wall: WallTime,
        events: &mut Vec<Event>,
        effects: &mut Vec<Effect>,
    ) {
        let mut outbox = mem::take(&mut self.outbox);
        let mut entropy = self.entropy.clone();
        let mut cx = Context::new(now, wall, &mut entropy, &mut outbox);
        if !self.started {
            self.start(&mut cx);
        }
        for event in events.drain(..) {
            match event {
                Event::Call {
                    call,
                    request: Request::Metrics,
                    ..
                } => self.show_figures(call, &mut cx),
                event => deliver_event(event, &mut cx),
            }
        }
        self.fire_deadlines(&mut cx);
        let mut delivered = 0;
        loop {
            while let Some(mail) = cx.take_mail() {
                delivered += 1;
                assert!(
                    delivered <= limits::MAIL_PER_STEP_MAX,
                    "a step does not come to an end"
                );
                self.deliver(mail, &mut cx);
            }
            // Each of them may make mail for the others, so all get their turn until all are done.
            let busy = self.frontend.flush(&mut cx)
                | self.consensus.flush(&mut cx)
                | self.journal.flush(&mut cx);
            if !busy && !cx.has_mail() {
                break;
            }
        }
        effects.append(&mut outbox.effects);
        self.entropy = entropy;
        self.outbox = outbox;
    }

    fn start(&mut self, cx: &mut Context<'_, Mail>) {
        self.started = true;
        if mutant!("reads-before-the-replay-ends") {
            cx.emit(Effect::Ready);
        }
        self.journal.start(cx);
        self.applier.tell_load(cx);
        let cluster = self.applier.machine().cluster();
        let mut removed: Vec<MemberId> = cluster.settled().collect();
        if self.consensus.raft().is_forced() {
            let others = cluster.members().map(|member| member.id);
            removed.extend(others.filter(|id| *id != self.member));
        }
        cx.tell(Mail::Peers(PeersInput::Members {
            members: mem::take(&mut self.known),
            removed,
        }));
        let removal = cluster.unsettled();
        cx.tell(Mail::Consensus(ConsensusInput::Unsettled { removal }));
        if cluster.is_removed(self.member) {
            cx.tell(Mail::Frontend(FrontendInput::Removed { told: false }));
        }
        self.consensus.start(self.advance_ticks, cx);
    }

    fn deliver(&mut self, mail: Mail, cx: &mut Context<'_, Mail>) {
        match mail {
            Mail::Frontend(input) => {
                if mutant!("compare-at-propose")
                    && let FrontendInput::Call { request, .. } = &input
                    && let Request::Txn(txn) = request
                {
                    self.frontend.foresee(self.applier.machine().foresees(txn));
                }
                self.frontend.on_input(input, cx);
            }
            Mail::Consensus(input) => self.consensus.on_input(input, cx),
            Mail::Journal(input) => self.journal.on_input(input, cx),
            Mail::Applier(input) => self.applier.on_input(input, cx),
            Mail::Watches(input) => self.watches.on_input(input, self.applier.machine(), cx),
            Mail::Leases(input) => self.leases.on_input(input, self.applier.machine_mut(), cx),
            Mail::Peers(input) => self.peers.on_input(input, cx),
            Mail::Snapshots(input) => self.snapshots.on_input(input, cx),
            Mail::Integrity(input) => self.integrity.on_input(input, cx),
            Mail::Upkeep(input) => self.upkeep.on_input(input, &self.applier, cx),
        }
    }

    /// Fires what is due, in a fixed order of actors.
    fn fire_deadlines(&mut self, cx: &mut Context<'_, Mail>) {
        let due = |deadline: Option<Instant>, now| deadline.is_some_and(|at| at <= now);
        if due(self.consensus.deadline(), cx.now) {
            self.consensus.on_deadline(cx);
        }
        if due(self.frontend.deadline(), cx.now) {
            self.frontend.on_deadline(cx);
        }
        if due(self.peers.deadline(), cx.now) {
            self.peers.on_deadline(cx);
        }
        if due(self.leases.deadline(self.applier.machine()), cx.now) {
            self.leases.on_deadline(self.applier.machine_mut(), cx);
        }
        if due(self.snapshots.deadline(), cx.now) {
            self.snapshots.on_deadline(cx);
        }
        if due(self.applier.deadline(), cx.now) {
            self.applier.on_deadline(cx);
        }
        if due(self.watches.deadline(), cx.now) {
            self.watches.on_deadline(self.applier.machine(), cx);
        }
        if due(self.upkeep.deadline(), cx.now) {
            self.upkeep.on_deadline(&self.applier, cx);
        }
    }

    /// When the node wants a step although nothing happened.
    pub fn deadline(&self) -> Option<Instant> {
        [
            self.consensus.deadline(),
            self.frontend.deadline(),
            self.peers.deadline(),
            self.leases.deadline(self.applier.machine()),
            self.snapshots.deadline(),
            self.applier.deadline(),
            self.watches.deadline(),
            self.upkeep.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Asserts every invariant of every actor; the simulator does so after each step.
    pub fn check(&self) {
        self.frontend.check();
        self.consensus.check();
        self.journal.check();
        self.applier.check();
        self.watches.check();
        self.peers.check();
        self.snapshots.check();
        let raft = self.consensus.raft();
        let applied = self.applier.machine().applied_index();
        assert!(applied <= raft.committed(), "applied what is not committed");
        assert!(
            applied <= raft.durable().index,
            "applied what is not durable"
        );
    }

    /// The raft core, for observers.
    pub fn raft(&self) -> &crate::raft::Raft {
        self.consensus.raft()
    }

    /// The state machine, for observers.
    pub fn machine(&self) -> &crate::apply::StateMachine<B> {
        self.applier.machine()
    }

    /// What is in flight, for observers.
    pub fn crowd(&self) -> Crowd {
        self.frontend.crowd()
    }

    /// What the watches count, for observers.
    pub fn watch_counters(&self) -> crate::watch::Counters {
        self.watches.counters()
    }

    /// How many read barriers were started again since boot, for observers.
    pub fn barriers_repeated(&self) -> u64 {
        self.frontend.barriers_repeated()
    }

    /// Whether this member found that its state differs from the cluster's.
    pub fn is_corrupt(&self) -> bool {
        self.integrity.is_corrupt()
    }

    /// This member.
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// The columns of a trace line about what just happened.
    pub fn trace(&self, now: Instant, what: String) -> TraceLine {
        let raft = self.consensus.raft();
        let role = match raft.role() {
            Role::Leader => "leader",
            Role::Candidate => "candidate",
            Role::PreCandidate => "pre-candidate",
            Role::Follower if raft.is_learner() => "learner",
            Role::Follower => "follower",
        };
        TraceLine {
            now,
            member: self.member,
            role,
            what,
            term: raft.term(),
            commit: raft.committed(),
            applied: self.applier.machine().applied_index(),
            durable: raft.durable().index,
            revision: self.applier.machine().store().revision(),
        }
    }
}

/// Turns an event into mail for whoever it concerns.
fn deliver_event(event: Event, cx: &mut Context<'_, Mail>) {
    let mail = match event {
        Event::Call {
            call,
            credentials,
            request,
        } => Mail::Frontend(FrontendInput::Call {
            call,
            credentials,
            request,
        }),
        Event::Cancel { call } => Mail::Frontend(FrontendInput::Cancel { call }),
        Event::StreamOpened {
            stream,
            credentials,
        } => Mail::Watches(WatchesInput::Opened {
            stream,
            credentials,
        }),
        Event::StreamItem { stream, item } => Mail::Watches(WatchesInput::Item { stream, item }),
        Event::StreamCredit { stream, bytes } => {
            Mail::Watches(WatchesInput::Credit { stream, bytes })
        }
        Event::StreamClosed { stream } => Mail::Watches(WatchesInput::Closed { stream }),
        Event::LinkUp {
            link,
            peer,
            outgoing,
        } => Mail::Peers(PeersInput::LinkUp {
            link,
            peer,
            outgoing,
        }),
        Event::Frame { link, bytes } => Mail::Peers(PeersInput::Frame { link, bytes }),
        Event::LinkDown { link, reason } => Mail::Peers(PeersInput::LinkDown { link, reason }),
        Event::DiskDone { ticket, outcome } => match owner_of(ticket) {
            Some(Owner::Journal) => Mail::Journal(JournalInput::Done { ticket, outcome }),
            Some(Owner::Applier) => Mail::Applier(ApplierInput::Done { ticket, outcome }),
            Some(Owner::Snapshots) => Mail::Snapshots(SnapshotsInput::Done { ticket, outcome }),
            None => panic!("the host returned a ticket that nobody issued: {ticket}"),
        },
        Event::Signal(Signal::Terminate) => Mail::Frontend(FrontendInput::Terminate),
    };
    cx.tell(mail);
}

#[cfg(test)]
mod tests;
