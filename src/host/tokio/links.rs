//! Connections between members: dialling, accepting, greeting, frames.
//!
//! Invariants: `LinkUp` comes before any frame of its link; after `LinkUp` or `Dial` there is
//! exactly one `LinkDown` unless the core closed the link; what waits to be sent on a link is
//! bounded in bytes, and frames beyond it are dropped, as a lossy medium may; what was received and
//! not yet handed to the event loop is bounded too, and then the sender is made to wait.
//!
//! Link ids of dials come from the core; those of accepted links are made here, from
//! `ACCEPTED_FIRST` up, so that the two never meet.

use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    sync::{
        Semaphore,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    task::AbortHandle,
};

use super::{
    log::Log,
    meter::{LinkMeter, Meter},
    socket::{Address, PeerListener, Socket},
    wire::{self, Greeting, Heard, Verdict},
};
use crate::kernel::{ClusterId, Event, LinkId, LinkOp, MemberId, limits};

/// The first id of a link that was accepted and not dialled.
pub const ACCEPTED_FIRST: LinkId = LinkId::new(1 << 63);
/// Bytes that may wait on a link to be sent; further frames are dropped.
const SEND_QUEUE_BYTES_MAX: usize = limits::FRAME_BYTES_MAX;
/// Bytes received on a link that the event loop has not taken; further ones wait in the socket.
const RECEIVED_BYTES_MAX: usize = limits::FRAME_BYTES_MAX;
/// Frames taken from the queue for one system call.
const FRAMES_PER_WRITE_MAX: usize = 256;
/// Payloads up to this size are copied together; larger ones are written from where they lie.
const COPY_BYTES_MAX: usize = 16 * 1024;
/// Accepted connections that have not greeted yet; further ones wait in the listen queue.
const GREETINGS_MAX: usize = 128;
/// The pause after a failed accept, for example when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const CALLER: &str = "tokio/links.rs:0";

/// Tells who the members are, as an encoded `MemberListResponse`, to a process that wants to join.
pub type Directory =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Option<Bytes>> + Send>> + Send + Sync>;

/// Which member this is, and how long it waits for others.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// This member.
    pub member: MemberId,
    /// For connecting and greeting together; the election timeout.
    pub patience: Duration,
}

/// All links of this member.
#[derive(Debug)]
pub struct Links {
    shared: Arc<Shared>,
}

struct Shared {
    identity: Identity,
    events: UnboundedSender<Event>,
    directory: Directory,
    log: Log,
    meter: Meter,
    table: Mutex<BTreeMap<LinkId, Link>>,
    next_accepted: AtomicU64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Link {
    task: Option<AbortHandle>,
    frames: UnboundedSender<Bytes>,
    flow: Arc<Flow>,
    meter: LinkMeter,
}

/// What is on its way through one link.
#[derive(Debug)]
struct Flow {
    /// Bytes that wait to be sent.
    queued: AtomicUsize,
    /// Frames dropped because too much waited.
    dropped: AtomicU64,
    /// One permit per byte that may still be received.
    room: Semaphore,
}

impl Links {
    /// No links yet. Accepts on every listener from now on; the runtime must be running.
    pub fn open(
        identity: Identity,
        listeners: Vec<PeerListener>,
        events: UnboundedSender<Event>,
        directory: Directory,
        log: Log,
        meter: Meter,
    ) -> Self {
        let shared = Arc::new(Shared {
            identity,
            events,
            directory,
            log,
            meter,
            table: Mutex::default(),
            next_accepted: AtomicU64::new(ACCEPTED_FIRST.get()),
        });
        for listener in listeners {
            tokio::spawn(accept(Arc::clone(&shared), listener));
        }
        Self { shared }
    }

    /// Does what the core asks; never waits.
    pub fn execute(&self, op: LinkOp) {
        match op {
            LinkOp::Dial { link, peer, urls } => {
                assert!(link < ACCEPTED_FIRST, "ids of dials come from the core");
                let shared = Arc::clone(&self.shared);
                self.shared.begin(link, peer, move |line| {
                    dialled(shared, link, peer, urls, line)
                });
            }
            LinkOp::Send { link, bytes } => self.shared.send(link, bytes),
            LinkOp::Close { link } => {
                let closed = self.shared.table().remove(&link);
                if let Some(task) = closed.and_then(|link| link.task) {
                    task.abort();
                }
            }
        }
    }

    /// The event loop takes an event: received bytes make room, an ended link is forgotten.
    pub fn on_handover(&self, event: &Event) {
        match event {
            Event::Frame { link, bytes } => {
                if let Some(link) = self.shared.table().get(link) {
                    link.flow.room.add_permits(bytes.len());
                }
            }
            Event::LinkDown { link, .. } => {
                self.shared.table().remove(link);
            }
            Event::Call { .. }
            | Event::Cancel { .. }
            | Event::StreamOpened { .. }
            | Event::StreamItem { .. }
            | Event::StreamCredit { .. }
            | Event::StreamClosed { .. }
            | Event::LinkUp { .. }
            | Event::DiskDone { .. }
            | Event::Signal(_) => {}
        }
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, BTreeMap<LinkId, Link>> {
        self.table.lock().expect("no holder of the lock panics")
    }

    /// Enters a link into the table and starts its task; the table stays locked over both, so that
    /// the task cannot end before it can be found.
    fn begin<F, T>(&self, id: LinkId, peer: MemberId, task: T)
    where
        T: FnOnce(Line) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let (frames, queue) = unbounded_channel();
        let flow = Arc::new(Flow {
            queued: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            room: Semaphore::new(RECEIVED_BYTES_MAX),
        });
        let meter = self.meter.link(peer);
        let line = Line {
            queue,
            flow: Arc::clone(&flow),
            meter: meter.clone(),
        };
        let mut table = self.table();
        let running = tokio::spawn(task(line));
        let task = Some(running.abort_handle());
        let link = Link {
            task,
            frames,
            flow,
            meter,
        };
        let before = table.insert(id, link);
        assert!(before.is_none(), "a link id was used twice");
    }

    fn send(&self, id: LinkId, bytes: Bytes) {
        let table = self.table();
        let Some(link) = table.get(&id) else {
            return; // the link has ended and its event is on the way
        };
        let queued = link.flow.queued.load(Ordering::Relaxed);
        if queued > 0 && queued + bytes.len() > SEND_QUEUE_BYTES_MAX {
            link.flow.dropped.fetch_add(1, Ordering::Relaxed);
            link.meter.failures.inc();
            return;
        }
        link.flow.queued.fetch_add(bytes.len(), Ordering::Relaxed);
        // A failure means that the link's task has ended; its event is on the way.
        let _ = link.frames.send(bytes);
    }

    fn tell(&self, event: Event) {
        // The event loop is gone only when the process is about to be.
        let _ = self.events.send(event);
    }
}

/// The task's side of a link's queue.
struct Line {
    queue: UnboundedReceiver<Bytes>,
    flow: Arc<Flow>,
    meter: LinkMeter,
}

async fn accept(shared: Arc<Shared>, listener: PeerListener) {
    let greetings = Arc::new(Semaphore::new(GREETINGS_MAX));
    loop {
        let permit = Arc::clone(&greetings)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let (socket, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                let fields = [("error", json!(error.to_string()))];
                shared
                    .log
                    .warn(CALLER, "cannot accept a peer connection", &fields);
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let patience = shared.identity.patience;
            let greeted = tokio::time::timeout(patience, answer(&shared, socket)).await;
            drop(permit);
            match greeted.unwrap_or_else(|_| Err("no greeting arrived in time".to_owned())) {
                Ok(None) => {}
                Ok(Some((socket, peer))) => {
                    let raw = shared.next_accepted.fetch_add(1, Ordering::Relaxed);
                    let link = LinkId::new(raw);
                    let inner = Arc::clone(&shared);
                    shared.begin(link, peer, move |line| {
                        accepted(inner, link, peer, socket, line)
                    });
                }
                Err(reason) => {
                    let from = json!(from);
                    let fields = [("remote-addr", from), ("error", json!(reason))];
                    let story = "rejected connection on peer endpoint";
                    shared.log.warn(CALLER, story, &fields);
                }
            }
        });
    }
}

/// The accepting side of the greeting.
async fn answer(shared: &Shared, mut socket: Socket) -> Result<Option<(Socket, MemberId)>, String> {
    let identity = &shared.identity;
    let heard = wire::read_greeting(&mut socket.reader).await?;
    let answer = Greeting::answer(heard, identity.cluster, identity.member);
    if heard == Heard::Greeting(Greeting::INQUIRY) {
        let members = (shared.directory)().await;
        // Whoever asked may have stopped waiting.
        if let Some(members) = members
            && wire::write_greeting(&mut socket.writer, &answer)
                .await
                .is_ok()
        {
            let _ = wire::write_frame(&mut socket.writer, &members).await;
        }
        return Ok(None);
    }
    wire::write_greeting(&mut socket.writer, &answer).await?;
    let sender = answer.receiver;
    match answer.verdict {
        Verdict::Welcome if sender == identity.member => {
            Err("this member dialled itself".to_owned())
        }
        Verdict::Welcome => Ok(Some((socket, sender))),
        refusal @ (Verdict::Version | Verdict::Cluster | Verdict::Receiver) => {
            Err(refusal.reason().to_owned())
        }
    }
}

async fn accepted(shared: Arc<Shared>, link: LinkId, peer: MemberId, socket: Socket, line: Line) {
    shared.tell(Event::LinkUp {
        link,
        peer,
        outgoing: false,
    });
    let reason = carry(&shared, link, socket, line).await;
    shared.tell(Event::LinkDown { link, reason });
}

async fn dialled(shared: Arc<Shared>, link: LinkId, peer: MemberId, urls: Vec<String>, line: Line) {
    let reason = match dial(&shared.identity, peer, &urls).await {
        Ok(socket) => {
            shared.tell(Event::LinkUp {
                link,
                peer,
                outgoing: true,
            });
            carry(&shared, link, socket, line).await
        }
        Err(reason) => reason,
    };
    shared.tell(Event::LinkDown { link, reason });
}

/// Tries one URL after the other; the reason of the last failure is told.
async fn dial(identity: &Identity, peer: MemberId, urls: &[String]) -> Result<Socket, String> {
    let mut last = "the member has no peer URL".to_owned();
    for url in urls {
        let Some(address) = Address::of(url) else {
            last = format!("{url}: only http://host:port and unix://path can be dialled");
            continue;
        };
        let attempt = tokio::time::timeout(identity.patience, greet(identity, peer, address)).await;
        match attempt.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(socket) => return Ok(socket),
            Err(reason) => last = format!("{url}: {reason}"),
        }
    }
    Err(last)
}

/// The dialling side of the greeting.
async fn greet(
    identity: &Identity,
    peer: MemberId,
    address: Address<'_>,
) -> Result<Socket, String> {
    let connected = Socket::connect(address).await;
    let mut socket = connected.map_err(|error| error.to_string())?;
    let greeting = Greeting {
        verdict: Verdict::Welcome,
        cluster: identity.cluster,
        sender: identity.member,
        receiver: peer,
    };
    wire::write_greeting(&mut socket.writer, &greeting).await?;
    let heard = wire::read_greeting(&mut socket.reader).await?;
    match Greeting::accept(heard, identity.cluster, peer) {
        Verdict::Welcome => Ok(socket),
        refusal @ (Verdict::Version | Verdict::Cluster | Verdict::Receiver) => {
            Err(refusal.reason().to_owned())
        }
    }
}

/// Carries frames both ways until the link ends, and says why it ended.
async fn carry(shared: &Shared, link: LinkId, socket: Socket, line: Line) -> String {
    let Socket { reader, mut writer } = socket;
    let Line {
        mut queue,
        flow,
        meter,
    } = line;
    let reason = tokio::select! {
        reason = receive(shared, link, reader, &flow, &meter) => reason,
        reason = transmit(&mut writer, &mut queue, &flow, &meter) => reason,
    };
    match flow.dropped.load(Ordering::Relaxed) {
        0 => reason,
        dropped => format!("{reason}; {dropped} frames were dropped because too much waited"),
    }
}

async fn receive<R: AsyncRead + Unpin>(
    shared: &Shared,
    link: LinkId,
    reader: R,
    flow: &Flow,
    meter: &LinkMeter,
) -> String {
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    loop {
        match wire::read_frame(&mut reader).await {
            Ok(Some(bytes)) => {
                let length = u32::try_from(bytes.len()).expect("bounded by FRAME_BYTES_MAX");
                let room = flow.room.acquire_many(length).await;
                room.expect("the semaphore is never closed").forget();
                meter.received.inc_by(bytes.len() as u64);
                shared.tell(Event::Frame { link, bytes });
            }
            Ok(None) => return "the peer ended the link".to_owned(),
            Err(reason) => return reason,
        }
    }
}

async fn transmit<W: AsyncWrite + Unpin>(
    writer: &mut W,
    queue: &mut UnboundedReceiver<Bytes>,
    flow: &Flow,
    meter: &LinkMeter,
) -> String {
    let mut frames = Vec::new();
    let mut together = BytesMut::new();
    loop {
        if queue.recv_many(&mut frames, FRAMES_PER_WRITE_MAX).await == 0 {
            return "the link was closed here".to_owned();
        }
        let bytes: usize = frames.iter().map(Bytes::len).sum();
        if let Err(error) = write_frames(writer, &frames, &mut together).await {
            return error.to_string();
        }
        frames.clear();
        meter.sent.inc_by(bytes as u64);
        flow.queued.fetch_sub(bytes, Ordering::Relaxed);
    }
}

async fn write_frames<W: AsyncWrite + Unpin>(
    writer: &mut W,
    frames: &[Bytes],
    together: &mut BytesMut,
) -> std::io::Result<()> {
    together.clear();
    for frame in frames {
        together.extend_from_slice(&wire::header(frame));
        if frame.len() <= COPY_BYTES_MAX {
            together.extend_from_slice(frame);
        } else {
            writer.write_all(together).await?;
            together.clear();
            writer.write_all(frame).await?;
        }
    }
    writer.write_all(together).await?;
    writer.flush().await
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        host::tokio::log::{LogFormat, LogOutput},
        kernel::effect::LogLevel,
    };

    /// Frames beyond the bound are dropped while small ones still find room. The other side takes
    /// the connection and never greets, so nothing leaves the queue.
    #[tokio::test]
    async fn what_waits_on_a_link_is_bounded() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (events, _keep) = unbounded_channel();
        let log = Log::open(LogLevel::Error, LogFormat::Json, &[LogOutput::Stderr]).unwrap();
        let identity = Identity {
            cluster: ClusterId::new(1),
            member: MemberId::new(1),
            patience: Duration::from_secs(60),
        };
        let links = Links::open(
            identity,
            Vec::new(),
            events,
            Arc::new(|| Box::pin(async { None })),
            log,
            Meter::default(),
        );
        let link = LinkId::new(1);
        links.execute(LinkOp::Dial {
            link,
            peer: MemberId::new(2),
            urls: vec![format!("http://{}", silent.local_addr().unwrap())],
        });
        let large = Bytes::from(vec![0; SEND_QUEUE_BYTES_MAX / 2 + 1]);
        for bytes in [large.clone(), large, Bytes::from_static(b"small")] {
            links.execute(LinkOp::Send { link, bytes });
        }
        let flow = Arc::clone(&links.shared.table().get(&link).unwrap().flow);
        assert_eq!(flow.dropped.load(Ordering::Relaxed), 1);
        let queued = flow.queued.load(Ordering::Relaxed);
        assert_eq!(queued, SEND_QUEUE_BYTES_MAX / 2 + 1 + b"small".len());
        links.execute(LinkOp::Close { link });
        let bytes = Bytes::from_static(b"late");
        links.execute(LinkOp::Send { link, bytes });
        assert!(links.shared.table().is_empty());
    }
}
