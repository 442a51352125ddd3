//! Examples for each rule of the lessor; `model` holds whole histories against a naive model.

mod model;

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::{
    backend::{Bucket, Memory, View},
    kernel::{
        ApiError, DiskErrorKind, Entropy, Instant, LeaseId, LogIndex, limits::LEASE_TTL_SECONDS_MAX,
    },
};

const EXTEND: Duration = Duration::from_secs(1);

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn id(raw: i64) -> LeaseId {
    LeaseId::new(raw)
}

/// The life of an id in the examples, where it is granted at the index of its own number.
fn life(raw: i64) -> Incarnation {
    let birth = LogIndex::new(raw.unsigned_abs());
    Incarnation { id: id(raw), birth }
}

fn grant(raw: i64, ttl: i64) -> Grant {
    let Incarnation { id, birth } = life(raw);
    Grant { id, ttl, birth }
}

fn key(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn empty() -> (Lessor, View<Memory>) {
    let view = View::new(Memory::default()).unwrap();
    (Lessor::load(&view, 2).unwrap(), view)
}

/// A leader since moment zero, with leases 1.. of the given TTLs granted at that moment.
fn leader(ttls: &[i64]) -> (Lessor, View<Memory>) {
    let (mut lessor, mut view) = empty();
    lessor.promote(at(0), EXTEND);
    for (position, ttl) in ttls.iter().enumerate() {
        let grant = grant(position as i64 + 1, *ttl);
        assert_eq!(lessor.grant(&mut view, grant, at(0)), Ok(*ttl));
    }
    (lessor, view)
}

#[test]
fn the_minimum_is_one_and_a_half_election_timeouts_rounded_up() {
    let heartbeat = Duration::from_millis(100);
    assert_eq!(minimum_ttl_seconds(10, heartbeat), 2);
    assert_eq!(minimum_ttl_seconds(20, heartbeat), 3);
    assert_eq!(minimum_ttl_seconds(5, Duration::from_millis(10)), 1);
}

#[test]
fn a_proposer_raises_short_ttls_and_refuses_long_ones() {
    let (lessor, _) = empty();
    assert_eq!(lessor.admit(-5), Ok(2));
    assert_eq!(lessor.admit(2), Ok(2));
    assert_eq!(lessor.admit(60), Ok(60));
    assert_eq!(
        lessor.admit(LEASE_TTL_SECONDS_MAX),
        Ok(LEASE_TTL_SECONDS_MAX)
    );
    let refused = lessor.admit(LEASE_TTL_SECONDS_MAX + 1);
    assert_eq!(refused, Err(ApiError::LeaseTtlTooLarge));
}

#[test]
fn fresh_ids_are_positive_and_free() {
    let (mut lessor, mut view) = empty();
    let first = lessor.fresh_id(&mut Entropy::from_seed(3));
    assert!(first.get() > 0);
    lessor
        .grant(
            &mut view,
            Grant {
                id: first,
                ..grant(1, 10)
            },
            at(0),
        )
        .unwrap();
    let second = lessor.fresh_id(&mut Entropy::from_seed(3));
    assert_ne!(first, second);
}

#[test]
fn grants_are_refused_with_etcds_errors() {
    let (mut lessor, mut view) = leader(&[10]);
    let grants = [
        (0, 10, ApiError::LeaseNotFound),
        (1, 10, ApiError::LeaseExist),
        (2, LEASE_TTL_SECONDS_MAX + 1, ApiError::LeaseTtlTooLarge),
    ];
    for (raw, ttl, error) in grants {
        assert_eq!(lessor.grant(&mut view, grant(raw, ttl), at(0)), Err(error));
    }
    assert_eq!(lessor.len(), 1);
    lessor.check();
}

#[test]
fn the_longest_lease_does_not_overflow() {
    let (mut lessor, mut view) = leader(&[LEASE_TTL_SECONDS_MAX]);
    let late = at(u64::MAX / 4_000_000);
    lessor
        .grant(&mut view, grant(2, LEASE_TTL_SECONDS_MAX), late)
        .unwrap();
    lessor.promote(late, EXTEND);
    lessor.check();
    assert!(lessor.take_expired(late, 10).is_empty());
    assert!(matches!(
        lessor.renew(id(1), late),
        Ok(Renewal::Renewed { .. })
    ));
}

#[test]
fn a_revoke_gives_the_keys_in_byte_order_and_leaves_nothing() {
    let (mut lessor, mut view) = leader(&[10, 10]);
    for text in ["b", "a/2", "a", "c"] {
        lessor.attach(id(1), key(text)).unwrap();
    }
    lessor.attach(id(2), key("c")).unwrap();
    lessor.attach(id(2), key("d")).unwrap();
    lessor.check();
    assert_eq!(lessor.lease_of(b"c"), id(2));
    let keys = lessor.revoke(&mut view, id(1)).unwrap();
    assert_eq!(keys, [key("a"), key("a/2"), key("b")]);
    assert_eq!(lessor.lease_of(b"a"), LeaseId::NONE);
    assert_eq!(
        lessor.revoke(&mut view, id(1)),
        Err(ApiError::LeaseNotFound)
    );
    assert_eq!(lessor.keys_len(), 2);
    lessor.check();
}

#[test]
fn attaching_needs_a_lease_and_detaching_needs_nothing() {
    let (mut lessor, _view) = leader(&[10]);
    let refused = lessor.attach(id(9), key("a"));
    assert_eq!(refused, Err(ApiError::LeaseNotFound));
    lessor.detach(b"a");
    lessor.attach(id(1), key("a")).unwrap();
    lessor.attach(LeaseId::NONE, key("a")).unwrap();
    assert_eq!(lessor.keys_len(), 0);
    assert_eq!(lessor.keys(id(1)).count(), 0);
    lessor.check();
}

#[test]
fn leases_come_back_from_the_store() {
    let (mut lessor, mut view) = leader(&[10, 20]);
    lessor.grant(&mut view, grant(-7, 30), at(0)).unwrap();
    lessor.checkpoint(&mut view, life(2), 5_500);
    lessor.revoke(&mut view, id(1)).unwrap();
    let again = Lessor::load(&view, 2).unwrap();
    again.check();
    assert!(!again.leads());
    assert_eq!(again.list(), [id(-7), id(2)]);
    assert_eq!(again.granted_ttl(id(-7)), Some(30));
    assert_eq!(again.checkpointed_ms(id(2)), Some(5_500));
    assert_eq!(again.granted_ttl(id(1)), None);
}

#[test]
fn damaged_records_are_an_error_and_no_panic() {
    let mut good = [0; 24];
    (good[7], good[15]) = (9, 1);
    let mut spent = good;
    (spent[7], spent[14], spent[15]) = (1, 3, 0xe8);
    let records: [(&[u8], &[u8]); 6] = [
        (&[1], &good),
        (&[0; 8], &good),
        (&[1; 8], &good[..23]),
        (&[1; 8], &[0; 24]),
        (&[1; 8], &[0xff; 24]),
        (&[1; 8], &spent),
    ];
    for (key, value) in records {
        let mut view = View::new(Memory::default()).unwrap();
        let value = Bytes::copy_from_slice(value);
        view.put(Bucket::Lease, Bytes::copy_from_slice(key), value);
        let error = Lessor::load(&view, 2).unwrap_err();
        assert_eq!(error.kind, DiskErrorKind::Corrupt, "{key:?}");
    }
}

#[test]
fn a_lease_runs_out_at_its_ttl_and_not_before() {
    let (mut lessor, mut view) = leader(&[10, 5]);
    assert_eq!(lessor.list(), [id(2), id(1)]);
    assert_eq!(lessor.next_expiry(), Some(at(5_000)));
    assert!(lessor.take_expired(at(4_999), 10).is_empty());
    assert_eq!(lessor.take_expired(at(5_000), 10), [life(2)]);
    assert!(lessor.take_expired(at(5_001), 10).is_empty());
    lessor.revoke(&mut view, id(2)).unwrap();
    assert_eq!(lessor.next_expiry(), Some(at(10_000)));
    lessor.check();
}

#[test]
fn a_lost_revoke_is_offered_again() {
    let (mut lessor, mut view) = leader(&[5, 6]);
    assert_eq!(lessor.take_expired(at(5_500), 10), [life(1)]);
    assert_eq!(lessor.revoking(), 1);
    assert_eq!(lessor.next_expiry(), Some(at(6_000)));
    assert_eq!(lessor.take_expired(at(8_499), 10), [life(2)]);
    assert_eq!(lessor.take_expired(at(8_500), 10), [life(1)]);
    lessor.check();
    lessor.revoke(&mut view, id(1)).unwrap();
    assert_eq!(lessor.take_expired(at(20_000), 10), [life(2)]);
    lessor.check();
}

#[test]
fn a_storm_of_expiry_is_taken_in_portions() {
    let (mut lessor, mut view) = leader(&[5; 2500]);
    let mut taken = Vec::new();
    for _ in 0..3 {
        let portion = lessor.take_expired(at(5_000), 1000);
        assert!(portion.len() <= 1000);
        taken.extend(portion);
    }
    assert_eq!(taken.len(), 2500);
    taken
        .iter()
        .for_each(|lease| drop(lessor.revoke_expired(&mut view, *lease).unwrap()));
    assert!(lessor.is_empty());
    assert_eq!(lessor.next_expiry(), None);
    assert_eq!(lessor.next_checkpoint(), None);
    lessor.check();
}

#[test]
fn a_renewal_starts_the_time_anew() {
    let (mut lessor, _view) = leader(&[10]);
    assert_eq!(
        lessor.renew(id(1), at(3_000)),
        Ok(Renewal::Renewed { ttl: 10 })
    );
    assert_eq!(lessor.next_expiry(), Some(at(13_000)));
    assert_eq!(lessor.renew(id(7), at(3_000)), Err(ApiError::LeaseNotFound));
    lessor.check();
}

#[test]
fn a_lease_that_ran_out_is_not_renewed() {
    let (mut lessor, mut view) = leader(&[10]);
    assert_eq!(lessor.renew(id(1), at(10_000)), Ok(Renewal::Expired));
    assert_eq!(lessor.take_expired(at(10_000), 1), [life(1)]);
    assert_eq!(lessor.renew(id(1), at(10_001)), Ok(Renewal::Expired));
    lessor.revoke(&mut view, id(1)).unwrap();
    assert_eq!(
        lessor.renew(id(1), at(10_002)),
        Err(ApiError::LeaseNotFound)
    );
}

#[test]
fn only_a_leader_renews_and_decides() {
    let (mut lessor, _view) = leader(&[10]);
    lessor.demote();
    lessor.check();
    assert_eq!(lessor.renew(id(1), at(1)), Err(ApiError::NotLeader));
    assert_eq!(
        lessor.time_to_live(id(1), at(1)),
        Err(ApiError::LeaderChanged)
    );
    assert_eq!(
        lessor.time_to_live(id(2), at(1)),
        Err(ApiError::LeaseNotFound)
    );
    assert!(lessor.take_expired(at(1_000_000), 10).is_empty());
    assert!(lessor.due_checkpoints(at(1_000_000), 10).is_empty());
    assert_eq!(
        (lessor.next_expiry(), lessor.next_checkpoint()),
        (None, None)
    );
}

#[test]
fn time_to_live_is_rounded_down_and_never_negative() {
    let (lessor, _view) = leader(&[10]);
    let remaining = |ms| lessor.time_to_live(id(1), at(ms)).unwrap().remaining;
    assert_eq!(remaining(0), 10);
    assert_eq!(remaining(1), 9);
    assert_eq!(remaining(9_001), 0);
    assert_eq!(remaining(60_000), 0);
    assert_eq!(lessor.time_to_live(id(1), at(0)).unwrap().granted, 10);
}

#[test]
fn a_new_leader_extends_every_lease() {
    let (mut lessor, mut view) = leader(&[10, 20]);
    lessor.checkpoint(&mut view, life(2), 4_000);
    lessor.promote(at(100_000), EXTEND);
    assert!(lessor.take_expired(at(104_999), 10).is_empty());
    assert_eq!(lessor.take_expired(at(105_000), 10), [life(2)]);
    assert_eq!(lessor.take_expired(at(110_999), 10), [life(2)]);
    assert_eq!(lessor.take_expired(at(111_000), 10), [life(1)]);
}

#[test]
fn a_renewal_just_after_a_promotion_covers_the_leader_before() {
    let (mut lessor, _view) = leader(&[10]);
    lessor.promote(at(100_000), EXTEND);
    lessor.renew(id(1), at(100_001)).unwrap();
    assert_eq!(lessor.next_expiry(), Some(at(111_000)));
    lessor.renew(id(1), at(102_000)).unwrap();
    assert_eq!(lessor.next_expiry(), Some(at(112_000)));
}

#[test]
fn a_new_leader_spreads_deadlines_and_shortens_none() {
    let (mut lessor, _view) = leader(&[10; 2000]);
    lessor.promote(at(0), EXTEND);
    lessor.check();
    let mut counts = Vec::new();
    for second in 11..15 {
        counts.push(lessor.take_expired(at(second * 1000), usize::MAX).len());
        assert!(
            lessor
                .take_expired(at(second * 1000 + 999), usize::MAX)
                .is_empty()
        );
    }
    let limit = EXPIRIES_PER_SECOND_AFTER_PROMOTION;
    assert_eq!(counts[..3], [limit, limit, 500]);
}

#[test]
fn a_lease_that_is_kept_alive_has_no_checkpoints() {
    let (mut lessor, mut view) = leader(&[9]);
    for step in 1..100 {
        let now = at(step * 100);
        assert!(lessor.due_checkpoints(now, 10).is_empty());
        if step % 30 == 0 {
            assert_eq!(lessor.renew(id(1), now), Ok(Renewal::Renewed { ttl: 9 }));
        }
    }
    lessor.revoke(&mut view, id(1)).unwrap();
}

#[test]
fn an_idle_lease_is_checkpointed_each_period() {
    let (mut lessor, mut view) = leader(&[80]);
    assert_eq!(lessor.next_checkpoint(), Some(at(30_000)));
    assert_eq!(lessor.due_checkpoints(at(30_001), 10), [(life(1), 49_999)]);
    lessor.checkpoint(&mut view, life(1), 49_999);
    assert_eq!(lessor.next_checkpoint(), Some(at(40_001)));
    assert_eq!(lessor.due_checkpoints(at(79_999), 10), [(life(1), 1)]);
    assert_eq!(lessor.next_checkpoint(), None);
    lessor.check();
}

#[test]
fn checkpoints_are_bounded_per_second() {
    let (mut lessor, _view) = leader(&[80; CHECKPOINTS_PER_SECOND_MAX + 5]);
    let now = at(30_000);
    let first = lessor.due_checkpoints(now, usize::MAX);
    assert_eq!(first.len(), CHECKPOINTS_PER_SECOND_MAX);
    assert_eq!(lessor.next_checkpoint(), Some(at(31_000)));
    assert!(lessor.due_checkpoints(at(30_999), usize::MAX).is_empty());
    assert_eq!(lessor.due_checkpoints(at(31_000), usize::MAX).len(), 5);
    lessor.check();
}

#[test]
fn a_checkpointed_lease_is_renewed_through_the_log() {
    let (mut lessor, mut view) = leader(&[80]);
    lessor.checkpoint(&mut view, life(1), 5_000);
    let Ok(Renewal::ResetFirst(reset)) = lessor.renew(id(1), at(1_000)) else {
        panic!("a renewal was answered against a checkpoint");
    };
    assert_eq!(reset.lease(), life(1));
    lessor.checkpoint(&mut view, life(1), 0);
    let renewed = Ok(Renewal::Renewed { ttl: 80 });
    assert_eq!(lessor.finish_reset(reset, at(2_000)), renewed);
    assert_eq!(lessor.next_expiry(), Some(at(82_000)));
    assert_eq!(lessor.checkpointed_ms(id(1)), Some(0));
}

/// The race etcd has: a checkpoint is proposed, the client renews before it is applied, the leader
/// is lost. Every order of applying must leave a later leader with the full time.
#[test]
fn a_checkpoint_on_its_way_also_asks_for_a_reset() {
    let (mut lessor, mut view) = leader(&[80]);
    let first = lessor.due_checkpoints(at(30_000), 10);
    let Ok(Renewal::ResetFirst(one)) = lessor.renew(id(1), at(30_001)) else {
        panic!("a renewal was answered while a checkpoint was on its way");
    };
    // The client goes quiet, so that another checkpoint leaves behind the reset.
    let second = lessor.due_checkpoints(at(70_000), 10);
    assert_eq!((first.len(), second.len()), (1, 1));
    lessor.checkpoint(&mut view, life(1), first[0].1);
    lessor.checkpoint(&mut view, life(1), 0);
    let Ok(Renewal::ResetFirst(two)) = lessor.finish_reset(one, at(70_001)) else {
        panic!("a renewal was answered while the second checkpoint was on its way");
    };
    lessor.checkpoint(&mut view, life(1), second[0].1);
    lessor.checkpoint(&mut view, life(1), 0);
    let renewed = Ok(Renewal::Renewed { ttl: 80 });
    assert_eq!(lessor.finish_reset(two, at(70_002)), renewed);
    assert_eq!(lessor.renew(id(1), at(70_003)), renewed);
    lessor.check();
}

/// An id that is granted again is another lease: neither a late checkpoint nor a repeated revoke of
/// the one before may touch it.
#[test]
fn a_granted_again_id_does_not_pay_for_the_life_before() {
    let (mut lessor, mut view) = leader(&[80]);
    let view = &mut view;
    let late = lessor.due_checkpoints(at(30_000), 10);
    let expired = lessor.take_expired(at(80_000), 10);
    assert_eq!(lessor.take_expired(at(83_000), 10), expired);
    assert!(lessor.revoke_expired(view, expired[0]).is_ok());
    let birth = LogIndex::new(99);
    let again = Grant {
        birth,
        ..grant(1, 80)
    };
    lessor.grant(view, again, at(83_001)).unwrap();
    lessor.checkpoint(view, late[0].0, late[0].1);
    assert_eq!(lessor.checkpointed_ms(id(1)), Some(0));
    let refused = lessor.revoke_expired(view, expired[0]);
    assert_eq!(refused, Err(ApiError::LeaseNotFound));
    let loaded = Lessor::load(view, 2).unwrap();
    let life = Incarnation { id: id(1), birth };
    assert_eq!(loaded.incarnation(id(1)), Some(life));
    assert_eq!(
        lessor.renew(id(1), at(83_002)),
        Ok(Renewal::Renewed { ttl: 80 })
    );
    lessor.check();
}

/// etcd's 9888, 13491 and 17132: with a leader change every so often a lease nobody renews must
/// still end, each leadership costing no more than the extension and one period.
#[test]
fn changes_of_leader_do_not_keep_a_lease_for_ever() {
    let (mut lessor, mut view) = leader(&[80]);
    let mut now = 0;
    let tenure = 35_000;
    for leadership in 0.. {
        assert!(leadership < 5, "the lease does not come to its end");
        let end = now + tenure;
        while now < end {
            now += 500;
            for (id, left) in lessor.due_checkpoints(at(now), 10) {
                lessor.checkpoint(&mut view, id, left);
            }
        }
        if !lessor.take_expired(at(now), 10).is_empty() {
            break;
        }
        lessor.demote();
        lessor = Lessor::load(&view, 2).unwrap();
        lessor.promote(at(now), EXTEND);
    }
    let worst = 80_000 + 4 * (1_000 + 10_000);
    assert!((80_000..=worst).contains(&now), "it ended after {now} ms");
}
