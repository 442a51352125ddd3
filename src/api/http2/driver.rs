//! One connection's task: it reads, has each frame looked at, and writes what is ready.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    CONNECTION_WINDOW_BYTES, Rules, STREAM_WINDOW_BYTES, Serve,
    frame::{self, Reason, setting},
    frames::Reading,
    state::Shared,
};

/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of all fields of one request.
pub(super) const FIELDS_BYTES_MAX: usize = 64 * 1024;
/// Reads of what a client still says, so that its system does not throw our last word away.
const LAST_READS_MAX: usize = 64;

thread_local! {
    /// Where reads land. Idle connections have no buffer of their own.
    static LANDING: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Why a connection ends before its client ends it, and what the client is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fatal(pub Reason, pub &'static [u8]);

/// The connection broke, or the client has ended it.
struct Broken;

/// See the module.
pub(super) struct Driver<S, V: Serve> {
    socket: S,
    reading: Reading<V>,
    shared: Shared<V::Plan>,
    /// What came of a frame that is not whole.
    held: Vec<u8>,
    pulse: Pulse,
    /// The last word is said; what is left is to write it.
    leaving: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin, V: Serve> Driver<S, V> {
    pub fn new(socket: S, began: Vec<u8>, service: V, rules: Rules) -> Self {
        let shared = Shared::new();
        {
            let mut state = shared.lock();
            let out = state.out.small();
            let mut settings = vec![
                (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES),
                (setting::MAX_HEADER_LIST_SIZE, FIELDS_BYTES_MAX as u32),
            ];
            if rules.streams_max < u32::MAX {
                settings.push((setting::MAX_CONCURRENT_STREAMS, rules.streams_max));
            }
            frame::put_settings(out, &settings);
            let more = i64::from(CONNECTION_WINDOW_BYTES) - frame::WINDOW_DEFAULT;
            let more = u32::try_from(more).expect("more than the default");
            frame::put_window_update(out, 0, more);
        }
        Self {
            socket,
            pulse: Pulse::new(&rules),
            reading: Reading::new(service, rules, shared.clone()),
            shared,
            held: began,
            leaving: false,
        }
    }

    /// Serves the connection to its end.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let began = std::mem::take(&mut self.held);
        let mut first = Some(began);
        let mut stopped = pin!(async move {
            // Whoever could say so is gone: that is as good as said.
            let _ = stop.wait_for(|stop| *stop).await;
        });
        let mut stopping = false;
        poll_fn(|cx| {
            if let Some(began) = first.take() {
                self.take_in(began);
            }
            if !stopping && stopped.as_mut().poll(cx).is_ready() {
                stopping = true;
                self.stop();
            }
            self.poll(cx)
        })
        .await;
        self.shared.lock().end();
        if self.leaving {
            poll_fn(|cx| Pin::new(&mut self.socket).poll_shutdown(cx))
                .await
                .ok();
            self.drain();
        }
    }

    /// No call begins any more.
    fn stop(&mut self) {
        if self.leaving {
            return;
        }
        let mut state = self.shared.lock();
        frame::put_goaway(
            state.out.small(),
            self.reading.last_stream(),
            Reason::NoError,
            b"",
        );
        self.reading.begin_no_more();
    }

    /// Comes true at the end of the connection.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.lock().drive_with(cx.waker());
        match self.poll_fallible(cx) {
            Poll::Ready(Ok(()) | Err(Broken)) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_fallible(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if !self.leaving && self.pulse.is_lost(&self.shared, cx) {
            return Poll::Ready(Err(Broken));
        }
        loop {
            let wrote = self.poll_write(cx)?;
            if self.leaving || self.reading.is_done() {
                // Only the last word is left, and it may never be heard.
                return wrote.map(|()| {
                    self.leaving = true;
                    Ok(())
                });
            }
            if !self.shared.lock().has_room() {
                return Poll::Pending;
            }
            let full = ready!(self.poll_read(cx))?;
            if full {
                // There is more, but others come first.
                cx.waker().wake_by_ref();
                let _ = self.poll_write(cx)?;
                return Poll::Pending;
            }
        }
    }

    /// Writes what waits. Ready when nothing does.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        let mut state = self.shared.lock();
        let had_room = state.has_room();
        let wrote = state.out.poll_write(&mut self.socket, cx);
        // Those without data to send wait for room only.
        if state.has_room() && (!had_room || state.window > 0) {
            state.wake_waiting();
        }
        match wrote {
            Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
            Poll::Ready(Err(_)) => Err(Broken),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// Reads once and has it looked at. Says whether there may be more at once.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Broken>> {
        LANDING.with_borrow_mut(|landing| {
            let start = self.held.len();
            landing[..start].copy_from_slice(&self.held);
            let mut buf = ReadBuf::new(&mut landing[start..]);
            let read = ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buf));
            let came = buf.filled().len();
            if read.is_err() || came == 0 {
                return Poll::Ready(Err(Broken));
            }
            self.held.clear();
            self.pulse.beat();
            let full = buf.remaining() == 0;
            self.look_at(&landing[..start + came]);
            Poll::Ready(Ok(full))
        })
    }

    fn take_in(&mut self, bytes: Vec<u8>) {
        self.look_at(&bytes);
    }

    fn look_at(&mut self, bytes: &[u8]) {
        match self.reading.take(bytes) {
            Ok(rest) => self.held.extend_from_slice(rest),
            Err(Fatal(reason, story)) => {
                let mut state = self.shared.lock();
                let last = self.reading.last_stream();
                frame::put_goaway(state.out.small(), last, reason, story);
                self.leaving = true;
            }
        }
    }

    /// Reads what has come, to no purpose but that it is read.
    fn drain(&mut self) {
        let mut bytes = [0; 1024];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for _ in 0..LAST_READS_MAX {
            let mut buf = ReadBuf::new(&mut bytes);
            let read = Pin::new(&mut self.socket).poll_read(&mut cx, &mut buf);
            if !matches!(read, Poll::Ready(Ok(()))) || buf.filled().is_empty() {
                return;
            }
        }
    }
}

/// Whether the client is still there.
struct Pulse {
    after: Option<Duration>,
    patience: Duration,
    /// Something came.
    heard: Instant,
    /// A ping was sent and nothing came since.
    asked: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pulse {
    fn new(rules: &Rules) -> Self {
        let now = Instant::now();
        Self {
            after: rules.ping_after,
            patience: rules.ping_patience,
            heard: now,
            asked: false,
            timer: rules
                .ping_after
                .map(|after| Box::pin(sleep_until(now + after))),
        }
    }

    fn beat(&mut self) {
        self.asked = false;
        if self.after.is_some() {
            self.heard = Instant::now();
        }
    }

    /// Pings a silent client. Says whether it has not answered in time.
    fn is_lost<P>(&mut self, shared: &Shared<P>, cx: &mut Context<'_>) -> bool {
        let (Some(after), Some(timer)) = (self.after, &mut self.timer) else {
            return false;
        };
        while timer.as_mut().poll(cx).is_ready() {
            let next = self.heard + after;
            if self.asked {
                return true;
            }
            if next > Instant::now() {
                timer.as_mut().reset(next);
                continue;
            }
            self.asked = true;
            frame::put_ping(shared.lock().out.small(), 0, *b"thereyet");
            timer.as_mut().reset(Instant::now() + self.patience);
        }
        false
    }
}
