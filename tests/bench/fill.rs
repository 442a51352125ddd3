//! Fills an empty server with keys.

use bytes::Bytes;
use fated::pb::etcdserverpb::{PutRequest, kv_client::KvClient};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::key;

/// Puts on their way at a time.
const WORKERS: u64 = 200;

/// Puts `keys` keys with values of this size.
pub async fn run(channel: &Channel, keys: u64, value_bytes: usize) -> Result<(), String> {
    let mut workers = JoinSet::new();
    let value = Bytes::from(vec![b'v'; value_bytes]);
    for worker in 0..WORKERS {
        let mut kv = KvClient::new(channel.clone());
        let value = value.clone();
        workers.spawn(async move {
            for number in (worker..keys).step_by(usize::try_from(WORKERS).expect("few")) {
                let request = PutRequest {
                    key: key(number).into(),
                    value: value.clone(),
                    ..PutRequest::default()
                };
                let put = kv.put(request).await;
                put.map_err(|status| format!("filling: {status}"))?;
            }
            Ok::<(), String>(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done.map_err(|error| error.to_string())??;
    }
    Ok(())
}
