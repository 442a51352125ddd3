//! The host over real sockets and files: what the core is promised in `host::port`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::net::TcpListener;

use super::{
    lanes::LaneWork,
    links::{ACCEPTED_FIRST, Identity},
    log::{LogFormat, LogOutput},
    socket::PeerListener,
    wal::{WalDir, WalKeeper, WalWriter},
    *,
};
use crate::kernel::{
    ClusterId, DiskError, DiskErrorKind, DiskOp, DiskOutcome, LinkId, LinkOp, MemberId, SegmentId,
    SnapshotId, Ticket, effect::LogLevel,
};

type Replies = Arc<Mutex<BTreeMap<CallId, Result<Response, ApiError>>>>;

struct Desk(Replies);

impl Answers for Desk {
    fn reply(&self, call: CallId, result: Result<Response, ApiError>) {
        self.0.lock().unwrap().insert(call, result);
    }

    fn stream(&self, _stream: StreamId, _item: StreamItem) {}

    fn ready(&self) {}
}

/// Refuses everything, slowly: the lane of a broken disk.
struct Broken;

impl LaneWork for Broken {
    fn run(&mut self, op: DiskOp) -> Result<DiskOutcome, DiskError> {
        Err(DiskError::new(
            DiskErrorKind::Io,
            format!("{:?}", op.lane()),
        ))
    }
}

struct Member {
    host: TokioHost,
    url: String,
    replies: Replies,
    _home: tempfile::TempDir,
}

async fn member(cluster: u64, id: u64) -> Member {
    let wal =
        |dir: &WalDir| Box::new(WalWriter::new(dir.clone(), Meter::default())) as Box<dyn LaneWork>;
    member_with(cluster, id, wal).await.0
}

async fn member_with(
    cluster: u64,
    id: u64,
    wal: impl FnOnce(&WalDir) -> Box<dyn LaneWork>,
) -> (Member, UnboundedSender<Event>) {
    let home = tempfile::tempdir().unwrap();
    let dir = WalDir::open(home.path(), true).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let file = home.path().join("log").to_str().unwrap().to_owned();
    let log = Log::open(LogLevel::Error, LogFormat::Json, &[LogOutput::File(file)]).unwrap();
    let identity = Identity {
        cluster: ClusterId::new(cluster),
        member: MemberId::new(id),
        patience: Duration::from_secs(5),
    };
    let queue = events();
    let links = Links::open(
        identity,
        vec![PeerListener::Tcp(listener)],
        queue.0.clone(),
        Arc::new(|| Box::pin(async { Some(Bytes::from_static(b"members")) })),
        log.clone(),
        Meter::default(),
    );
    let lanes = LaneSet {
        wal: wal(&dir),
        keep: Box::new(WalKeeper::new(dir)),
        backend: Box::new(Broken),
        snapshot: Box::new(Broken),
    };
    let replies = Replies::default();
    let desk = Box::new(Desk(Arc::clone(&replies)));
    let sender = queue.0.clone();
    let host = TokioHost::new(queue, lanes, links, desk, log, &Meter::default()).unwrap();
    let member = Member {
        host,
        url,
        replies,
        _home: home,
    };
    (member, sender)
}

impl Member {
    async fn next(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let until = self.host.now().after(Duration::from_secs(20));
        self.host.wait(Some(until), &mut events).await;
        assert!(!events.is_empty(), "nothing happened for twenty seconds");
        events
    }

    fn dial(&mut self, link: u64, peer: u64, url: &str) {
        self.host.execute(Effect::Link(LinkOp::Dial {
            link: LinkId::new(link),
            peer: MemberId::new(peer),
            urls: vec!["https://127.0.0.1:1".to_owned(), url.to_owned()],
        }));
    }

    fn send(&mut self, link: LinkId, bytes: Bytes) {
        self.host
            .execute(Effect::Link(LinkOp::Send { link, bytes }));
    }
}

#[tokio::test]
async fn frames_cross_in_order_both_ways_and_the_end_shows_once() {
    let (mut one, mut two) = (member(1, 10).await, member(1, 20).await);
    let url = two.url.clone();
    one.dial(3, 20, &url);
    let up = one.next().await;
    assert!(
        matches!(&up[..], [Event::LinkUp { link, peer, outgoing: true }]
            if link.get() == 3 && peer.get() == 20),
        "{up:?}"
    );
    let up = two.next().await;
    assert!(
        matches!(&up[0], Event::LinkUp { link, peer, outgoing: false }
            if *link == ACCEPTED_FIRST && peer.get() == 10),
        "{up:?}"
    );
    // Small ones that go together, and large ones that exceed every buffer on the way.
    let sizes = [1, 100, 16 * 1024, 16 * 1024 + 1, 3, 2_000_000, 7];
    for (index, size) in sizes.iter().enumerate() {
        let bytes = Bytes::from(vec![u8::try_from(index).unwrap(); *size]);
        one.send(LinkId::new(3), bytes.clone());
        two.send(ACCEPTED_FIRST, bytes);
    }
    for side in [&mut one, &mut two] {
        let mut got = Vec::new();
        while got.len() < sizes.len() {
            for event in side.next().await {
                match event {
                    Event::Frame { bytes, .. } => got.push((usize::from(bytes[0]), bytes.len())),
                    other => panic!("{other:?}"),
                }
            }
        }
        let expected: Vec<_> = sizes.iter().copied().enumerate().collect();
        assert_eq!(got, expected);
    }
    one.host.execute(Effect::Link(LinkOp::Close {
        link: LinkId::new(3),
    }));
    let down = two.next().await;
    assert!(matches!(&down[..], [Event::LinkDown { link, .. }] if *link == ACCEPTED_FIRST));
    let mut events = Vec::new();
    let until = Some(one.host.now().after(Duration::from_millis(50)));
    one.host.wait(until, &mut events).await;
    assert!(events.is_empty(), "closing is not answered: {events:?}");
}

#[tokio::test]
async fn wrong_clusters_wrong_members_and_dead_addresses_are_told() {
    let mut one = member(1, 10).await;
    let (other_cluster, other_member) = (member(2, 20).await, member(1, 30).await);
    let cases = [
        (1, other_cluster.url.clone(), "different clusters"),
        (2, other_member.url.clone(), "another member"),
        (3, "http://127.0.0.1:1".to_owned(), "127.0.0.1:1"),
        (
            4,
            "tcp://127.0.0.1:2380".to_owned(),
            "only http://host:port",
        ),
    ];
    for (link, url, expected) in cases {
        one.dial(link, 20, &url);
        let events = one.next().await;
        assert!(
            matches!(&events[..], [Event::LinkDown { link: down, reason }]
                if down.get() == link && reason.contains(expected)),
            "{events:?}"
        );
    }
}

#[tokio::test]
async fn lanes_answer_each_ticket_once_in_order() {
    let mut one = member(1, 10).await;
    let disk = |host: &mut TokioHost, ticket, op| {
        let ticket = Ticket::new(ticket);
        host.execute(Effect::Disk { ticket, op });
    };
    let segment = SegmentId::new(1);
    let bytes = 64 * 512;
    disk(&mut one.host, 0, DiskOp::WalPrepare { segment, bytes });
    assert!(matches!(
        one.next().await[..],
        [Event::DiskDone {
            outcome: Ok(DiskOutcome::Done),
            ..
        }]
    ));
    for ticket in 1..=50 {
        let op = DiskOp::WalWrite {
            segment,
            offset: ticket * 512,
            bytes: Bytes::from_static(&[7; 512]),
            sync: ticket % 10 == 0,
        };
        disk(&mut one.host, ticket, op);
    }
    let mut done = Vec::new();
    while done.len() < 50 {
        for event in one.next().await {
            match event {
                Event::DiskDone { ticket, outcome } => {
                    outcome.unwrap();
                    done.push(ticket.get());
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(done, (1..=50).collect::<Vec<_>>());
    let id = SnapshotId::new(1);
    disk(&mut one.host, 99, DiskOp::SnapshotOpen { id });
    assert!(matches!(
        &one.next().await[..],
        [Event::DiskDone { ticket, outcome: Err(error) }]
            if ticket.get() == 99 && error.kind == DiskErrorKind::Io
    ));
}

/// A lane's work that tells the names of the threads it runs on.
#[cfg(not(feature = "failpoints"))]
struct Named(Arc<Mutex<Vec<Option<String>>>>);

#[cfg(not(feature = "failpoints"))]
impl LaneWork for Named {
    fn run(&mut self, _op: DiskOp) -> Result<DiskOutcome, DiskError> {
        let name = std::thread::current().name().map(str::to_owned);
        self.0.lock().unwrap().push(name);
        Ok(DiskOutcome::Done)
    }
}

/// Goal: the loop writes by itself for one call that is alone, and for nobody else. Method: steps
/// with one call and with two, and one call with something else to do; the write tells its thread.
#[cfg(not(feature = "failpoints"))]
#[tokio::test]
async fn a_lone_write_is_done_by_the_loop() {
    let threads = Arc::default();
    let (mut one, events) = member_with(1, 10, |_| Box::new(Named(Arc::clone(&threads)))).await;
    let call = |number| Event::Call {
        call: CallId::new(number),
        credentials: crate::kernel::Credentials::default(),
        request: crate::kernel::Request::Health,
    };
    let write = |ticket: u64| Effect::Disk {
        ticket: Ticket::new(ticket),
        op: DiskOp::WalWrite {
            segment: SegmentId::new(1),
            offset: 0,
            bytes: Bytes::from_static(b"12345678"),
            sync: true,
        },
    };
    let reply = || Effect::Reply {
        call: CallId::new(1),
        result: Err(ApiError::NoLeader),
    };
    for (calls, other, on_the_loop) in [
        (1, None, true),
        (2, None, false),
        (1, Some(reply()), false),
        (1, None, true),
    ] {
        (1..=calls).for_each(|number| events.send(call(number)).unwrap());
        assert_eq!(one.next().await.len() as u64, calls);
        one.host.execute(write(7));
        if let Some(other) = other {
            one.host.execute(other);
        }
        let done = one.next().await;
        assert!(
            matches!(&done[..], [Event::DiskDone { ticket, outcome: Ok(_) }]
                if ticket.get() == 7)
        );
        let thread = threads.lock().unwrap().pop().unwrap();
        let lane = thread.as_deref() == Some("lane-wal");
        assert_eq!(lane, !on_the_loop, "{thread:?} wrote for {calls} calls");
        // The lane counts what it told a moment after it told it.
        while !one.host.lanes.wal_is_idle() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn waiting_ends_at_the_deadline_and_replies_reach_the_edge() {
    let mut one = member(1, 10).await;
    let mut events = Vec::new();
    let until = one.host.now().after(Duration::from_millis(20));
    one.host.wait(Some(until), &mut events).await;
    assert!(events.is_empty());
    assert!(one.host.now() >= until);
    one.host.execute(Effect::Reply {
        call: CallId::new(4),
        result: Err(ApiError::NoLeader),
    });
    let replies = one.replies.lock().unwrap();
    assert_eq!(replies.get(&CallId::new(4)), Some(&Err(ApiError::NoLeader)));
}

/// Goal: a loop that has always something to do, such as a large range to read on, lets others run
/// between any two of its steps. Method: a task that counts its turns beside a loop whose moment
/// has always come.
#[tokio::test]
async fn others_run_between_two_steps() {
    let mut member = member(1, 1).await;
    let turns = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&turns);
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    for step in 1..=100 {
        let due = member.host.now();
        member.host.wait(Some(due), &mut Vec::new()).await;
        assert!(turns.load(Ordering::Relaxed) >= step, "the others waited");
    }
    other.abort();
}
