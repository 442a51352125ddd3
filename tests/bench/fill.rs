//! Fills an empty server with keys, by transactions of a hundred puts.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use fated::pb::etcdserverpb::request_op::Request;
use tokio::task::JoinSet;

use crate::{
    client::{Conn, frame},
    key,
    methods::{TXN, put, txn},
};

/// Puts of a transaction, as many as etcd's default limit allows with room to spare.
pub const BATCH: u64 = 100;
/// Transactions on their way at a time.
const WORKERS: u64 = 10;

/// Puts `keys` keys with values of this size.
pub async fn run(conn: &Conn, keys: u64, value: &Bytes) -> Result<(), String> {
    let named = |number| Bytes::from(key(number));
    numbered(conn, keys, value, named).await
}

/// Puts the keys of these numbers.
pub async fn numbered(
    conn: &Conn,
    keys: u64,
    value: &Bytes,
    named: impl Fn(u64) -> Bytes + Clone + Send + 'static,
) -> Result<(), String> {
    let mut workers = JoinSet::new();
    let next = Arc::new(AtomicU64::new(0));
    for _ in 0..WORKERS {
        let (mut conn, value) = (conn.clone(), value.clone());
        let (named, next) = (named.clone(), Arc::clone(&next));
        workers.spawn(async move {
            loop {
                let from = next.fetch_add(BATCH, Ordering::Relaxed);
                if from >= keys {
                    return Ok::<(), String>(());
                }
                let numbers = from..keys.min(from + BATCH);
                let puts = numbers.map(|number| Request::RequestPut(put(named(number), &value)));
                let filled = conn.count(&TXN, frame(&txn(puts))).await;
                filled.map_err(|why| format!("filling: {why}"))?;
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        done.map_err(|error| error.to_string())??;
    }
    Ok(())
}
