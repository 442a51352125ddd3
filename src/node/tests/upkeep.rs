//! What members propose by themselves, on simulated time: the alarm about space, compaction by the
//! clock, the version of the cluster.

use super::*;
use crate::{
    node::upkeep::AutoCompaction,
    pb::etcdserverpb::{AlarmType, alarm_request::AlarmAction, downgrade_request::DowngradeAction},
};

const SECOND: u64 = 1_000_000_000;

fn small(quota_bytes: i64, clears: bool) -> NodeConfig {
    NodeConfig {
        quota_bytes,
        quota_alarm_clears: clears,
        ..NodeConfig::default()
    }
}

impl World {
    fn status(&mut self, at: usize) -> rpc::StatusResponse {
        match self.call(at, Request::Status(rpc::StatusRequest::default())) {
            Ok(Response::Status(status)) => status,
            other => panic!("{other:?}"),
        }
    }

    fn alarm(&mut self, at: usize, action: AlarmAction, member_id: u64) -> Vec<u64> {
        let request = rpc::AlarmRequest {
            action: action as i32,
            member_id,
            alarm: AlarmType::Nospace as i32,
        };
        match self.call(at, Request::Alarm(request)) {
            Ok(Response::Alarm(answer)) => answer.alarms.iter().map(|one| one.member_id).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// Puts large values under many keys until one does not fit; how many fitted.
    fn fill(&mut self, at: usize) -> usize {
        let value = "v".repeat(1000);
        for number in 0..1000 {
            match self.put(at, &format!("full{number:03}"), &value) {
                Ok(_) => {}
                Err(ApiError::NoSpace) => return number,
                Err(other) => panic!("{other}"),
            }
        }
        panic!("a thousand values fitted");
    }

    /// Deletes everything and compacts the history away.
    fn empty(&mut self, at: usize) {
        let delete = rpc::DeleteRangeRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            ..Default::default()
        };
        let revision = match self.call(at, Request::DeleteRange(delete)) {
            Ok(Response::DeleteRange(answer)) => answer.header.expect("a header").revision,
            other => panic!("{other:?}"),
        };
        let compact = rpc::CompactionRequest {
            revision,
            physical: true,
        };
        let compacted = self.call(at, Request::Compact(compact));
        assert!(compacted.is_ok(), "{compacted:?}");
    }

    /// How long a disk operation takes; on the backend lane behind those before it.
    pub(super) fn disk_nanos(&mut self, at: usize, op: &DiskOp) -> u64 {
        let usual = match op.lane() {
            Lane::Wal => DISK_NANOS,
            Lane::Keep | Lane::Backend | Lane::Snapshot => 3 * DISK_NANOS,
        };
        let is_rewriting = matches!(op, DiskOp::Defragment { .. });
        if op.lane() != Lane::Backend {
            return usual;
        }
        // Only a rewriting is long enough to be waited for.
        let free = self.busy_until.get(&at).copied().unwrap_or(0);
        let begin = free.max(self.now);
        let takes = if is_rewriting {
            self.rewriting_nanos
        } else {
            usual
        };
        if is_rewriting || begin > self.now {
            self.busy_until.insert(at, begin + takes);
        }
        begin + takes - self.now
    }

    fn alarms_at(&self, at: usize) -> usize {
        let node = self.members[at].node.as_ref().expect("runs");
        node.machine().alarms().list(0).len()
    }

    fn downgrade(
        &mut self,
        at: usize,
        action: DowngradeAction,
        version: &str,
    ) -> Result<String, ApiError> {
        let request = rpc::DowngradeRequest {
            action: action as i32,
            version: version.to_owned(),
        };
        match self.call(at, Request::Downgrade(request)) {
            Ok(Response::Downgrade(answer)) => Ok(answer.version),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        }
    }
}

/// Goal: a full store stops what grows at every member, keeps everything else going, and is
/// writable again by itself once there is space.
#[test]
fn a_full_cluster_empties_and_goes_on_by_itself() {
    let mut world = World::new(3, small(40_000, true));
    world.run_until("ready", World::all_ready);
    let asked = (world.leader().expect("a leader") + 1) % 3;
    let fitted = world.fill(asked);
    assert!((20..60).contains(&fitted), "{fitted} values fitted");
    world.run_until("alarmed", |world| (0..3).all(|at| world.alarms_at(at) > 0));
    for at in 0..3 {
        assert_eq!(world.put(at, "small", ""), Err(ApiError::NoSpace));
        let grant = Request::LeaseGrant(rpc::LeaseGrantRequest { ttl: 5, id: 0 });
        assert_eq!(world.call(at, grant), Err(ApiError::NoSpace));
        assert!(world.get(at, "full000").is_some(), "reads work");
        let status = world.status(at);
        assert_eq!(status.db_size_quota, 40_000);
        let own = format!("memberID:{} alarm:NOSPACE", id_of(asked).get());
        assert!(status.errors.contains(&own), "{:?}", status.errors);
    }
    assert!(
        world
            .alarm(asked, AlarmAction::Get, 0)
            .contains(&id_of(asked).get())
    );
    world.run_for(10 * SECOND);
    assert!(world.alarms_at(0) > 0, "nothing was freed");
    world.empty((asked + 1) % 3);
    world.run_until("cleared", |world| (0..3).all(|at| world.alarms_at(at) == 0));
    for at in 0..3 {
        world.put(at, "again", "1").expect("there is space");
        assert_eq!(world.status(at).errors, [] as [&str; 0]);
    }
}

/// Goal: the manual way keeps the alarm until an operator clears it, and then writes work.
#[test]
fn the_manual_way_waits_for_the_operator() {
    let mut world = World::new(1, small(40_000, false));
    world.run_until("ready", World::all_ready);
    world.fill(0);
    world.run_until("alarmed", |world| world.alarms_at(0) == 1);
    world.empty(0);
    world.run_for(20 * SECOND);
    assert_eq!(world.put(0, "k", "v"), Err(ApiError::NoSpace));
    world.kill(0);
    world.boot(0);
    assert_eq!(world.put(0, "k", "v"), Err(ApiError::NoSpace), "it is kept");
    let own = id_of(0).get();
    assert_eq!(world.alarm(0, AlarmAction::Deactivate, own), [own]);
    world.put(0, "k", "v").expect("cleared");
}

/// Goal: an alarm that an operator raised is not cleared by itself, however much space there is.
#[test]
fn an_operators_alarm_stays() {
    let mut world = World::new(1, small(40_000, true));
    world.run_until("ready", World::all_ready);
    assert_eq!(world.alarm(0, AlarmAction::Activate, 1), [1]);
    world.run_for(20 * SECOND);
    assert_eq!(world.put(0, "k", "v"), Err(ApiError::NoSpace));
    assert_eq!(world.alarm(0, AlarmAction::Deactivate, 0), [1]);
    world.put(0, "k", "v").expect("cleared");
}

/// Goal: a member that is gone does not hold the cluster in its alarm.
#[test]
fn the_leader_clears_the_alarm_of_a_dead_member() {
    let mut world = World::new(3, small(40_000, true));
    world.run_until("ready", World::all_ready);
    let asked = (world.leader().expect("a leader") + 1) % 3;
    world.fill(asked);
    world.run_until("alarmed", |world| (0..3).all(|at| world.alarms_at(at) > 0));
    world.kill(asked);
    let other = (asked + 1) % 3;
    world.empty(other);
    world.run_until("cleared", |world| world.alarms_at(other) == 0);
    world.put(other, "again", "1").expect("there is space");
}

/// Goal: a negative quota is none, and is told as it was given.
#[test]
fn no_quota_refuses_nothing() {
    let mut world = World::new(1, small(-1, true));
    world.run_until("ready", World::all_ready);
    let value = "v".repeat(1000);
    for number in 0..200 {
        world
            .put(0, &format!("k{number}"), &value)
            .expect("no quota");
    }
    assert_eq!(world.alarms_at(0), 0);
    assert_eq!(world.status(0).db_size_quota, -1);
}

/// Goal: only the leader compacts, to what was there a period ago, and a new leader goes on.
#[test]
fn history_is_compacted_by_the_clock() {
    let config = NodeConfig {
        auto_compaction: Some(AutoCompaction::Periodic {
            keep: Duration::from_secs(10),
        }),
        ..NodeConfig::default()
    };
    let mut world = World::new(3, config);
    world.run_until("ready", World::all_ready);
    let mut revisions = Vec::new();
    let mut compacted = Vec::new();
    for second in 0..45_usize {
        if second == 25 {
            let leader = world.leader().expect("a leader");
            world.kill(leader);
            world.run_until("led anew", |world| world.leader().is_some());
            world.boot(leader);
        }
        let at = (world.leader().expect("a leader") + 1) % 3;
        world.put(at, "k", &second.to_string()).expect("written");
        world.run_for(SECOND);
        let node = world.members[at].node.as_ref().expect("runs");
        revisions.push(node.machine().store().revision());
        let now = node.machine().store().compact_revision();
        if now > *compacted.last().unwrap_or(&-1) {
            compacted.push(now);
            let kept = revisions[second.saturating_sub(9)];
            assert!(now <= kept, "second {second}: {now} of {kept}");
        }
    }
    assert!(compacted.len() >= 3, "{compacted:?}");
    world.run_until("all equal", |world| world.state_hashes().len() == 1);
}

/// Goal: a downgrade is checked in etcd's order, lowers the cluster's version, shows in the status
/// of all, survives a restart, and its end brings the version back.
#[test]
fn a_downgrade_lowers_the_version_and_its_end_brings_it_back() {
    use DowngradeAction::{Cancel, Enable, Validate};
    let mut world = World::new(3, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    for (version, error) in [
        ("three", ApiError::WrongDowngradeVersionFormat),
        ("3.7", ApiError::InvalidDowngradeTargetVersion),
        ("3.5.0", ApiError::InvalidDowngradeTargetVersion),
        ("4.6", ApiError::InvalidDowngradeTargetVersion),
    ] {
        for action in [Validate, Enable] {
            assert_eq!(world.downgrade(0, action, version), Err(error), "{version}");
        }
    }
    assert_eq!(world.downgrade(1, Cancel, ""), Ok("3.7".to_owned()));
    assert_eq!(world.downgrade(1, Validate, "3.6"), Ok("3.7".to_owned()));
    assert_eq!(world.status(1).storage_version, "3.7.0");
    assert_eq!(world.downgrade(2, Enable, "3.6.4"), Ok("3.7".to_owned()));
    world.run_until("lowered", |world| world.versions() == ["3.6.0"; 3]);
    for at in 0..3 {
        let status = world.status(at);
        let info = status.downgrade_info.expect("told");
        assert_eq!((info.enabled, &info.target_version[..]), (true, "3.6.0"));
        assert_eq!(status.storage_version, "3.6.0");
    }
    let below = world.downgrade(0, Enable, "3.5");
    assert_eq!(below, Err(ApiError::DowngradeInProcess));
    (0..3).for_each(|at| world.kill(at));
    (0..3).for_each(|at| world.boot(at));
    world.run_until("ready", World::all_ready);
    assert!(world.status(0).downgrade_info.expect("told").enabled);
    world.run_for(3 * SECOND);
    assert_eq!(world.versions(), ["3.6.0"; 3]);
    assert_eq!(world.downgrade(0, Cancel, ""), Ok("3.6".to_owned()));
    world.run_until("raised", |world| world.versions() == ["3.7.0"; 3]);
    assert!(!world.status(2).downgrade_info.expect("told").enabled);
}

impl World {
    fn versions(&self) -> Vec<String> {
        let nodes = self
            .members
            .iter()
            .filter_map(|member| member.node.as_ref());
        let version = |node: &Node<Memory>| node.machine().cluster().cluster_version();
        nodes
            .map(|node| version(node).map_or(String::new(), |version| version.to_string()))
            .collect()
    }
}

/// Goal: while the backend is rewritten for five seconds, no request takes longer than otherwise:
/// writes wait for the log only, and reads for what is in memory and committed.
#[test]
fn a_defragmentation_stops_nobody() {
    let mut world = World::new(1, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    world.rewriting_nanos = 5 * SECOND;
    let rewriting = world.send(0, Request::Defragment(rpc::DefragmentRequest {}));
    let end = world.now + 4 * SECOND;
    let mut longest = 0;
    for number in 0.. {
        let began = world.now;
        let key = format!("k{}", number % 50);
        world.put(0, &key, &number.to_string()).expect("written");
        assert_eq!(world.get(0, &key), Some(number.to_string().into()));
        longest = longest.max(world.now - began);
        if world.now > end {
            break;
        }
    }
    assert!(
        longest <= 10_000_000,
        "a write and a read took {longest} ns"
    );
    assert!(!world.replies.contains_key(&rewriting), "it is still at it");
    world.run_until("rewritten", |world| world.replies.contains_key(&rewriting));
    assert!(world.replies[&rewriting].is_ok());
    world.kill(0);
    world.boot(0);
    assert!(world.get(0, "k7").is_some());
}
