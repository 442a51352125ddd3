//! Real clients over a real socket, with a few lines in place of the core.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tonic::{Code, transport::Channel};

use crate::{
    api::{
        EdgeLimits, Handle,
        serve::{Listener, Service},
    },
    kernel::{
        ApiError, CallId, Event, Request, Response, SnapshotId, StoreCursor, StreamItem,
        event::StreamRequest,
    },
    pb::{
        etcdserverpb::{
            self as rpc, kv_client::KvClient, lease_client::LeaseClient,
            maintenance_client::MaintenanceClient, watch_client::WatchClient,
        },
        mvccpb::KeyValue,
    },
};

mod keeping;

type Events = mpsc::UnboundedReceiver<Event>;

struct Bench {
    address: String,
    handle: Handle,
    events: Events,
    stop: watch::Sender<bool>,
}

async fn bench(limits: EdgeLimits) -> Bench {
    let (sender, events) = mpsc::unbounded_channel();
    let handle = Handle::new(sender, limits);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = watch::channel(false);
    let service = Service::new(handle.clone());
    tokio::spawn(service.serve(Listener::Tcp(listener), stopped));
    Bench {
        address,
        handle,
        events,
        stop,
    }
}

impl Bench {
    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// Lets a function stand in for the core.
    fn answer_with(
        self,
        mut core: impl FnMut(Request) -> Result<Response, ApiError> + Send + 'static,
    ) -> (Handle, watch::Sender<bool>) {
        let (handle, mut events) = (self.handle.clone(), self.events);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let Event::Call { call, request, .. } = event {
                    handle.reply(call, core(request));
                }
            }
        });
        (self.handle, self.stop)
    }
}

fn header(revision: i64) -> Option<rpc::ResponseHeader> {
    Some(rpc::ResponseHeader {
        revision,
        ..Default::default()
    })
}

async fn next_call(events: &mut Events) -> (CallId, crate::kernel::Credentials, Request) {
    match events.recv().await {
        Some(Event::Call {
            call,
            credentials,
            request,
        }) => (call, credentials, request),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_put_carries_credentials_and_brings_the_answer_or_the_error() {
    let mut bench = bench(EdgeLimits::default()).await;
    let mut client = KvClient::new(bench.channel().await);
    let put = rpc::PutRequest {
        key: Bytes::from_static(b"k"),
        ..Default::default()
    };
    let mut request = tonic::Request::new(put.clone());
    let metadata = request.metadata_mut();
    metadata.insert("authorization", "Bearer abc".parse().unwrap());
    metadata.insert("hasleader", "true".parse().unwrap());
    let asking = tokio::spawn(async move {
        let first = client.put(request).await;
        (first, client.put(put).await)
    });
    let (call, credentials, request) = next_call(&mut bench.events).await;
    assert_eq!(credentials.token.as_deref(), Some("abc"));
    assert!(credentials.require_leader);
    assert!(matches!(request, Request::Put(put) if put.key == "k"));
    let response = rpc::PutResponse {
        header: header(7),
        prev_kv: None,
    };
    bench.handle.reply(call, Ok(Response::Put(response)));
    let (call, credentials, _) = next_call(&mut bench.events).await;
    assert_eq!(credentials, Default::default());
    bench.handle.reply(call, Err(ApiError::NoSpace));
    let (first, second) = asking.await.unwrap();
    assert_eq!(first.unwrap().into_inner().header, header(7));
    let refused = second.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.message(), ApiError::NoSpace.text());
}

#[tokio::test]
async fn bad_requests_do_not_reach_the_core() {
    let mut bench = bench(EdgeLimits {
        request_bytes_max: 1000,
        ..Default::default()
    })
    .await;
    let mut client = KvClient::new(bench.channel().await);
    let large = rpc::PutRequest {
        key: Bytes::from_static(b"k"),
        value: Bytes::from(vec![0; 600 * 1024]),
        ..Default::default()
    };
    let refused = client.put(large).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let text = refused.message();
    assert!(
        text.starts_with("grpc: received message larger than max ("),
        "{text}"
    );
    assert!(
        text.ends_with(&format!("vs. {})", 1000 + 512 * 1024)),
        "{text}"
    );
    let sorted = rpc::RangeRequest {
        key: Bytes::from_static(b"k"),
        sort_order: 2,
        ..Default::default()
    };
    let refused = client.range_stream(sorted).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    let mut maintenance = MaintenanceClient::new(bench.channel().await);
    let nonsense = rpc::DowngradeRequest {
        action: 99,
        ..Default::default()
    };
    let refused = maintenance.downgrade(nonsense).await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: unknown method");
    assert!(bench.events.try_recv().is_err());
}

#[tokio::test]
async fn a_fault_of_a_request_is_told_in_the_cores_turn() {
    let bench = bench(EdgeLimits::default()).await;
    let mut client = KvClient::new(bench.channel().await);
    let (asked, mut seen) = mpsc::unbounded_channel();
    let _core = bench.answer_with(move |request| {
        asked.send(request).unwrap();
        Err(ApiError::NoLeader)
    });
    let empty = rpc::RangeRequest::default();
    let inner = Box::new(Request::Range(empty.clone()));
    let expected = Request::Invalid(ApiError::EmptyKey, inner);
    let refused = client.range(empty.clone()).await.unwrap_err();
    assert_eq!(refused.message(), ApiError::NoLeader.text());
    assert_eq!(seen.recv().await, Some(expected.clone()));
    let refused = client.range_stream(empty).await.unwrap_err();
    assert_eq!(refused.message(), ApiError::NoLeader.text());
    assert_eq!(seen.recv().await, Some(expected));
}

#[tokio::test]
async fn a_deadline_cancels_the_call() {
    let mut bench = bench(EdgeLimits::default()).await;
    let mut client = KvClient::new(bench.channel().await);
    let mut request = tonic::Request::new(rpc::RangeRequest {
        key: Bytes::from_static(b"k"),
        ..Default::default()
    });
    request.set_timeout(Duration::from_millis(100));
    let asking = tokio::spawn(async move { client.range(request).await });
    let (waiting, _, _) = next_call(&mut bench.events).await;
    let cancelled = bench.events.recv().await;
    assert!(matches!(cancelled, Some(Event::Cancel { call }) if call == waiting));
    assert!(asking.await.unwrap().is_err());
}

/// Keys `0000` to `0099`, read as the core is asked to.
fn chunk(chunk: &crate::kernel::event::RangeChunk, chunks: &mut Vec<u64>) -> Response {
    chunks.push(chunk.keys_max);
    let first = chunk.after.is_none();
    assert_eq!(chunk.request.revision, if first { 0 } else { 42 });
    assert_eq!(chunk.request.serializable, !first);
    let after = chunk.after.clone().unwrap_or_default();
    let limit = match chunk.request.limit {
        0 => usize::MAX,
        limit => usize::try_from(limit).unwrap(),
    };
    let keys: Vec<String> = (0..100)
        .map(|i| format!("{i:04}"))
        .filter(|key| key.as_bytes() > &after[..])
        .collect();
    let take = limit.min(usize::try_from(chunk.keys_max).unwrap());
    let last = take >= keys.len() || take == limit;
    let kvs = keys.iter().take(take).map(|key| KeyValue {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..Default::default()
    });
    Response::RangeChunk(crate::kernel::effect::RangeChunkResponse {
        response: rpc::RangeResponse {
            kvs: kvs.collect(),
            header: if last { header(42) } else { None },
            more: last && take < keys.len(),
            count: if last { 100 } else { 0 },
        },
        revision: 42,
        last,
    })
}

#[tokio::test]
async fn a_range_stream_is_the_range_in_growing_chunks() {
    for (limit, expected, more) in [(0, 100, false), (10, 10, true), (37, 37, true)] {
        let bench = bench(EdgeLimits::default()).await;
        let mut client = KvClient::new(bench.channel().await);
        let (sizes, mut seen) = mpsc::unbounded_channel();
        let _core = bench.answer_with(move |request| match request {
            Request::RangeChunk(request) => {
                let mut chunks = Vec::new();
                let response = chunk(&request, &mut chunks);
                sizes.send(chunks[0]).unwrap();
                Ok(response)
            }
            other => panic!("{other:?}"),
        });
        let request = rpc::RangeRequest {
            key: Bytes::from_static(b"0"),
            range_end: Bytes::from_static(b"1"),
            limit,
            ..Default::default()
        };
        let mut stream = client.range_stream(request).await.unwrap().into_inner();
        let (mut keys, mut last) = (Vec::new(), None);
        while let Some(message) = stream.message().await.unwrap() {
            assert!(last.is_none(), "only the last chunk has a header");
            let response = message.range_response.unwrap();
            keys.extend(response.kvs.iter().map(|kv| kv.key.clone()));
            last = response.header.map(|_| (response.more, response.count));
        }
        assert_eq!(keys.len(), expected);
        assert!(keys.is_sorted());
        assert_eq!(last, Some((more, 100)));
        assert_eq!(seen.recv().await, Some(10));
        if expected > 10 {
            assert_eq!(seen.recv().await, Some(20));
        }
    }
}

#[tokio::test]
async fn keep_alives_are_answered_in_order_and_a_gone_lease_has_no_time_left() {
    let bench = bench(EdgeLimits::default()).await;
    let mut client = LeaseClient::new(bench.channel().await);
    let _core = bench.answer_with(|request| match request {
        Request::LeaseKeepAlive(request) if request.id == 2 => Err(ApiError::LeaseNotFound),
        Request::LeaseKeepAlive(request) if request.id == 4 => Err(ApiError::NoLeader),
        Request::LeaseKeepAlive(request) => {
            Ok(Response::LeaseKeepAlive(rpc::LeaseKeepAliveResponse {
                header: None,
                id: request.id,
                ttl: 9,
            }))
        }
        other => panic!("{other:?}"),
    });
    let requests = [1, 2, 3, 4, 5].map(|id| rpc::LeaseKeepAliveRequest { id });
    let requests = tokio_stream::iter(requests);
    let mut answers = client
        .lease_keep_alive(requests)
        .await
        .unwrap()
        .into_inner();
    for (id, ttl) in [(1, 9), (2, 0), (3, 9)] {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!((answer.id, answer.ttl), (id, ttl));
    }
    let end = answers.message().await.unwrap_err();
    assert_eq!(end.message(), ApiError::NoLeader.text());
}

#[tokio::test]
async fn a_watch_stream_goes_both_ways_and_closes_with_its_client() {
    let mut bench = bench(EdgeLimits::default()).await;
    let mut client = WatchClient::new(bench.channel().await);
    let (requests, inbound) = mpsc::channel(4);
    let inbound = tokio_stream::wrappers::ReceiverStream::new(inbound);
    requests.send(rpc::WatchRequest::default()).await.unwrap();
    let mut responses = client.watch(inbound).await.unwrap().into_inner();
    let Some(Event::StreamOpened { stream, .. }) = bench.events.recv().await else {
        panic!("a watch begins with its stream");
    };
    let Some(Event::StreamItem { item, .. }) = bench.events.recv().await else {
        panic!("the request follows");
    };
    assert_eq!(item, StreamRequest::Watch(rpc::WatchRequest::default()));
    for watch_id in 0..3 {
        let response = Box::new(rpc::WatchResponse {
            watch_id,
            ..Default::default()
        });
        let item = StreamItem::Watch {
            response,
            bytes: 10,
        };
        bench.handle.stream_item(stream, item);
    }
    for watch_id in 0..3 {
        let response = responses.message().await.unwrap().unwrap();
        assert_eq!(response.watch_id, watch_id);
    }
    let mut credit = 0;
    while credit < 30 {
        let Some(Event::StreamCredit { bytes, .. }) = bench.events.recv().await else {
            panic!("what is taken is credited");
        };
        credit += bytes;
    }
    assert_eq!(credit, 30);
    drop((responses, requests, client));
    let closed = bench.events.recv().await;
    assert!(matches!(closed, Some(Event::StreamClosed { stream: id }) if id == stream));
}

#[tokio::test]
async fn a_snapshot_download_is_complete_summed_and_let_go() {
    use sha2::{Digest, Sha256};
    let bench = bench(EdgeLimits::default()).await;
    let mut client = MaintenanceClient::new(bench.channel().await);
    let (closed, mut was_closed) = mpsc::unbounded_channel();
    let _core = bench.answer_with(move |request| match request {
        Request::SnapshotOpen => Ok(Response::SnapshotOpened {
            id: SnapshotId::new(3),
            bytes_estimate: 1000,
        }),
        Request::SnapshotRead { id, cursor } => {
            assert_eq!(id, SnapshotId::new(3));
            let round = cursor.map_or(0, |cursor| cursor.bucket);
            let next = (round < 2).then(|| StoreCursor {
                bucket: round + 1,
                key: Bytes::new(),
            });
            Ok(Response::SnapshotChunk {
                data: Bytes::from(vec![round; 50_000]),
                next,
            })
        }
        Request::SnapshotClose { id } => {
            closed.send(id).unwrap();
            Ok(Response::SnapshotClosed)
        }
        other => panic!("{other:?}"),
    });
    let request = rpc::SnapshotRequest::default();
    let mut stream = client.snapshot(request).await.unwrap().into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        messages.push(message);
    }
    let sum = messages.pop().unwrap();
    assert_eq!(messages[0].version, "3.7.0");
    let image: Vec<u8> = messages.iter().flat_map(|m| m.blob.to_vec()).collect();
    assert_eq!(image.len(), 150_000_usize.next_multiple_of(512));
    assert_eq!(image[49_999..50_001], [0, 1]);
    assert_eq!(sum.blob[..], Sha256::digest(&image)[..]);
    let left: Vec<u64> = messages.iter().map(|m| m.remaining_bytes).collect();
    assert_eq!(left.iter().filter(|left| **left == 0).count(), 1);
    assert_eq!(was_closed.recv().await, Some(SnapshotId::new(3)));
}

async fn get(address: &str, target: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn plain_http_and_health_checks_share_the_port() {
    let bench = bench(EdgeLimits::default()).await;
    let (address, channel) = (bench.address.clone(), bench.channel().await);
    let (handle, stop) = bench.answer_with(|request| match request {
        Request::Status(_) => Ok(Response::Status(rpc::StatusResponse {
            storage_version: "3.7.0".to_owned(),
            ..Default::default()
        })),
        Request::Range(range) if range.serializable => Ok(Response::Range(Default::default())),
        Request::Metrics => Ok(Response::Metrics(Vec::new())),
        other => panic!("{other:?}"),
    });
    let figures = get(&address, "/metrics").await;
    assert!(figures.starts_with("HTTP/1.1 200"), "{figures}");
    let head = figures.split("\r\n\r\n").next().unwrap();
    assert!(
        head.contains("Content-Type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(
        figures.contains("\netcd_server_health_success 0\n"),
        "{figures}"
    );
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let check = tonic_health::pb::HealthCheckRequest::default();
    let serving = async |health: &mut tonic_health::pb::health_client::HealthClient<Channel>| {
        let answer = health.check(check.clone()).await.unwrap();
        answer.into_inner().status == 1
    };
    assert!(!serving(&mut health).await);
    handle.set_ready();
    while !serving(&mut health).await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let version = get(&address, "/version").await;
    assert!(
        version.contains(r#""etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0""#),
        "{version}"
    );
    let sick = get(&address, "/health").await;
    assert!(sick.starts_with("HTTP/1.1 503"), "{sick}");
    assert!(sick.ends_with("{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n"));
    let well = get(&address, "/health?serializable=true").await;
    assert!(well.starts_with("HTTP/1.1 200"), "{well}");
    assert!(well.ends_with(r#"{"health":"true","reason":""}"#));
    assert!(get(&address, "/nothing").await.starts_with("HTTP/1.1 404"));
    stop.send_replace(true);
    while TcpStream::connect(&address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn broken_protobuf_is_answered_and_breaks_nothing() {
    let bench = bench(EdgeLimits::default()).await;
    let routes = super::routes(&bench.handle);
    let garbage = Bytes::from_static(&[0, 0, 0, 0, 4, 0x0a, 0xff, 0xff, 0xff]);
    let request = http::Request::post("/etcdserverpb.KV/Put")
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(http_body_util::Full::new(garbage)))
        .unwrap();
    let response = tower::ServiceExt::oneshot(routes, request).await.unwrap();
    let status = tonic::Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::Internal);
    let body = response.into_body().collect().await.unwrap();
    assert!(body.to_bytes().is_empty());
}
