//! The view against a model, over both backends; the memory backend at sizes that split its tables.

use fated::backend::View;

use super::*;

/// One act on a view; `Finish` lets the lane complete its oldest commit, `Learn` tells the view.
#[derive(Clone, Debug)]
enum Step {
    Write(Write),
    Cut,
    Finish,
    Learn,
    Refresh,
    Read(Bucket, Bytes, Option<Bytes>, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let value = proptest::option::weighted(0.7, vec(any::<u8>(), 0..4).prop_map(Bytes::from));
    prop_oneof![
        12 => (bucket(), key(), value).prop_map(Step::Write),
        2 => Just(Step::Cut),
        2 => Just(Step::Finish),
        2 => Just(Step::Learn),
        1 => Just(Step::Refresh),
        6 => (bucket(), key(), proptest::option::of(key()), 0..6_usize)
            .prop_map(|(bucket, from, to, limit)| Step::Read(bucket, from, to, limit)),
    ]
}

fn run_view<B: Backend>(backend: B, steps: &[Step]) {
    let mut view = View::new(backend.clone()).unwrap();
    let mut model = Model::default();
    let mut submitted = std::collections::VecDeque::new();
    let mut unlearned = 0;
    for step in steps {
        match step.clone() {
            Step::Write((bucket, key, value)) => {
                model.step(&[(bucket, key.clone(), value.clone())]);
                match value {
                    Some(value) => view.put(bucket, key, value),
                    None => view.delete(bucket, key),
                }
                view.advance(
                    EntryId::new(Term::new(1), LogIndex::new(model.index)),
                    model.index,
                );
            }
            Step::Cut => submitted.extend(view.cut()),
            Step::Finish => {
                if let Some(batch) = submitted.pop_front() {
                    backend.commit(&batch).unwrap();
                    unlearned += 1;
                }
            }
            Step::Learn => {
                if unlearned > 0 {
                    unlearned -= 1;
                    view.committed().unwrap();
                }
            }
            Step::Refresh => view.refresh().unwrap(),
            Step::Read(bucket, from, to, limit) => {
                let mut expected = model.range(bucket, &from, to.as_deref());
                expected.truncate(limit + 1);
                assert_eq!(
                    visit_some(&view, bucket, &from, to.as_deref(), limit),
                    expected
                );
                let value = model.pairs.get(&(bucket, from.clone()));
                assert_eq!(view.get(bucket, &from).unwrap().as_ref(), value);
            }
        }
        assert_eq!(view.flying(), submitted.len() + unlearned);
    }
    for bucket in Bucket::ALL {
        let all = visit_some(&view, bucket, &[], None, usize::MAX);
        assert_eq!(all, model.range(bucket, &[], None));
    }
}

/// Reads up to `limit` keys, and the one at which the visitor says stop.
fn visit_some<B: Backend>(
    view: &View<B>,
    bucket: Bucket,
    from: &[u8],
    to: Option<&[u8]>,
    limit: usize,
) -> Vec<(Bytes, Bytes)> {
    let mut found = Vec::new();
    view.range(bucket, from, to, &mut |key, value| {
        assert!(found.len() <= limit, "visited after the break");
        found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        if found.len() > limit {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
    .unwrap();
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Goal: the view shows every write at once, wherever its batch is. Method: random writes, cuts
    /// and completions, with early stops of ranges.
    #[test]
    fn view_agrees(steps in vec(step(), 1..120)) {
        run_view(Memory::default(), &steps);
    }

    /// The same over LMDB.
    #[test]
    fn view_agrees_on_lmdb(steps in vec(step(), 1..60)) {
        let dir = directory();
        run_view(Lmdb::open(dir.path()).unwrap(), &steps);
    }

    /// Goal: the forked tables of the memory backend hold many keys in order, and forks are
    /// independent. Method: enough keys to split leaves, in ascending and in random order.
    #[test]
    fn large_images(seeds in vec(any::<u16>(), 1..2_000), ascending in any::<bool>()) {
        let memory = Memory::default();
        let mut model = Model::default();
        for (at, part) in seeds.chunks(300).enumerate() {
            let before = (memory.image(), model.clone());
            let writes: Vec<Write> = part
                .iter()
                .enumerate()
                .map(|(nth, seed)| {
                    let number = if ascending { (at * 300 + nth) as u16 } else { *seed };
                    let key = Bytes::copy_from_slice(&number.to_be_bytes());
                    (Bucket::Key, key, (seed % 5 > 0).then(|| Bytes::from(vec![1; nth % 7])))
                })
                .collect();
            memory.commit(&model.step(&writes)).unwrap();
            check(&before.0, &before.1);
            check(&memory.image(), &model);
        }
        let pairs = model.pairs.iter();
        let bytes: usize = pairs.map(|((_, key), value)| key.len() + value.len()).sum();
        prop_assert_eq!(memory.image().extent().unwrap().bytes, bytes as u64);
    }
}
