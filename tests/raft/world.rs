//! A small world for the consensus core: members with a modelled disk and a modelled state machine,
//! and a network that keeps every message until somebody delivers, drops or repeats it.
//!
//! The disk is asynchronous: an output becomes a write job, `persist` completes the oldest one. A
//! crash loses every job that is not complete, and everything that only memory knew.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use fated::kernel::{Digest, Entropy, EntryId, LogIndex, MemberId, ReadId, Term};
use fated::raft::{
    Body, ConfChange, ConfState, Config, Entry, EntryKind, HardState, Message, Output, Raft,
    ReadState, Recovered, SnapshotMeta,
};

/// Marks data of a configuration change that only the owner understands.
pub const WRAPPED: u8 = 0xee;

/// What applying the log has made so far: a model of the state machine and of its images.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct State {
    pub id: EntryId,
    pub digest: u64,
    pub conf: ConfState,
}

/// What a power cut leaves.
#[derive(Clone, Default, Debug)]
pub struct Disk {
    pub hard_state: HardState,
    pub first: EntryId,
    pub entries: Vec<Entry>,
    pub state: State,
}

impl Disk {
    /// The entry at an index, if the disk proves which one it is.
    pub fn id_at(&self, index: LogIndex) -> Option<EntryId> {
        if index == self.first.index {
            return Some(self.first);
        }
        let slot = self.first.index.next().get();
        let slot = usize::try_from(index.get().checked_sub(slot)?).expect("small");
        self.entries.get(slot).map(|entry| entry.id)
    }

    fn write(&mut self, job: &Job) {
        if let Some(state) = &job.install {
            self.first = state.id;
            self.entries.clear();
            self.state = state.clone();
        }
        if let Some(entry) = job.append.first() {
            let keep = self.first.index.distance_to(entry.id.index.prev());
            let keep = usize::try_from(keep).expect("small");
            assert!(
                keep <= self.entries.len(),
                "a write leaves a gap in the log"
            );
            self.entries.truncate(keep);
            self.entries.extend_from_slice(&job.append);
        }
        if let Some(hard_state) = job.hard_state {
            assert!(
                hard_state.term >= self.hard_state.term,
                "a term goes back on disk"
            );
            self.hard_state = hard_state;
        }
    }
}

/// One output on its way to the disk.
#[derive(Clone, Debug)]
pub struct Job {
    pub append: Vec<Entry>,
    pub hard_state: Option<HardState>,
    pub install: Option<State>,
    pub then: Vec<Message>,
}

/// One member, running or crashed.
pub struct Member {
    pub config: Config,
    /// `None` while crashed.
    pub raft: Option<Raft>,
    pub boots: u64,
    pub disk: Disk,
    pub jobs: VecDeque<Job>,
    pub to_apply: VecDeque<Entry>,
    pub state: State,
    pub reads: Vec<ReadState>,
    staged: Option<State>,
    /// The commit index when the output was taken last: nothing up to there may be written again.
    told_committed: Option<LogIndex>,
}

/// An image on its way from a leader to a member.
#[derive(Clone, Debug)]
pub struct Image {
    pub from: MemberId,
    pub to: MemberId,
    pub term: Term,
    pub state: State,
}

/// Something that applied an entry, for the observer.
pub struct Applied {
    pub member: MemberId,
    pub entry: Entry,
    pub state: State,
}

/// Everything together.
#[derive(Default)]
pub struct World {
    pub members: BTreeMap<MemberId, Member>,
    pub network: Vec<Message>,
    pub images: Vec<Image>,
    /// What was applied since the observer last looked.
    pub applied: Vec<Applied>,
    /// Messages that left a member since the observer last looked.
    pub left: Vec<Message>,
    /// Entries a member was told to write since the observer last looked.
    pub written: Vec<(MemberId, Vec<Entry>, Option<LogIndex>)>,
    /// Entries that became durable somewhere since the observer last looked.
    pub persisted: Vec<Vec<Entry>>,
    seed: u64,
}

/// Applies one entry to a state; `None` for the change means that it is no change of the
/// configuration.
fn advance(state: &mut State, entry: &Entry) -> Option<ConfChange> {
    assert!(
        entry.id.index == state.id.index.next(),
        "applied out of order: {:?} after {:?}",
        entry.id,
        state.id
    );
    let mut digest = Digest::resume(state.digest);
    digest.number(entry.id.term.get());
    digest.number(entry.kind as u64);
    digest.bytes(&entry.data);
    state.digest = digest.value();
    state.id = entry.id;
    match entry.kind {
        EntryKind::Normal => None,
        // The owner may wrap a change in its own format; here a marker before it.
        EntryKind::ConfChange => {
            let wrapped = entry.data.first() == Some(&WRAPPED);
            ConfChange::decode(&entry.data[usize::from(wrapped)..])
        }
    }
}

impl World {
    /// An empty world; the seed decides the election timeouts.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    /// Starts a member with what `disk` holds.
    pub fn add(&mut self, config: Config, disk: Disk) {
        let id = config.id;
        let member = Member {
            config,
            raft: None,
            boots: 0,
            state: State::default(),
            disk,
            jobs: VecDeque::new(),
            to_apply: VecDeque::new(),
            reads: Vec::new(),
            staged: None,
            told_committed: None,
        };
        assert!(self.members.insert(id, member).is_none(), "added twice");
        self.restart(id);
    }

    /// Power cut: only the disk stays.
    pub fn crash(&mut self, id: MemberId) {
        let member = self.member_mut(id);
        member.raft = None;
        member.jobs.clear();
        member.to_apply.clear();
        member.reads.clear();
        member.staged = None;
        member.told_committed = None;
    }

    /// Comes back with what the disk holds.
    pub fn restart(&mut self, id: MemberId) {
        let seed = self.seed;
        let member = self.member_mut(id);
        assert!(member.raft.is_none(), "only a crashed member restarts");
        member.boots += 1;
        let entropy = Entropy::from_seed(seed ^ (id.get() << 32) ^ member.boots);
        member.state = member.disk.state.clone();
        let recovered = Recovered {
            hard_state: member.disk.hard_state,
            first: member.disk.first,
            entries: member.disk.entries.clone(),
            applied: member.state.id.index,
            conf_state: member.state.conf.clone(),
        };
        member.raft = Some(Raft::new(member.config.clone(), recovered, entropy));
    }

    /// Takes the output: messages leave, writes and entries to apply queue up. The output is
    /// returned for those who print it.
    pub fn process(&mut self, id: MemberId) -> Output {
        let member = self.members.get_mut(&id).expect("a known member");
        let Some(raft) = &mut member.raft else {
            return Output::default();
        };
        let had = raft.has_output();
        let before = member.told_committed;
        let raft = member.raft.as_mut().expect("running");
        let output = raft.take_output();
        assert!(had || output.is_empty(), "an output came unannounced");
        member.told_committed = Some(raft.committed());
        let mut install = None;
        if let Some(meta) = &output.install {
            let staged = member.staged.take().expect("an image was staged");
            assert!(staged.id == meta.id && staged.conf == meta.conf_state);
            member.to_apply.clear();
            member.state = staged.clone();
            install = Some(staged);
        }
        member.to_apply.extend(output.apply.iter().cloned());
        member.jobs.push_back(Job {
            append: output.append.clone(),
            hard_state: output.hard_state,
            install,
            then: output.after_append.clone(),
        });
        member.reads.extend(output.read_states.iter().copied());
        if !output.append.is_empty() {
            self.written.push((id, output.append.clone(), before));
        }
        let term = raft.term();
        self.release_empty_jobs(id);
        for &to in &output.snapshot_wanted {
            let state = self.members[&id].state.clone();
            self.images.push(Image {
                from: id,
                to,
                term,
                state,
            });
        }
        self.leave(output.messages.clone());
        output
    }

    /// Completes the oldest write.
    pub fn persist(&mut self, id: MemberId) -> bool {
        let member = self.member_mut(id);
        let Some(job) = member.jobs.pop_front() else {
            return false;
        };
        member.disk.write(&job);
        let raft = member.raft.as_mut().expect("a crashed member has no jobs");
        if let Some(entry) = job.append.last() {
            raft.on_durable(entry.id);
        }
        self.persisted.push(job.append);
        self.leave(job.then);
        self.release_empty_jobs(id);
        true
    }

    /// Applies up to `count` entries.
    pub fn apply(&mut self, id: MemberId, count: usize) -> usize {
        let mut done = 0;
        while done < count {
            let member = self.members.get_mut(&id).expect("a known member");
            // A node restores an image and takes what came of it in one step: nothing from before
            // the image is applied to the configuration behind it.
            if member.staged.is_some() {
                break;
            }
            let Some(entry) = member.to_apply.pop_front() else {
                break;
            };
            let raft = member.raft.as_mut().expect("running");
            let change = advance(&mut member.state, &entry);
            if let Some(change) = change {
                member.state.conf = raft.apply_conf_change(&change);
            }
            raft.on_applied(entry.id.index);
            let state = member.state.clone();
            self.applied.push(Applied {
                member: id,
                entry,
                state,
            });
            done += 1;
        }
        done
    }

    /// The applied state becomes durable, as a backend commit does.
    pub fn checkpoint(&mut self, id: MemberId) {
        let member = self.member_mut(id);
        // An installed image is not in the durable backend before its marker is in the log.
        let installing = member.jobs.iter().any(|job| job.install.is_some());
        if member.raft.is_some() && !installing {
            member.disk.state = member.state.clone();
        }
    }

    /// Forgets the log up to `upto`, as far as the durable state allows.
    pub fn compact(&mut self, id: MemberId, upto: LogIndex) -> LogIndex {
        let member = self.member_mut(id);
        let upto = upto.min(member.disk.state.id.index);
        let Some(raft) = &mut member.raft else {
            return upto;
        };
        let upto = upto.min(raft.applied());
        raft.compact(upto);
        if let Some(first) = member.disk.id_at(upto)
            && upto > member.disk.first.index
        {
            let gone = member.disk.first.index.distance_to(upto);
            let gone = usize::try_from(gone).expect("small");
            member.disk.entries.drain(..gone);
            member.disk.first = first;
        }
        upto
    }

    /// Delivers message number `slot`.
    pub fn deliver(&mut self, slot: usize) -> Message {
        let message = self.network.remove(slot);
        if let Some(member) = self.members.get_mut(&message.to)
            && let Some(raft) = &mut member.raft
        {
            raft.step(message.clone());
        }
        message
    }

    /// Delivers image number `slot`: stages it at the receiver. Returns whether it is installed.
    pub fn deliver_image(&mut self, slot: usize) -> (Image, bool) {
        let image = self.images.remove(slot);
        let mut taken = false;
        if let Some(member) = self.members.get_mut(&image.to)
            && let Some(raft) = &mut member.raft
        {
            let meta = SnapshotMeta {
                id: image.state.id,
                conf_state: image.state.conf.clone(),
            };
            taken = raft.restore(meta, image.from, image.term);
            if taken {
                member.staged = Some(image.state.clone());
            }
        }
        (image, taken)
    }

    /// A member that must be there.
    pub fn member(&self, id: MemberId) -> &Member {
        &self.members[&id]
    }

    /// A member that must be there.
    pub fn member_mut(&mut self, id: MemberId) -> &mut Member {
        self.members.get_mut(&id).expect("a known member")
    }

    /// The core of a running member.
    pub fn raft(&mut self, id: MemberId) -> &mut Raft {
        let member = self.member_mut(id);
        member.raft.as_mut().expect("the member runs")
    }

    /// Does something with the core of a member, if it runs.
    pub fn raft_if_running(&mut self, id: MemberId, action: impl FnOnce(&mut Raft)) {
        if let Some(raft) = &mut self.member_mut(id).raft {
            action(raft);
        }
    }

    /// Every member, running or not.
    pub fn ids(&self) -> Vec<MemberId> {
        self.members.keys().copied().collect()
    }

    /// A read barrier under this name.
    pub fn read(&mut self, id: MemberId, read: ReadId) -> bool {
        self.raft(id).read_index(read).is_ok()
    }

    /// A proposal of text.
    pub fn propose(&mut self, id: MemberId, text: &str) -> Result<(), fated::raft::ProposeError> {
        self.raft(id)
            .propose(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// Jobs that write nothing complete at once when nothing stands before them, like in a real
    /// journal.
    fn release_empty_jobs(&mut self, id: MemberId) {
        let member = self.member_mut(id);
        let mut then = Vec::new();
        while let Some(job) = member.jobs.front() {
            if !job.append.is_empty() || job.hard_state.is_some() || job.install.is_some() {
                break;
            }
            then.extend(member.jobs.pop_front().expect("just seen").then);
        }
        self.leave(then);
    }

    fn leave(&mut self, messages: Vec<Message>) {
        for message in messages {
            let copy = reencoded(&message);
            self.left.push(copy.clone());
            self.network.push(copy);
        }
    }
}

/// What a peer would see: fields only, no shared buffers that a bug could reach through.
fn reencoded(message: &Message) -> Message {
    let mut copy = message.clone();
    if let Body::Append { entries, .. } = &mut copy.body {
        for entry in entries {
            entry.data = Bytes::copy_from_slice(&entry.data);
        }
    }
    copy
}
