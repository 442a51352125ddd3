//! What puts are held against: ranges in a loop, and watchers that never read.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Args;
use fated::pb::etcdserverpb::{
    RangeRequest, WatchCreateRequest, WatchRequest, watch_client::WatchClient,
    watch_request::RequestUnion,
};
use http_body_util::BodyExt;
use prost::Message;
use tokio::{io::AsyncReadExt, sync::mpsc, time};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{body::Body, client::GrpcService, transport::Channel};

use crate::{key, server};

/// How long a range that failed waits before it is asked for again.
const PAUSE: Duration = Duration::from_millis(100);

// `beside` has options of this name too, and these among them.
#[derive(Args, Clone)]
#[group(skip)]
pub struct Options {
    /// Where the server is; `beside` fills it in
    #[arg(long, default_value = "")]
    pub endpoint: String,
    /// Clients that read a range again and again
    #[arg(long, default_value_t = 10)]
    pub ranges: u64,
    /// Keys of each range
    #[arg(long, default_value_t = 100_000)]
    pub range_keys: u64,
    /// Streams with one watch each, on a few connections, that are never read
    #[arg(long, default_value_t = 1000)]
    pub watchers: u64,
    /// Watches on one more stream that is never read
    #[arg(long, default_value_t = 1000)]
    pub watches_on_one: u64,
    /// Connections that share the streams
    #[arg(long, default_value_t = 10)]
    pub watch_connections: u64,
}

/// What the ranges came to.
#[derive(Default)]
struct Sum {
    ranges: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    micros: AtomicU64,
    stop: AtomicBool,
}

/// Floods the server until standard input ends, and then prints what was read.
pub async fn run(options: &Options) -> Result<(), String> {
    let silent = silent(options).await?;
    let sum = Arc::new(Sum::default());
    for _ in 0..options.ranges {
        let channel = server::connect(&options.endpoint).await?;
        let sum = Arc::clone(&sum);
        let keys = options.range_keys;
        tokio::spawn(async move {
            while !sum.stop.load(Ordering::Relaxed) {
                read(&channel, keys, &sum).await;
            }
        });
    }
    say("ready")?;
    let mut rest = Vec::new();
    let ended = tokio::io::stdin().read_to_end(&mut rest).await;
    ended.map_err(|error| error.to_string())?;
    sum.stop.store(true, Ordering::Relaxed);
    let ranges = sum.ranges.load(Ordering::Relaxed);
    let mean = sum.micros.load(Ordering::Relaxed) / ranges.max(1) / 1000;
    let mib = sum.bytes.load(Ordering::Relaxed) >> 20;
    let failed = sum.failed.load(Ordering::Relaxed);
    say(&format!(
        "{ranges} ranges of {mean} ms each, {mib} MiB, {failed} failed, {} silent streams",
        silent.len()
    ))
}

fn say(line: &str) -> Result<(), String> {
    let mut output = std::io::stdout();
    writeln!(output, "{line}")
        .and_then(|()| output.flush())
        .map_err(|error| error.to_string())
}

/// Keeps a stream open that nobody reads.
type Silent = (
    mpsc::UnboundedSender<WatchRequest>,
    tonic::Streaming<fated::pb::etcdserverpb::WatchResponse>,
);

async fn silent(options: &Options) -> Result<Vec<Silent>, String> {
    let mut silent = Vec::new();
    let mut channels = Vec::new();
    for _ in 0..options.watch_connections.max(1) {
        channels.push(server::connect(&options.endpoint).await?);
    }
    let streams = usize::try_from(options.watchers).map_err(|error| error.to_string())?;
    for channel in channels.iter().cycle().take(streams) {
        silent.push(watch(channel, 1).await?);
    }
    if options.watches_on_one > 0 {
        let channel = server::connect(&options.endpoint).await?;
        silent.push(watch(&channel, options.watches_on_one).await?);
    }
    Ok(silent)
}

/// A stream with this many watches of all keys.
async fn watch(channel: &Channel, watches: u64) -> Result<Silent, String> {
    let (requests, stream) = mpsc::unbounded_channel();
    for _ in 0..watches {
        let create = WatchCreateRequest {
            key: "k".into(),
            range_end: "l".into(),
            ..WatchCreateRequest::default()
        };
        let request_union = Some(RequestUnion::CreateRequest(create));
        let sent = requests.send(WatchRequest { request_union });
        sent.map_err(|error| error.to_string())?;
    }
    let mut client = WatchClient::new(channel.clone());
    let opened = client.watch(UnboundedReceiverStream::new(stream)).await;
    let mut items = opened.map_err(|status| status.to_string())?.into_inner();
    // The first answer says that the watch is there; nothing behind it is ever read.
    let created = items.message().await;
    created.map_err(|status| status.to_string())?;
    Ok((requests, items))
}

async fn read(channel: &Channel, keys: u64, sum: &Sum) {
    let begun = Instant::now();
    match range(channel.clone(), keys).await {
        Ok(bytes) => {
            let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            sum.ranges.fetch_add(1, Ordering::Relaxed);
            sum.bytes.fetch_add(bytes, Ordering::Relaxed);
            sum.micros.fetch_add(micros, Ordering::Relaxed);
        }
        Err(_) => {
            sum.failed.fetch_add(1, Ordering::Relaxed);
            time::sleep(PAUSE).await;
        }
    }
}

/// Reads a range and throws it away; gives its bytes.
async fn range(mut channel: Channel, keys: u64) -> Result<u64, String> {
    let request = RangeRequest {
        key: key(0).into(),
        range_end: key(keys).into(),
        ..RangeRequest::default()
    };
    let mut message = vec![0];
    let length = u32::try_from(request.encoded_len()).expect("a short request");
    message.extend(length.to_be_bytes());
    message.extend(request.encode_to_vec());
    let request = http::Request::post("/etcdserverpb.KV/Range")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(http_body_util::Full::new(Bytes::from(message))))
        .map_err(|error| error.to_string())?;
    let ready = std::future::poll_fn(|cx| GrpcService::<Body>::poll_ready(&mut channel, cx));
    ready.await.map_err(|error| error.to_string())?;
    let response = channel.call(request).await;
    let response = response.map_err(|error| error.to_string())?;
    let fine = |headers: &http::HeaderMap| {
        headers
            .get("grpc-status")
            .is_some_and(|status| status == "0")
    };
    let mut body = response.into_body();
    let (mut bytes, mut whole) = (0, false);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|status| status.to_string())?;
        if let Some(data) = frame.data_ref() {
            bytes += data.len() as u64;
        }
        whole |= frame.trailers_ref().is_some_and(fine);
    }
    match whole {
        true => Ok(bytes),
        false => Err("the range failed".to_owned()),
    }
}
