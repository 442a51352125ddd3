//! Which path is answered by whom, one line each.

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tonic::body::Body;

use super::{Page, TEXT, endpoints, health, page};
use crate::api::Handle;

/// Answers a request that is not gRPC.
pub async fn answer(handle: &Handle, request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/version" => whole(endpoints::version(handle, &request).await),
        "/debug/vars" => whole(endpoints::variables(handle, &request).await),
        _ => figures(handle, &request).await,
    }
}

/// Answers what the metrics URLs answer as well.
pub async fn figures(handle: &Handle, request: &Request<Incoming>) -> Response<Body> {
    whole(match request.uri().path() {
        "/metrics" => endpoints::figures(handle).await,
        _ => {
            let health = health::answer(handle, request).await;
            health.unwrap_or_else(not_found)
        }
    })
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
