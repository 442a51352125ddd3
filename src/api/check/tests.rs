//! Each check by example, and the search for double changes against a model that compares
//! everything with everything.

use proptest::prelude::*;

use super::*;
use crate::pb::etcdserverpb::Compare;

fn put_op(key: &str) -> RequestOp {
    let key = Bytes::copy_from_slice(key.as_bytes());
    let request = PutRequest {
        key,
        ..Default::default()
    };
    op(Request::RequestPut(request))
}

fn delete_op(key: &str, range_end: &str) -> RequestOp {
    op(Request::RequestDeleteRange(DeleteRangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(range_end.as_bytes()),
        ..Default::default()
    }))
}

fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(Request::RequestTxn(branches(success, failure)))
}

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn branches(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        compare: Vec::new(),
        success,
        failure,
    }
}

#[test]
fn single_requests_are_refused_in_etcds_order() {
    let key = Bytes::from_static(b"k");
    let mut request = RangeRequest {
        sort_order: 9,
        ..Default::default()
    };
    assert_eq!(range(&request), Err(ApiError::EmptyKey));
    request.key = key.clone();
    assert_eq!(range(&request), Err(ApiError::InvalidSortOption));
    request.sort_order = 0;
    request.sort_target = 5;
    assert_eq!(range(&request), Err(ApiError::InvalidSortOption));
    request.sort_target = 4;
    assert_eq!(range(&request), Ok(()));

    let mut request = PutRequest {
        value: key.clone(),
        lease: 1,
        ignore_value: true,
        ignore_lease: true,
        ..Default::default()
    };
    assert_eq!(put(&request), Err(ApiError::EmptyKey));
    request.key = key.clone();
    assert_eq!(put(&request), Err(ApiError::ValueProvided));
    request.value = Bytes::new();
    assert_eq!(put(&request), Err(ApiError::LeaseProvided));
    request.lease = 0;
    assert_eq!(put(&request), Ok(()));
    let request = DeleteRangeRequest::default();
    assert_eq!(delete_range(&request), Err(ApiError::EmptyKey));
}

#[test]
fn range_streams_refuse_sorting_and_filters() {
    let mut request = RangeRequest::default();
    assert_eq!(range_stream_unsupported(&request), None);
    request.sort_order = SortOrder::Ascend as i32;
    assert_eq!(range_stream_unsupported(&request), None);
    request.sort_order = SortOrder::Descend as i32;
    assert!(range_stream_unsupported(&request).unwrap().contains("sort"));
    request.sort_order = 0;
    request.sort_target = SortTarget::Mod as i32;
    assert_eq!(range_stream_unsupported(&request), None);
    request.sort_order = SortOrder::Ascend as i32;
    assert!(range_stream_unsupported(&request).unwrap().contains("sort"));
    request.sort_target = 0;
    request.max_create_revision = 3;
    assert!(
        range_stream_unsupported(&request)
            .unwrap()
            .contains("filters")
    );
}

#[test]
fn the_longest_list_counts_and_leaves_the_rest_to_nested_ones() {
    let puts = |count: usize| (0..count).map(|i| put_op(&format!("{i}"))).collect();
    assert_eq!(txn(&branches(puts(4), Vec::new()), 4), Ok(()));
    let five = branches(Vec::new(), puts(5));
    assert_eq!(txn(&five, 4), Err(ApiError::TooManyOps));
    let compares = TxnRequest {
        compare: vec![Compare::default(); 5],
        ..Default::default()
    };
    assert_eq!(txn(&compares, 4), Err(ApiError::TooManyOps));
    assert_eq!(txn(&compares, 5), Err(ApiError::EmptyKey));
    let fits = branches(vec![nested(puts(3), Vec::new())], Vec::new());
    assert_eq!(txn(&fits, 4), Ok(()));
    assert_eq!(txn(&fits, 3), Err(ApiError::TooManyOps));
    let empty_op = branches(vec![RequestOp { request: None }], Vec::new());
    assert_eq!(txn(&empty_op, 4), Err(ApiError::KeyNotFound));
    let empty_key = branches(vec![nested(vec![put_op("")], Vec::new())], Vec::new());
    assert_eq!(txn(&empty_key, 4), Err(ApiError::EmptyKey));
}

#[test]
fn double_changes_are_found_and_exclusive_branches_are_not() {
    let found = |ops: Vec<RequestOp>| txn(&branches(Vec::new(), ops), 99).is_err();
    assert!(found(vec![put_op("a"), put_op("a")]));
    assert!(found(vec![put_op("b"), delete_op("a", "c")]));
    assert!(!found(vec![put_op("c"), delete_op("a", "c")]));
    assert!(!found(vec![delete_op("a", "c"), delete_op("b", "")]));
    assert!(!found(vec![nested(vec![put_op("a")], vec![put_op("a")])]));
    assert!(found(vec![nested(vec![put_op("a")], vec![]), put_op("a")]));
    assert!(found(vec![
        nested(vec![], vec![delete_op("a", "")]),
        put_op("a")
    ]));
    let exclusive = nested(vec![put_op("a")], vec![delete_op("a", "")]);
    assert!(!found(vec![exclusive]));
    // What etcd does not see, we do not see either.
    assert!(!found(vec![put_op("b"), delete_op("a", "\0")]));
    let later = nested(vec![delete_op("a", "")], vec![]);
    assert!(!found(vec![
        nested(vec![put_op("a")], vec![]),
        later.clone()
    ]));
    assert!(found(vec![later, nested(vec![put_op("a")], vec![])]));
    let both = branches(vec![put_op("a")], vec![put_op("a")]);
    assert_eq!(txn(&both, 99), Ok(()));
}

fn key() -> impl Strategy<Value = String> {
    "[a-c\0]{1,2}"
}

fn ops() -> impl Strategy<Value = Vec<RequestOp>> {
    let leaf = prop_oneof![
        key().prop_map(|key| put_op(&key)),
        key().prop_map(|key| delete_op(&key, "")),
        (key(), key()).prop_map(|(key, end)| delete_op(&key, &end)),
    ];
    let level = leaf.prop_recursive(3, 24, 4, |inner| {
        let list = || prop::collection::vec(inner.clone(), 0..4);
        (list(), list()).prop_map(|(success, failure)| nested(success, failure))
    });
    prop::collection::vec(level, 0..6)
}

type Naive = (Vec<Vec<u8>>, Vec<(Vec<u8>, Vec<u8>)>);

/// The same rule, written with lists and no cleverness.
fn naive(ops: &[RequestOp]) -> Option<Naive> {
    let (mut puts, mut spans): Naive = (Vec::new(), Vec::new());
    let hit = |spans: &[(Vec<u8>, Vec<u8>)], key: &[u8]| {
        spans
            .iter()
            .any(|(from, to)| &from[..] <= key && key < &to[..])
    };
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            let mut end = delete.range_end.to_vec();
            if end.is_empty() {
                end = [&delete.key[..], b"\0"].concat();
            }
            spans.push((delete.key.to_vec(), end));
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(request)) = &op.request {
            let (then, then_spans) = naive(&request.success)?;
            let (other, other_spans) = naive(&request.failure)?;
            let other = other.into_iter().filter(|key| !then.contains(key));
            let all: Vec<_> = then.iter().cloned().chain(other).collect();
            for key in all {
                if hit(&spans, &key) || puts.contains(&key) {
                    return None;
                }
                puts.push(key);
            }
            spans.extend(then_spans);
            spans.extend(other_spans);
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            if hit(&spans, &put.key) || puts.contains(&put.key.to_vec()) {
                return None;
            }
            puts.push(put.key.to_vec());
        }
    }
    Some((puts, spans))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn double_changes_are_those_of_the_model(ops in ops()) {
        prop_assert_eq!(changes(&ops).is_err(), naive(&ops).is_none());
    }

    #[test]
    fn joined_spans_hold_the_same_keys(
        spans in prop::collection::vec((key(), prop::option::of(key())), 0..12),
    ) {
        let spans: Vec<(Bytes, Bytes)> = spans
            .into_iter()
            .map(|(from, to)| (Bytes::from(from), to.map(Bytes::from).unwrap_or_default()))
            .collect();
        let mut joined = Spans::default();
        for (from, to) in &spans {
            joined.insert(from, to);
        }
        let alphabet = [0, b'a', b'b', b'c', b'd'];
        let mut keys: Vec<Vec<u8>> = vec![Vec::new()];
        for _ in 0..3 {
            let longer = keys.iter().flat_map(|key| {
                alphabet.iter().map(|byte| [&key[..], &[*byte]].concat()).collect::<Vec<_>>()
            });
            let longer: Vec<_> = longer.collect();
            keys.extend(longer);
        }
        for key in keys {
            let expected = spans.iter().any(|(from, to)| {
                match &to[..] {
                    [] => from[..] == key[..],
                    to => from[..] <= key[..] && key[..] < *to,
                }
            });
            prop_assert_eq!(joined.contains(&key), expected, "{:?}", key);
        }
    }
}
