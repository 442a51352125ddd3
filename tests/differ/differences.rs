//! Where fated is meant to differ from the reference, etcd 3.5.1. Each row says why, is a row of
//! the README where it is not simply what etcd 3.7 does, and must be met in a long run.

use fated::pb::etcdserverpb::{
    RangeRequest, RequestOp, downgrade_request::DowngradeAction, request_op::Request,
};

use crate::{
    ask::{Ask, Reply},
    compare::{Pair, Rule, difference},
    ties,
};

/// A row that streams follow; see `streams`.
pub const NEGATIVE_START: &str = "A watch from below zero is refused";
/// A row that streams follow; see `streams`.
pub const PROGRESS: &str = "Progress waits for every watch";
/// A row that streams follow; see `streams`.
pub const TOMBSTONE: &str = "A deletion at the compacted revision is still told";
/// A row for what the reference is asked otherwise; see `newer`.
pub const USELESS_URL: &str = "Addresses that can never work are refused";
/// A row for what the reference is not asked; see `newer`.
pub const BAD_SORT: &str = "A sort option that does not exist is refused";

/// Every row.
pub fn all() -> Vec<Rule> {
    vec![
        difference(
            "Hash gives other numbers",
            "it covers the whole backend, whose records are ours",
            hash,
        ),
        difference(
            "Status tells more",
            "storage version, quota and downgrade are told since etcd 3.6",
            status,
        ),
        difference(
            "HashKV tells its revision",
            "the field is there since etcd 3.6",
            hash_revision,
        ),
        difference(
            "RangeStream is served",
            "the call is there since etcd 3.7; the same Range must say the same",
            range_stream,
        ),
        difference(
            "Keys-only ranges carry no lease",
            "etcd 3.7 answers them from its index, which knows none",
            keys_only,
        ),
        difference(
            "Snapshot tells its version",
            "the field is there since etcd 3.6",
            snapshot,
        ),
        difference(
            "Ties of a sort stand in the order of their keys",
            "Go's sort leaves them in any order once there are more than twelve",
            ties::even,
        ),
        difference(
            "HashKV of the compacted revision",
            "it can be read, so since etcd 3.6 it can be hashed",
            hash_of_compacted,
        ),
        difference(
            "A transaction with two faults is told the first",
            "etcd looks at operations in their order since 3.5.17, at all puts first before",
            first_fault,
        ),
        difference(
            "Alarms in Status are printed without a space at their end",
            "etcd 3.7 prints them with another protobuf library",
            alarm_text,
        ),
        difference(
            "A nested put counts against the space quota",
            "etcd 3.7 counts it too; 3.5.1 looks at the outermost operations only",
            nested_put,
        ),
        difference(
            "A downgrade that nobody began can be cancelled",
            "etcd 3.6 and newer only log that there was none",
            cancel_of_none,
        ),
        difference(USELESS_URL, "etcd finds out later", unchanged),
        difference(BAD_SORT, "etcd 3.5.1 ends with a panic", unchanged),
        difference(NEGATIVE_START, "since etcd 3.5.24", unchanged),
        difference(TOMBSTONE, "since etcd 3.5.16", unchanged),
        difference(
            PROGRESS,
            "since etcd 3.5.13, lest it promises too much",
            unchanged,
        ),
    ]
}

fn hash(pair: &mut Pair<'_>) -> bool {
    let (Ok(Reply::Hash(one)), Ok(Reply::Hash(two))) = (&pair.reference, &mut pair.subject) else {
        return false;
    };
    two.hash = one.hash;
    true
}

fn status(pair: &mut Pair<'_>) -> bool {
    let (Ok(Reply::Status(one)), Ok(Reply::Status(two))) = (&pair.reference, &mut pair.subject)
    else {
        return false;
    };
    let told = !two.storage_version.is_empty() && two.db_size_quota > 0;
    two.storage_version.clone_from(&one.storage_version);
    two.db_size_quota = one.db_size_quota;
    two.downgrade_info.clone_from(&one.downgrade_info);
    told
}

fn hash_revision(pair: &mut Pair<'_>) -> bool {
    let (Ok(Reply::HashKv(one)), Ok(Reply::HashKv(two))) = (&pair.reference, &mut pair.subject)
    else {
        return false;
    };
    let asked = match pair.ask {
        Ask::HashKv(request) if request.revision != 0 => request.revision,
        _ => one.header.as_ref().map_or(0, |header| header.revision),
    };
    let right = two.hash_revision == asked;
    two.hash_revision = 0;
    right
}

/// The reference's answer is that of Range; see `main`.
fn range_stream(pair: &mut Pair<'_>) -> bool {
    if let (Ok(Reply::RangeStream(_)), Ok(Reply::Range(range))) = (&pair.subject, &pair.reference) {
        pair.reference = Ok(Reply::RangeStream(range.clone()));
        return true;
    }
    // Orders and filters are not streamed, and that is seen before anything is read.
    if let (Err(refusal), Ask::RangeStream(request)) = (&pair.subject, pair.ask)
        && refusal.code == 12
        && Some(refusal.text.as_str()) == unsupported(request)
        && !matches!(&pair.reference, Err(refusal) if refusal.code == 3)
    {
        pair.reference = Err(refusal.clone());
        return true;
    }
    false
}

fn unsupported(request: &RangeRequest) -> Option<&'static str> {
    let order = (request.sort_order, request.sort_target);
    if order.0 != 0 && order != (1, 0) {
        return Some("RangeStream does not support custom sort orders");
    }
    let filters = request.min_mod_revision | request.max_mod_revision;
    let filters = filters | request.min_create_revision | request.max_create_revision;
    (filters != 0).then_some("RangeStream does not support revision filters")
}

fn first_fault(pair: &mut Pair<'_>) -> bool {
    let (Ask::Txn(_), Err(one), Err(two)) = (pair.ask, &pair.reference, &pair.subject) else {
        return false;
    };
    let of_put = ["key not found", "requested lease not found"];
    let of_range = [
        "revision has been compacted",
        "revision is a future revision",
    ];
    let ends = |text: &&str| one.text.ends_with(*text);
    let of_put_first =
        of_put.iter().any(ends) && of_range.iter().any(|text| two.text.ends_with(text));
    // Within a put, the lease is looked at first.
    let of_key_first = one.text.ends_with(of_put[0]) && two.text.ends_with(of_put[1]);
    let explained = of_put_first || of_key_first;
    if explained {
        pair.reference = pair.subject.clone();
    }
    explained
}

fn alarm_text(pair: &mut Pair<'_>) -> bool {
    let (Ok(Reply::Status(one)), Ok(Reply::Status(two))) = (&mut pair.reference, &pair.subject)
    else {
        return false;
    };
    if one.errors == two.errors {
        return false;
    }
    for error in &mut one.errors {
        error.truncate(error.trim_end().len());
    }
    true
}

fn nested_put(pair: &mut Pair<'_>) -> bool {
    fn puts(ops: &[RequestOp]) -> bool {
        ops.iter().any(|op| match &op.request {
            Some(Request::RequestPut(_)) => true,
            Some(Request::RequestTxn(txn)) => puts(&txn.success) || puts(&txn.failure),
            _ => false,
        })
    }
    let (Ask::Txn(txn), Err(two)) = (pair.ask, &pair.subject) else {
        return false;
    };
    let outer = |op: &RequestOp| matches!(&op.request, Some(Request::RequestPut(_)));
    let outer = txn.success.iter().chain(&txn.failure).any(outer);
    let explained = two.text == "etcdserver: mvcc: database space exceeded"
        && !outer
        && (puts(&txn.success) || puts(&txn.failure));
    if explained {
        pair.reference = pair.subject.clone();
    }
    explained
}

fn cancel_of_none(pair: &mut Pair<'_>) -> bool {
    let (Ask::Downgrade(request), Err(one), Ok(Reply::Downgrade(two))) =
        (pair.ask, &pair.reference, &pair.subject)
    else {
        return false;
    };
    let explained = request.action() == DowngradeAction::Cancel
        && one.text == "etcdserver: no inflight downgrade job"
        && !two.version.is_empty();
    if explained {
        pair.reference = pair.subject.clone();
    }
    explained
}

/// A row that is met elsewhere.
fn unchanged(_: &mut Pair<'_>) -> bool {
    false
}

fn hash_of_compacted(pair: &mut Pair<'_>) -> bool {
    let (Err(refusal), Ok(Reply::HashKv(two)), Ask::HashKv(request)) =
        (&pair.reference, &pair.subject, pair.ask)
    else {
        return false;
    };
    let explained = refusal.code == 11
        && refusal
            .text
            .ends_with("required revision has been compacted")
        && request.revision == two.compact_revision;
    if explained {
        pair.reference = pair.subject.clone();
    }
    explained
}

fn keys_only(pair: &mut Pair<'_>) -> bool {
    let mut used = false;
    if let (Ok(one), Ok(two)) = (&mut pair.reference, &mut pair.subject) {
        let mut leases = Vec::new();
        one.each_kv(&mut |kv| {
            leases.push(kv.lease);
        });
        let mut bare = Vec::new();
        two.each_kv(&mut |kv| bare.push(kv.lease == 0 && kv.value.is_empty()));
        let mut number = 0;
        one.each_kv(&mut |kv| {
            if kv.value.is_empty() && kv.lease != 0 && bare.get(number) == Some(&true) {
                kv.lease = 0;
                used = true;
            }
            number += 1;
        });
    }
    used
}

fn snapshot(pair: &mut Pair<'_>) -> bool {
    let Ok(Reply::Snapshot(two)) = &mut pair.subject else {
        return false;
    };
    let told = !two.version.is_empty();
    two.version.clear();
    told
}
