//! What is asked: revisions are offsets, made real when the state is known.

use super::*;

/// Six different ones: Go's sort keeps equal elements in order only when they are that few.
const KEYS: [&str; 8] = ["a", "a", "a", "aa", "b", "c", "c\0", "\u{ff}"];
const ENDS: [&str; 9] = ["", "", "\0", "\0", "b", "bb", "c", "d", "z"];

fn some_key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(&KEYS[..]).prop_map(|key| Bytes::from_static(key.as_bytes()))
}

fn some_end() -> impl Strategy<Value = Bytes> {
    prop::sample::select(&ENDS[..]).prop_map(|end| Bytes::from_static(end.as_bytes()))
}

fn some_value() -> impl Strategy<Value = Bytes> {
    prop::sample::select(&["", "x", "y", "zz"][..])
        .prop_map(|value| Bytes::from_static(value.as_bytes()))
}

/// Half of the ranges show off every option, the other half can show much: all keys, few filters.
fn some_range() -> impl Strategy<Value = RangeRequest> {
    prop_oneof![
        any_range(),
        any_range().prop_map(|range| RangeRequest {
            key: "a".into(),
            range_end: "\0".into(),
            revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
            count_only: false,
            ..range
        }),
    ]
}

fn any_range() -> impl Strategy<Value = RangeRequest> {
    let place = (some_key(), some_end(), weighted(0.3, -4..14_i64));
    let order = (0..3_i32, 0..5_i32, weighted(0.5, -1..5_i64));
    let bound = || weighted(0.1, -1..14_i64).prop_map(|bound| bound.unwrap_or(0));
    let bounds = (bound(), bound(), bound(), bound());
    let flags = (
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.15),
    );
    (place, order, bounds, flags).prop_map(|(place, order, bounds, flags)| RangeRequest {
        key: place.0,
        range_end: place.1,
        revision: place.2.unwrap_or(0),
        sort_order: order.0,
        sort_target: order.1,
        limit: order.2.unwrap_or(0),
        min_mod_revision: bounds.0,
        max_mod_revision: bounds.1,
        min_create_revision: bounds.2,
        max_create_revision: bounds.3,
        serializable: flags.0,
        keys_only: flags.1,
        count_only: flags.2,
    })
}

pub fn some_put() -> impl Strategy<Value = PutRequest> {
    let flags = (
        any::<bool>(),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    );
    (some_key(), some_value(), flags).prop_map(|(key, value, flags)| PutRequest {
        key,
        value: if flags.1 { Bytes::new() } else { value },
        lease: 0,
        prev_kv: flags.0,
        ignore_value: flags.1,
        ignore_lease: flags.2,
    })
}

fn some_delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (some_key(), some_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| {
        DeleteRangeRequest {
            key,
            range_end,
            prev_kv,
        }
    })
}

fn some_compare() -> impl Strategy<Value = Compare> {
    let operand = (0..5_i32, 0..14_i64, some_value());
    let place = (
        some_key(),
        prop_oneof![3 => Just(Bytes::new()), 2 => some_end()],
    );
    (place, 0..4_i32, operand).prop_map(|((key, range_end), result, (target, number, value))| {
        let operand = match target {
            0 => TargetUnion::Version(number % 4),
            1 => TargetUnion::CreateRevision(number),
            2 => TargetUnion::ModRevision(number),
            3 => TargetUnion::Value(value),
            _ => TargetUnion::Lease(number % 2),
        };
        Compare {
            key,
            range_end,
            result,
            target,
            target_union: Some(operand),
        }
    })
}

fn some_txn() -> impl Strategy<Value = TxnRequest> {
    let plain = prop_oneof![
        4 => some_range().prop_map(Op::RequestRange),
        4 => some_put().prop_map(Op::RequestPut),
        2 => some_delete().prop_map(Op::RequestDeleteRange),
    ];
    let op = plain.prop_recursive(2, 12, 3, |inner| txn_of(inner).prop_map(Op::RequestTxn));
    txn_of(op)
}

fn txn_of(op: impl Strategy<Value = Op> + Clone + 'static) -> impl Strategy<Value = TxnRequest> {
    let branch = move || {
        let op = op.clone().prop_map(|request| RequestOp {
            request: Some(request),
        });
        vec(op, 0..4)
    };
    (vec(some_compare(), 0..3), branch(), branch()).prop_map(|(compare, success, failure)| {
        TxnRequest {
            compare,
            success,
            failure,
        }
    })
}

pub fn some_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        8 => some_range().prop_map(Call::Range),
        8 => some_put().prop_map(Call::Put),
        3 => some_delete().prop_map(Call::Delete),
        8 => some_txn().prop_map(Call::Txn),
        1 => (-2..12_i64, any::<bool>()).prop_map(|(revision, physical)| {
            Call::Compact(CompactionRequest { revision, physical })
        }),
    ]
}
