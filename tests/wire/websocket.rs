//! The gateway over WebSocket, as a browser uses it; and reflection, as grpcurl does.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::server::Server;

const PATIENCE: Duration = Duration::from_secs(10);

type Socket = WebSocketStream<TcpStream>;

async fn open(server: &Server, path: &str, protocol: Option<&str>) -> (Socket, Option<String>) {
    let mut request = format!("ws://{}{path}", server.address())
        .into_client_request()
        .expect("an address");
    if let Some(protocol) = protocol {
        let protocol = protocol.parse().expect("plain");
        request
            .headers_mut()
            .insert("sec-websocket-protocol", protocol);
    }
    let socket = TcpStream::connect(server.address())
        .await
        .expect("it listens");
    let (socket, response) = client_async(request, socket).await.expect("an upgrade");
    let agreed = response.headers().get("sec-websocket-protocol");
    (
        socket,
        agreed.map(|value| value.to_str().expect("text").to_owned()),
    )
}

/// The next message; none at the end.
async fn next(socket: &mut Socket) -> Option<Value> {
    let message = tokio::time::timeout(PATIENCE, socket.next()).await;
    match message.expect("in time") {
        Some(Ok(Message::Text(text))) => Some(serde_json::from_str(&text).expect("JSON")),
        Some(Ok(Message::Close(_))) | None => None,
        other => panic!("{other:?}"),
    }
}

async fn tell(socket: &mut Socket, request: Value) {
    let message = Message::text(request.to_string());
    socket.send(message).await.expect("it is open");
}

/// Goal: a watch goes both ways: each message of the client is a request, each of ours an answer.
#[tokio::test]
async fn a_watch_goes_both_ways() {
    let server = Server::start_own().await;
    let (mut socket, _) = open(&server, "/v3/watch", None).await;
    tell(&mut socket, json!({"create_request": {"key": "dw=="}})).await;
    let created = next(&mut socket).await.expect("an answer");
    assert_eq!(created["result"]["created"], true);
    server.connect().await.put("w", "1").await.expect("a put");
    let seen = next(&mut socket).await.expect("an event");
    assert_eq!(seen["result"]["events"][0]["kv"]["value"], "MQ==");
    socket
        .send(Message::Ping("p".into()))
        .await
        .expect("it is open");
    let pong = tokio::time::timeout(PATIENCE, socket.next())
        .await
        .expect("in time");
    assert!(matches!(pong, Some(Ok(Message::Pong(_)))), "{pong:?}");
    tell(&mut socket, json!({"cancel_request": {}})).await;
    let canceled = next(&mut socket).await.expect("an answer");
    assert_eq!(canceled["result"]["canceled"], true);
    socket.close(None).await.expect("it is open");
}

/// Goal: a call that is no stream is answered and over; a token is agreed to.
#[tokio::test]
async fn a_single_call_is_answered_and_over() {
    let server = Server::start_own().await;
    let (mut socket, agreed) = open(&server, "/v3beta/kv/put", Some("Bearer, abc")).await;
    assert_eq!(agreed.as_deref(), Some("Bearer"));
    tell(&mut socket, json!({"key": "YQ==", "value": "MQ=="})).await;
    let put = next(&mut socket).await.expect("an answer");
    assert!(put["header"]["revision"].is_string(), "{put}");
    assert_eq!(next(&mut socket).await, None);
    let (mut socket, _) = open(&server, "/v3/kv/nothing", None).await;
    let refused = next(&mut socket).await.expect("an answer");
    assert_eq!(refused, json!({"code": 5, "message": "Not Found"}));
}

/// Goal: what asks for another version is refused, and outside of the gateway there is no upgrade.
#[tokio::test]
async fn odd_upgrades_are_refused() {
    let mut server = Server::start_own().await;
    for (path, version, code) in [("/v3/watch", "12", 400), ("/health", "13", 200)] {
        let mut request = format!("ws://{}{path}", server.address())
            .into_client_request()
            .expect("an address");
        let version = version.parse().expect("plain");
        request
            .headers_mut()
            .insert("sec-websocket-version", version);
        let socket = TcpStream::connect(server.address())
            .await
            .expect("it listens");
        match client_async(request, socket).await {
            Err(Error::Http(response)) => assert_eq!(response.status().as_u16(), code),
            other => panic!("{path}: {:?}", other.map(|_| ())),
        }
    }
    // A client that vanishes in the middle of a message.
    let (mut socket, _) = open(&server, "/v3/watch", None).await;
    tell(&mut socket, json!({"create_request": {"key": "dw=="}})).await;
    next(&mut socket).await.expect("an answer");
    socket
        .send(Message::text("{\"create_request\":"))
        .await
        .expect("it is open");
    drop(socket);
    server.assert_healthy("a vanished socket").await;
}

/// Goal: a tool can ask which services there are and what their messages look like.
#[tokio::test]
async fn tools_can_ask_what_there_is() {
    let server = Server::start_own().await;
    let channel = tonic::transport::Endpoint::from_shared(server.endpoint.clone());
    let channel = channel
        .expect("an address")
        .connect()
        .await
        .expect("it listens");
    let mut client = ServerReflectionClient::new(channel);
    let ask = |request| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let requests = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(
            "etcdserverpb.KV".to_owned(),
        )),
    ]);
    let mut answers = client
        .server_reflection_info(requests)
        .await
        .expect("it is served")
        .into_inner();
    let first = answers.message().await.expect("no error").expect("no end");
    let Some(MessageResponse::ListServicesResponse(list)) = first.message_response else {
        panic!("{first:?}");
    };
    let names: Vec<String> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for name in [
        "etcdserverpb.KV",
        "etcdserverpb.Watch",
        "v3lockpb.Lock",
        "v3electionpb.Election",
        "grpc.health.v1.Health",
    ] {
        assert!(
            names.iter().any(|found| found == name),
            "{name} in {names:?}"
        );
    }
    let second = answers.message().await.expect("no error").expect("no end");
    let Some(MessageResponse::FileDescriptorResponse(file)) = second.message_response else {
        panic!("{second:?}");
    };
    assert!(!file.file_descriptor_proto.is_empty());
}
