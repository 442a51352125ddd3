//! The simplest possible store.

use super::*;

/// The store: all keys as they were after each revision. Revisions before `compacted` are refused.
pub struct Model {
    pub past: Vec<Keys>,
    pub compacted: i64,
}

/// A write under way: the keys as they will be, and what was changed so far.
struct Write {
    keys: Keys,
    revision: i64,
    changed: bool,
}

fn refused(code: Code, text: &str) -> Refusal {
    (code, format!("etcdserver: {text}"))
}

fn future() -> Refusal {
    refused(
        Code::OutOfRange,
        "mvcc: required revision is a future revision",
    )
}

fn compacted() -> Refusal {
    refused(
        Code::OutOfRange,
        "mvcc: required revision has been compacted",
    )
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..Default::default()
    })
}

fn within(key: &[u8], begin: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == begin,
        [0] => key >= begin,
        _ => key >= begin && key < end,
    }
}

/// What of these keys a range shows, once the revision is settled.
fn show(keys: &Keys, request: &RangeRequest, revision: i64) -> RangeResponse {
    let inside = |key: &Bytes| within(key, &request.key, &request.range_end);
    let mut kvs: Vec<KeyValue> = keys
        .iter()
        .filter(|(key, _)| inside(key))
        .map(|(_, kv)| kv.clone())
        .collect();
    let count = i64::try_from(kvs.len()).expect("few");
    if request.count_only {
        return RangeResponse {
            header: header(revision),
            count,
            ..Default::default()
        };
    }
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let filtered = request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    // Without an order, what lies beyond the limit is not even looked at, whatever the target.
    if request.sort_order == 0 && !filtered && limit > 0 {
        kvs.truncate(limit.saturating_add(1));
    }
    let between =
        |it: i64, low: i64, high: i64| (low == 0 || it >= low) && (high == 0 || it <= high);
    kvs.retain(|kv| {
        between(
            kv.mod_revision,
            request.min_mod_revision,
            request.max_mod_revision,
        ) && between(
            kv.create_revision,
            request.min_create_revision,
            request.max_create_revision,
        )
    });
    let number = |kv: &KeyValue| match request.sort_target {
        1 => kv.version,
        2 => kv.create_revision,
        3 => kv.mod_revision,
        _ => 0,
    };
    let bytes = |kv: &KeyValue| match request.sort_target {
        0 => kv.key.clone(),
        4 => kv.value.clone(),
        _ => Bytes::new(),
    };
    // Equals keep the order of their keys, in both directions.
    kvs.sort_by(|one, two| {
        let order = (number(one), bytes(one)).cmp(&(number(two), bytes(two)));
        if request.sort_order == 2 {
            order.reverse()
        } else {
            order
        }
    });
    let more = limit > 0 && kvs.len() > limit;
    if more {
        kvs.truncate(limit);
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    RangeResponse {
        header: header(revision),
        kvs,
        more,
        count,
    }
}

fn holds(keys: &Keys, compare: &Compare) -> bool {
    let inside = |key: &Bytes| within(key, &compare.key, &compare.range_end);
    let found: Vec<&KeyValue> = keys
        .iter()
        .filter(|(key, _)| inside(key))
        .map(|(_, kv)| kv)
        .collect();
    let nothing = KeyValue::default();
    let by_value = compare.target == 3;
    let kvs = match (found.is_empty(), by_value) {
        (true, true) => return false,
        (true, false) => vec![&nothing],
        (false, _) => found,
    };
    kvs.into_iter().all(|kv| {
        let order = match &compare.target_union {
            Some(TargetUnion::Version(number)) => kv.version.cmp(number),
            Some(TargetUnion::CreateRevision(number)) => kv.create_revision.cmp(number),
            Some(TargetUnion::ModRevision(number)) => kv.mod_revision.cmp(number),
            Some(TargetUnion::Lease(number)) => kv.lease.cmp(number),
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            None => panic!("every generated compare has an operand"),
        };
        match compare.result {
            0 => order.is_eq(),
            1 => order.is_gt(),
            2 => order.is_lt(),
            _ => order.is_ne(),
        }
    })
}

/// What a branch puts and deletes, deletes as they are written; an error where both can meet.
fn conflicts(ops: &[RequestOp]) -> Result<Changes, Refusal> {
    let duplicate = || refused(Code::InvalidArgument, "duplicate key given in txn request");
    // The check takes an end of one zero byte literally.
    let covers = |deletes: &[(Bytes, Bytes)], key: &Bytes| {
        deletes.iter().any(|(begin, end)| {
            if end.is_empty() {
                key == begin
            } else {
                key >= begin && key < end
            }
        })
    };
    let mut puts = BTreeSet::new();
    let mut deletes: Vec<(Bytes, Bytes)> = Vec::new();
    for op in ops {
        if let Some(Op::RequestDeleteRange(delete)) = &op.request {
            deletes.push((delete.key.clone(), delete.range_end.clone()));
        }
    }
    for op in ops {
        let Some(Op::RequestTxn(txn)) = &op.request else {
            continue;
        };
        let (then, then_deletes) = conflicts(&txn.success)?;
        let (otherwise, otherwise_deletes) = conflicts(&txn.failure)?;
        for key in then.union(&otherwise) {
            if puts.contains(key) || covers(&deletes, key) {
                return Err(duplicate());
            }
        }
        puts.extend(then);
        puts.extend(otherwise);
        deletes.extend(then_deletes);
        deletes.extend(otherwise_deletes);
    }
    for op in ops {
        if let Some(Op::RequestPut(put)) = &op.request
            && (covers(&deletes, &put.key) || !puts.insert(put.key.clone()))
        {
            return Err(duplicate());
        }
    }
    Ok((puts, deletes))
}

impl Model {
    fn current(&self) -> i64 {
        i64::try_from(self.past.len()).expect("few") - 1
    }

    fn keys(&self) -> &Keys {
        self.past.last().expect("there is always a present")
    }

    fn at(&self, revision: i64) -> &Keys {
        &self.past[usize::try_from(revision).expect("checked")]
    }

    fn write(&self) -> Write {
        Write {
            keys: self.keys().clone(),
            revision: self.current() + 1,
            changed: false,
        }
    }

    fn end(&mut self, write: Write) {
        if write.changed {
            self.past.push(write.keys);
        }
    }

    /// Answers a call, and changes what it changes.
    pub fn call(&mut self, call: &Call) -> Result<Reply, Refusal> {
        match call {
            Call::Range(request) => self.range(request).map(Reply::Range),
            Call::Put(request) => {
                self.may_put(request)?;
                let mut write = self.write();
                let reply = write.put(request);
                self.end(write);
                Ok(Reply::Put(reply))
            }
            Call::Delete(request) => {
                let mut write = self.write();
                let reply = write.delete(request);
                self.end(write);
                Ok(Reply::Delete(reply))
            }
            Call::Txn(request) => self.txn(request).map(Reply::Txn),
            Call::Compact(request) => {
                if request.revision <= self.compacted {
                    return Err(compacted());
                }
                if request.revision > self.current() {
                    return Err(future());
                }
                self.compacted = request.revision;
                let header = header(self.current());
                Ok(Reply::Compact(CompactionResponse { header }))
            }
        }
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Refusal> {
        let revision = request.revision;
        if revision > self.current() {
            return Err(future());
        }
        let keys = if revision <= 0 {
            self.keys()
        } else {
            self.at(revision)
        };
        if revision > 0 && revision < self.compacted {
            return Err(compacted());
        }
        Ok(show(keys, request, self.current()))
    }

    fn may_put(&self, request: &PutRequest) -> Result<(), Refusal> {
        let keeps = request.ignore_value || request.ignore_lease;
        if keeps && !self.keys().contains_key(&request.key) {
            return Err(refused(Code::InvalidArgument, "key not found"));
        }
        Ok(())
    }

    fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Refusal> {
        conflicts(&request.success)?;
        conflicts(&request.failure)?;
        self.may_txn(request)?;
        let mut write = self.write();
        let before = self.keys().clone();
        let mut reply = write.txn(self, &before, request);
        let revision = write.seen();
        reply.header = header(revision);
        self.end(write);
        Ok(reply)
    }

    fn branch<'a>(keys: &Keys, request: &'a TxnRequest) -> (bool, &'a [RequestOp]) {
        let succeeded = request.compare.iter().all(|compare| holds(keys, compare));
        let branch = if succeeded {
            &request.success
        } else {
            &request.failure
        };
        (succeeded, branch)
    }

    /// Everything is checked on the state before, in the order of the operations that will run.
    fn may_txn(&self, request: &TxnRequest) -> Result<(), Refusal> {
        for op in Self::branch(self.keys(), request).1 {
            match op
                .request
                .as_ref()
                .expect("every generated operation is one")
            {
                Op::RequestRange(range) if range.revision == 0 => {}
                Op::RequestRange(range) if range.revision > self.current() => {
                    return Err(future());
                }
                Op::RequestRange(range) if range.revision < self.compacted => {
                    return Err(compacted());
                }
                Op::RequestRange(_) | Op::RequestDeleteRange(_) => {}
                Op::RequestPut(put) => self.may_put(put)?,
                Op::RequestTxn(txn) => self.may_txn(txn)?,
            }
        }
        Ok(())
    }
}

impl Write {
    /// The revision a reader within sees.
    fn seen(&self) -> i64 {
        if self.changed {
            self.revision
        } else {
            self.revision - 1
        }
    }

    fn put(&mut self, request: &PutRequest) -> PutResponse {
        let previous = self.keys.get(&request.key).cloned();
        let (created, version) = match &previous {
            Some(kv) => (kv.create_revision, kv.version),
            None => (self.revision, 0),
        };
        let kept = previous.as_ref().filter(|_| request.ignore_value);
        let kv = KeyValue {
            key: request.key.clone(),
            value: kept.map_or(request.value.clone(), |kv| kv.value.clone()),
            create_revision: created,
            mod_revision: self.revision,
            version: version + 1,
            lease: 0,
        };
        self.keys.insert(request.key.clone(), kv);
        self.changed = true;
        PutResponse {
            header: header(self.revision),
            prev_kv: previous.filter(|_| request.prev_kv),
        }
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let inside = |key: &Bytes| within(key, &request.key, &request.range_end);
        let gone: Vec<KeyValue> = self
            .keys
            .iter()
            .filter(|(key, _)| inside(key))
            .map(|(_, kv)| kv.clone())
            .collect();
        for kv in &gone {
            self.keys.remove(&kv.key);
            self.changed = true;
        }
        DeleteRangeResponse {
            header: header(self.seen()),
            deleted: i64::try_from(gone.len()).expect("few"),
            prev_kvs: if request.prev_kv { gone } else { Vec::new() },
        }
    }

    fn txn(&mut self, model: &Model, before: &Keys, request: &TxnRequest) -> TxnResponse {
        let (succeeded, branch) = Model::branch(before, request);
        let mut responses = Vec::new();
        for op in branch {
            let said = match op
                .request
                .as_ref()
                .expect("every generated operation is one")
            {
                Op::RequestRange(range) => {
                    let past = range.revision > 0 && range.revision < self.revision;
                    let keys = if past {
                        model.at(range.revision)
                    } else {
                        &self.keys
                    };
                    Said::ResponseRange(show(keys, range, self.seen()))
                }
                Op::RequestPut(put) => Said::ResponsePut(self.put(put)),
                Op::RequestDeleteRange(delete) => Said::ResponseDeleteRange(self.delete(delete)),
                Op::RequestTxn(txn) => Said::ResponseTxn(self.txn(model, before, txn)),
            };
            responses.push(ResponseOp {
                response: Some(said),
            });
        }
        TxnResponse {
            // Only the outermost answer carries a revision.
            header: header(0),
            succeeded,
            responses,
        }
    }
}
