//! Rows of the errors of ranges, puts and deletes.

use super::*;

/// The same rows for Range, for RangeStream, and for a range within both kinds of transaction.
pub fn range_rows(scene: &Scene) -> Vec<Row> {
    let at = |revision| RangeRequest {
        revision,
        ..range("k")
    };
    let sorted = |sort_order, sort_target| RangeRequest {
        sort_order,
        sort_target,
        ..range("k")
    };
    let everywhere = [
        ("empty key", range(""), EMPTY_KEY),
        (
            "empty key and bad sort",
            RangeRequest {
                sort_order: 9,
                ..range("")
            },
            EMPTY_KEY,
        ),
        ("sort order 3", sorted(3, 0), INVALID_SORT),
        ("sort order -1", sorted(-1, 0), INVALID_SORT),
        ("sort order max", sorted(i32::MAX, 0), INVALID_SORT),
        ("sort target 5", sorted(0, 5), INVALID_SORT),
        ("sort target -1", sorted(1, -1), INVALID_SORT),
        ("next revision", at(scene.current + 1), FUTURE),
        ("largest revision", at(i64::MAX), FUTURE),
        (
            "revision before the compacted",
            at(scene.compacted - 1),
            COMPACTED,
        ),
        ("first revision", at(1), COMPACTED),
        ("the compacted revision", at(scene.compacted), None),
        ("the current revision", at(scene.current), None),
        (
            "negative limit",
            RangeRequest {
                limit: -5,
                ..range("k")
            },
            None,
        ),
        (
            "largest limit",
            RangeRequest {
                limit: i64::MAX,
                ..range("k")
            },
            None,
        ),
        (
            "smallest limit",
            RangeRequest {
                limit: i64::MIN,
                ..range("k")
            },
            None,
        ),
        (
            "end before key",
            RangeRequest {
                range_end: key("a"),
                ..range("k")
            },
            None,
        ),
    ];
    let mut rows = Vec::new();
    for (name, request, expected) in everywhere {
        let serializable = RangeRequest {
            serializable: true,
            ..request.clone()
        };
        let counting = RangeRequest {
            count_only: true,
            ..request.clone()
        };
        let reading = then([Op::RequestRange(request.clone())]);
        let writing = then([Op::RequestPut(put("w")), Op::RequestRange(request.clone())]);
        rows.push((
            format!("range, {name}"),
            Ask::Range(request.clone()),
            expected,
        ));
        rows.push((
            format!("local range, {name}"),
            Ask::Range(serializable),
            expected,
        ));
        rows.push((format!("count, {name}"), Ask::Range(counting), expected));
        rows.push((format!("reading txn, {name}"), Ask::Txn(reading), expected));
        // The put before the range makes the next revision, but checks see the state before.
        rows.push((format!("writing txn, {name}"), Ask::Txn(writing), expected));
        if scene.version >= (3, 7) {
            rows.push((
                format!("stream, {name}"),
                Ask::RangeStream(request),
                expected,
            ));
        }
    }
    let lowest = at(i64::MIN);
    rows.push((
        "range, smallest revision".to_owned(),
        Ask::Range(lowest.clone()),
        None,
    ));
    // A transaction's range reads "latest" at zero only; below is a revision long gone.
    let gone = Ask::Txn(then([Op::RequestRange(lowest)]));
    rows.push(("txn range, smallest revision".to_owned(), gone, COMPACTED));
    if scene.version >= (3, 7) {
        rows.extend(named(vec![
            (
                "stream, descending",
                Ask::RangeStream(sorted(2, 0)),
                NO_CUSTOM_SORT,
            ),
            (
                "stream, by version",
                Ask::RangeStream(sorted(1, 1)),
                NO_CUSTOM_SORT,
            ),
            (
                "stream, ascending keys",
                Ask::RangeStream(sorted(1, 0)),
                None,
            ),
            (
                "stream, filter",
                Ask::RangeStream(RangeRequest {
                    min_mod_revision: 1,
                    ..range("k")
                }),
                NO_FILTERS,
            ),
            (
                "stream, negative filter",
                Ask::RangeStream(RangeRequest {
                    max_create_revision: -1,
                    ..range("k")
                }),
                NO_FILTERS,
            ),
        ]));
    }
    rows
}

pub fn put_rows(scene: &Scene) -> Vec<Row> {
    let keep_value = |name: &str| PutRequest {
        value: Bytes::new(),
        ignore_value: true,
        ..put(name)
    };
    let keep_lease = |name: &str| PutRequest {
        ignore_lease: true,
        ..put(name)
    };
    let under = |lease| PutRequest { lease, ..put("k") };
    let everywhere = [
        ("empty key", put(""), EMPTY_KEY),
        (
            "value given",
            PutRequest {
                value: "x".into(),
                ..keep_value("k")
            },
            VALUE_PROVIDED,
        ),
        (
            "lease given",
            PutRequest {
                lease: 5,
                ..keep_lease("k")
            },
            LEASE_PROVIDED,
        ),
        (
            "empty key before value given",
            PutRequest {
                value: "x".into(),
                ..keep_value("")
            },
            EMPTY_KEY,
        ),
        (
            "value given before lease given",
            PutRequest {
                ignore_value: true,
                lease: 5,
                ..keep_lease("k")
            },
            VALUE_PROVIDED,
        ),
        (
            "keep the value of nothing",
            keep_value("none"),
            KEY_NOT_FOUND,
        ),
        (
            "keep the lease of nothing",
            keep_lease("none"),
            KEY_NOT_FOUND,
        ),
        ("unknown lease", under(999_999), LEASE_NOT_FOUND),
        ("negative lease", under(-1), LEASE_NOT_FOUND),
        ("smallest lease", under(i64::MIN), LEASE_NOT_FOUND),
        (
            "unknown lease before missing key",
            PutRequest {
                lease: 999_999,
                ..keep_value("none")
            },
            LEASE_NOT_FOUND,
        ),
        ("keep the value", keep_value("k"), None),
        ("keep the lease", keep_lease("k"), None),
        ("known lease", under(scene.lease), None),
        (
            "empty value",
            PutRequest {
                value: Bytes::new(),
                ..put("k")
            },
            None,
        ),
    ];
    let mut rows = Vec::new();
    for (name, request, expected) in everywhere {
        let deeper = then([nested(then([Op::RequestPut(request.clone())]))]);
        let txn = then([Op::RequestPut(request.clone())]);
        rows.push((format!("put, {name}"), Ask::Put(request), expected));
        rows.push((format!("txn put, {name}"), Ask::Txn(txn), expected));
        rows.push((format!("nested put, {name}"), Ask::Txn(deeper), expected));
    }
    let large = |bytes: usize| PutRequest {
        value: vec![b'x'; bytes].into(),
        ..put("large")
    };
    let limit = 1_572_864;
    rows.extend(named(vec![
        (
            "put, far too large",
            Ask::Put(large(limit + 400_000)),
            TOO_LARGE,
        ),
        ("put, value of the limit", Ask::Put(large(limit)), TOO_LARGE),
        ("put, below the limit", Ask::Put(large(limit - 512)), None),
        (
            "txn, too large in sum",
            Ask::Txn(then((0..2).map(|at| {
                Op::RequestPut(PutRequest {
                    key: key(&format!("l{at}")),
                    ..large(limit / 2)
                })
            }))),
            TOO_LARGE,
        ),
        (
            "delete, too large",
            Ask::Delete(DeleteRangeRequest {
                key: vec![b'x'; limit].into(),
                ..delete("", "")
            }),
            TOO_LARGE,
        ),
    ]));
    rows
}

pub fn delete_rows() -> Vec<Row> {
    named(vec![
        ("delete, empty key", Ask::Delete(delete("", "")), EMPTY_KEY),
        (
            "delete, empty key with end",
            Ask::Delete(delete("", "z")),
            EMPTY_KEY,
        ),
        (
            "delete, nothing there",
            Ask::Delete(delete("none", "")),
            None,
        ),
        (
            "delete, end before key",
            Ask::Delete(delete("k", "a")),
            None,
        ),
        (
            "txn delete, empty key",
            Ask::Txn(then([Op::RequestDeleteRange(delete("", ""))])),
            EMPTY_KEY,
        ),
    ])
}
