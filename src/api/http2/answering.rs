//! The task's side of a stream: it sends the answer as the client takes it.
//!
//! Invariant: a stream ends with its answer, or by force when whoever answers goes away before.

use std::{future::poll_fn, pin::pin};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tonic::body::Body;

use super::{
    Reply,
    frame::Reason,
    state::{Gone, Shared},
};

/// One answer on its way.
pub(super) struct Answering<P> {
    shared: Shared<P>,
    stream: u32,
}

impl<P> Answering<P> {
    pub fn new(shared: Shared<P>, stream: u32) -> Self {
        Self { shared, stream }
    }

    /// Sends what the short way came to.
    pub async fn reply(self, reply: Reply) {
        match reply {
            Reply::Message(message) => {
                // The stream may be gone, and then nobody is there to hear of it.
                let _ = self.message(message).await;
            }
            Reply::Response(response) => self.response(*response, &Method::POST).await,
        }
    }

    async fn message(&self, message: Bytes) -> Result<(), Gone> {
        {
            let mut state = self.shared.lock();
            if state.put_whole(self.stream, &message)? {
                state.finish(self.stream);
                return Ok(());
            }
        }
        self.room(0).await?;
        self.shared.lock().put_well_head(self.stream);
        self.data(message, false).await?;
        self.room(0).await?;
        let mut state = self.shared.lock();
        state.put_well_trailers(self.stream);
        state.finish(self.stream);
        Ok(())
    }

    /// Sends any answer.
    pub async fn response(self, response: Response<Body>, method: &Method) {
        let (parts, body) = response.into_parts();
        let ends = body.is_end_stream() || *method == Method::HEAD;
        let head = self.head(parts.status, &parts.headers, ends).await;
        if head.is_ok() && !ends {
            // As above.
            let _ = self.body(body).await;
        }
    }

    async fn body(&self, body: Body) -> Result<(), Gone> {
        let mut body = pin!(body);
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                let mut state = self.shared.lock();
                state.reset(self.stream, Reason::Internal);
                return Err(Gone);
            };
            match frame.into_data() {
                Ok(data) => {
                    let ends = body.is_end_stream();
                    self.data(data, ends).await?;
                    if ends {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return self.trailers(&trailers).await;
                    }
                }
            }
        }
        self.data(Bytes::new(), true).await
    }

    async fn head(&self, status: StatusCode, headers: &HeaderMap, ends: bool) -> Result<(), Gone> {
        self.room(0).await?;
        let mut state = self.shared.lock();
        state.put_head(self.stream, status, headers, ends);
        if ends {
            state.finish(self.stream);
        }
        state.wake_driver();
        Ok(())
    }

    async fn data(&self, data: Bytes, ends: bool) -> Result<(), Gone> {
        send(&self.shared, self.stream, data, ends).await
    }

    async fn trailers(&self, trailers: &HeaderMap) -> Result<(), Gone> {
        self.room(0).await?;
        let mut state = self.shared.lock();
        state.put_trailers(self.stream, trailers);
        state.finish(self.stream);
        Ok(())
    }

    /// Waits until some of these bytes may be sent, and says how many.
    async fn room(&self, bytes: usize) -> Result<usize, Gone> {
        room(&self.shared, self.stream, bytes).await
    }
}

async fn room<P>(shared: &Shared<P>, stream: u32, bytes: usize) -> Result<usize, Gone> {
    poll_fn(|cx| shared.lock().poll_room(stream, bytes, cx)).await
}

/// Sends data as the client takes them.
pub(super) async fn send<P>(
    shared: &Shared<P>,
    stream: u32,
    mut data: Bytes,
    ends: bool,
) -> Result<(), Gone> {
    loop {
        let some = room(shared, stream, data.len()).await?;
        let mut state = shared.lock();
        let piece = data.split_to(some);
        let last = data.is_empty();
        state.put_data(stream, piece, ends && last);
        if ends && last {
            state.finish(stream);
        }
        state.wake_driver();
        if last {
            return Ok(());
        }
    }
}

impl<P> Drop for Answering<P> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.streams.contains_key(&self.stream) {
            state.reset(self.stream, Reason::Internal);
        }
    }
}
