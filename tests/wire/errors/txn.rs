//! Rows of the errors of transactions.

use super::*;

pub fn txn_size_rows() -> Vec<Row> {
    let compares = |count| TxnRequest {
        compare: vec![compare("c"); count],
        ..Default::default()
    };
    let ranges = |count| vec![Op::RequestRange(range("k")); count];
    let crowded = |outer: usize, inner: TxnRequest| then(puts(outer - 1).chain([nested(inner)]));
    let bad_too = then(puts(128).chain([Op::RequestPut(put(""))]));
    named(vec![
        ("txn, nothing at all", Ask::Txn(TxnRequest::default()), None),
        ("txn, 128 compares", Ask::Txn(compares(128)), None),
        ("txn, 129 compares", Ask::Txn(compares(129)), TOO_MANY_OPS),
        ("txn, 128 puts", Ask::Txn(then(puts(128))), None),
        ("txn, 129 puts", Ask::Txn(then(puts(129))), TOO_MANY_OPS),
        (
            "txn, 129 in else",
            Ask::Txn(branches([], ranges(129))),
            TOO_MANY_OPS,
        ),
        (
            "txn, 128 in both",
            Ask::Txn(branches(ranges(128), ranges(128))),
            None,
        ),
        ("txn, size before content", Ask::Txn(bad_too), TOO_MANY_OPS),
        (
            "txn, nested 64 + 65",
            Ask::Txn(crowded(64, then(ranges(65)))),
            TOO_MANY_OPS,
        ),
        (
            "txn, nested 64 + 64",
            Ask::Txn(crowded(64, then(ranges(64)))),
            None,
        ),
        (
            "txn, nested 64 + 65 in else",
            { Ask::Txn(crowded(64, branches([], ranges(65)))) },
            TOO_MANY_OPS,
        ),
        (
            "txn, nested 64 + 65 compares",
            Ask::Txn(crowded(64, compares(65))),
            TOO_MANY_OPS,
        ),
        (
            "txn, nested 128 + 1",
            Ask::Txn(crowded(128, then(ranges(1)))),
            TOO_MANY_OPS,
        ),
        (
            "txn, nested 128 + 0",
            Ask::Txn(crowded(128, TxnRequest::default())),
            None,
        ),
        (
            "txn, nested 1 + 1 + 127",
            Ask::Txn(then([nested(then([nested(then(ranges(127)))]))])),
            TOO_MANY_OPS,
        ),
        (
            "txn, nested 1 + 1 + 126",
            Ask::Txn(then([nested(then([nested(then(ranges(126)))]))])),
            None,
        ),
        (
            "txn, forty deep",
            Ask::Txn((0..40).fold(then(ranges(1)), |txn, _| then([nested(txn)]))),
            None,
        ),
    ])
}

pub fn txn_duplicate_rows() -> Vec<Row> {
    let p = |name: &str| Op::RequestPut(put(name));
    let d = |name: &str, end: &str| Op::RequestDeleteRange(delete(name, end));
    let n = |success: Vec<Op>, failure: Vec<Op>| nested(branches(success, failure));
    let cases: Vec<(&str, TxnRequest, Expected)> = vec![
        ("same key twice", then([p("a"), p("a")]), DUPLICATE_KEY),
        (
            "same key twice in else",
            branches([], [p("a"), p("a")]),
            DUPLICATE_KEY,
        ),
        (
            "same key in then and else",
            branches([p("a")], [p("a")]),
            None,
        ),
        (
            "put and its delete",
            then([p("a"), d("a", "")]),
            DUPLICATE_KEY,
        ),
        (
            "delete and its put",
            then([d("a", ""), p("a")]),
            DUPLICATE_KEY,
        ),
        (
            "put inside a deleted range",
            then([d("a", "c"), p("b")]),
            DUPLICATE_KEY,
        ),
        (
            "put at the end of a deleted range",
            then([d("a", "c"), p("c")]),
            None,
        ),
        (
            "put at the start of a deleted range",
            then([d("a", "c"), p("a")]),
            DUPLICATE_KEY,
        ),
        (
            "put before a deleted range",
            then([d("b", "c"), p("a")]),
            None,
        ),
        ("two deletes", then([d("a", "c"), d("b", "d")]), None),
        (
            "ranges of a put key",
            then([p("a"), Op::RequestRange(range("a"))]),
            None,
        ),
        (
            "nested and outer put",
            then([n(vec![p("a")], vec![]), p("a")]),
            DUPLICATE_KEY,
        ),
        (
            "outer and nested put",
            then([p("a"), n(vec![], vec![p("a")])]),
            DUPLICATE_KEY,
        ),
        (
            "nested then and else",
            then([n(vec![p("a")], vec![p("a")])]),
            None,
        ),
        (
            "two nested puts",
            then([n(vec![p("a")], vec![]), n(vec![p("a")], vec![])]),
            DUPLICATE_KEY,
        ),
        (
            "nested then, later nested else",
            then([n(vec![p("a")], vec![]), n(vec![], vec![p("a")])]),
            DUPLICATE_KEY,
        ),
        (
            "nested put under outer delete",
            then([n(vec![p("b")], vec![]), d("a", "c")]),
            { DUPLICATE_KEY },
        ),
        (
            "nested else put under outer delete",
            then([d("a", "c"), n(vec![], vec![p("b")])]),
            { DUPLICATE_KEY },
        ),
        (
            "outer put under nested delete",
            then([p("b"), n(vec![d("a", "c")], vec![])]),
            { DUPLICATE_KEY },
        ),
        (
            "nested put under earlier nested delete",
            { then([n(vec![d("a", "c")], vec![]), n(vec![p("b")], vec![])]) },
            DUPLICATE_KEY,
        ),
        (
            "nested put before nested delete",
            { then([n(vec![p("b")], vec![]), n(vec![d("a", "c")], vec![])]) },
            None,
        ),
        (
            "nested twice in one branch",
            then([n(vec![p("a"), p("a")], vec![])]),
            DUPLICATE_KEY,
        ),
        (
            "deep",
            {
                then([
                    p("a"),
                    n(vec![n(vec![], vec![n(vec![p("a")], vec![])])], vec![]),
                ])
            },
            DUPLICATE_KEY,
        ),
        (
            "delete of all that follows",
            then([d("a", "\0"), p("b")]),
            None,
        ),
        (
            "duplicate in a nested branch of else",
            { branches([], [n(vec![], vec![p("a"), d("a", "b")])]) },
            DUPLICATE_KEY,
        ),
    ];
    cases
        .into_iter()
        .map(|(name, txn, expected)| (format!("txn, {name}"), Ask::Txn(txn), expected))
        .collect()
}

pub fn txn_content_rows(scene: &Scene) -> Vec<Row> {
    let empty_op = || TxnRequest {
        success: vec![RequestOp::default()],
        ..Default::default()
    };
    let empty_op_else = TxnRequest {
        failure: vec![RequestOp::default()],
        ..Default::default()
    };
    let empty_compare = TxnRequest {
        compare: vec![compare("")],
        ..Default::default()
    };
    let future = RangeRequest {
        revision: scene.current + 1000,
        ..range("k")
    };
    let unsorted = RangeRequest {
        sort_target: 77,
        ..range("k")
    };
    let missing = PutRequest {
        lease: 999_999,
        ..put("k")
    };
    named(vec![
        ("txn, empty operation", Ask::Txn(empty_op()), KEY_NOT_FOUND),
        (
            "txn, empty operation in else",
            Ask::Txn(empty_op_else),
            KEY_NOT_FOUND,
        ),
        (
            "txn, nested empty operation",
            Ask::Txn(then([nested(empty_op())])),
            KEY_NOT_FOUND,
        ),
        (
            "txn, empty compare key",
            Ask::Txn(empty_compare.clone()),
            EMPTY_KEY,
        ),
        (
            "txn, nested empty compare key",
            Ask::Txn(then([nested(empty_compare)])),
            EMPTY_KEY,
        ),
        (
            "txn, bad sort in the branch not taken",
            Ask::Txn(branches([], [Op::RequestRange(unsorted)])),
            INVALID_SORT,
        ),
        // What only the store can tell does not matter in a branch that does not run.
        (
            "txn, future revision in the branch not taken",
            Ask::Txn(branches([], [Op::RequestRange(future.clone())])),
            None,
        ),
        (
            "txn, unknown lease in the branch not taken",
            Ask::Txn(branches([], [Op::RequestPut(missing.clone())])),
            None,
        ),
        (
            "txn, first error in order of operations",
            Ask::Txn(then([
                Op::RequestPut(missing),
                Op::RequestRange(future.clone()),
            ])),
            LEASE_NOT_FOUND,
        ),
        (
            "txn, future revision after a nested put",
            Ask::Txn(then([
                nested(then([Op::RequestPut(put("a"))])),
                Op::RequestRange(future),
            ])),
            FUTURE,
        ),
    ])
}
