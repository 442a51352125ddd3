//! What the generator knows of the servers, learnt from etcd's answers, and how it picks values:
//! mostly sound ones close to the borders, sometimes nonsense.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use fated::pb::{
    etcdserverpb::{LeaseRevokeRequest, WatchRequest, watch_request::RequestUnion},
    v3electionpb::LeaderKey,
};

use crate::{
    ask::{Answer, Ask, Reply},
    random::Random,
};

/// Keys that are put, deleted and watched. Few, so that requests meet.
const KEYS: [&[u8]; 16] = [
    b"a",
    b"a/1",
    b"a/2",
    b"a/2/x",
    b"a0",
    b"b",
    b"b\0",
    b"b\0\0",
    b"c",
    b"c/",
    b"c/\xff",
    b"d",
    b"\0",
    b"\xff",
    b"\xff\xff",
    b"zz",
];

/// Leases that are shorter could run out within an episode.
const SHORT_SECONDS: i64 = 10_000;

/// What is known.
pub struct World {
    /// Where choices come from.
    pub random: Random,
    /// The revision after the last answer.
    pub revision: i64,
    /// The last compaction.
    pub compacted: i64,
    /// Every revision below which history was compacted.
    pub compactions: BTreeSet<i64>,
    /// Whether the servers choose ids of leases.
    pub own_ids: bool,
    /// Whether a watch was begun in the past since the last compaction.
    pub reads_history: bool,
    /// Leases that live.
    pub leases: Vec<i64>,
    /// Leases that were revoked.
    pub ended: Vec<i64>,
    /// Addresses of members made up so far.
    pub addresses: usize,
    /// Members that were added.
    pub learners: Vec<u64>,
    /// The one member that runs.
    pub member: u64,
    /// Open watch streams and the ids of watches that were asked for.
    pub streams: BTreeMap<usize, Vec<i64>>,
    /// Streams opened so far.
    pub opened: usize,
    /// What campaigns won.
    pub leaders: Vec<LeaderKey>,
    /// Keys of locks that are held.
    pub locks: Vec<Bytes>,
    /// What must be asked next.
    pub queue: VecDeque<Ask>,
    /// What ends an alarm.
    pub calm: Vec<Ask>,
    /// Requests until then.
    pub calm_in: usize,
}

impl World {
    /// A fresh member, and choices by seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let own_ids = random.one_in(4);
        Self {
            random,
            own_ids,
            reads_history: false,
            revision: 1,
            compacted: 0,
            compactions: BTreeSet::new(),
            leases: Vec::new(),
            ended: Vec::new(),
            addresses: 0,
            learners: Vec::new(),
            member: 0,
            streams: BTreeMap::new(),
            opened: 0,
            leaders: Vec::new(),
            locks: Vec::new(),
            queue: VecDeque::new(),
            calm: Vec::new(),
            calm_in: 0,
        }
    }

    /// Takes in what etcd answered.
    pub fn learn(&mut self, ask: &Ask, answer: &Answer) {
        let Ok(reply) = answer else { return };
        let mut seen = 0;
        let mut member = 0;
        reply.clone().each_header(&mut |header| {
            seen = seen.max(header.revision);
            member = header.member_id;
        });
        self.revision = self.revision.max(seen);
        if member != 0 {
            self.member = member;
        }
        match (ask, reply) {
            (Ask::Compact(request), _) => {
                self.compacted = request.revision;
                self.compactions.insert(request.revision);
            }
            (_, Reply::LeaseGrant(granted)) => {
                self.leases.push(granted.id);
                if granted.ttl < SHORT_SECONDS {
                    // It must not run out by itself: the two clocks differ.
                    let id = granted.id;
                    self.queue
                        .push_front(Ask::LeaseRevoke(LeaseRevokeRequest { id }));
                }
            }
            (Ask::LeaseRevoke(request), _) => {
                self.leases.retain(|lease| *lease != request.id);
                self.ended.push(request.id);
            }
            (_, Reply::MemberAdd(added)) => {
                self.learners
                    .extend(added.member.iter().map(|member| member.id));
            }
            (Ask::OpenStream(number), _) => {
                self.streams.insert(*number, Vec::new());
            }
            (Ask::CloseStream(number), _) => {
                self.streams.remove(number);
            }
            (Ask::Watch(number, request), _) => self.learn_watch(*number, request),
            (_, Reply::Campaign(won)) => self.leaders.extend(won.leader.clone()),
            (_, Reply::Lock(lock)) => self.locks.push(lock.key.clone()),
            (Ask::Unlock(request), _) => self.locks.retain(|key| *key != request.key),
            _ => {}
        }
    }

    fn learn_watch(&mut self, number: usize, request: &WatchRequest) {
        if let (Some(watches), Some(RequestUnion::CreateRequest(create))) =
            (self.streams.get_mut(&number), &request.request_union)
        {
            watches.push(create.watch_id);
        }
    }

    /// A key: one of the few, seldom none, seldom a long one.
    pub fn key(&mut self) -> Bytes {
        match self.random.below(60) {
            0 => Bytes::new(),
            1 => Bytes::from(vec![b'k'; 3000]),
            2 => Bytes::from(format!("a/{}", self.random.below(500))),
            _ => Bytes::from_static(self.random.of(&KEYS)),
        }
    }

    /// The end of a range that begins at `key`.
    pub fn range_end(&mut self, key: &Bytes) -> Bytes {
        match self.random.below(8) {
            0..=2 => Bytes::new(),
            3 => Bytes::from_static(b"\0"),
            4 => {
                // The prefix: the last byte that can be raised is, the rest goes.
                let mut end = key.to_vec();
                while end.last() == Some(&0xff) {
                    end.pop();
                }
                match end.last_mut() {
                    Some(last) => *last += 1,
                    None => end = vec![0],
                }
                end.into()
            }
            5 => [key, &b"\0"[..]].concat().into(),
            6 => key.clone(),
            _ => self.key(),
        }
    }

    /// A value, mostly short.
    pub fn value(&mut self) -> Bytes {
        match self.random.below(40) {
            0 => Bytes::from(vec![b'v'; 20_000]),
            1..=8 => Bytes::new(),
            _ => {
                let length = self.random.below(6);
                let letters: Vec<u8> = (0..length).map(|_| self.random.of(b"abc\0\xff")).collect();
                letters.into()
            }
        }
    }

    /// A revision, mostly the current one or one that can be read.
    pub fn any_revision(&mut self) -> i64 {
        let back = self.random.up_to(20);
        match self.random.below(24) {
            0 => -1,
            1 => i64::MAX,
            2 => i64::MIN,
            3 => self.compacted,
            4 => self.compacted - 1,
            5 => self.compacted + 1,
            6 => self.revision + 1,
            7 => self.revision + 1000,
            8 => self.revision,
            9..=14 => (self.revision - back).max(1),
            15 => 1,
            _ => 0,
        }
    }

    /// A revision filter: mostly none.
    pub fn filter(&mut self) -> i64 {
        if self.random.one_in(6) {
            self.any_revision()
        } else {
            0
        }
    }

    /// A limit: mostly none or a small one.
    pub fn limit(&mut self) -> i64 {
        let few = self.random.up_to(5);
        match self.random.below(16) {
            0 => -1,
            1 => i64::MAX,
            2 => i64::MIN,
            3 => 1 << 40,
            4..=8 => few,
            _ => 0,
        }
    }

    /// A number of an enum with `known` values, seldom one nobody knows.
    pub fn number(&mut self, known: usize) -> i32 {
        if self.random.one_in(40) {
            return self.random.of(&[-1, 7, 99, i32::MAX, i32::MIN]);
        }
        i32::try_from(self.random.below(known)).expect("enums are small")
    }

    /// A lease for a put: mostly none.
    pub fn lease_or_none(&mut self) -> i64 {
        if self.random.one_in(4) {
            self.lease()
        } else {
            0
        }
    }

    /// A lease: mostly one that lives.
    pub fn lease(&mut self) -> i64 {
        match self.random.below(12) {
            0 => 0,
            1 => self.random.of(&[-1, 1, 77, i64::MAX, i64::MIN]),
            2 if !self.ended.is_empty() => {
                let ended = self.ended.clone();
                self.random.of(&ended)
            }
            _ if !self.leases.is_empty() => {
                let leases = self.leases.clone();
                self.random.of(&leases)
            }
            _ => 0,
        }
    }

    /// A member: mostly one that was added.
    pub fn any_member(&mut self) -> u64 {
        match self.random.below(6) {
            0 => 0,
            1 => self.random.of(&[1, u64::MAX]),
            _ if !self.learners.is_empty() => {
                let learners = self.learners.clone();
                self.random.of(&learners)
            }
            _ => 12345,
        }
    }
}
