//! Goal: the model answers as etcd does. Method: a recording of a real etcd (`record.py`) is
//! replayed; what must hold for any request is tried on random ones.

use proptest::prelude::*;

use super::*;

fn recorded() -> History {
    History::read(&include_bytes!("etcd-3.5.jsonl")[..]).unwrap()
}

/// Replays the recording; how many answers agree, and the first that does not.
fn replay(model: &mut Model, twist: impl Fn(&mut Operation)) -> (usize, Option<String>) {
    let mut agreed = 0;
    for mut op in recorded().ops {
        twist(&mut op);
        let answer = model.step(&op.request);
        if let Err(text) = agree(model, &op.request, &answer, &op.outcome) {
            return (
                agreed,
                Some(format!("operation {}: {:?} {text}", op.id, op.request)),
            );
        }
        agreed += 1;
    }
    (agreed, None)
}

#[test]
fn answers_are_those_of_a_real_etcd() {
    let ops = recorded().ops;
    let (agreed, wrong) = replay(&mut Model::with_archive(&Meta::default()), |_| ());
    assert_eq!((agreed, wrong), (ops.len(), None));
    // Without the past, only the content of old revisions is not compared.
    let (agreed, wrong) = replay(&mut Model::new(&Meta::default()), |_| ());
    assert_eq!((agreed, wrong), (ops.len(), None));
}

#[test]
fn the_recording_meets_every_refusal_and_every_kind_of_request() {
    let ops = recorded().ops;
    for (refusal, ..) in REFUSALS {
        let met = ops
            .iter()
            .any(|op| op.outcome == Outcome::Failed(refusal.failure()));
        assert!(met, "{refusal:?}");
    }
    let kinds: BTreeSet<&str> = ops
        .iter()
        .filter(|op| matches!(op.outcome, Outcome::Ok(_)))
        .map(|op| name_of(&op.request))
        .collect();
    assert_eq!(kinds.len(), 10, "{kinds:?}");
}

#[test]
fn one_wrong_answer_in_the_recording_is_seen() {
    let ops = recorded().ops;
    let mut seen = 0;
    for wrong in (0..ops.len()).step_by(37) {
        let id = ops[wrong].id;
        let twist = |op: &mut Operation| {
            if op.id != id {
                return;
            }
            match &mut op.outcome {
                Outcome::Ok(response) => response.header.revision += 1,
                Outcome::Failed(failure) => failure.text.push('!'),
                Outcome::Unknown => unreachable!("the recording has none"),
            }
        };
        let (agreed, text) = replay(&mut Model::with_archive(&Meta::default()), twist);
        let lenient = matches!(
            ops[wrong].request,
            Request::Compact(_)
                | Request::LeaseKeepAlive(_)
                | Request::LeaseTimeToLive(_)
                | Request::LeaseLeases
        ) && matches!(ops[wrong].outcome, Outcome::Ok(_));
        assert_eq!(text.is_some(), !lenient, "operation {id}");
        assert!(lenient || agreed == wrong);
        seen += usize::from(!lenient);
    }
    assert!(seen > 20);
}

fn state_of(model: &Model) -> (i64, i64, BTreeMap<Text, KeyValue>, BTreeMap<i64, i64>) {
    (
        model.revision,
        model.compacted,
        model.kvs.clone(),
        model.leases.clone(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any steps can be taken back, and the fingerprint tells the state apart.
    #[test]
    fn steps_are_taken_back(from in 0usize..1000, steps in 1usize..60) {
        let ops = recorded().ops;
        let mut model = Model::new(&Meta::default());
        for op in &ops[..from] {
            let _ = model.step(&op.request);
        }
        model.keep();
        let (mark, before, print) = (model.mark(), state_of(&model), model.fingerprint());
        for op in &ops[from..(from + steps).min(ops.len())] {
            let _ = model.step(&op.request);
        }
        prop_assert_eq!(state_of(&model) == before, model.fingerprint() == print);
        model.take_back(mark);
        prop_assert_eq!(state_of(&model), before);
        prop_assert_eq!(model.fingerprint(), print);
    }

    /// A refused request changes nothing, and the events of a step are what it changed.
    #[test]
    fn events_say_what_changed(until in 0usize..1300) {
        let ops = recorded().ops;
        let mut model = Model::with_archive(&Meta::default());
        for op in &ops[..until.min(ops.len())] {
            let before = state_of(&model);
            let answer = model.step(&op.request);
            if answer.is_err() {
                prop_assert_eq!(state_of(&model), before.clone());
            }
            prop_assert_eq!(model.revision - before.0, i64::from(!model.events().is_empty()));
            let mut kvs = before.2;
            for event in model.events() {
                prop_assert_eq!(event.kv.mod_revision, model.revision);
                let there = match event.kind {
                    EventKind::Put => kvs.insert(event.kv.key.clone(), event.kv.clone()),
                    EventKind::Delete => kvs.remove(&event.kv.key),
                };
                prop_assert_eq!(&there, &event.prev_kv);
            }
            prop_assert_eq!(&kvs, &model.kvs);
        }
        let archive = model.archive().unwrap();
        let all = KeyRange::new(&Text::from("\0"), &Text::from("\0"));
        let last: Vec<_> = model.kvs.values().cloned().collect();
        prop_assert_eq!(archive.range_at(&all, model.revision), last);
    }
}

#[test]
fn a_named_revision_hides_what_the_txn_does_on_top_of_it() {
    let put = |value: &str| {
        Request::Put(PutRequest {
            key: "k".into(),
            value: value.into(),
            ..PutRequest::default()
        })
    };
    let get = |revision| {
        Request::Range(RangeRequest {
            key: "k".into(),
            revision,
            ..RangeRequest::default()
        })
    };
    let txn = Request::Txn(TxnRequest {
        success: vec![put("new"), get(2), get(0)],
        ..TxnRequest::default()
    });
    for mut model in [
        Model::new(&Meta::default()),
        Model::with_archive(&Meta::default()),
    ] {
        model.step(&put("old")).unwrap();
        let Reply::Txn(reply) = model.step(&txn).unwrap().reply else {
            panic!("a txn answers a txn");
        };
        let values: Vec<Text> = reply
            .responses
            .into_iter()
            .filter_map(|reply| match reply {
                Reply::Range(range) => Some(range.kvs[0].value.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(values, [Text::from("old"), Text::from("new")]);
    }
}
