//! Calls are counted once, with the code they really ended with.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

use super::*;
use crate::api::metrics::{Detail, Instruments};

const PUT: &str = "/etcdserverpb.KV/Put";

fn instruments(detail: Detail) -> Instruments {
    Instruments::new(
        Registry::new(),
        detail,
        Arc::new(|| std::time::Duration::ZERO),
    )
}

fn request(path: &str) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::from_static(b"\0\0\0\0\x03abc")));
    *request.uri_mut() = path.parse().unwrap();
    request
}

/// One message of five bytes, then the trailers.
fn answer(code: &'static str) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static(code));
    let frames = [
        Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"\0\0\0\0\x05hello"))),
        Ok(Frame::trailers(trailers)),
    ];
    let body = StreamBody::new(tokio_stream::iter(frames));
    Response::new(Body::new(body))
}

/// The value of a line of the text.
fn value(instruments: &Instruments, line: &str) -> Option<f64> {
    let text = instruments.text(&[]);
    let found = text.lines().find_map(|known| known.strip_prefix(line))?;
    found.trim().parse().ok()
}

fn handled(code: &str) -> String {
    format!(
        "grpc_server_handled_total{{grpc_code=\"{code}\",grpc_method=\"Put\",\
         grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}} "
    )
}

const LABELS: &str = "{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} ";

#[tokio::test]
async fn a_call_counts_its_messages_bytes_and_code() {
    let all = instruments(Detail::Extensive);
    let read = async |request: Request<Body>| {
        request.into_body().collect().await.unwrap();
        answer("0")
    };
    let response = all.rpcs().count(request(PUT), read).await;
    assert_eq!(value(&all, &handled("OK")), Some(0.0), "it has not ended");
    response.into_body().collect().await.unwrap();
    assert_eq!(value(&all, &handled("OK")), Some(1.0));
    for name in ["started", "msg_received", "msg_sent"] {
        let line = format!("grpc_server_{name}_total{LABELS}");
        assert_eq!(value(&all, &line), Some(1.0), "{name}");
    }
    let bytes = |way| {
        value(
            &all,
            &format!("etcd_network_client_grpc_{way}_bytes_total "),
        )
    };
    assert_eq!((bytes("received"), bytes("sent")), (Some(3.0), Some(5.0)));
    let took = format!("grpc_server_handling_seconds_count{LABELS}");
    assert_eq!(value(&all, &took), Some(1.0));
    let client = "etcd_server_client_requests_total\
        {client_api_version=\"unknown\",type=\"unary\"} ";
    assert_eq!(value(&all, client), Some(1.0));
}

#[tokio::test]
async fn a_refusal_in_the_headers_and_a_lost_client_count_once_each() {
    let all = instruments(Detail::Basic);
    let refuse = async |_: Request<Body>| tonic::Status::not_found("no").into_http();
    let response = all.rpcs().count(request(PUT), refuse).await;
    drop(response);
    assert_eq!(value(&all, &handled("NotFound")), Some(1.0));
    let response = all.rpcs().count(request(PUT), async |_| answer("0")).await;
    drop(response);
    assert_eq!(value(&all, &handled("Canceled")), Some(1.0));
    assert_eq!(value(&all, &handled("OK")), Some(0.0));
    let never = all
        .rpcs()
        .count(request(PUT), async |_| std::future::pending().await);
    let late = tokio::time::timeout(std::time::Duration::from_millis(1), never).await;
    assert!(late.is_err());
    assert_eq!(value(&all, &handled("Canceled")), Some(2.0));
    assert_eq!(value(&all, "grpc_server_handling_seconds"), None);
}

#[tokio::test]
async fn unknown_paths_and_endless_client_versions_are_not_kept() {
    let all = instruments(Detail::Basic);
    let response = all
        .rpcs()
        .count(request("/a.B/C"), async |_| answer("12"))
        .await;
    drop(response);
    assert!(!all.text(&[]).contains("a.B"));
    for number in 0..2 * CLIENT_VERSIONS_MAX {
        let mut request = request(PUT);
        let version = http::HeaderValue::from_str(&format!("3.7.{number}")).unwrap();
        request.headers_mut().insert("client-api-version", version);
        drop(all.rpcs().count(request, async |_| answer("0")).await);
    }
    let text = all.text(&[]);
    assert_eq!(
        text.matches("client_api_version=").count(),
        2 * (CLIENT_VERSIONS_MAX + 1)
    );
}
