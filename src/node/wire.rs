//! Messages between members as bytes. One frame carries one message.
//!
//! ```text
//! frame   := tag(1) body
//! tag 1   := raft message:  kind(1) from(8) to(8) term(8) fields by kind, little-endian
//! tag 2   := protobuf PeerMessage
//! entry   := term(8) index(8) kind(1) length(4) data
//! ```
//!
//! Raft messages have a form of their own, because an append is the hot path: entries are copied
//! once into the frame and are slices of it on the other side.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;

use crate::{
    kernel::{EntryId, LogIndex, MemberId, ReadId, Term},
    pb::fated::peer::{PeerMessage, peer_call, peer_message},
    raft::{Body, Entry, EntryKind, Message},
};

const TAG_RAFT: u8 = 1;
const TAG_PEER: u8 = 2;
const ENTRY_HEAD_BYTES: usize = 21;
const PROPOSAL_HEAD_BYTES: usize = 5;

/// What a frame says.
#[derive(Clone, PartialEq, Debug)]
pub enum Frame {
    /// For the raft core.
    Raft(Message),
    /// For the rest of the node.
    Peer(PeerMessage),
}

/// A raft message as a frame.
pub fn encode_raft(message: &Message) -> Bytes {
    let mut out = BytesMut::with_capacity(64 + entries_bytes(&message.body));
    out.put_u8(TAG_RAFT);
    out.put_u8(kind_of(&message.body));
    out.put_u64_le(message.from.get());
    out.put_u64_le(message.to.get());
    out.put_u64_le(message.term.get());
    put_body(&mut out, &message.body);
    out.freeze()
}

/// Any other message as a frame.
pub fn encode_peer(message: &PeerMessage) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + message.encoded_len());
    out.put_u8(TAG_PEER);
    message.encode(&mut out).expect("a growing buffer has room");
    out.freeze()
}

/// The message in a frame, or nothing if it is damaged or of a version we do not know.
pub fn decode(mut frame: Bytes) -> Option<Frame> {
    match frame.try_get_u8().ok()? {
        TAG_RAFT => decode_raft(frame).map(Frame::Raft),
        TAG_PEER => PeerMessage::decode(frame).ok().map(Frame::Peer),
        _ => None,
    }
}

/// Who speaks so: what a leader says, what it is answered, or anything else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Voice {
    /// A leader that lives.
    Heartbeat,
    /// A leader that says more.
    Leader,
    /// A member that answers it.
    Follower,
    /// Everything else.
    Other,
}

/// The voice of a frame of ours, without reading it.
pub fn voice(frame: &[u8]) -> Voice {
    match frame {
        [TAG_RAFT, 8, ..] => Voice::Heartbeat,
        [TAG_RAFT, 5 | 14, ..] => Voice::Leader,
        [TAG_RAFT, ..] => Voice::Follower,
        _ => Voice::Other,
    }
}

/// Whether a frame brings a change of the configuration.
pub fn carries_conf_change(frame: &Bytes) -> bool {
    let changes = |entries: &[Entry]| {
        let mut entries = entries.iter();
        entries.any(|entry| entry.kind == EntryKind::ConfChange)
    };
    match decode(frame.clone()) {
        Some(Frame::Raft(Message {
            body: Body::Append { entries, .. },
            ..
        })) => changes(&entries),
        Some(Frame::Raft(_) | Frame::Peer(_)) | None => false,
    }
}

/// What a member may ask of the leader about a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaseQuestion {
    /// To keep it alive.
    KeepAlive,
    /// How long it has to live.
    TimeToLive,
}

/// What a frame asks about a lease, if it does.
pub fn asks_about_lease(frame: &Bytes) -> Option<LeaseQuestion> {
    let Some(Frame::Peer(message)) = decode(frame.clone()) else {
        return None;
    };
    let Some(peer_message::Body::Call(call)) = message.body else {
        return None;
    };
    match call.request? {
        peer_call::Request::KeepAlive(_) => Some(LeaseQuestion::KeepAlive),
        peer_call::Request::TimeToLive(_) => Some(LeaseQuestion::TimeToLive),
        peer_call::Request::Promote(_) => None,
    }
}

fn kind_of(body: &Body) -> u8 {
    match body {
        Body::PreVote { .. } => 1,
        Body::PreVoteReply { .. } => 2,
        Body::Vote { .. } => 3,
        Body::VoteReply { .. } => 4,
        Body::Append { .. } => 5,
        Body::AppendReply { .. } => 6,
        Body::AppendReject { .. } => 7,
        Body::Heartbeat { .. } => 8,
        Body::HeartbeatReply { .. } => 9,
        Body::Propose { .. } => 10,
        Body::ReadIndex { .. } => 11,
        Body::ReadIndexReply { .. } => 12,
        Body::TransferLeader { .. } => 13,
        Body::TimeoutNow => 14,
    }
}

fn entries_bytes(body: &Body) -> usize {
    match body {
        Body::Append { entries, .. } => entries
            .iter()
            .map(|entry| ENTRY_HEAD_BYTES + entry.data.len())
            .sum(),
        Body::Propose { entries, .. } => entries
            .iter()
            .map(|(_, data)| PROPOSAL_HEAD_BYTES + data.len())
            .sum(),
        Body::PreVote { .. }
        | Body::PreVoteReply { .. }
        | Body::Vote { .. }
        | Body::VoteReply { .. }
        | Body::AppendReply { .. }
        | Body::AppendReject { .. }
        | Body::Heartbeat { .. }
        | Body::HeartbeatReply { .. }
        | Body::ReadIndex { .. }
        | Body::ReadIndexReply { .. }
        | Body::TransferLeader { .. }
        | Body::TimeoutNow => 0,
    }
}

fn put_body(out: &mut BytesMut, body: &Body) {
    match body {
        Body::PreVote { last } => put_id(out, *last),
        Body::Vote { last, transfer } => {
            put_id(out, *last);
            out.put_u8(u8::from(*transfer));
        }
        Body::PreVoteReply { granted, commit } | Body::VoteReply { granted, commit } => {
            out.put_u8(u8::from(*granted));
            put_id(out, *commit);
        }
        Body::Append {
            prev,
            entries,
            commit,
        } => {
            put_id(out, *prev);
            out.put_u64_le(commit.get());
            out.put_u32_le(count(entries.len()));
            for entry in entries {
                put_id(out, entry.id);
                out.put_u8(entry.kind as u8);
                out.put_u32_le(count(entry.data.len()));
                out.put_slice(&entry.data);
            }
        }
        Body::AppendReply { matched } => put_id(out, *matched),
        Body::AppendReject { rejected, hint } => {
            out.put_u64_le(rejected.get());
            put_id(out, *hint);
        }
        Body::Heartbeat { commit, round } => {
            out.put_u64_le(commit.get());
            out.put_u64_le(*round);
        }
        Body::HeartbeatReply { round } => out.put_u64_le(*round),
        Body::Propose {
            boot,
            sequence,
            entries,
        } => {
            out.put_u64_le(*boot);
            out.put_u64_le(*sequence);
            out.put_u32_le(count(entries.len()));
            for (kind, data) in entries {
                out.put_u8(*kind as u8);
                out.put_u32_le(count(data.len()));
                out.put_slice(data);
            }
        }
        Body::ReadIndex { boot, id } => {
            out.put_u64_le(*boot);
            out.put_u64_le(id.get());
        }
        Body::ReadIndexReply { boot, id, index } => {
            out.put_u64_le(*boot);
            out.put_u64_le(id.get());
            out.put_u64_le(index.get());
        }
        Body::TransferLeader { to } => out.put_u64_le(to.get()),
        Body::TimeoutNow => {}
    }
}

fn put_id(out: &mut BytesMut, id: EntryId) {
    out.put_u64_le(id.term.get());
    out.put_u64_le(id.index.get());
}

fn count(number: usize) -> u32 {
    u32::try_from(number).expect("frames are far smaller than four gigabytes")
}

fn decode_raft(mut bytes: Bytes) -> Option<Message> {
    let kind = bytes.try_get_u8().ok()?;
    let from = MemberId::new(take(&mut bytes)?);
    let to = MemberId::new(take(&mut bytes)?);
    let term = Term::new(take(&mut bytes)?);
    let body = take_body(kind, &mut bytes)?;
    bytes.is_empty().then_some(Message {
        from,
        to,
        term,
        body,
    })
}

fn take_body(kind: u8, bytes: &mut Bytes) -> Option<Body> {
    Some(match kind {
        1 => Body::PreVote {
            last: take_id(bytes)?,
        },
        2 => Body::PreVoteReply {
            granted: take_flag(bytes)?,
            commit: take_id(bytes)?,
        },
        3 => Body::Vote {
            last: take_id(bytes)?,
            transfer: take_flag(bytes)?,
        },
        4 => Body::VoteReply {
            granted: take_flag(bytes)?,
            commit: take_id(bytes)?,
        },
        5 => {
            let prev = take_id(bytes)?;
            let commit = LogIndex::new(take(bytes)?);
            let entries = take_entries(bytes)?;
            Body::Append {
                prev,
                entries,
                commit,
            }
        }
        6 => Body::AppendReply {
            matched: take_id(bytes)?,
        },
        7 => Body::AppendReject {
            rejected: LogIndex::new(take(bytes)?),
            hint: take_id(bytes)?,
        },
        8 => Body::Heartbeat {
            commit: LogIndex::new(take(bytes)?),
            round: take(bytes)?,
        },
        9 => Body::HeartbeatReply {
            round: take(bytes)?,
        },
        10 => Body::Propose {
            boot: take(bytes)?,
            sequence: take(bytes)?,
            entries: take_proposals(bytes)?,
        },
        11 => Body::ReadIndex {
            boot: take(bytes)?,
            id: ReadId::new(take(bytes)?),
        },
        12 => Body::ReadIndexReply {
            boot: take(bytes)?,
            id: ReadId::new(take(bytes)?),
            index: LogIndex::new(take(bytes)?),
        },
        13 => Body::TransferLeader {
            to: MemberId::new(take(bytes)?),
        },
        14 => Body::TimeoutNow,
        _ => return None,
    })
}

fn take(bytes: &mut Bytes) -> Option<u64> {
    bytes.try_get_u64_le().ok()
}

fn take_flag(bytes: &mut Bytes) -> Option<bool> {
    match bytes.try_get_u8().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn take_id(bytes: &mut Bytes) -> Option<EntryId> {
    Some(EntryId::new(
        Term::new(take(bytes)?),
        LogIndex::new(take(bytes)?),
    ))
}

fn take_data(bytes: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

fn take_kind(bytes: &mut Bytes) -> Option<EntryKind> {
    match bytes.try_get_u8().ok()? {
        0 => Some(EntryKind::Normal),
        1 => Some(EntryKind::ConfChange),
        _ => None,
    }
}

/// How many items may follow: a count from the network is believed only as far as there are bytes.
fn take_count(bytes: &mut Bytes, item_bytes_min: usize) -> Option<usize> {
    let count = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
    (count <= bytes.len() / item_bytes_min).then_some(count)
}

fn take_entries(bytes: &mut Bytes) -> Option<Vec<Entry>> {
    let count = take_count(bytes, ENTRY_HEAD_BYTES)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let id = take_id(bytes)?;
        let kind = take_kind(bytes)?;
        entries.push(Entry {
            id,
            kind,
            data: take_data(bytes)?,
        });
    }
    Some(entries)
}

fn take_proposals(bytes: &mut Bytes) -> Option<Vec<(EntryKind, Bytes)>> {
    let count = take_count(bytes, PROPOSAL_HEAD_BYTES)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let kind = take_kind(bytes)?;
        entries.push((kind, take_data(bytes)?));
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id() -> impl Strategy<Value = EntryId> {
        (any::<u64>(), any::<u64>())
            .prop_map(|(term, index)| EntryId::new(Term::new(term), LogIndex::new(index)))
    }

    fn kind() -> impl Strategy<Value = EntryKind> {
        prop_oneof![Just(EntryKind::Normal), Just(EntryKind::ConfChange)]
    }

    fn data() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn body() -> impl Strategy<Value = Body> {
        let entry = (id(), kind(), data()).prop_map(|(id, kind, data)| Entry { id, kind, data });
        let entries = proptest::collection::vec(entry, 0..5);
        let proposals = proptest::collection::vec((kind(), data()), 0..5);
        let index = || any::<u64>().prop_map(LogIndex::new);
        prop_oneof![
            id().prop_map(|last| Body::PreVote { last }),
            (any::<bool>(), id())
                .prop_map(|(granted, commit)| Body::PreVoteReply { granted, commit }),
            (id(), any::<bool>()).prop_map(|(last, transfer)| Body::Vote { last, transfer }),
            (any::<bool>(), id()).prop_map(|(granted, commit)| Body::VoteReply { granted, commit }),
            (id(), entries, index()).prop_map(|(prev, entries, commit)| Body::Append {
                prev,
                entries,
                commit
            }),
            id().prop_map(|matched| Body::AppendReply { matched }),
            (index(), id()).prop_map(|(rejected, hint)| Body::AppendReject { rejected, hint }),
            (index(), any::<u64>()).prop_map(|(commit, round)| Body::Heartbeat { commit, round }),
            any::<u64>().prop_map(|round| Body::HeartbeatReply { round }),
            (any::<u64>(), any::<u64>(), proposals).prop_map(|(boot, sequence, entries)| {
                Body::Propose {
                    boot,
                    sequence,
                    entries,
                }
            }),
            (any::<u64>(), any::<u64>()).prop_map(|(boot, id)| Body::ReadIndex {
                boot,
                id: ReadId::new(id)
            }),
            (any::<u64>(), any::<u64>(), index()).prop_map(|(boot, id, index)| {
                Body::ReadIndexReply {
                    boot,
                    id: ReadId::new(id),
                    index,
                }
            }),
            any::<u64>().prop_map(|to| Body::TransferLeader {
                to: MemberId::new(to)
            }),
            Just(Body::TimeoutNow),
        ]
    }

    proptest! {
        /// Every message comes back as it was, and no cut of it is taken for a message.
        #[test]
        fn raft_messages_come_back(body in body(), from: u64, to: u64, term: u64) {
            let message = Message {
                from: MemberId::new(from),
                to: MemberId::new(to),
                term: Term::new(term),
                body,
            };
            let frame = encode_raft(&message);
            for length in 0..frame.len() {
                prop_assert_eq!(decode(frame.slice(..length)), None);
            }
            prop_assert_eq!(decode(frame), Some(Frame::Raft(message)));
        }

        /// Damage never panics.
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(Bytes::from(bytes));
        }
    }
}
