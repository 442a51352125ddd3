//! Several members of one cluster.

use std::time::{Duration, Instant};

use tempfile::TempDir;
use tonic::{Code, Status};

use super::{
    client::Client,
    permit::{PERMITS, Permit},
    server::{Plan, Server},
    wait_for,
};

/// How a cluster is to be.
#[derive(Debug)]
pub struct Builder {
    members: usize,
    flags: Vec<String>,
    permits: usize,
}

/// A running cluster. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// The members, named `m0`, `m1` and so on.
    pub members: Vec<Server>,
    home: TempDir,
    flags: Vec<String>,
    born: usize,
    _permit: Permit,
}

impl Builder {
    /// Adds a flag for every member.
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// No other test with servers runs meanwhile.
    pub fn exclusive(mut self) -> Self {
        self.permits = PERMITS;
        self
    }

    /// Starts all members and waits until they serve.
    pub fn start(self) -> Cluster {
        let permit = Permit::take(self.permits);
        let home = tempfile::tempdir().expect("a directory for the cluster");
        let mut plans: Vec<Plan> = (0..self.members)
            .map(|number| Plan::new(&format!("m{number}"), home.path(), &self.flags))
            .collect();
        let urls: Vec<String> = plans
            .iter()
            .map(|plan| plan.initial_cluster.clone())
            .collect();
        for plan in &mut plans {
            plan.initial_cluster = urls.join(",");
        }
        let mut cluster = Cluster {
            members: plans.into_iter().map(Server::new).collect(),
            home,
            flags: self.flags,
            born: self.members,
            _permit: permit,
        };
        cluster.start_all();
        cluster
    }
}

impl Cluster {
    /// Begins to plan a cluster.
    pub fn of(members: usize) -> Builder {
        Builder {
            members,
            flags: Vec::new(),
            permits: 1,
        }
    }

    /// Adds a member to the running cluster and starts it with an empty directory; returns its id.
    /// The cluster refuses while it does not find itself healthy for long enough.
    pub fn grow(&mut self, is_learner: bool) -> u64 {
        let mut plan = Plan::new(&format!("m{}", self.born), self.home.path(), &self.flags);
        self.born += 1;
        let added = self.insist("add", |client| {
            client.member_add(&plan.peer_url(), is_learner)
        });
        let id = added.member.expect("the new member").id;
        let pair = |plan: &Plan| format!("{}={}", plan.name, plan.peer_url());
        let others = self.members.iter().map(|member| pair(member.plan()));
        let names: Vec<String> = others.chain([pair(&plan)]).collect();
        plan.initial_cluster = names.join(",");
        plan.joins = true;
        let mut server = Server::new(plan);
        server.start();
        self.members.push(server);
        id
    }

    /// A member that is to join by `--join` alone, with an empty directory. It does not run yet.
    pub fn applicant(&mut self) -> Server {
        let mut plan = Plan::new(&format!("m{}", self.born), self.home.path(), &self.flags);
        self.born += 1;
        let endpoints: Vec<String> = self.members.iter().map(Server::endpoint).collect();
        plan.join = Some(endpoints.join(","));
        Server::new(plan)
    }

    /// Makes a learner a voter, as soon as it has caught up.
    pub fn promote(&self, id: u64) {
        self.insist("promote", |client| client.member_promote(id));
    }

    /// Removes a member, here and in the cluster, and waits for its process to end by itself.
    pub fn shrink(&mut self, place: usize) {
        let status = self.members[place].client().status().expect("it serves");
        let id = status.header.expect("a header").member_id;
        let mut leaving = self.members.remove(place);
        self.insist("remove", |client| client.member_remove(id));
        let status = leaving.wait_exit(Duration::from_secs(10));
        assert!(status.success(), "a removed member ends in good order");
        let line = "the member has been permanently removed from the cluster";
        leaving.wait_log(line, Duration::from_secs(1));
    }

    /// Asks one member after the other until one does it. Only refusals are tried again.
    pub fn insist<T>(&self, what: &str, ask: impl Fn(&Client) -> Result<T, Status>) -> T {
        let clients = self.clients();
        let mut turn = 0;
        let done = wait_for(Duration::from_secs(20), || {
            turn += 1;
            match ask(&clients[turn % clients.len()]) {
                Ok(done) => Some(done),
                Err(refusal) => {
                    let soft = [Code::Unavailable, Code::FailedPrecondition, Code::Unknown];
                    assert!(soft.contains(&refusal.code()), "{what}: {refusal}");
                    assert!(
                        !refusal.message().contains("timed out"),
                        "{what}: {refusal}"
                    );
                    None
                }
            }
        });
        done.unwrap_or_else(|| panic!("could not {what}:\n{}", self.tails()))
    }

    /// Starts every member that is down, then waits until all serve.
    pub fn start_all(&mut self) {
        for member in &mut self.members {
            if !member.is_running() {
                member.spawn();
            }
        }
        for member in &self.members {
            member.wait_ready();
        }
    }

    /// Kills all members at once.
    pub fn kill_all(&mut self) {
        for member in &mut self.members {
            if member.is_running() {
                member.kill();
            }
        }
    }

    /// A client of each member.
    pub fn clients(&self) -> Vec<Client> {
        self.members.iter().map(Server::client).collect()
    }

    /// Waits until a member says it leads, and returns its place.
    pub fn leader(&self) -> usize {
        let limit = Duration::from_secs(15);
        let found = wait_for(limit, || self.present_leader());
        found.unwrap_or_else(|| panic!("no leader within {limit:?}:\n{}", self.tails()))
    }

    /// A member that is not the leader now.
    pub fn follower(&self) -> usize {
        (self.leader() + 1) % self.members.len()
    }

    /// Waits until all running members have applied the same entries, without load.
    pub fn settle(&self) {
        let limit = Duration::from_secs(30);
        let clients = self.clients();
        let settled = wait_for(limit, || {
            let status: Option<Vec<_>> =
                clients.iter().map(|client| client.status().ok()).collect();
            let status = status?;
            let first = status.first()?;
            let same = |other: &fated::pb::etcdserverpb::StatusResponse| {
                other.raft_applied_index == first.raft_applied_index
                    && other.raft_index == first.raft_applied_index
                    && other.leader == first.leader
                    && other.leader != 0
            };
            status.iter().all(same).then_some(())
        });
        settled.unwrap_or_else(|| panic!("not settled within {limit:?}:\n{}", self.tails()));
    }

    /// Asserts that all members hold the same history, by HashKV at one revision.
    pub fn assert_same_hash(&self) {
        self.settle();
        let clients = self.clients();
        let revision = clients[0]
            .status()
            .expect("settled")
            .header
            .expect("a header")
            .revision;
        let hashes: Vec<_> = clients
            .iter()
            .map(|client| {
                let hash = client.hash_kv(revision).expect("the member serves");
                (hash.hash, hash.compact_revision, hash.hash_revision)
            })
            .collect();
        let same = hashes.iter().all(|hash| *hash == hashes[0]);
        assert!(
            same,
            "members differ at revision {revision}: {hashes:?}\n{}",
            self.tails()
        );
    }

    /// The last log lines of all members.
    pub fn tails(&self) -> String {
        let tail = |member: &Server| format!("{}:\n{}", member.plan().name, member.log().tail());
        self.members.iter().map(tail).collect()
    }

    /// The member of the highest term that names itself.
    fn present_leader(&self) -> Option<usize> {
        let mut best = None;
        for (place, member) in self.members.iter().enumerate() {
            let client = member.client().with_timeout(Duration::from_millis(500));
            let Ok(status) = client.status() else {
                continue;
            };
            let id = status.header.as_ref().map_or(0, |header| header.member_id);
            if status.leader == id && best.is_none_or(|(term, _)| term < status.raft_term) {
                best = Some((status.raft_term, place));
            }
        }
        best.map(|(_, place)| place)
    }
}

/// Time since `start`, in whole milliseconds.
pub fn elapsed_ms(start: Instant) -> u128 {
    start.elapsed().as_millis()
}
