//! Whole connections through a pipe: a client by hand, frame by frame, and one of a library.

mod raw;
mod rules;
mod talking;
mod whole;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper::body::Frame;

use super::*;

/// Answers by the path; see `answer` and `begin`.
#[derive(Clone, Default, Debug)]
struct Echo {
    short: Arc<AtomicUsize>,
    general: Arc<AtomicUsize>,
    /// Calls that have neither ended nor been given up.
    waiting: Arc<AtomicUsize>,
    asked: talking::Asked,
}

/// Counts for as long as it lives.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, message].concat().into()
}

impl Serve for Echo {
    type Plan = String;

    fn plan(&self, head: &Head) -> Option<String> {
        let path = head.uri.path();
        let short = path.starts_with("/short") || path.starts_with("/talk");
        short.then(|| path.to_owned())
    }

    fn begin(
        &self,
        plan: &String,
        message: Bytes,
    ) -> Result<impl Future<Output = Reply> + Send + 'static, Bytes> {
        if &message[..] == b"odd" {
            return Err(message);
        }
        self.short.fetch_add(1, Ordering::Relaxed);
        let counted = Counted::new(&self.waiting);
        let (waits, large) = (plan == "/short/wait", plan == "/short/large");
        Ok(async move {
            let _counted = counted;
            if waits {
                std::future::pending::<()>().await;
            }
            match large {
                true => Reply::Message(framed(&vec![7; 100_000])),
                false => Reply::Message(framed(&message)),
            }
        })
    }

    fn talk(&self, plan: &String) -> Option<Box<dyn Talk>> {
        let talk = || talking::Parrot::new(&self.waiting, &self.asked);
        plan.starts_with("/talk").then(|| Box::new(talk()) as _)
    }

    fn answer(
        &self,
        request: Request<Body>,
    ) -> impl Future<Output = Response<Body>> + Send + 'static {
        self.clone().general(request)
    }
}

impl Echo {
    async fn general(self, request: Request<Body>) -> Response<Body> {
        self.general.fetch_add(1, Ordering::Relaxed);
        let _counted = Counted::new(&self.waiting);
        match request.uri().path() {
            "/wait" => std::future::pending().await,
            "/early" => Response::new(Body::new(Full::new(Bytes::from_static(b"early")))),
            "/broken" => Response::new(Body::new(Breaks)),
            "/large" => Response::new(Body::new(Full::new(Bytes::from(vec![7; 3_000_000])))),
            _ => {
                let mut response = Response::new(Body::new(Trailing(request.into_body())));
                let value = http::HeaderValue::from_static("b");
                response.headers_mut().insert("a", value);
                response
            }
        }
    }
}

/// A body that says how much it was at its end.
struct Trailing(Body);

impl hyper::body::Body for Trailing {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.0).poll_frame(cx));
        if frame.is_some() {
            return Poll::Ready(frame);
        }
        self.0 = Body::empty();
        let mut trailers = HeaderMap::new();
        trailers.insert("end", http::HeaderValue::from_static("yes"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

/// A body that fails.
struct Breaks;

impl hyper::body::Body for Breaks {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        Poll::Ready(Some(Err(tonic::Status::internal("it broke"))))
    }
}

fn rules() -> Rules {
    Rules {
        streams_max: 100,
        ping_apart_min: Duration::from_secs(5),
        ping_after: None,
        ping_patience: Duration::from_secs(5),
    }
}
