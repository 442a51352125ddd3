//! Streams of keep-alives go two ways through the edge, and nobody can tell which.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tokio_stream::StreamExt;

use super::{super::unary, *};

/// What a client hears and what is counted.
#[derive(PartialEq, Debug)]
struct Heard {
    answers: Bytes,
    status: Option<String>,
    story: Option<String>,
    figures: Vec<String>,
}

fn core(request: Request) -> Result<Response, ApiError> {
    match request {
        Request::LeaseKeepAlive(request) if request.id == 2 => Err(ApiError::LeaseNotFound),
        Request::LeaseKeepAlive(request) if request.id == 4 => Err(ApiError::NoLeader),
        Request::LeaseKeepAlive(request) if request.id == 5 => Ok(Response::Health),
        Request::LeaseKeepAlive(request) => {
            Ok(Response::LeaseKeepAlive(rpc::LeaseKeepAliveResponse {
                header: header(7),
                id: request.id,
                ttl: 9,
            }))
        }
        other => panic!("{other:?}"),
    }
}

/// Says these bytes on a stream of its own.
async fn say(said: &[u8], more: Option<(&'static str, &'static str)>) -> Heard {
    let bench = bench(EdgeLimits::default()).await;
    let socket = TcpStream::connect(&bench.address).await.unwrap();
    let (handle, _stop) = bench.answer_with(core);
    let begun =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (mut sender, connection) = begun.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::post("http://x/etcdserverpb.Lease/LeaseKeepAlive")
        .header("content-type", "application/grpc")
        .header("client-api-version", "3.6");
    if let Some((name, value)) = more {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(said)));
    let response = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    let text = |name| Some(trailers.get(name)?.to_str().unwrap().to_owned());
    let counted = |line: &&str| {
        let names = ["LeaseKeepAlive", "client_requests", "stream_failures"];
        !line.ends_with(" 0") && names.iter().any(|name| line.contains(name))
    };
    let figures = handle.instruments().text(&[]);
    let status = text("grpc-status");
    let ended_well = status.as_deref() == Some("0");
    Heard {
        status,
        story: text("grpc-message"),
        answers: body.to_bytes(),
        // Of what stands behind a failure the ways differ in whether it was received.
        figures: figures
            .lines()
            .filter(counted)
            .filter(|line| ended_well || !line.contains("received"))
            .map(str::to_owned)
            .collect(),
    }
}

fn asked(ids: &[i64]) -> Vec<u8> {
    let framed = |id: &i64| unary::framed(&rpc::LeaseKeepAliveRequest { id: *id });
    ids.iter().flat_map(framed).collect()
}

/// The kinds of bytes that are no message.
const UNSOUND: [&[u8]; 4] = [
    &[1, 0, 0, 0, 2, 8, 1],
    &[0, 255, 0, 0, 0, 1],
    &[0, 0, 0, 0, 2, 8],
    &[0, 0],
];

/// Goal: what a client hears, and what is counted, does not depend on the way. Method: the same
/// words on both; a word on the encoding makes a stream go the general way.
#[tokio::test]
async fn both_ways_say_and_count_the_same() {
    let sound = [
        asked(&[]),
        asked(&[1]),
        asked(&[1, 2, 3]),
        asked(&[1, 4, 3]),
        asked(&[1, 5, 3]),
        [&asked(&[1])[..], &[0, 0, 0, 0, 0]].concat(),
        [&asked(&[1])[..], &[0, 0, 0, 0, 2, 0xff, 0xff]].concat(),
        // A field that nobody knows.
        vec![0, 0, 0, 0, 4, 8, 3, 16, 1],
    ];
    let odd = UNSOUND.map(|odd| [&asked(&[1]), odd].concat());
    for said in sound.iter().chain(&odd) {
        let short = say(said, None).await;
        let general = say(said, Some(("grpc-encoding", "identity"))).await;
        assert_eq!(short, general, "{said:?}");
        assert!(short.status.is_some());
    }
    let three = say(&sound[2], None).await;
    let (status, figures) = (three.status.as_deref(), three.figures.join("\n"));
    assert_eq!(status, Some("0"));
    let mut answers = &three.answers[..];
    for (id, ttl) in [(1, 9), (2, 0), (3, 9)] {
        let length = usize::from(answers[4]);
        let answer = rpc::LeaseKeepAliveResponse::decode(&answers[5..5 + length]).unwrap();
        assert_eq!((answer.id, answer.ttl), (id, ttl));
        answers = &answers[5 + length..];
    }
    let labels = "{grpc_method=\"LeaseKeepAlive\",grpc_service=\"etcdserverpb.Lease\",\
                  grpc_type=\"bidi_stream\"}";
    for (name, count) in [("started", 1), ("msg_received", 3), ("msg_sent", 3)] {
        let line = format!("grpc_server_{name}_total{labels} {count}");
        assert!(figures.contains(&line), "{line} in {figures}");
    }
}

/// All that a client says which opens a stream and says this on it, frame by frame.
fn stream_of(said: &[u8]) -> Vec<u8> {
    let string = |text: &str| [&[text.len() as u8][..], text.as_bytes()].concat();
    let field = |name, value| [vec![0], string(name), string(value)].concat();
    let block = [
        vec![0x83, 0x86, 0x04],
        string("/etcdserverpb.Lease/LeaseKeepAlive"),
        field("content-type", "application/grpc"),
        field("token", "abc"),
    ]
    .concat();
    let frame = |payload: &[u8], kind, flags, stream| {
        let head = [0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
        [&head[..], payload].concat()
    };
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(&[], 4, 0, 0),
        frame(&block, 1, 4, 1),
        frame(said, 0, 0, 1),
    ]
    .concat()
}

/// Goal: the core hears that nobody waits any more, and of whoever asks who that is.
#[tokio::test]
async fn who_leaves_gives_up_what_was_asked() {
    let mut bench = bench(EdgeLimits::default()).await;
    let mut socket = TcpStream::connect(&bench.address).await.unwrap();
    socket.write_all(&stream_of(&asked(&[1, 2]))).await.unwrap();
    for id in [1, 2] {
        let (call, credentials, request) = next_call(&mut bench.events).await;
        assert_eq!(credentials.token.as_deref(), Some("abc"));
        assert!(matches!(&request, Request::LeaseKeepAlive(request) if request.id == id));
        assert!(bench.events.try_recv().is_err(), "one at a time");
        if id == 1 {
            bench.handle.reply(call, core(request));
            continue;
        }
        drop(socket);
        let next = bench.events.recv().await;
        assert!(matches!(next, Some(Event::Cancel { call: given_up }) if given_up == call));
        return;
    }
}

/// Goal: streams are told that the core has stopped, those that wait and those that come later.
#[tokio::test]
async fn a_stopped_core_ends_streams() {
    let mut bench = bench(EdgeLimits::default()).await;
    let mut client = LeaseClient::new(bench.channel().await);
    for at in 0..2 {
        let ids = tokio_stream::iter([1]).chain(tokio_stream::pending());
        let requests = ids.map(|id| rpc::LeaseKeepAliveRequest { id });
        let answers = client.lease_keep_alive(requests).await.unwrap();
        if at == 0 {
            next_call(&mut bench.events).await;
        }
        bench.handle.close();
        let end = answers.into_inner().message().await.unwrap_err();
        assert_eq!(end.message(), ApiError::Stopped.text());
    }
}
