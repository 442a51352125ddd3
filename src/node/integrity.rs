//! The actor that compares state hashes between members: equal indexes must have equal hashes.
//!
//! Every tick a member tells the others the hash at its last applied index. Whoever has applied
//! that index compares; on a difference both tell everybody their hash at that very index, so that
//! all can count. A member whose hash differs from that of a majority of the voters is the wrong
//! one and refuses to serve. When everybody has answered and nobody has a majority, all refuse, and
//! the CORRUPT alarm is raised, so that a restart does not make them forget it.
//!
//! Inputs: `IntegrityInput`. No timers of its own; consensus ticks it.
//! Invariants: a verdict is never taken back during a boot.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::mail::{FrontendInput, IntegrityInput, Mail, PeersInput, UpkeepInput};
use crate::kernel::{
    Context, Effect, LogIndex, MemberId,
    effect::{LogLevel, LogLine},
};

/// Hashes of this many past indexes are kept.
const KEPT_MAX: usize = 16_384;
/// Indexes under dispute, or reported before this member applied them.
const OPEN_MAX: usize = 1024;

/// The actor that compares state hashes.
#[derive(Debug)]
pub struct Integrity {
    member: MemberId,
    voters: BTreeSet<MemberId>,
    /// Hashes of consecutive indexes, the last one at `last`.
    hashes: VecDeque<u64>,
    last: LogIndex,
    told: LogIndex,
    /// Reports at indexes this member has not applied, and at indexes under dispute.
    reports: BTreeMap<LogIndex, BTreeMap<MemberId, u64>>,
    disputed: BTreeSet<LogIndex>,
    corrupt: bool,
}

impl Integrity {
    /// Starts at the applied index and hash.
    pub fn new(member: MemberId, voters: BTreeSet<MemberId>, last: LogIndex, hash: u64) -> Self {
        Self {
            member,
            voters,
            hashes: VecDeque::from([hash]),
            last,
            told: last,
            reports: BTreeMap::new(),
            disputed: BTreeSet::new(),
            corrupt: false,
        }
    }

    /// Handles one input.
    pub fn on_input(&mut self, input: IntegrityInput, cx: &mut Context<'_, Mail>) {
        match input {
            IntegrityInput::Applied { index, hashes } => self.on_applied(index, hashes, cx),
            IntegrityInput::Report { from, index, hash } => self.on_report(from, index, hash, cx),
            IntegrityInput::Voters(conf) => {
                self.voters = conf.voters.union(&conf.voters_outgoing).copied().collect();
            }
            IntegrityInput::Installed { index, hash } => {
                self.hashes = VecDeque::from([hash]);
                self.last = index;
                self.reports = self.reports.split_off(&index);
            }
            IntegrityInput::Tick => self.on_tick(cx),
        }
    }

    fn on_applied(&mut self, index: LogIndex, hashes: Vec<u64>, cx: &mut Context<'_, Mail>) {
        self.hashes.extend(hashes);
        self.last = index;
        while self.hashes.len() > KEPT_MAX {
            self.hashes.pop_front();
        }
        let due: Vec<_> = self
            .reports
            .range(..=index)
            .map(|(index, _)| *index)
            .collect();
        for index in due {
            self.compare(index, cx);
        }
    }

    fn on_tick(&mut self, cx: &mut Context<'_, Mail>) {
        if self.told < self.last {
            self.told = self.last;
            let hash = *self
                .hashes
                .back()
                .expect("the hash of the last index is kept");
            cx.tell(Mail::Peers(PeersInput::StateHash {
                index: self.last,
                hash,
            }));
        }
    }

    fn on_report(
        &mut self,
        from: MemberId,
        index: LogIndex,
        hash: u64,
        cx: &mut Context<'_, Mail>,
    ) {
        if !self.voters.contains(&from) {
            return;
        }
        if self.reports.len() >= OPEN_MAX && !self.reports.contains_key(&index) {
            self.reports.pop_first();
        }
        self.reports.entry(index).or_default().insert(from, hash);
        if index <= self.last {
            self.compare(index, cx);
        }
    }

    fn hash_at(&self, index: LogIndex) -> Option<u64> {
        let back = usize::try_from(index.distance_to(self.last)).ok()?;
        self.hashes
            .get(self.hashes.len().checked_sub(back + 1)?)
            .copied()
    }

    fn compare(&mut self, index: LogIndex, cx: &mut Context<'_, Mail>) {
        let Some(own) = self.hash_at(index) else {
            self.reports.remove(&index);
            return;
        };
        let Some(reports) = self.reports.get(&index) else {
            return;
        };
        if reports.values().all(|hash| *hash == own) {
            // Once all voters agree at an index there is nothing left to say about it.
            let others = self.voters.iter().filter(|voter| **voter != self.member);
            if !self.disputed.contains(&index) || others.clone().all(|v| reports.contains_key(v)) {
                self.reports.remove(&index);
                self.disputed.remove(&index);
            }
            return;
        }
        if self.disputed.insert(index) {
            cx.tell(Mail::Peers(PeersInput::StateHash { index, hash: own }));
            log(
                cx,
                LogLevel::Warn,
                "state hashes differ between members",
                index,
                own,
            );
        }
        self.judge(index, own, cx);
    }

    fn judge(&mut self, index: LogIndex, own: u64, cx: &mut Context<'_, Mail>) {
        let mut votes = self.reports.get(&index).cloned().unwrap_or_default();
        votes.insert(self.member, own);
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for (member, hash) in &votes {
            if self.voters.contains(member) {
                *counts.entry(*hash).or_default() += 1;
            }
        }
        let majority = self.voters.len() / 2 + 1;
        let winner = counts
            .iter()
            .find(|(_, count)| **count >= majority)
            .map(|(hash, _)| *hash);
        let everybody = self.voters.iter().all(|voter| votes.contains_key(voter));
        let wrong = match winner {
            Some(hash) => hash != own,
            None => everybody,
        };
        if wrong && !self.corrupt {
            self.corrupt = true;
            log(
                cx,
                LogLevel::Error,
                "the state of this member differs from the cluster's; it refuses to serve: remove \
                 its data directory and let it join again",
                index,
                own,
            );
            cx.tell(Mail::Frontend(FrontendInput::Corrupt));
            if winner.is_none() {
                cx.tell(Mail::Upkeep(UpkeepInput::Divided));
            }
        }
    }

    /// Whether this member was found to differ.
    pub fn is_corrupt(&self) -> bool {
        self.corrupt
    }
}

fn log(cx: &mut Context<'_, Mail>, level: LogLevel, message: &str, index: LogIndex, hash: u64) {
    cx.emit(Effect::Log(LogLine {
        level,
        caller: "node/integrity.rs",
        message: message.to_owned(),
        fields: vec![
            ("index", index.to_string()),
            ("hash", format!("{hash:016x}")),
        ],
    }));
}
