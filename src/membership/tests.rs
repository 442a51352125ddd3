//! Ids against a real etcd, the rules of each change, and whole histories against a naive model.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::{version::Version, *};
use crate::{
    backend::{Backend, Bucket, Memory, View},
    kernel::{ApiError, ClusterId, DiskErrorKind, MemberId},
};

fn id(raw: u64) -> MemberId {
    MemberId::new(raw)
}

fn member(raw: u64, url: &str, learner: bool) -> Member {
    Member {
        id: id(raw),
        peer_urls: vec![url.into()],
        learner,
        ..Member::default()
    }
}

/// Members 1 and 2, both started voters.
fn two() -> (Cluster, View<Memory>) {
    let mut view = View::new(Memory::default()).unwrap();
    let mut cluster = Cluster::load(&view).unwrap();
    let mut members = vec![
        member(1, "http://a:1", false),
        member(2, "http://b:1", false),
    ];
    members[0].name = "a".into();
    members[1].name = "b".into();
    cluster
        .bootstrap(&mut view, ClusterId::new(7), members)
        .unwrap();
    (cluster, view)
}

fn assert_stored(cluster: &Cluster, view: &View<Memory>) {
    cluster.check();
    assert_eq!(Cluster::load(view).as_ref(), Ok(cluster));
}

mod ids {
    //! The numbers come from etcd 3.4.23 started with these flags.

    use super::*;

    #[test]
    fn the_default_member_and_cluster() {
        let members =
            initial_members(&parse("default=http://localhost:2380"), "etcd-cluster").unwrap();
        assert_eq!(members[0].id, id(0x8e9e_05c5_2164_694d));
        let cluster = cluster_id(members.iter().map(|member| member.id));
        assert_eq!(cluster, ClusterId::new(0xcdf8_1819_4e3a_8c32));
    }

    #[test]
    fn three_members_one_with_two_urls() {
        let text = "a=http://127.0.0.1:12380,a=http://127.0.0.1:11380,\
                    b=https://[::1]:22380,c=http://127.0.0.1:32380";
        let members = initial_members(&parse(text), "etcd-cluster-1").unwrap();
        let ids: BTreeMap<&str, u64> = members
            .iter()
            .map(|member| (member.name.as_str(), member.id.get()))
            .collect();
        assert_eq!(ids["a"], 0x67e8_953e_f32c_5ebf);
        assert_eq!(ids["b"], 0x9f1f_6659_9ffd_6613);
        assert_eq!(ids["c"], 0xfd42_2379_fda5_0e48);
        let cluster = cluster_id(members.iter().rev().map(|member| member.id));
        assert_eq!(cluster, ClusterId::new(0x3d36_8c52_e928_4c10));
    }

    #[test]
    fn order_of_urls_does_not_matter_and_time_does() {
        let urls = ["http://b:1".to_string(), "http://a:1".to_string()];
        let turned = [urls[1].clone(), urls[0].clone()];
        assert_eq!(member_id(&urls, "t", None), member_id(&turned, "t", None));
        let (early, late) = (member_id(&urls, "", Some(1)), member_id(&urls, "", Some(2)));
        assert_ne!(early, late);
        // Time is appended as decimal digits, after the token.
        assert_eq!(member_id(&urls, "", Some(12)), member_id(&urls, "12", None));
    }
}

mod begin {
    use super::*;

    #[test]
    fn names_given_again_add_urls() {
        let cluster = parse("b=http://b:1, a=http://a:2,,a=HTTP://a:1,");
        assert_eq!(cluster["a"], ["http://a:1", "http://a:2"]);
        assert_eq!(cluster["b"], ["http://b:1"]);
        assert_eq!(cluster.len(), 2);
    }

    #[test]
    fn bad_texts_are_refused() {
        let error = |text| parse_initial_cluster(text).unwrap_err();
        assert_eq!(error(" , "), BootstrapError::Empty);
        assert_eq!(error("a"), BootstrapError::NotAPair("a".into()));
        let nameless = "=http://a:1";
        assert_eq!(error(nameless), BootstrapError::NotAPair(nameless.into()));
        let bad = UrlError::Path("http://a:1/".into());
        assert_eq!(
            error("a=http://a:1/"),
            BootstrapError::BadUrl("a".into(), bad)
        );
        let twice = BootstrapError::DuplicateUrl("http://a:1".into());
        assert_eq!(error("a=http://a:1,b=http://a:1"), twice);
        assert_eq!(error("a=http://a:1,a=http://a:1"), twice);
    }

    #[test]
    fn the_local_member_must_fit_its_flags() {
        let cluster = parse("a=http://a:1,a=http://a:2,b=http://b:1");
        let urls = |list: &[&str]| {
            list.iter()
                .map(|url| (*url).into())
                .collect::<Vec<String>>()
        };
        let verify = |name, list: &[&str]| {
            verify_advertised(&cluster, name, &urls(list)).map_err(|error| error.to_string())
        };
        assert_eq!(verify("a", &["http://a:2", "http://a:1"]), Ok(()));
        let missing = verify("c", &["http://c:1"]).unwrap_err();
        let text = "couldn't find local name \"c\" in the initial cluster configuration";
        assert!(missing.starts_with(text), "{missing}");
        assert_eq!(
            verify("a", &["http://a:1"]).unwrap_err(),
            "--initial-cluster has a=http://a:2 but missing from \
             --initial-advertise-peer-urls=http://a:1"
        );
        assert_eq!(
            verify("b", &["http://b:1", "http://b:2"]).unwrap_err(),
            "--initial-advertise-peer-urls has http://b:2 but missing from \
             --initial-cluster=b=http://b:1,b=http://b:2"
        );
    }

    #[test]
    fn a_joining_member_takes_the_running_ids() {
        let initial = parse("a=http://a:1,a=http://a:2,b=http://b:1");
        let mut existing = vec![
            member(9, "http://b:1", true),
            member(4, "http://a:2", false),
        ];
        existing[1].peer_urls.push("http://a:1".into());
        let ids = assign_ids(&initial, &existing).unwrap();
        assert_eq!(
            ids,
            BTreeMap::from([("a".into(), id(4)), ("b".into(), id(9))])
        );
        existing[0].peer_urls = existing[1].peer_urls.clone();
        let error = assign_ids(&initial, &existing).unwrap_err();
        assert!(matches!(error, BootstrapError::NoMatch { .. }));
        existing.pop();
        let counts = BootstrapError::CountDiffers {
            local: 2,
            existing: 1,
        };
        assert_eq!(assign_ids(&initial, &existing), Err(counts));
    }

    #[test]
    fn members_that_contradict_themselves_begin_no_cluster() {
        let good = member(1, "http://a:1", false);
        let sets = [
            vec![],
            vec![member(1, "http://a:1", true)],
            vec![member(0, "http://a:1", false)],
            vec![good.clone(), member(1, "http://b:1", false)],
            vec![good.clone(), member(2, "http://a:1", false)],
            vec![Member {
                peer_urls: vec![],
                ..good.clone()
            }],
        ];
        for set in sets {
            let mut view = View::new(Memory::default()).unwrap();
            let mut cluster = Cluster::default();
            let refused = cluster.bootstrap(&mut view, ClusterId::new(7), set.clone());
            assert!(refused.is_err(), "{set:?}");
            assert!(view.cut().is_none(), "something was written");
        }
        let mut view = View::new(Memory::default()).unwrap();
        let refused = Cluster::default().bootstrap(&mut view, ClusterId::ZERO, vec![good]);
        assert!(refused.is_err());
    }
}

#[test]
fn an_addition_is_checked_in_etcds_order() {
    let (mut cluster, mut view) = two();
    cluster
        .apply_add(&mut view, member(3, "http://c:1", true))
        .unwrap();
    cluster.apply_remove(&mut view, id(2)).unwrap();
    let refusals = [
        (member(2, "http://a:1", false), ApiError::MemberNotFound),
        (member(3, "http://a:1", false), ApiError::MemberExist),
        (member(4, "http://c:1", true), ApiError::PeerUrlExist),
        (member(4, "http://d:1", true), ApiError::TooManyLearners),
    ];
    for (member, error) in refusals {
        assert_eq!(cluster.validate_add(&member, 1), Err(error));
    }
    assert_eq!(
        cluster.validate_add(&member(4, "http://d:1", true), 2),
        Ok(())
    );
    // The URL of a removed member is free, its id is not.
    assert_eq!(
        cluster.validate_add(&member(4, "http://b:1", false), 1),
        Ok(())
    );
    assert_stored(&cluster, &view);
}

#[test]
fn a_learner_stays_one_until_it_is_promoted() {
    let (mut cluster, mut view) = two();
    let view = &mut view;
    cluster
        .apply_add(view, member(3, "http://c:1", true))
        .unwrap();
    cluster
        .apply_update(view, id(3), vec!["http://c:2".into()])
        .unwrap();
    cluster
        .publish(view, id(3), "c".into(), vec!["http://c:9".into()])
        .unwrap();
    assert_stored(&cluster, view);
    let conf = cluster.conf_state();
    assert_eq!(conf.learners, BTreeSet::from([id(3)]));
    assert_eq!(conf.voters, BTreeSet::from([id(1), id(2)]));
    assert_eq!(
        cluster.validate_promote(id(1)),
        Err(ApiError::MemberNotLearner)
    );
    assert_eq!(
        cluster.validate_promote(id(9)),
        Err(ApiError::MemberNotFound)
    );
    cluster.apply_promote(view, id(3)).unwrap();
    let promoted = cluster.get(id(3)).unwrap();
    assert_eq!(promoted.client_urls, ["http://c:9"]);
    assert!(cluster.conf_state().learners.is_empty());
    assert_stored(&cluster, view);
}

#[test]
fn removal_leaves_a_voter_and_is_for_ever() {
    let (mut cluster, mut view) = two();
    let view = &mut view;
    cluster.apply_remove(view, id(2)).unwrap();
    assert!(cluster.is_removed(id(2)));
    assert_eq!(
        cluster.apply_remove(view, id(2)),
        Err(ApiError::MemberNotFound)
    );
    let gone = cluster.publish(view, id(2), "b".into(), vec![]);
    assert_eq!(gone, Err(ApiError::MemberNotFound));
    let last = cluster.apply_remove(view, id(1));
    assert_eq!(last, Err(ApiError::MemberNotEnoughStarted));
    cluster
        .apply_add(view, member(3, "http://c:1", true))
        .unwrap();
    assert!(cluster.apply_remove(view, id(1)).is_err());
    assert_eq!(cluster.apply_remove(view, id(3)), Ok(()));
    assert_stored(&cluster, view);
}

#[test]
fn strict_reconfiguration_wants_a_quorum_of_started_voters() {
    let (mut cluster, mut view) = two();
    let view = &mut view;
    let fresh = |raw: u64, learner| member(raw, &format!("http://n{raw}:1"), learner);
    let refused = Err(ApiError::MemberNotEnoughStarted);
    // Two started voters carry a third; with a third that never started, a fourth needs three.
    assert_eq!(cluster.strict_add(&fresh(3, false)), Ok(()));
    cluster.apply_add(view, fresh(3, false)).unwrap();
    assert_eq!(cluster.strict_add(&fresh(4, false)), refused);
    assert_eq!(cluster.strict_add(&fresh(4, true)), Ok(()));
    // Of two voters, one unstarted, none may be lost but the unstarted one.
    assert_eq!(cluster.strict_remove(id(1)), refused);
    assert_eq!(cluster.strict_remove(id(3)), Ok(()));
    // The learner counts as started: three of four.
    assert_eq!(cluster.strict_promote(), Ok(()));
    cluster.apply_remove(view, id(2)).unwrap();
    cluster.apply_remove(view, id(3)).unwrap();
    assert_eq!(cluster.strict_add(&fresh(5, false)), Ok(()));
    assert_eq!(cluster.strict_remove(id(1)), refused);
}

#[test]
fn two_members_of_one_name_are_found() {
    let (cluster, _view) = two();
    assert_eq!(cluster.by_name("b", id(1)).unwrap().id, id(2));
    assert_eq!(cluster.by_name("b", id(2)), None);
}

#[test]
fn a_joint_configuration_is_kept_while_it_lasts() {
    let (mut cluster, mut view) = two();
    cluster
        .apply_add(&mut view, member(3, "http://c:1", true))
        .unwrap();
    let settled = cluster.conf_state();
    let joint = VotersLearners {
        voters_outgoing: BTreeSet::from([id(1), id(2), id(3)]),
        learners: BTreeSet::new(),
        learners_next: BTreeSet::from([id(3)]),
        auto_leave: true,
        ..settled.clone()
    };
    cluster.set_conf_state(&mut view, &joint);
    assert_stored(&cluster, &view);
    assert_eq!(cluster.conf_state(), joint);
    cluster.set_conf_state(&mut view, &settled);
    assert_eq!(view.get(Bucket::Cluster, b"joint"), Ok(None));
    assert_stored(&cluster, &view);
}

#[test]
#[should_panic = "raft and the member set disagree"]
fn raft_may_not_disagree() {
    let (mut cluster, mut view) = two();
    let mut conf = cluster.conf_state();
    conf.voters.insert(id(3));
    cluster.set_conf_state(&mut view, &conf);
}

#[test]
fn damaged_records_are_an_error_and_no_panic() {
    let good = member(5, "http://e:1", false);
    let twin = member(5, "http://a:1", false);
    let key = Bytes::copy_from_slice(&5u64.to_be_bytes());
    let records: [(Bucket, &[u8], Bytes); 8] = [
        (Bucket::Members, &[1, 2], good.encode()),
        (Bucket::Members, &[0; 8], good.encode()),
        (Bucket::Members, &[1; 8], good.encode()),
        (Bucket::Members, &key, Bytes::from_static(&[0xff])),
        (Bucket::Members, &key, twin.encode()),
        (Bucket::MembersRemoved, &1u64.to_be_bytes(), Bytes::new()),
        (Bucket::Cluster, b"clusterVersion", Bytes::from_static(b"3")),
        (Bucket::Cluster, b"clusterId", Bytes::from_static(b"1")),
    ];
    for (bucket, key, value) in records {
        let (_, mut view) = two();
        view.put(bucket, Bytes::copy_from_slice(key), value);
        let error = Cluster::load(&view).unwrap_err();
        assert_eq!(error.kind, DiskErrorKind::Corrupt, "{bucket:?} {key:?}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add(u64, u8, bool),
    Remove(u64),
    Update(u64, u8),
    Promote(u64),
    Publish(u64, u8),
    Version(u32),
    Restart,
}

fn steps() -> impl Strategy<Value = Step> {
    let id = 1..7u64;
    let url = 0..6u8;
    prop_oneof![
        4 => (id.clone(), url.clone(), any::<bool>())
            .prop_map(|(id, url, learner)| Step::Add(id, url, learner)),
        2 => id.clone().prop_map(Step::Remove),
        2 => (id.clone(), url.clone()).prop_map(|(id, url)| Step::Update(id, url)),
        2 => id.clone().prop_map(Step::Promote),
        1 => (id, url).prop_map(|(id, url)| Step::Publish(id, url)),
        1 => (0..9u32).prop_map(Step::Version),
        1 => Just(Step::Restart),
    ]
}

fn url(number: u8) -> String {
    format!("http://u{number}:1")
}

/// Plain sets, and the words of the rules.
#[derive(Default)]
struct Model {
    urls: BTreeMap<u64, u8>,
    learners: BTreeSet<u64>,
    removed: BTreeSet<u64>,
}

impl Model {
    fn free(&self, number: u8, except: u64) -> bool {
        let others = |(id, taken): (&u64, &u8)| *taken != number || *id == except;
        self.urls.iter().all(others)
    }

    fn voters(&self) -> BTreeSet<u64> {
        let ids = self.urls.keys().copied();
        ids.filter(|id| !self.learners.contains(id)).collect()
    }

    /// Whether the step is allowed; then it is done.
    fn step(&mut self, step: &Step) -> bool {
        match *step {
            Step::Add(id, number, learner) => {
                let unused = !self.urls.contains_key(&id) && !self.removed.contains(&id);
                let allowed = unused && self.free(number, 0);
                if allowed {
                    self.urls.insert(id, number);
                }
                if allowed && learner {
                    self.learners.insert(id);
                }
                allowed
            }
            Step::Remove(id) => {
                let allowed = self.learners.contains(&id)
                    || (self.urls.contains_key(&id) && self.voters().len() > 1);
                if allowed {
                    self.urls.remove(&id);
                    self.learners.remove(&id);
                    self.removed.insert(id);
                }
                allowed
            }
            Step::Update(id, number) => {
                let allowed = self.urls.contains_key(&id) && self.free(number, id);
                if allowed {
                    self.urls.insert(id, number);
                }
                allowed
            }
            Step::Promote(id) => self.learners.remove(&id),
            Step::Publish(id, _) => self.urls.contains_key(&id),
            Step::Version(_) | Step::Restart => true,
        }
    }
}

fn step(cluster: &mut Cluster, view: &mut View<Memory>, step: &Step) -> bool {
    match *step {
        Step::Add(raw, number, learner) => cluster
            .apply_add(view, member(raw, &url(number), learner))
            .is_ok(),
        Step::Remove(raw) => cluster.apply_remove(view, id(raw)).is_ok(),
        Step::Update(raw, number) => cluster
            .apply_update(view, id(raw), vec![url(number)])
            .is_ok(),
        Step::Promote(raw) => cluster.apply_promote(view, id(raw)).is_ok(),
        Step::Publish(raw, number) => cluster
            .publish(view, id(raw), "n".into(), vec![url(number)])
            .is_ok(),
        Step::Version(minor) => {
            cluster.set_cluster_version(view, Version::new(3, minor, 1));
            cluster.cluster_version() == Some(Version::new(3, minor, 0))
        }
        Step::Restart => {
            let backend = view.backend().clone();
            if let Some(batch) = view.cut() {
                backend.commit(&batch).unwrap();
            }
            *view = View::new(backend).unwrap();
            *cluster = Cluster::load(view).unwrap();
            true
        }
    }
}

fn raw_ids<'a>(ids: impl IntoIterator<Item = &'a MemberId>) -> BTreeSet<u64> {
    ids.into_iter().map(|id| id.get()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Goal: after any history the stored members, raft's configuration and the model are one.
    /// Method: after each step the cluster is read back and compared with plain sets.
    #[test]
    fn members_follow_the_model(steps in prop::collection::vec(steps(), 0..60)) {
        let mut view = View::new(Memory::default()).unwrap();
        let mut cluster = Cluster::default();
        let first = member(1, &url(0), false);
        cluster.bootstrap(&mut view, ClusterId::new(7), vec![first]).unwrap();
        let mut model = Model::default();
        model.urls.insert(1, 0);
        for each in &steps {
            let allowed = model.step(each);
            prop_assert_eq!(step(&mut cluster, &mut view, each), allowed);
            assert_stored(&cluster, &view);
            let conf = cluster.conf_state();
            prop_assert_eq!(raw_ids(&conf.voters), model.voters());
            prop_assert_eq!(&raw_ids(&conf.learners), &model.learners);
            prop_assert_eq!(&raw_ids(&cluster.removed().collect::<Vec<_>>()), &model.removed);
            for found in cluster.members() {
                prop_assert_eq!(&found.peer_urls, &vec![url(model.urls[&found.id.get()])]);
            }
        }
    }
}

fn parse(text: &str) -> InitialCluster {
    parse_initial_cluster(text).unwrap()
}
