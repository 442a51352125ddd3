//! Which path is answered by whom, one line each; and what goes before all of them.

use http::{Method, Request, Response, StatusCode, Uri};
use tokio::sync::watch;
use tonic::body::Body;

use super::{Page, TEXT, access, endpoints, gateway, health, level, page, websocket};
use crate::api::{Handle, serve::Service};

/// What the gateway was called before its interface was settled.
const BETA: &str = "/v3beta/";

/// Answers a request that is not gRPC.
pub async fn answer(
    service: Service,
    mut request: Request<Body>,
    stop: watch::Receiver<bool>,
) -> Response<Body> {
    if let Some(refusal) = access::refusal(service.limits(), &request) {
        return whole(refusal);
    }
    let welcome = access::welcome(service.limits(), request.headers());
    if let Some(below) = request.uri().path().strip_prefix(BETA) {
        *request.uri_mut() = without_beta(below, request.uri());
    }
    let mut response = match *request.method() {
        Method::OPTIONS => Response::new(Body::empty()),
        _ => mounted(service, request, stop).await,
    };
    if let Some(origin) = welcome {
        access::tell(origin, response.headers_mut());
    }
    response
}

async fn mounted(
    service: Service,
    request: Request<Body>,
    stop: watch::Receiver<bool>,
) -> Response<Body> {
    let path = request.uri().path();
    match path {
        "/version" => whole(endpoints::version(service.handle(), &bare(request)).await),
        "/debug/vars" => whole(endpoints::variables(service.handle(), &bare(request)).await),
        "/config/local/log" => whole(level::answer(service.handle(), request).await),
        _ if path.starts_with("/v3/") && service.limits().gateway => {
            match websocket::is_asked(request.headers()) {
                true => websocket::upgrade(service, request, stop),
                false => gateway::answer(service, request).await,
            }
        }
        _ => figures(service.handle(), request).await,
    }
}

/// The request without its body, which nobody looks at.
fn bare(request: Request<Body>) -> Request<()> {
    request.map(drop)
}

/// Answers what the metrics URLs answer as well.
pub async fn figures(handle: &Handle, request: Request<Body>) -> Response<Body> {
    let request = bare(request);
    whole(match request.uri().path() {
        "/metrics" => endpoints::figures(handle).await,
        _ => {
            let health = health::answer(handle, &request).await;
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

fn without_beta(below: &str, uri: &Uri) -> Uri {
    let mut path = format!("/v3/{below}");
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    // It was part of a path before.
    Uri::try_from(path).unwrap_or_default()
}

fn whole(page: Page) -> Response<Body> {
    page.map(Body::new)
}
