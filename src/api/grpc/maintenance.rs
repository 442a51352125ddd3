//! Maintenance: status, alarms, hashes, the snapshot download.

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tonic::{Request as Incoming, Status};

use super::{Answer, Edge, Stream, answered, credentials, stream};
use crate::{
    api::{Handle, status},
    backend::stream::padding,
    kernel::{ApiError, Credentials, Request, Response, SnapshotId, StoreCursor},
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
        let mut digest = Sha256::new();
        let mut read = self.image_chunk(&pinned, None).await?;
        loop {
            let (data, next) = read;
            let cut = cutter.cut(data, next.is_none())?;
            let blobs: Vec<Bytes> = cut.iter().map(|message| message.blob.clone()).collect();
            // While these are sent, another thread sums them up and the next chunk is read.
            let sum = tokio::task::spawn_blocking(move || {
                blobs.iter().for_each(|blob| digest.update(blob));
                digest
            });
            let ahead = async {
                match next {
                    Some(next) => self.image_chunk(&pinned, Some(next)).await.map(Some),
                    None => Ok(None),
                }
            };
            let send = async {
                for message in cut {
                    if messages.send(Ok(message)).await.is_err() {
                        return false;
                    }
                }
                true
            };
            let (ahead, sum, sent) = tokio::join!(ahead, sum, send);
            if !sent {
                return Ok(());
            }
            // Only a runtime that ends gives no sum.
            digest = sum.map_err(|_| status::of(ApiError::Stopped))?;
            match ahead? {
                Some(chunk) => read = chunk,
                None => break,
            }
        }
        // A failure means that the client has gone.
        let _ = messages.send(Ok(cutter.checksum(digest))).await;
        Ok(())
    }

    async fn image_chunk(
        &self,
        pinned: &Pinned,
        cursor: Option<StoreCursor>,
    ) -> Result<(Bytes, Option<StoreCursor>), Status> {
        let id = pinned.id;
        let read = Request::SnapshotRead { id, cursor };
        match self.ask(pinned.credentials.clone(), read).await? {
            Response::SnapshotChunk { data, next } => Ok((data, next)),
            _ => Err(status::mismatch()),
        }
    }
}

/// Cuts what is read into messages of one size.
struct Cutter {
    /// What is less than a message.
    rest: BytesMut,
    total: u64,
    sent: u64,
    estimate: u64,
    version: String,
}

impl Cutter {
    fn new(estimate: u64, version: String) -> Self {
        Self {
            rest: BytesMut::new(),
            total: 0,
            sent: 0,
            estimate,
            version,
        }
    }

    /// The messages of a chunk; the last chunk completes the last unit, and may end with a short
    /// message.
    fn cut(&mut self, data: Bytes, last: bool) -> Result<Vec<SnapshotResponse>, Status> {
        self.total += data.len() as u64;
        let mut messages = Vec::new();
        self.push(data, &mut messages);
        if last {
            let padding = padding(self.total);
            self.total += padding.len() as u64;
            self.push(padding, &mut messages);
            if !self.rest.is_empty() {
                let blob = self.rest.split().freeze();
                messages.push(self.piece(blob));
            }
            // Clients take zero for the end.
            if let Some(end) = messages.last_mut() {
                end.remaining_bytes = 0;
            }
            if !self.total.is_multiple_of(IMAGE_UNIT_BYTES) {
                return Err(status::mismatch());
            }
        }
        Ok(messages)
    }

    /// Whole messages share the bytes of the chunk; only what lies across its ends is copied.
    fn push(&mut self, mut data: Bytes, messages: &mut Vec<SnapshotResponse>) {
        if !self.rest.is_empty() {
            let missing = (MESSAGE_BYTES - self.rest.len()).min(data.len());
            self.rest.extend_from_slice(&data.split_to(missing));
            if self.rest.len() == MESSAGE_BYTES {
                let blob = self.rest.split().freeze();
                messages.push(self.piece(blob));
            }
        }
        while data.len() >= MESSAGE_BYTES {
            let blob = data.split_to(MESSAGE_BYTES);
            messages.push(self.piece(blob));
        }
        self.rest.extend_from_slice(&data);
    }

    fn piece(&mut self, blob: Bytes) -> SnapshotResponse {
        self.sent += blob.len() as u64;
        // At least one byte is said to be left until the end.
        let left = self.total.max(self.estimate).saturating_sub(self.sent);
        self.message(left.max(1), blob)
    }

    fn checksum(self, digest: Sha256) -> SnapshotResponse {
        assert!(self.rest.is_empty(), "the checksum covers every byte");
        self.message(0, Bytes::copy_from_slice(&digest.finalize()))
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
                let last = chunk + 1 == chunks;
                let cut = cutter.cut(vec![7; size].into(), last);
                messages.extend(cut.unwrap());
            }
            let whole: Vec<u8> = messages.iter().flat_map(|m| m.blob.to_vec()).collect();
            let sum = cutter.checksum(Sha256::new_with_prefix(&whole));
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
