//! KV: ranges, puts, deletes, transactions, compaction.

use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Request as Incoming, Response as Outgoing, Status};

use super::{Answer, Edge, Stream, answered, credentials, found, message, stream};
use crate::{
    api::{
        check,
        large::{self, Large},
        status,
    },
    kernel::{Credentials, Request, Response, event::RangeChunk, limits},
    pb::etcdserverpb::{
        CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
        PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse,
        kv_server::Kv,
    },
};

/// Keys of the first chunk of a RangeStream; later ones follow the size of the values.
const FIRST_CHUNK_KEYS: u64 = 10;

#[tonic::async_trait]
impl Kv for Edge {
    type RangeStreamStream = Stream<RangeStreamResponse>;

    async fn range(&self, incoming: Incoming<RangeRequest>) -> Answer<RangeResponse> {
        let credentials = credentials(incoming.metadata())?;
        let answer = self.range_of(credentials, incoming.into_inner()).await;
        answer.map(Sent::into_outgoing)
    }

    async fn range_stream(
        &self,
        incoming: Incoming<RangeRequest>,
    ) -> Answer<Self::RangeStreamStream> {
        let credentials = credentials(incoming.metadata())?;
        if let Err(error) = check::range(incoming.get_ref()) {
            let request = found(Err(error), Request::Range(incoming.into_inner()));
            let refused = self.ask(credentials, request).await;
            return Err(refused.err().unwrap_or_else(status::mismatch));
        }
        if let Some(text) = check::range_stream_unsupported(incoming.get_ref()) {
            return Err(Status::unimplemented(text));
        }
        let edge = self.clone();
        Ok(stream(move |chunks| async move {
            let request = incoming.into_inner();
            edge.send_chunks(credentials, request, chunks).await
        }))
    }

    async fn put(&self, incoming: Incoming<PutRequest>) -> Answer<PutResponse> {
        let credentials = credentials(incoming.metadata())?;
        let answer = self.put_of(credentials, incoming.into_inner()).await;
        answer.map(Outgoing::new)
    }

    async fn delete_range(
        &self,
        incoming: Incoming<DeleteRangeRequest>,
    ) -> Answer<DeleteRangeResponse> {
        let credentials = credentials(incoming.metadata())?;
        let answer = self
            .delete_range_of(credentials, incoming.into_inner())
            .await;
        answer.map(Outgoing::new)
    }

    async fn txn(&self, incoming: Incoming<TxnRequest>) -> Answer<TxnResponse> {
        let credentials = credentials(incoming.metadata())?;
        let answer = self.txn_of(credentials, incoming.into_inner()).await;
        answer.map(Sent::into_outgoing)
    }

    async fn compact(&self, incoming: Incoming<CompactionRequest>) -> Answer<CompactionResponse> {
        answered!(self.call(incoming, Request::Compact).await, Compact)
    }
}

/// What a read comes to.
pub(super) enum Sent<T> {
    /// One message.
    Whole(T),
    /// One message that is sent as it was read, in pieces.
    Large(Large),
}

impl<T: Default> Sent<T> {
    fn into_outgoing(self) -> Outgoing<T> {
        match self {
            Self::Whole(whole) => Outgoing::new(whole),
            Self::Large(large) => large::instead(large),
        }
    }
}

impl Edge {
    pub(super) async fn range_of(
        &self,
        credentials: Credentials,
        request: RangeRequest,
    ) -> Result<Sent<RangeResponse>, Status> {
        let turn = self.handle.turns().wait(&request).await;
        let turn = turn.map_err(status::of)?;
        let checked = check::range(&request);
        let answer = self.ask(credentials, found(checked, Request::Range(request)));
        let answer = match answer.await? {
            Response::Range(whole) if large::is_small(&whole) => return Ok(Sent::Whole(whole)),
            Response::Range(whole) => large::parted(whole).await,
            Response::PartedRange(parted) => parted,
            _ => return Err(status::mismatch()),
        };
        Ok(match self.handle.turns().large(answer, turn) {
            Ok(large) => Sent::Large(large),
            Err(small) => Sent::Whole(small),
        })
    }

    pub(super) async fn put_of(
        &self,
        credentials: Credentials,
        request: PutRequest,
    ) -> Result<PutResponse, Status> {
        let checked = check::put(&request);
        let answer = self.ask(credentials, found(checked, Request::Put(request)));
        message!(answer.await, Put)
    }

    pub(super) async fn delete_range_of(
        &self,
        credentials: Credentials,
        request: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Status> {
        let checked = check::delete_range(&request);
        let answer = self.ask(credentials, found(checked, Request::DeleteRange(request)));
        message!(answer.await, DeleteRange)
    }

    pub(super) async fn txn_of(
        &self,
        credentials: Credentials,
        request: TxnRequest,
    ) -> Result<Sent<TxnResponse>, Status> {
        let checked = check::txn(&request, self.handle.limits().txn_ops_max);
        let answer = self.ask(credentials, found(checked, Request::Txn(request)));
        match answer.await? {
            Response::Txn(whole) => Ok(Sent::Whole(whole)),
            Response::PartedTxn(parted) => Ok(match self.handle.turns().txn(parted) {
                Ok(large) => Sent::Large(large),
                Err(whole) => Sent::Whole(whole),
            }),
            _ => Err(status::mismatch()),
        }
    }

    /// Asks for chunk after chunk. Each is asked for only when the one before has been taken, so a
    /// slow client holds one chunk and no more.
    async fn send_chunks(
        &self,
        credentials: Credentials,
        mut request: RangeRequest,
        chunks: mpsc::Sender<Result<RangeStreamResponse, Status>>,
    ) -> Result<(), Status> {
        let mut after: Option<Bytes> = None;
        let mut keys_max = FIRST_CHUNK_KEYS;
        loop {
            let chunk = RangeChunk {
                request: request.clone(),
                after: after.clone(),
                keys_max,
            };
            let answer = self
                .ask(credentials.clone(), Request::RangeChunk(chunk))
                .await?;
            let Response::RangeChunk(chunk) = answer else {
                return Err(status::mismatch());
            };
            let keys = chunk.response.kvs.len();
            let last_key = chunk.response.kvs.last().map(|kv| kv.key.clone());
            let bytes = chunk.response.encoded_len();
            let message = RangeStreamResponse {
                range_response: Some(chunk.response),
            };
            if chunks.send(Ok(message)).await.is_err() || chunk.last {
                return Ok(());
            }
            // A chunk that is neither the last nor has a key would be asked for again for ever.
            after = Some(last_key.ok_or_else(status::mismatch)?);
            // The first chunk pins the revision, so the rest needs no agreement of the members.
            request.revision = chunk.revision;
            request.serializable = true;
            if request.limit > 0 {
                let sent = i64::try_from(keys).expect("keys of one message");
                request.limit = request.limit.saturating_sub(sent).max(1);
            }
            let bytes_aim = self.handle.limits().request_bytes_max;
            keys_max = next_keys(keys_max, bytes, bytes_aim.min(limits::RANGE_PART_BYTES));
        }
    }
}

/// Doubles while chunks are far below the aim, halves while they are far above.
fn next_keys(keys: u64, bytes: usize, bytes_aim: usize) -> u64 {
    let next = if bytes < bytes_aim / 2 {
        keys.saturating_mul(2)
    } else if bytes > bytes_aim.saturating_mul(2) {
        keys / 2
    } else {
        keys
    };
    next.max(1)
}

#[cfg(test)]
mod tests {
    use super::next_keys;

    #[test]
    fn chunks_grow_and_shrink_toward_the_aim() {
        assert_eq!(next_keys(10, 49, 100), 20);
        assert_eq!(next_keys(10, 50, 100), 10);
        assert_eq!(next_keys(10, 200, 100), 10);
        assert_eq!(next_keys(10, 201, 100), 5);
        assert_eq!(next_keys(1, 5000, 100), 1);
    }
}
