//! Goal: what is written is what is read, and what breaks a rule is refused with its line.
//! Method: random records through the writer and back; bad lines after good ones.

use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = Text> {
    prop_oneof![
        "[a-c\"\\\\\u{e9}\u{0}]{0,4}".prop_map(|s| Text::from(s.as_str())),
        prop::collection::vec(any::<u8>(), 0..6).prop_map(Text::from),
    ]
}

fn kv() -> impl Strategy<Value = KeyValue> {
    (text(), any::<i64>(), any::<i64>(), text()).prop_map(|(key, version, lease, value)| KeyValue {
        key,
        version,
        lease,
        value,
        ..KeyValue::default()
    })
}

fn request() -> impl Strategy<Value = Request> {
    let leaf = prop_oneof![
        (text(), text(), any::<bool>(), any::<i64>()).prop_map(
            |(key, range_end, serializable, limit)| Request::Range(RangeRequest {
                key,
                range_end,
                serializable,
                limit,
                sort_order: SortOrder::Descend,
                ..RangeRequest::default()
            })
        ),
        (text(), text(), any::<i64>()).prop_map(|(key, value, lease)| Request::Put(PutRequest {
            key,
            value,
            lease,
            ..PutRequest::default()
        })),
        (text(), any::<bool>()).prop_map(|(key, prev_kv)| Request::DeleteRange(
            DeleteRangeRequest {
                key,
                prev_kv,
                ..DeleteRangeRequest::default()
            }
        )),
    ];
    let list = prop::collection::vec(leaf, 0..3);
    let txn = (list.clone(), list.clone(), text()).prop_map(|(success, failure, value)| {
        let compare = Compare {
            key: Text::from("k"),
            range_end: Text::default(),
            result: CompareResult::NotEqual,
            target: CompareTarget::Value(value),
        };
        let inner = Request::Txn(TxnRequest {
            success: failure.clone(),
            ..TxnRequest::default()
        });
        Request::Txn(TxnRequest {
            compare: vec![compare],
            success: success.into_iter().chain([inner]).collect(),
            failure,
        })
    });
    prop_oneof![
        txn,
        Just(Request::LeaseLeases),
        list.prop_map(|l| l.into_iter().next().unwrap_or(Request::LeaseLeases))
    ]
}

fn record() -> impl Strategy<Value = Record> {
    let op = (request(), any::<u64>(), any::<bool>()).prop_map(|(request, id, known)| {
        let failure = Failure {
            code: 11,
            text: "x".into(),
        };
        Record::Op(Operation {
            id,
            client: 7,
            process: 0,
            call: 5,
            ret: known.then_some(6),
            endpoint: "m1".into(),
            request,
            outcome: if known {
                Outcome::Failed(failure)
            } else {
                Outcome::Unknown
            },
        })
    });
    let watch = prop::collection::vec((kv(), prop::option::of(kv())), 0..4).prop_map(|kvs| {
        let event = |(kv, prev_kv)| WatchEvent {
            kind: EventKind::Delete,
            kv,
            prev_kv,
        };
        Record::Watch(WatchRecord {
            client: 1,
            stream: 2,
            time: u64::MAX,
            endpoint: String::new(),
            item: WatchItem::Response(WatchResponse {
                watch_id: -1,
                revision: i64::MAX,
                fragment: true,
                events: kvs.into_iter().map(event).collect(),
            }),
        })
    });
    let commit = request().prop_map(|request| {
        Record::Commit(Commit {
            index: 3,
            op: None,
            time: Some(4),
            request,
        })
    });
    prop_oneof![op, watch, commit]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_read(records in prop::collection::vec(record(), 0..8)) {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file);
        for record in &records {
            writer.write(record).unwrap();
        }
        let read: Vec<Record> = Reader::new(&file[..]).map(Result::unwrap).collect();
        prop_assert_eq!(read, records);
    }

    #[test]
    fn noise_is_refused_or_read_but_never_panics(
        noise in prop::collection::vec(any::<u8>(), 0..200),
        record in record(),
        at in any::<prop::sample::Index>(),
    ) {
        let _ = History::read(&noise[..]);
        let mut line = serde_json::to_vec(&record).unwrap();
        let at = at.index(line.len());
        line.truncate(at);
        if !line.is_empty() {
            prop_assert!(History::read(&line[..]).is_err());
        }
    }
}

#[test]
fn the_example_of_the_documentation_is_valid() {
    let source = include_str!("../history.rs");
    let lines: Vec<&str> = source
        .lines()
        .filter_map(|line| line.strip_prefix("//! "))
        .filter(|line| line.starts_with("{\""))
        .collect();
    let history = History::read(lines.join("\n").as_bytes()).unwrap();
    assert_eq!((history.ops.len(), history.watches.len()), (2, 1));
}

#[test]
fn a_bad_line_is_refused_with_its_number() {
    let good = r#"{"op":{"id":1,"client":1,"call":1,"ret":2,"request":{"put":{"key":"k"}},"outcome":{"ok":{"reply":{"put":{}}}}}}"#;
    let cases = [
        (
            good.replace("\"ret\":2,", ""),
            "exactly if the outcome is unknown",
        ),
        (good.replace("\"ret\":2", "\"ret\":0"), "returned before"),
        (
            good.replace("\"reply\":{\"put\":{}}", "\"reply\":\"compact\""),
            "cannot answer",
        ),
        (good.replace("\"key\"", "\"kay\""), "unknown field"),
        (
            good.replace("\"key\":\"k\"", "\"key\":{\"base64\":\"?\"}"),
            "nvalid",
        ),
        (
            good.replace("{\"key\":\"k\"}", "{\"key\":[1]}"),
            "a string or",
        ),
        (r#"{"meta":{"version":2}}"#.into(), "format version 2"),
        (
            r#"{"commit":{"index":1,"request":{"txn":{"success":["lease_leases"]}}}}"#.into(),
            "cannot hold",
        ),
    ];
    assert_eq!(History::read(good.as_bytes()).unwrap().ops.len(), 1);
    for (bad, reason) in cases {
        let file = format!("{good}\n\n{bad}\n{good}\n");
        let error = History::read(file.as_bytes()).unwrap_err();
        assert_eq!(error.line, 3, "{bad}");
        assert!(error.text.contains(reason), "{bad}: {error}");
    }
    let twice = "{\"meta\":{}}\n{\"meta\":{}}\n";
    assert_eq!(History::read(twice.as_bytes()).unwrap_err().line, 2);
}
