//! Plain HTTP on the client port: what answers outside of gRPC.
//!
//! `router` tells by the path who answers; each of the others answers for its own paths.

pub mod access;
pub mod endpoints;
pub mod gateway;
pub mod health;
pub mod json;
pub mod level;
pub mod paths;
pub mod router;
pub mod websocket;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;

/// An answer that is known in whole.
pub type Page = Response<Full<Bytes>>;

/// What Go calls plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// Makes a page.
pub fn page(code: StatusCode, kind: &'static str, body: String) -> Page {
    let mut page = Response::new(Full::new(Bytes::from(body)));
    *page.status_mut() = code;
    let kind = header::HeaderValue::from_static(kind);
    page.headers_mut().insert(header::CONTENT_TYPE, kind);
    page
}
