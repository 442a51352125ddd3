//! The replicated state machine: a command in, a result and events out. The only place where the
//! domains (store, leases, members, alarms) meet.
//!
//! Invariants:
//! - Equal states and equal entries give equal states, results and state hashes, on every member.
//! - The effects of an entry and its id are in the same write batch.
//! - A result depends on nothing but the state and the entry: no clock, no local setting.

pub mod alarm;
pub mod cluster;
pub mod cost;
pub mod history;
pub mod kv;
pub mod lease;
pub mod order;
pub mod result;
pub mod txn;

use std::{fmt, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use prost::Message;

pub use alarm::Alarms;
pub use cluster::InitialMember;
pub use result::{Applied, ApplyError, Notice, Origin, settle};

use crate::{
    backend::{Backend, Bucket, View, WriteBatch},
    kernel::{
        ApiError, Digest, DiskError, EntryId, Fault, Instant, LeaseId, LogIndex, MemberId,
        RequestId, Response,
    },
    lease::Lessor,
    membership::Cluster,
    mvcc::{SliceMax, Sliced, Store},
    pb::{
        etcdserverpb::AlarmType,
        fated::command::{Command, command::Body},
        mvccpb::{Event, KeyValue},
    },
    raft::{ConfChange, ConfState, Entry, EntryKind, SnapshotMeta},
};

/// The whole replicated state of one member, over its view of the backend.
pub struct StateMachine<B: Backend> {
    pub(crate) view: View<B>,
    pub(crate) store: Store,
    pub(crate) lessor: Lessor,
    pub(crate) cluster: Cluster,
    pub(crate) alarms: Alarms,
    applied: EntryId,
    hash: Digest,
    min_ttl_seconds: i64,
}

impl<B: Backend> fmt::Debug for StateMachine<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateMachine")
            .field("applied", &self.applied)
            .field("revision", &self.store.revision())
            .finish_non_exhaustive()
    }
}

impl<B: Backend> StateMachine<B> {
    /// Loads the state the backend holds.
    pub fn load(backend: B, min_ttl_seconds: i64) -> Result<Self, Fault> {
        let view = View::new(backend)?;
        Self::from_view(view, min_ttl_seconds)
    }

    fn from_view(view: View<B>, min_ttl_seconds: i64) -> Result<Self, Fault> {
        let mut lessor = Lessor::load(&view, min_ttl_seconds)?;
        let (store, leases) = Store::load_with_leases(&view)?;
        for (key, lease) in leases {
            lessor.attach(LeaseId::new(lease), key).map_err(|_| {
                Fault::State(format!(
                    "a key belongs to lease {lease:x}, which does not exist: the store contradicts \
                     itself; restore a backup, or remove the data directory and let the member \
                     join again"
                ))
            })?;
        }
        let base = crate::backend::ReadSnapshot::consistent(view.base())?;
        let hash = crate::backend::ReadSnapshot::state_hash(view.base())?;
        let hash = if base == EntryId::ZERO {
            Digest::EMPTY
        } else {
            Digest::resume(hash)
        };
        Ok(Self {
            store,
            lessor,
            cluster: Cluster::load(&view)?,
            alarms: Alarms::load(&view)?,
            applied: base,
            hash,
            min_ttl_seconds,
            view,
        })
    }

    /// Starts over from the backend after another image was installed under it.
    pub fn reload(&mut self) -> Result<(), Fault> {
        let view = View::new(self.view.backend().clone())?;
        let fresh = Self::from_view(view, self.min_ttl_seconds)?;
        let before = std::mem::replace(self, fresh);
        if crate::mutant!("leases-of-before-the-image") {
            self.lessor = before.lessor;
        }
        Ok(())
    }

    /// The last entry applied.
    pub fn applied(&self) -> EntryId {
        self.applied
    }

    /// Running hash of everything applied; equal on all members at equal indexes.
    pub fn state_hash(&self) -> u64 {
        self.hash.value()
    }

    /// The store, for reads.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The view, for reads.
    pub fn view(&self) -> &View<B> {
        &self.view
    }

    /// Applies the next entry. `now` starts the clock of leases on a leader and decides nothing
    /// else.
    pub fn apply(&mut self, entry: &Entry, now: Instant) -> Result<Applied, Fault> {
        assert_eq!(
            entry.id.index,
            self.applied.index.next(),
            "entries are applied in order"
        );
        let mut applied = Applied {
            id: entry.id,
            origin: None,
            op: None,
            result: Err(ApiError::Stopped),
            revisions: Vec::new(),
            conf_change: None,
            notices: Vec::new(),
        };
        let changes = entry.kind == EntryKind::ConfChange;
        let before = changes.then(|| self.conf_state());
        match entry.kind {
            EntryKind::Normal if entry.data.is_empty() => {}
            EntryKind::Normal => self.apply_command(&entry.data, now, &mut applied)?,
            EntryKind::ConfChange => self.apply_conf_change(&entry.data, &mut applied)?,
        }
        if let (Some(change), Some(before)) = (&applied.conf_change, &before) {
            self.reconfigure(before, change);
        }
        self.applied = entry.id;
        self.fold(&applied);
        self.view.advance(entry.id, self.hash.value());
        Ok(applied)
    }

    fn apply_command(
        &mut self,
        data: &Bytes,
        now: Instant,
        applied: &mut Applied,
    ) -> Result<(), Fault> {
        let command = Command::decode(data.clone()).map_err(|error| {
            Fault::State(format!(
                "entry {} of the log cannot be decoded ({error}); it was written by a newer \
                 version: start that version again, or restore a backup",
                applied.id.index
            ))
        })?;
        applied.origin = Some(Origin {
            proposer: MemberId::new(command.proposer),
            request: RequestId::new(command.request_id),
        });
        applied.op = command.body.as_ref().map(op_name);
        let outcome = match command.body {
            Some(body) => match self.permitted(&body) {
                Ok(()) => self.run(body, now, applied),
                Err(error) => Err(error.into()),
            },
            None => Err(ApiError::NotCapable.into()),
        };
        applied.result = settle(outcome)?;
        Ok(())
    }

    /// What alarms forbid.
    fn permitted(&self, body: &Body) -> Result<(), ApiError> {
        let grows = match body {
            Body::Put(_) | Body::LeaseGrant(_) => true,
            Body::Txn(txn) => cost::txn(txn) > 0,
            Body::DeleteRange(_) => crate::mutant!("no-space-refuses-deletes"),
            Body::Compact(_)
            | Body::LeaseRevoke(_)
            | Body::LeaseCheckpoint(_)
            | Body::Alarm(_)
            | Body::MemberPublish(_)
            | Body::ClusterVersion(_)
            | Body::MembersSettled(_)
            | Body::Downgrade(_) => false,
        };
        let changes_data = match body {
            Body::Put(_)
            | Body::LeaseGrant(_)
            | Body::Txn(_)
            | Body::DeleteRange(_)
            | Body::Compact(_)
            | Body::LeaseRevoke(_) => true,
            Body::LeaseCheckpoint(_)
            | Body::Alarm(_)
            | Body::MemberPublish(_)
            | Body::ClusterVersion(_)
            | Body::MembersSettled(_)
            | Body::Downgrade(_) => false,
        };
        if changes_data && self.alarms.any(AlarmType::Corrupt) {
            return Err(ApiError::Corrupt);
        }
        let full_here = || self.view.overlay_bytes() > 4096;
        if grows && crate::mutant!("quota-decided-when-applied") && full_here() {
            return Err(ApiError::NoSpace);
        }
        if grows && self.alarms.any(AlarmType::Nospace) {
            return Err(ApiError::NoSpace);
        }
        Ok(())
    }

    fn run(
        &mut self,
        body: Body,
        now: Instant,
        applied: &mut Applied,
    ) -> Result<Response, ApplyError> {
        let birth = applied.id.index;
        let Applied {
            revisions,
            notices,
            origin,
            ..
        } = applied;
        Ok(match body {
            Body::Put(request) => Response::Put(self.put(request, revisions)?),
            Body::DeleteRange(request) => {
                Response::DeleteRange(self.delete_range(&request, revisions)?)
            }
            Body::Txn(request) if crate::mutant!("compare-at-propose") => {
                let holds = origin.is_some_and(|origin| origin.request.get() % 2 == 1);
                txn::answered(self.txn_as_foreseen(request, holds, revisions)?)
            }
            Body::Txn(request) => txn::answered(self.txn(request, revisions)?),
            Body::Compact(request) => Response::Compact(self.compact(&request, notices)?),
            Body::LeaseGrant(request) => {
                Response::LeaseGrant(self.lease_grant(&request, birth, now, notices)?)
            }
            Body::LeaseRevoke(request) => {
                Response::LeaseRevoke(self.lease_revoke(&request, revisions, notices)?)
            }
            Body::LeaseCheckpoint(request) => {
                self.lease_checkpoint(&request, notices);
                Response::Health
            }
            Body::Alarm(request) => {
                let request_id = origin.map_or(RequestId::ZERO, |origin| origin.request);
                Response::Alarm(self.alarm(&request, request_id, notices))
            }
            Body::MemberPublish(request) => {
                self.member_publish(&request, notices)?;
                Response::Health
            }
            Body::MembersSettled(request) => {
                let up_to = LogIndex::new(request.index);
                self.cluster.settle(&mut self.view, up_to);
                notices.push(Notice::Settled { up_to });
                Response::Health
            }
            Body::ClusterVersion(request) => {
                self.set_cluster_version(&request.version, notices)?;
                Response::Health
            }
            Body::Downgrade(request) => Response::Downgrade(self.downgrade(&request, notices)?),
        })
    }

    /// Folds what an entry did into the running hash: positions, results, records and revisions.
    fn fold(&mut self, applied: &Applied) {
        let hash = &mut self.hash;
        hash.number(applied.id.term.get());
        hash.number(applied.id.index.get());
        hash.number(match &applied.result {
            Ok(_) => 0,
            Err(error) => u64::from(error.number()),
        });
        for (revision, events) in &applied.revisions {
            hash.number(revision.cast_unsigned());
            events.iter().for_each(|event| fold_event(hash, event));
        }
        if !applied.notices.is_empty() {
            hash.number(self.store.compact_revision().cast_unsigned());
            cluster::fold(hash, &self.cluster);
            hash.number(self.alarms.fingerprint());
        }
    }
}

/// What etcd's metrics call a command.
fn op_name(body: &Body) -> &'static str {
    match body {
        Body::Put(_) => "Put",
        Body::DeleteRange(_) => "DeleteRange",
        Body::Txn(_) => "Txn",
        Body::Compact(_) => "Compaction",
        Body::LeaseGrant(_) => "LeaseGrant",
        Body::LeaseRevoke(_) => "LeaseRevoke",
        Body::LeaseCheckpoint(_) => "LeaseCheckpoint",
        Body::Alarm(_) => "Alarm",
        Body::MemberPublish(_) => "ClusterMemberAttrSet",
        Body::ClusterVersion(_) => "ClusterVersionSet",
        Body::Downgrade(_) => "DowngradeInfoSet",
        Body::MembersSettled(_) => "MembersSettled",
    }
}

fn fold_event(hash: &mut Digest, event: &Event) {
    hash.number(u64::from(event.r#type.cast_unsigned()));
    if let Some(kv) = &event.kv {
        let KeyValue {
            key,
            create_revision,
            mod_revision,
            version,
            value,
            lease,
        } = kv;
        hash.bytes(key);
        hash.bytes(value);
        for number in [create_revision, mod_revision, version, lease] {
            hash.number(number.cast_unsigned());
        }
    }
}

/// What the node needs beside applying.
impl<B: Backend> StateMachine<B> {
    /// Who votes and who listens as of the last applied entry.
    pub fn conf_state(&self) -> ConfState {
        cluster::to_raft(self.cluster.conf_state())
    }

    /// Records the configuration that a change leads to, as part of that entry's effects.
    fn reconfigure(&mut self, before: &ConfState, change: &ConfChange) {
        // The step that raft will make as well; what it refuses there changes nothing here.
        if let Ok(next) = before.changed(change) {
            self.cluster
                .set_conf_state(&mut self.view, &cluster::from_raft(&next));
        }
    }

    /// Index of the last applied entry.
    pub fn applied_index(&self) -> LogIndex {
        self.applied.index
    }

    /// What an image of the current state would hold.
    pub fn snapshot_meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            id: self.applied,
            conf_state: self.conf_state(),
        }
    }

    /// Closes the open batch for its way to disk.
    pub fn cut(&mut self) -> Option<Arc<WriteBatch>> {
        self.view.cut()
    }

    /// The oldest batch on its way is durable.
    pub fn committed(&mut self) -> Result<(), DiskError> {
        self.view.committed()
    }

    /// Reads go to the backend as it is now; after it was rewritten.
    pub fn refresh(&mut self) -> Result<(), DiskError> {
        self.view.refresh()
    }

    /// Commits what is open at once; for boot only, where nothing else runs yet.
    pub fn commit_now(&mut self) -> Result<(), DiskError> {
        if let Some(batch) = self.view.cut() {
            self.view.backend().commit(&batch)?;
            self.view.committed()?;
        }
        Ok(())
    }

    /// Goes on with a running compaction.
    pub fn compact_slice(&mut self, max: SliceMax) -> Sliced {
        self.store.compact_slice(&mut self.view, max)
    }

    /// The leases.
    pub fn lessor(&self) -> &Lessor {
        &self.lessor
    }

    /// The leases, for the leader's clock: nothing replicated is changed through this.
    pub fn lessor_mut(&mut self) -> &mut Lessor {
        &mut self.lessor
    }

    /// The raised alarms.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// The member set.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// CRC-32C over every bucket but the bookkeeping, for the Hash call.
    pub fn hash_backend(&self) -> Result<u32, DiskError> {
        let mut hash = 0;
        for bucket in Bucket::ALL {
            if bucket == Bucket::Meta {
                continue;
            }
            hash = crc32c::crc32c_append(hash, bucket.name().as_bytes());
            self.view.range(bucket, &[], None, &mut |key, value| {
                hash = crc32c::crc32c_append(hash, key);
                hash = crc32c::crc32c_append(hash, value);
                ControlFlow::Continue(())
            })?;
        }
        Ok(hash)
    }
}
