//! What a client does once, by load.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use fated::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, RangeRequest,
    request_op::Request, response_op::Response,
};

use crate::{
    client::{Conn, Stream, frame},
    key, kubernetes,
    methods::{GRANT, KEEP_ALIVE, PUT, RANGE, TXN, get, put, range, swap, txn},
    workload::{Spec, Workload, scattered, value},
};

/// Keys of a large range.
const MANY_KEYS: u64 = 1000;
/// Keys of the range in a transaction.
const TXN_KEYS: u64 = 100;
/// Puts of a transaction of puts.
const TXN_PUTS: u64 = 10;
/// Keys that transactions with reads contend for.
const STM_KEYS: u64 = 1000;
/// Keep-alives of a lease before the next is granted.
const KEEP_ALIVES: u64 = 10;
/// Seconds that a lease lives.
const LEASE_TTL: i64 = 100;

/// What clients of a run share.
pub struct Shared {
    keys: u64,
    value: Bytes,
    next: AtomicU64,
    known: kubernetes::Known,
}

impl Shared {
    /// For a run.
    pub fn new(spec: &Spec) -> Self {
        Self {
            keys: spec.keys.max(1),
            value: value(spec.value_bytes),
            next: AtomicU64::new(0),
            known: kubernetes::Known::new(),
        }
    }
}

/// A client.
pub struct Client {
    workload: Workload,
    number: u64,
    conn: Conn,
    shared: Arc<Shared>,
    /// The revision its own key was changed at last.
    revision: i64,
    leases: Option<Leases>,
    done: u64,
}

/// The leases of a client.
struct Leases {
    id: i64,
    stream: Option<Stream<LeaseKeepAliveRequest, LeaseKeepAliveResponse>>,
}

impl Client {
    /// A client of a run.
    pub fn new(workload: Workload, number: u64, conn: Conn, shared: Arc<Shared>) -> Self {
        Self {
            workload,
            number,
            conn,
            shared,
            revision: 0,
            leases: None,
            done: 0,
        }
    }

    /// One operation.
    pub async fn once(&mut self) -> Result<(), String> {
        self.done += 1;
        let drawn = scattered(self.shared.next.fetch_add(1, Ordering::Relaxed));
        match self.workload {
            Workload::Put => self.put(drawn).await,
            Workload::Range | Workload::WatchLatency => self.get(drawn, Read::Linearizable).await,
            Workload::RangeSerializable | Workload::WatchGet => {
                self.get(drawn, Read::Serializable).await
            }
            Workload::RangeMany => self.many(drawn).await,
            Workload::TxnPut => self.txn_put(drawn).await,
            Workload::TxnMixed => self.txn_mixed(drawn).await,
            Workload::Cas => self.cas().await,
            Workload::Stm => self.stm(drawn).await,
            Workload::Mixed if drawn.is_multiple_of(10) => self.put(drawn / 10).await,
            Workload::Mixed => self.get(drawn / 10, Read::Linearizable).await,
            Workload::Kubernetes => {
                kubernetes::once(&mut self.conn, &self.shared.known, drawn).await
            }
            Workload::Lease => self.lease().await,
            Workload::Watch | Workload::WatchMany => self.put(drawn).await,
        }
    }

    fn key(&self, drawn: u64) -> Bytes {
        key(drawn % self.shared.keys).into()
    }

    async fn put(&mut self, drawn: u64) -> Result<(), String> {
        let request = put(self.key(drawn), &self.shared.value);
        self.conn.count(&PUT, frame(&request)).await.map(|_| ())
    }

    async fn get(&mut self, drawn: u64, read: Read) -> Result<(), String> {
        let request = RangeRequest {
            serializable: read == Read::Serializable,
            ..get(self.key(drawn))
        };
        self.conn.count(&RANGE, frame(&request)).await.map(|_| ())
    }

    async fn many(&mut self, drawn: u64) -> Result<(), String> {
        let from = drawn % self.shared.keys.saturating_sub(MANY_KEYS).max(1);
        let request = range(key(from), key(from + MANY_KEYS));
        let bytes = self.conn.count(&RANGE, frame(&request)).await?;
        match bytes > MANY_KEYS.min(self.shared.keys) * self.shared.value.len() as u64 {
            true => Ok(()),
            false => Err(format!("{bytes} bytes are not {MANY_KEYS} records")),
        }
    }

    async fn txn_put(&mut self, drawn: u64) -> Result<(), String> {
        let from = drawn % self.shared.keys;
        let puts = (from..from + TXN_PUTS)
            .map(|number| Request::RequestPut(put(key(number), &self.shared.value)));
        let request = frame(&txn(puts));
        self.conn.count(&TXN, request).await.map(|_| ())
    }

    async fn txn_mixed(&mut self, drawn: u64) -> Result<(), String> {
        let from = drawn / 2 % self.shared.keys.saturating_sub(TXN_KEYS).max(1);
        let operation = match drawn % 2 {
            0 => Request::RequestRange(range(key(from), key(from + TXN_KEYS))),
            _ => Request::RequestPut(put(key(from), &self.shared.value)),
        };
        let request = frame(&txn([operation]));
        self.conn.count(&TXN, request).await.map(|_| ())
    }

    /// Swaps the client's own key, whose revision it knows from the last time.
    async fn cas(&mut self) -> Result<(), String> {
        let own = Bytes::from(format!("c{:07}", self.number));
        let request = swap(own, &self.shared.value, self.revision);
        let answer = self.conn.ask(&TXN, &request).await?;
        match answer.succeeded {
            true => self.revision = answer.header.unwrap_or_default().revision,
            false => {
                let read = answer
                    .responses
                    .into_iter()
                    .next()
                    .and_then(|one| one.response);
                let Some(Response::ResponseRange(read)) = read else {
                    return Err("a swap that failed without telling the key".to_owned());
                };
                self.revision = read.kvs.first().map_or(0, |kv| kv.mod_revision);
                return Err("a swap of a key of its own failed".to_owned());
            }
        }
        Ok(())
    }

    async fn stm(&mut self, drawn: u64) -> Result<(), String> {
        let shared = Bytes::from(key(drawn % STM_KEYS));
        loop {
            let read = self.conn.ask(&RANGE, &get(shared.clone())).await?;
            let revision = read.kvs.first().map_or(0, |kv| kv.mod_revision);
            let request = swap(shared.clone(), &self.shared.value, revision);
            if self.conn.ask(&TXN, &request).await?.succeeded {
                return Ok(());
            }
        }
    }

    async fn lease(&mut self) -> Result<(), String> {
        if self.done % (KEEP_ALIVES + 1) == 1 {
            let asked = LeaseGrantRequest {
                ttl: LEASE_TTL,
                id: 0,
            };
            let granted = self.conn.ask(&GRANT, &asked).await?;
            let stream = self.leases.take().and_then(|leases| leases.stream);
            self.leases = Some(Leases {
                id: granted.id,
                stream,
            });
            return Ok(());
        }
        let leases = self.leases.as_mut().ok_or("no lease was granted")?;
        let asked = LeaseKeepAliveRequest { id: leases.id };
        match &mut leases.stream {
            Some(stream) => stream.send(&asked)?,
            None => leases.stream = Some(self.conn.stream(&KEEP_ALIVE, frame(&asked)).await?),
        }
        let stream = leases.stream.as_mut().expect("it is open");
        match stream.next().await? {
            kept if kept.ttl > 0 => Ok(()),
            kept => Err(format!("lease {} is gone", kept.id)),
        }
    }
}

/// How a range reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Linearizable,
    Serializable,
}
