//! Traces of calls, taken by a collector that speaks OpenTelemetry's protocol.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use fated::pb::etcdserverpb::{
    PutRequest, RangeRequest, WatchCreateRequest, WatchRequest, kv_client::KvClient,
    watch_client::WatchClient, watch_request::RequestUnion,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Channel};

use crate::support::Server;

const SOON: Duration = Duration::from_secs(20);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn listen() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let collector = Self::default();
        let service = TraceServiceServer::new(collector.clone());
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        (collector, address)
    }

    fn spans(&self) -> Vec<Span> {
        let sent = self.0.lock().unwrap();
        let scopes = sent.iter().flat_map(|sent| &sent.resource_spans);
        let scopes = scopes.flat_map(|spans| &spans.scope_spans);
        scopes.flat_map(|spans| spans.spans.clone()).collect()
    }

    fn resource(&self) -> Vec<(String, String)> {
        let sent = self.0.lock().unwrap();
        let resource = sent[0].resource_spans[0].resource.clone().unwrap();
        let mut pairs: Vec<_> = resource.attributes.iter().map(pair).collect();
        pairs.sort();
        pairs
    }
}

fn pair(attribute: &KeyValue) -> (String, String) {
    let value = attribute.value.as_ref().and_then(|any| any.value.clone());
    let value = match value {
        Some(Value::StringValue(text)) => text,
        other => format!("{other:?}"),
    };
    (attribute.key.clone(), value)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    let pairs = span.attributes.iter().map(pair);
    pairs
        .into_iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

fn traced<T>(message: T, sampled: &str) -> Request<T> {
    let mut request = Request::new(message);
    let context = format!("00-{TRACE}-{PARENT}-{sampled}");
    request
        .metadata_mut()
        .insert("traceparent", context.parse().unwrap());
    request
}

fn put(key: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }
}

async fn channel(server: &Server) -> Channel {
    let endpoint = tonic::transport::Endpoint::from_shared(server.endpoint()).unwrap();
    endpoint.connect().await.unwrap()
}

/// Goal: what clients want traced is traced under their trace, with etcd's names and attributes,
/// and nothing else is, as nothing is drawn by default. Method: the end of the server sends what it
/// has.
#[tokio::test]
async fn calls_that_clients_trace_reach_the_collector() {
    let (collector, address) = Collector::listen().await;
    let mut server = Server::alone(&[
        "--enable-distributed-tracing",
        &format!("--distributed-tracing-address={address}"),
        "--distributed-tracing-service-name=store",
        "--distributed-tracing-instance-id=one",
    ]);
    let channel = channel(&server).await;
    let mut kv = KvClient::new(channel.clone());
    kv.put(traced(put("wanted"), "01")).await.unwrap();
    kv.put(traced(put("unwanted"), "00")).await.unwrap();
    kv.put(put("silent")).await.unwrap();
    let wrong = kv.put(traced(put(""), "01")).await.unwrap_err();
    assert_eq!(wrong.message(), "etcdserver: key is not provided");
    let create = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest::default())),
    };
    let asked = traced(tokio_stream::once(create), "01");
    let mut events = WatchClient::new(channel)
        .watch(asked)
        .await
        .unwrap()
        .into_inner();
    assert!(events.message().await.unwrap().unwrap().created);
    drop((events, kv));
    let ended = tokio::task::spawn_blocking(move || server.terminate(SOON));
    assert!(ended.await.unwrap().success());

    let spans = collector.spans();
    let resource = collector.resource();
    let named = |name, value: &str| (String::from(name), value.to_owned());
    let expected = [
        named("service.instance.id", "one"),
        named("service.name", "store"),
    ];
    assert_eq!(resource, expected);
    let mut names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    let expected = [
        "etcdserverpb.KV/Put",
        "etcdserverpb.KV/Put",
        "etcdserverpb.Watch/Watch",
        "put",
        "watch",
    ];
    assert_eq!(names, expected, "{spans:?}");
    for span in &spans {
        assert_eq!(hex(&span.trace_id), TRACE);
        let is_call = span.name.starts_with("etcdserverpb");
        assert_eq!(is_call, hex(&span.parent_span_id) == PARENT, "{span:?}");
        assert_eq!(is_call, span.kind == SpanKind::Server as i32);
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
    }
    let of = |name: &'static str| spans.iter().filter(move |span| span.name == name);
    let inner = of("put").next().unwrap();
    assert_eq!(attribute(inner, "key").as_deref(), Some("wanted"));
    let outer = of("etcdserverpb.KV/Put").find(|span| span.span_id == inner.parent_span_id);
    let outer = outer.expect("the inner span is within the call");
    let code = "rpc.response.status_code";
    assert_eq!(attribute(outer, code).as_deref(), Some("OK"));
    assert_eq!(attribute(outer, "rpc.system.name").as_deref(), Some("grpc"));
    let method = attribute(outer, "rpc.method");
    assert_eq!(method.as_deref(), Some("etcdserverpb.KV/Put"));
    let refused = of("etcdserverpb.KV/Put").find(|span| span.span_id != outer.span_id);
    let refused = attribute(refused.unwrap(), code);
    assert_eq!(refused.as_deref(), Some("INVALID_ARGUMENT"));
    let watched = attribute(of("watch").next().unwrap(), "key");
    assert_eq!(watched.as_deref(), Some("\0"));
}

/// Goal: a collector that takes connections and never says a word costs the clients nothing, with
/// more calls traced than may wait, and does not hold up the end.
#[tokio::test]
async fn a_silent_collector_holds_up_nobody() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut server = Server::alone(&[
        "--enable-distributed-tracing",
        &format!(
            "--distributed-tracing-address={}",
            silent.local_addr().unwrap()
        ),
        "--distributed-tracing-sampling-rate=1000000",
    ]);
    let mut kv = KvClient::new(channel(&server).await);
    let range = RangeRequest {
        key: "a".into(),
        serializable: true,
        ..Default::default()
    };
    let mut slowest = Duration::ZERO;
    for _ in 0..3000 {
        let began = Instant::now();
        kv.range(range.clone()).await.unwrap();
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    drop(kv);
    let began = Instant::now();
    let ended = tokio::task::spawn_blocking(move || server.terminate(SOON));
    assert!(ended.await.unwrap().success());
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}
