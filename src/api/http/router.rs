//! Which path is answered by whom, one line each.

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tonic::body::Body;

use super::{Page, TEXT, endpoints, page};
use crate::api::Handle;

/// Answers a request that is not gRPC.
pub async fn answer(handle: &Handle, request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/version" | "/health" | "/metrics" => whole(endpoints::answer(handle, &request).await),
        _ => whole(not_found()),
    }
}

/// What nobody answers.
pub fn not_found() -> Page {
    page(
        StatusCode::NOT_FOUND,
        TEXT,
        "404 page not found\n".to_owned(),
    )
}

fn whole(page: Page) -> Response<Body> {
    page.map(Body::new)
}
