//! Where the server meets the log reader, the backend and the node: each a few lines, in one place.

use std::path::Path;

use sha1::{Digest, Sha1};

use crate::{
    backend::{Backend, Memory},
    host::tokio::{
        lanes::{LaneSet, LaneWork},
        wal::{WalDir, WalKeeper, WalWriter},
    },
    kernel::{ClusterId, DiskError, DiskErrorKind, DiskOp, DiskOutcome, Entropy, Fault, MemberId},
    node::{InitialMember, Node, NodeConfig},
};

/// The backend of the server.
pub(super) type Store = Memory;

/// What the log says about the member that wrote it.
#[derive(Debug)]
pub(super) struct Recovered {
    pub cluster: ClusterId,
    pub member: MemberId,
    /// Where a torn tail was cut off, if there was one.
    pub torn: Option<String>,
}

/// Reads the log, if there is one.
pub(super) fn recover(dir: &WalDir) -> Result<Option<Recovered>, Fault> {
    if dir.segments()?.is_empty() {
        return Ok(None);
    }
    let path = dir.path().display();
    Err(Fault::Log(format!(
        "{path}: reading a log back is not part of this build"
    )))
}

/// Opens the backend.
pub(super) fn open_store(_directory: &Path, _fsync: bool) -> Result<Store, Fault> {
    Ok(Memory::default())
}

/// The lanes over the log and the backend.
pub(super) fn lanes(wal: &WalDir, store: &Store) -> LaneSet {
    LaneSet {
        wal: Box::new(WalWriter::new(wal.clone())),
        keep: Box::new(WalKeeper::new(wal.clone())),
        backend: Box::new(StoreLane(store.clone())),
        snapshot: Box::new(StoreLane(store.clone())),
    }
}

/// Makes the node.
pub(super) fn boot(
    _config: NodeConfig,
    _recovered: Option<Recovered>,
    _store: Store,
    _entropy: Entropy,
) -> Result<Node<Store>, Fault> {
    Err(Fault::State(
        "the node is not part of this build".to_owned(),
    ))
}

/// Member and cluster ids as etcd makes them: a hash of the sorted URLs and the token, and a hash
/// of the sorted member ids.
pub(super) fn founders(
    initial_cluster: &str,
    token: &str,
) -> Result<(ClusterId, Vec<InitialMember>), String> {
    let mut members: Vec<InitialMember> = Vec::new();
    for part in initial_cluster.split(',').filter(|part| !part.is_empty()) {
        let (name, url) = part
            .split_once('=')
            .ok_or_else(|| format!("--initial-cluster: {part:?} is not of the form name=url"))?;
        match members.iter_mut().find(|member| member.name == name) {
            Some(member) => member.peer_urls.push(url.to_owned()),
            None => members.push(InitialMember {
                id: MemberId::ZERO,
                name: name.to_owned(),
                peer_urls: vec![url.to_owned()],
            }),
        }
    }
    for member in &mut members {
        member.peer_urls.sort();
        let named = member.peer_urls.concat() + token;
        member.id = MemberId::new(first_eight(named.as_bytes()));
    }
    members.sort_by_key(|member| member.id);
    let ids: Vec<u8> = members
        .iter()
        .flat_map(|member| member.id.get().to_be_bytes())
        .collect();
    Ok((ClusterId::new(first_eight(&ids)), members))
}

fn first_eight(bytes: &[u8]) -> u64 {
    let hash = Sha1::digest(bytes);
    u64::from_be_bytes(hash[..8].try_into().expect("a hash of twenty bytes"))
}

struct StoreLane<B>(B);

impl<B: Backend> LaneWork for StoreLane<B> {
    fn run(&mut self, op: DiskOp) -> Result<DiskOutcome, DiskError> {
        match op {
            DiskOp::Commit { batch } => self.0.commit(&batch).map(DiskOutcome::Backend),
            DiskOp::Defragment => self.0.defragment().map(DiskOutcome::Backend),
            other => {
                let detail = format!("{:?}: not part of this build", other.lane());
                Err(DiskError::new(DiskErrorKind::Missing, detail))
            }
        }
    }
}
