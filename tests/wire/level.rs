//! The level of the log, changed while the member runs.

use std::time::Duration;

use http::{Method, StatusCode};

use super::gateway::{address_of, answer, request};
use crate::support::Server;

const SOON: Duration = Duration::from_secs(10);
const PATH: &str = "/config/local/log";

async fn put(endpoint: &str, body: &str) -> (StatusCode, String) {
    let asked = request(Method::PUT, PATH, body);
    let (status, _, text) = answer(address_of(endpoint), asked).await;
    (status, text)
}

/// Goal: what etcd 3.4 understood works: requests are told with DEBUG, not with INFO any more, and
/// with ERROR not even the end is. What is not understood changes nothing.
#[tokio::test]
async fn the_level_of_the_log_can_be_changed() {
    let mut server = Server::alone(&[]);
    let endpoint = server.endpoint();
    let done = (StatusCode::NO_CONTENT, String::new());
    let read = async |key: &str| {
        let body = format!(r#"{{"key":"{key}"}}"#);
        let asked = request(Method::POST, "/v3/kv/range", &body);
        assert_eq!(answer(address_of(&endpoint), asked).await.0, StatusCode::OK);
    };
    read("YmVmb3Jl").await;
    assert_eq!(put(&endpoint, r#"{"Level":"DEBUG"}"#).await, done);
    read("d2l0aA==").await;
    let told = server.wait_log("request stats", SOON);
    assert!(
        told.contains(r#""level":"debug""#) && told.contains(r#"key:\"with\""#),
        "{told}"
    );
    for (body, reason) in [
        ("", "Invalid json body"),
        (r#"{"Level":"LOUD"}"#, "Invalid log level LOUD"),
    ] {
        let refused = format!(r#"{{"message":"{reason}"}}"#);
        assert_eq!(
            put(&endpoint, body).await,
            (StatusCode::BAD_REQUEST, refused)
        );
    }
    let asked = request(Method::GET, PATH, "");
    let (status, headers, _) = answer(address_of(&endpoint), asked).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(headers["allow"], "PUT");
    read("c3RpbGw=").await;
    server.wait_log("still", SOON);

    assert_eq!(put(&endpoint, r#"{"Level":"INFO"}"#).await, done);
    read("YWZ0ZXI=").await;
    assert_eq!(put(&endpoint, r#"{"level":"error"}"#).await, done);
    assert!(server.terminate(SOON).success());
    let log = server.log();
    assert_eq!(log.find(0, "before"), None);
    assert_eq!(log.find(0, "after"), None);
    assert_eq!(log.find(0, "closed the server"), None);
}
