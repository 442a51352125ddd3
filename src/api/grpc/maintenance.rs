//! Maintenance: status, alarms, hashes, the snapshot download.

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tonic::{Request as Incoming, Status};

use super::{Answer, Edge, Stream, answered, credentials, stream};
use crate::{
    api::{Handle, status},
    backend::stream::padding,
    kernel::{Credentials, Request, Response, SnapshotId},
    pb::etcdserverpb::{
        AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, DowngradeRequest,
        DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
        MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest,
        StatusResponse, alarm_request::AlarmAction, downgrade_request::DowngradeAction,
        maintenance_server::Maintenance,
    },
};

/// Bytes of one message of a snapshot download.
const MESSAGE_BYTES: usize = 32 * 1024;
/// The image is a multiple of this, so that the 32 bytes of its checksum show at the end of a file.
const IMAGE_UNIT_BYTES: u64 = 512;

#[tonic::async_trait]
impl Maintenance for Edge {
    type SnapshotStream = Stream<SnapshotResponse>;

    async fn alarm(&self, incoming: Incoming<AlarmRequest>) -> Answer<AlarmResponse> {
        if AlarmAction::try_from(incoming.get_ref().action).is_err() {
            return Err(status::unknown_method());
        }
        answered!(self.call(incoming, Request::Alarm).await, Alarm)
    }

    async fn status(&self, incoming: Incoming<StatusRequest>) -> Answer<StatusResponse> {
        answered!(self.call(incoming, Request::Status).await, Status)
    }

    async fn defragment(
        &self,
        incoming: Incoming<DefragmentRequest>,
    ) -> Answer<DefragmentResponse> {
        answered!(self.call(incoming, Request::Defragment).await, Defragment)
    }

    async fn hash(&self, incoming: Incoming<HashRequest>) -> Answer<HashResponse> {
        answered!(self.call(incoming, Request::Hash).await, Hash)
    }

    async fn hash_kv(&self, incoming: Incoming<HashKvRequest>) -> Answer<HashKvResponse> {
        answered!(self.call(incoming, Request::HashKv).await, HashKv)
    }

    async fn snapshot(&self, incoming: Incoming<SnapshotRequest>) -> Answer<Self::SnapshotStream> {
        let credentials = credentials(incoming.metadata())?;
        let edge = self.clone();
        Ok(stream(move |messages| async move {
            edge.send_snapshot(credentials, messages).await
        }))
    }

    async fn move_leader(
        &self,
        incoming: Incoming<MoveLeaderRequest>,
    ) -> Answer<MoveLeaderResponse> {
        answered!(self.call(incoming, Request::MoveLeader).await, MoveLeader)
    }

    async fn downgrade(&self, incoming: Incoming<DowngradeRequest>) -> Answer<DowngradeResponse> {
        if DowngradeAction::try_from(incoming.get_ref().action).is_err() {
            return Err(status::unknown_method());
        }
        answered!(self.call(incoming, Request::Downgrade).await, Downgrade)
    }
}

/// A pinned image; going away lets it go, however the download ended.
struct Pinned {
    handle: Handle,
    credentials: Credentials,
    id: SnapshotId,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let close = Request::SnapshotClose { id: self.id };
        self.handle.tell(self.credentials.clone(), close);
    }
}

impl Edge {
    async fn send_snapshot(
        &self,
        credentials: Credentials,
        messages: mpsc::Sender<Result<SnapshotResponse, Status>>,
    ) -> Result<(), Status> {
        let opened = self.ask(credentials.clone(), Request::SnapshotOpen).await?;
        let Response::SnapshotOpened { id, bytes_estimate } = opened else {
            return Err(status::mismatch());
        };
        let pinned = Pinned {
            handle: self.handle.clone(),
            credentials,
            id,
        };
        let mut cutter = Cutter::new(bytes_estimate, self.handle.limits().storage_version());
        let mut cursor = None;
        loop {
            let read = Request::SnapshotRead { id, cursor };
            let answer = self.ask(pinned.credentials.clone(), read).await?;
            let Response::SnapshotChunk { data, next } = answer else {
                return Err(status::mismatch());
            };
            cutter.push(&data);
            if next.is_none() {
                cutter.pad()?;
            }
            while let Some(message) = cutter.next(next.is_none()) {
                if messages.send(Ok(message)).await.is_err() {
                    return Ok(());
                }
            }
            cursor = match next {
                Some(next) => Some(next),
                None => break,
            };
        }
        // A failure means that the client has gone.
        let _ = messages.send(Ok(cutter.checksum())).await;
        Ok(())
    }
}

/// Cuts what is read into messages of one size and sums it up on the way.
struct Cutter {
    waiting: BytesMut,
    total: u64,
    sent: u64,
    estimate: u64,
    digest: Sha256,
    version: String,
}

impl Cutter {
    fn new(estimate: u64, version: String) -> Self {
        Self {
            waiting: BytesMut::new(),
            total: 0,
            sent: 0,
            estimate,
            digest: Sha256::new(),
            version,
        }
    }

    fn push(&mut self, data: &[u8]) {
        self.waiting.extend_from_slice(data);
        self.total += data.len() as u64;
    }

    /// Completes the last unit once everything was pushed.
    fn pad(&mut self) -> Result<(), Status> {
        let padding = padding(self.total);
        self.push(&padding);
        if self.total.is_multiple_of(IMAGE_UNIT_BYTES) {
            Ok(())
        } else {
            Err(status::mismatch())
        }
    }

    /// The next message; a short one only when `all` was pushed.
    fn next(&mut self, all: bool) -> Option<SnapshotResponse> {
        if self.waiting.is_empty() || (!all && self.waiting.len() < MESSAGE_BYTES) {
            return None;
        }
        let length = self.waiting.len().min(MESSAGE_BYTES);
        let blob = self.waiting.split_to(length).freeze();
        self.digest.update(&blob);
        self.sent += length as u64;
        // Clients take zero for the end, so until then at least one byte is said to be left.
        let left = if all {
            self.total
        } else {
            self.total.max(self.estimate)
        };
        let end = all && self.waiting.is_empty();
        let remaining_bytes = left.saturating_sub(self.sent).max(u64::from(!end));
        Some(self.message(remaining_bytes, blob))
    }

    fn checksum(self) -> SnapshotResponse {
        assert!(self.waiting.is_empty(), "the checksum covers every byte");
        let sum = self.digest.clone().finalize();
        self.message(0, Bytes::copy_from_slice(&sum))
    }

    fn message(&self, remaining_bytes: u64, blob: Bytes) -> SnapshotResponse {
        SnapshotResponse {
            // As in etcd, a download has no header.
            header: None,
            remaining_bytes,
            blob,
            version: self.version.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_is_cut_padded_and_summed() {
        for (chunks, size) in [(1, 0), (1, 1), (3, 20_000), (4, 32 * 1024), (2, 512)] {
            let mut cutter = Cutter::new(5, "3.7.0".to_owned());
            let mut messages = Vec::new();
            for chunk in 0..chunks {
                cutter.push(&vec![7; size]);
                let all = chunk + 1 == chunks;
                if all {
                    cutter.pad().unwrap();
                }
                messages.extend(std::iter::from_fn(|| cutter.next(all)));
            }
            let sum = cutter.checksum();
            let whole: Vec<u8> = messages.iter().flat_map(|m| m.blob.to_vec()).collect();
            assert_eq!(whole.len() % 512, 0);
            assert!(whole.len() >= chunks * size);
            assert_eq!(&sum.blob[..], &Sha256::digest(&whole)[..]);
            let (last, before) = match messages.split_last() {
                Some(split) => split,
                None => continue,
            };
            assert_eq!(last.remaining_bytes, 0);
            for message in before {
                assert_eq!(message.blob.len(), MESSAGE_BYTES);
                assert!(message.remaining_bytes > 0);
            }
        }
    }
}
