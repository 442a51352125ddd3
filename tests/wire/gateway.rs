//! The JSON gateway, as curl uses it: by HTTP/1.1, with whatever content type.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::server::Server;
use crate::support;

const PATIENCE: Duration = Duration::from_secs(10);

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// Sends one request over a connection of its own.
async fn send(address: &str, request: Request<Body>) -> Response<Incoming> {
    let socket = TcpStream::connect(address).await.expect("it listens");
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await;
    let (mut sender, connection) = handshake.expect("a connection");
    tokio::spawn(connection);
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
    answer.expect("in time").expect("an answer")
}

pub(super) fn request(method: Method, path: &str, body: &str) -> Request<Body> {
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes())).boxed();
    let request = Request::builder().method(method).uri(path);
    // What curl says when it is given a body.
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    request
        .header("host", "localhost")
        .body(body)
        .expect("plain parts")
}

pub(super) async fn answer(
    address: &str,
    request: Request<Body>,
) -> (StatusCode, HeaderMap, String) {
    let (parts, body) = send(address, request).await.into_parts();
    let body = body.collect().await.expect("a whole answer").to_bytes();
    let text = String::from_utf8(body.to_vec()).expect("text");
    (parts.status, parts.headers, text)
}

async fn post(address: &str, path: &str, body: &str) -> (StatusCode, Value) {
    let (status, headers, text) = answer(address, request(Method::POST, path, body)).await;
    assert_eq!(
        headers["content-type"], "application/json",
        "{path}: {text}"
    );
    (status, serde_json::from_str(&text).expect("JSON"))
}

/// The lines of an answer that goes on.
struct Lines {
    body: Incoming,
    held: Vec<u8>,
}

impl Lines {
    fn of(response: Response<Incoming>) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/json");
        Self {
            body: response.into_body(),
            held: Vec::new(),
        }
    }

    /// The next line; none at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("JSON"));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await;
            let data = frame.expect("in time")?.expect("no error").into_data();
            self.held.extend_from_slice(&data.expect("no trailers"));
        }
    }
}

/// Goal: calls come back as etcd's gateway writes them: names of the proto files, numbers of 64
/// bits as text, bytes as base64, and nothing that is empty.
#[tokio::test]
async fn calls_answer_in_json() {
    let server = Server::start_own().await;
    let address = server.address();
    let (status, put) = post(&address, "/v3/kv/put", r#"{"key":"YQ==","value":"MQ=="}"#).await;
    assert_eq!(status, StatusCode::OK);
    let header = &put["header"];
    let revision = header["revision"].as_str().expect("text").to_owned();
    for name in ["cluster_id", "member_id", "revision", "raft_term"] {
        let number = header[name].as_str().map(str::parse::<u64>);
        assert!(matches!(number, Some(Ok(1..))), "{name}: {header}");
    }
    assert_eq!(put.as_object().expect("an object").len(), 1);

    let (_, range) = post(&address, "/v3/kv/range", r#"{"key":"YQ==","what":1}"#).await;
    let kv = json!({
        "key": "YQ==", "create_revision": revision, "mod_revision": revision, "version": "1",
        "value": "MQ==",
    });
    assert_eq!(range["kvs"], json!([kv]));
    assert_eq!(range["count"], "1");
    assert_eq!(range.get("more"), None);
    // The name of before, and no body at all.
    let (status, _) = post(&address, "/v3beta/kv/range", r#"{"key":"YQ=="}"#).await;
    assert_eq!(status, StatusCode::OK);
    let (_, members) = post(&address, "/v3/cluster/member/list", "").await;
    assert_eq!(members["members"][0]["clientURLs"][0], server.endpoint);

    let txn = r#"{
        "compare": [{"key": "YQ==", "target": "VALUE", "result": 0, "value": "MQ=="}],
        "success": [{"requestPut": {"key": "Yg==", "value": "Mg=="}},
                    {"request_range": {"key": "Yg==", "countOnly": true}}],
        "failure": []}"#;
    let (status, txn) = post(&address, "/v3/kv/txn", txn).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(txn["succeeded"], true);
    assert!(txn["responses"][0]["response_put"].is_object(), "{txn}");
    assert_eq!(txn["responses"][1]["response_range"]["count"], "1");

    let (_, granted) = post(&address, "/v3/lease/grant", r#"{"TTL":"600","ID":"77"}"#).await;
    assert_eq!(
        (&granted["ID"], &granted["TTL"]),
        (&json!("77"), &json!("600"))
    );
    let (_, locked) = post(&address, "/v3/lock/lock", r#"{"name":"bQ==","lease":77}"#).await;
    assert_eq!(locked["key"], "bS80ZA=="); // m/4d
    let (_, left) = post(
        &address,
        "/v3/kv/lease/timetolive",
        r#"{"ID":77,"keys":true}"#,
    )
    .await;
    assert_eq!(left["keys"], json!(["bS80ZA=="]));
    assert_eq!(left["grantedTTL"], "600");
    let (_, status) = post(&address, "/v3/maintenance/status", "{}").await;
    assert!(
        status["version"]
            .as_str()
            .is_some_and(|text| text.starts_with("3."))
    );
    let (_, _, text) = answer(&address, request(Method::POST, "/v3/kv/put", "{}")).await;
    assert_eq!(
        text,
        r#"{"code":3,"message":"etcdserver: key is not provided"}"#
    );
}

/// Goal: each kind of failure has the code and the body of etcd from 3.6 on.
#[tokio::test]
async fn failures_answer_in_json() {
    let server = Server::start_own().await;
    let address = server.address();
    let rows = [
        (
            "/v3/kv/range",
            "{}",
            400,
            3,
            "etcdserver: key is not provided",
        ),
        (
            "/v3/kv/put",
            r#"{"key":"YQ==","lease":9}"#,
            404,
            5,
            "etcdserver: requested lease not found",
        ),
        (
            "/v3/kv/compaction",
            r#"{"revision":"99999"}"#,
            400,
            11,
            "etcdserver: mvcc: required revision is a future revision",
        ),
        (
            "/v3/lock/lock",
            r#"{"name":"bQ==","lease":9}"#,
            500,
            2,
            "etcdserver: requested lease not found",
        ),
        (
            "/v3/election/leader",
            r#"{"name":"bQ=="}"#,
            500,
            2,
            "election: no leader",
        ),
        ("/v3/kv/range", r#"{"key":"YQ=="#, 400, 3, "unexpected EOF"),
        (
            "/v3/kv/range",
            "x",
            400,
            3,
            "invalid character 'x' looking for beginning of value",
        ),
        ("/v3/kv/nothing", "{}", 404, 5, "Not Found"),
        ("/v3/auth/nothing", "{}", 404, 5, "Not Found"),
        ("/v3/", "{}", 404, 5, "Not Found"),
    ];
    for (path, body, http, code, message) in rows {
        let (status, told) = post(&address, path, body).await;
        assert_eq!(status.as_u16(), http, "{path} {body}: {told}");
        assert_eq!(
            told,
            json!({"code": code, "message": message}),
            "{path} {body}"
        );
    }
    for body in [
        r#"{"key":"a"}"#,
        r#"{"key":1}"#,
        r#"{"key" "a"}"#,
        r#"{"limit":"x"}"#,
    ] {
        let (status, told) = post(&address, "/v3/kv/range", body).await;
        assert_eq!(
            (status.as_u16(), &told["code"]),
            (400, &json!(3)),
            "{body}: {told}"
        );
    }
    let (status, _, text) = answer(&address, request(Method::GET, "/v3/kv/range", "")).await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(text, r#"{"code":12,"message":"Method Not Allowed"}"#);
    let (status, _, _) = answer(&address, request(Method::POST, "/v3alpha/kv/range", "{}")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let huge = format!(r#"{{"key":"YQ==","value":"{}"}}"#, "A".repeat(5 << 20));
    let (status, told) = post(&address, "/v3/kv/put", &huge).await;
    assert_eq!((status.as_u16(), &told["code"]), (429, &json!(8)), "{told}");
}

/// Goal: metadata go through both ways, and who asks is asked who it is.
#[tokio::test]
async fn metadata_go_through() {
    let server = Server::start_own().await;
    let mut asked = request(Method::POST, "/v3/kv/range", r#"{"key":"YQ=="}"#);
    asked
        .headers_mut()
        .insert("grpc-metadata-hasleader", "true".parse().expect("plain"));
    let (status, headers, _) = answer(&server.address(), asked).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["grpc-metadata-content-type"], "application/grpc");
    assert_eq!(headers["access-control-allow-origin"], "*");
    let mut odd = request(Method::POST, "/v3/kv/range", r#"{"key":"YQ=="}"#);
    let version = http::HeaderValue::from_bytes(b"\xff").expect("bytes are allowed");
    odd.headers_mut()
        .insert("grpc-metadata-client-api-version", version);
    let (status, _, text) = answer(&server.address(), odd).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
    let mut late = request(Method::POST, "/v3/lock/lock", r#"{"name":"bQ=="}"#);
    let (_, held) = post(&server.address(), "/v3/lock/lock", r#"{"name":"bQ=="}"#).await;
    assert!(held["key"].is_string(), "{held}");
    late.headers_mut()
        .insert("grpc-timeout", "200m".parse().expect("plain"));
    let (status, _, text) = answer(&server.address(), late).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{text}");
}

/// Goal: a stream ends when its client said it would, and nonsense in its place is refused.
#[tokio::test]
async fn streams_keep_their_deadline() {
    let server = Server::start_own().await;
    let asked = |timeout: &str| {
        let mut asked = request(Method::POST, "/v3/watch", r#"{"create_request":{}}"#);
        let timeout = timeout.parse().expect("plain");
        asked.headers_mut().insert("grpc-timeout", timeout);
        asked
    };
    let mut lines = Lines::of(send(&server.address(), asked("300m")).await);
    let created = lines.next().await.expect("a line");
    assert_eq!(created["result"]["created"], true);
    let end = lines.next().await.expect("a line");
    assert_eq!(end["error"]["code"], 4, "{end}");
    assert_eq!(lines.next().await, None);
    let (status, _, text) = answer(&server.address(), asked("soon")).await;
    let expected = r#"{"code":3,"message":"invalid grpc-timeout: soon"}"#;
    assert_eq!((status, text.as_str()), (StatusCode::BAD_REQUEST, expected));
}

/// Goal: a watch is a request whose body may stay open, and an answer that goes on; more watches
/// can be asked for in the middle of it.
#[tokio::test]
async fn a_watch_goes_on_and_takes_more_requests() {
    let server = Server::start_own().await;
    let address = server.address();
    let (sender, pieces) = mpsc::channel(4);
    let mut asked = request(Method::POST, "/v3/watch", "");
    *asked.body_mut() = StreamBody::new(ReceiverStream::new(pieces)).boxed();
    let create = |key: &str| Bytes::from(format!(r#"{{"create_request":{{"key":"{key}"}}}}"#));
    let send_data = async |data: Bytes| sender.send(Ok(Frame::data(data))).await;
    send_data(create("dw==")).await.expect("it is open");
    let mut lines = Lines::of(send(&address, asked).await);
    assert_eq!(
        lines.next().await.expect("a line")["result"]["created"],
        true
    );
    post(&address, "/v3/kv/put", r#"{"key":"dw==","value":"MQ=="}"#).await;
    let seen = lines.next().await.expect("a line");
    let event = &seen["result"]["events"][0];
    assert_eq!(event["kv"]["value"], "MQ==");
    assert_eq!(
        event.get("type"),
        None,
        "a put is the first kind and left out"
    );
    // In pieces, which may be cut anywhere.
    let second = create("eA==");
    for piece in [second.slice(..9), second.slice(9..)] {
        send_data(piece).await.expect("it is open");
    }
    let created = lines.next().await.expect("a line");
    assert_eq!(created["result"]["watch_id"], "1", "{created}");
    drop(sender);
    post(&address, "/v3/kv/deleterange", r#"{"key":"dw=="}"#).await;
    let seen = lines.next().await.expect("a line");
    assert_eq!(seen["result"]["events"][0]["type"], "DELETE");
}

/// Goal: the other streams come as lines as well, and end.
#[tokio::test]
async fn streams_are_lines() {
    let server = Server::start_own().await;
    let address = server.address();
    post(&address, "/v3/lease/grant", r#"{"TTL":600,"ID":5}"#).await;
    let alive = request(
        Method::POST,
        "/v3/lease/keepalive",
        r#"{"ID":"5"}{"ID":6} "#,
    );
    let mut lines = Lines::of(send(&address, alive).await);
    let first = lines.next().await.expect("a line");
    assert_eq!(
        (&first["result"]["ID"], &first["result"]["TTL"]),
        (&json!("5"), &json!("600"))
    );
    let second = lines.next().await.expect("a line");
    assert_eq!(
        (&second["result"]["ID"], second["result"].get("TTL")),
        (&json!("6"), None)
    );
    assert_eq!(lines.next().await, None);

    let image = request(Method::POST, "/v3/maintenance/snapshot", "");
    let mut lines = Lines::of(send(&address, image).await);
    let (mut bytes, mut count) = (0, 0);
    while let Some(line) = lines.next().await {
        let blob = line["result"]["blob"].as_str().expect("base64");
        assert_eq!(blob.len() % 4, 0);
        bytes += blob.len() / 4 * 3;
        count += 1;
    }
    assert!(count >= 2 && bytes > 512, "{count} lines of {bytes} bytes");

    let observe = request(Method::POST, "/v3/election/observe", r#"{"name":"ZQ=="}"#);
    let campaign = r#"{"name":"ZQ==","lease":5,"value":"dg=="}"#;
    let (response, _) = tokio::join!(
        send(&address, observe),
        post(&address, "/v3/election/campaign", campaign),
    );
    let leader = Lines::of(response).next().await.expect("a line");
    assert_eq!(leader["result"]["kv"]["value"], "dg==");

    // A stream that is refused has the code of its error.
    let observe = request(Method::POST, "/v3/election/observe", r#"{"name":7}"#);
    let (status, _, _) = answer(&address, observe).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

/// Goal: who waits for a lock by HTTP and closes the connection leaves no key behind.
#[tokio::test]
async fn a_closed_connection_ends_its_call() {
    let server = Server::start_own().await;
    let address = server.address();
    post(&address, "/v3/lease/grant", r#"{"TTL":600,"ID":1}"#).await;
    post(&address, "/v3/lease/grant", r#"{"TTL":600,"ID":2}"#).await;
    post(&address, "/v3/lock/lock", r#"{"name":"bQ==","lease":1}"#).await;
    let other = address.clone();
    let waiting =
        tokio::spawn(
            async move { post(&other, "/v3/lock/lock", r#"{"name":"bQ==","lease":2}"#).await },
        );
    let count = async |wanted: &str| {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let all = r#"{"key":"bS8=","range_end":"bTA=","count_only":true}"#;
            let (_, found) = post(&address, "/v3/kv/range", all).await;
            if found["count"] == wanted {
                return;
            }
            assert!(tokio::time::Instant::now() < end, "never {wanted}: {found}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    count("2").await;
    waiting.abort();
    count("1").await;
}

/// Goal: the gateway is there on HTTP/2 without TLS as well, beside gRPC.
#[tokio::test]
async fn http2_works_too() {
    let server = Server::start_own().await;
    let socket = TcpStream::connect(server.address())
        .await
        .expect("it listens");
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
    let (mut sender, connection) = handshake.await.expect("a connection");
    tokio::spawn(connection);
    let uri = format!("{}/v3/kv/range", server.endpoint);
    let body = Full::new(Bytes::from_static(br#"{"key":"YQ=="}"#));
    let request = Request::post(uri).body(body).expect("plain parts");
    let response = sender.send_request(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/json");
}

pub(super) fn address_of(endpoint: &str) -> &str {
    endpoint.strip_prefix("http://").expect("plain http")
}

/// Goal: only named hosts are served and only named origins are welcome; browsers may ask first.
#[tokio::test]
async fn hosts_and_origins_are_those_that_were_named() {
    let flags = ["--host-whitelist=a.example", "--cors=http://b.example:80"];
    let server = support::Server::alone(&flags);
    let endpoint = server.endpoint();
    let address = address_of(&endpoint);
    let asked = |host: &str, origin: &str, method: Method| {
        let mut asked = request(method, "/v3/kv/range", r#"{"key":"YQ=="}"#);
        let headers = asked.headers_mut();
        headers.insert("host", host.parse().expect("plain"));
        headers.insert("origin", origin.parse().expect("plain"));
        asked
    };
    let (status, headers, text) = answer(
        address,
        asked("c.example:2379", "http://b.example:80", Method::POST),
    )
    .await;
    assert_eq!(status, StatusCode::MISDIRECTED_REQUEST);
    assert!(text.contains("--host-whitelist \"c.example\""), "{text}");
    assert!(!headers.contains_key("access-control-allow-origin"));
    let host = "a.example:2379";
    let (status, headers, _) =
        answer(address, asked(host, "http://b.example:80", Method::POST)).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        headers["access-control-allow-origin"],
        "http://b.example:80"
    );
    let (status, headers, _) = answer(address, asked(host, "http://x", Method::POST)).await;
    assert_eq!(status, StatusCode::OK);
    assert!(!headers.contains_key("access-control-allow-origin"));
    let asking = asked(host, "http://b.example:80", Method::OPTIONS);
    let (status, headers, text) = answer(address, asking).await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, ""));
    assert_eq!(
        headers["access-control-allow-methods"],
        "POST, GET, OPTIONS, PUT, DELETE"
    );
    assert_eq!(
        headers["access-control-allow-headers"],
        "accept, content-type, authorization"
    );
}

/// Goal: with URLs of its own, HTTP is there and nowhere else, and gRPC is not there.
#[tokio::test]
async fn http_can_have_a_port_of_its_own() {
    let port = support::ports::free_port();
    let own = format!("127.0.0.1:{port}");
    let server = support::Server::alone(&[&format!("--listen-client-http-urls=http://{own}")]);
    let endpoint = server.endpoint();
    let (status, _) = post(&own, "/v3/kv/range", r#"{"key":"YQ=="}"#).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _, _) = answer(&own, request(Method::GET, "/version", "")).await;
    assert_eq!(status, StatusCode::OK);
    let dial = |url: String| {
        let endpoint = tonic::transport::Endpoint::from_shared(url).expect("an address");
        async move {
            let channel = endpoint.connect().await.expect("it listens");
            let mut client = fated::pb::etcdserverpb::kv_client::KvClient::new(channel);
            let request = fated::pb::etcdserverpb::RangeRequest {
                key: "a".into(),
                ..Default::default()
            };
            client.range(request).await
        }
    };
    dial(endpoint.clone())
        .await
        .expect("gRPC is at the client port");
    dial(format!("http://{own}"))
        .await
        .expect_err("gRPC is not here");
    for path in ["/version", "/v3/kv/range"] {
        let asked = request(Method::POST, path, "{}");
        let (status, _, _) = answer(address_of(&endpoint), asked).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{path}");
    }
}

/// Goal: without the gateway its paths are like any other that is not there.
#[tokio::test]
async fn the_gateway_can_be_off() {
    let server = support::Server::alone(&["--enable-grpc-gateway=false"]);
    let endpoint = server.endpoint();
    let asked = request(Method::POST, "/v3/kv/range", r#"{"key":"YQ=="}"#);
    let (status, _, text) = answer(address_of(&endpoint), asked).await;
    assert_eq!(
        (status, text.as_str()),
        (StatusCode::NOT_FOUND, "404 page not found\n")
    );
}
