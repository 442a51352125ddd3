//! One member, its record, and the ids of members and clusters, which equal etcd's.

use bytes::Bytes;
use prost::Message;
use sha1::{Digest, Sha1};

use crate::{
    kernel::{ClusterId, MemberId},
    pb::etcdserverpb::Member as Wire,
};

/// One member of the cluster.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Member {
    /// Never zero, never reused.
    pub id: MemberId,
    /// Empty until the member has started for the first time.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; published by the member itself.
    pub client_urls: Vec<String>,
    /// Whether it receives the log without voting.
    pub learner: bool,
}

impl Member {
    /// Whether the member has started and told its name.
    pub fn started(&self) -> bool {
        !self.name.is_empty()
    }

    /// The message clients see.
    pub fn to_wire(&self) -> Wire {
        Wire {
            id: self.id.get(),
            name: self.name.clone(),
            peer_ur_ls: self.peer_urls.clone(),
            client_ur_ls: self.client_urls.clone(),
            is_learner: self.learner,
        }
    }

    /// A member as another member or the store describes it.
    pub fn from_wire(wire: Wire) -> Self {
        Self {
            id: MemberId::new(wire.id),
            name: wire.name,
            peer_urls: wire.peer_ur_ls,
            client_urls: wire.client_ur_ls,
            learner: wire.is_learner,
        }
    }

    pub(super) fn encode(&self) -> Bytes {
        self.to_wire().encode_to_vec().into()
    }

    /// `None` when the bytes are no member or belong to another id.
    pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let id = decode_id(key)?;
        let member = Self::from_wire(Wire::decode(value).ok()?);
        (member.id == id && !member.peer_urls.is_empty()).then_some(member)
    }
}

/// The id of a member: SHA-1 over its sorted peer URLs, the cluster's token and, for a member added
/// to a running cluster (whose token counts as empty), the decimal Unix time.
pub fn member_id(peer_urls: &[String], token: &str, unix_seconds: Option<u64>) -> MemberId {
    let mut sorted: Vec<&String> = peer_urls.iter().collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url);
    }
    hash.update(token);
    if let Some(seconds) = unix_seconds {
        hash.update(seconds.to_string());
    }
    MemberId::new(first_eight(hash))
}

/// The id of a cluster: SHA-1 over the ids of its first members in order, each big-endian.
pub fn cluster_id(members: impl IntoIterator<Item = MemberId>) -> ClusterId {
    let mut ids: Vec<MemberId> = members.into_iter().collect();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.get().to_be_bytes());
    }
    ClusterId::new(first_eight(hash))
}

pub(super) fn encode_id(id: MemberId) -> Bytes {
    Bytes::copy_from_slice(&id.get().to_be_bytes())
}

pub(super) fn decode_id(key: &[u8]) -> Option<MemberId> {
    let id = u64::from_be_bytes(key.try_into().ok()?);
    (id != 0).then(|| MemberId::new(id))
}

fn first_eight(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    let prefix = digest[..8].try_into().expect("SHA-1 gives twenty bytes");
    u64::from_be_bytes(prefix)
}
