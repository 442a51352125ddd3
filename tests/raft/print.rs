//! How the scripts print what members write, send and are.

use std::fmt::Write as _;

use fated::kernel::{EntryId, MemberId};
use fated::raft::{
    Body, ChangeKind, ConfChange, ConfState, Entry, EntryKind, HardState, LEAVE_JOINT, Message,
};

use super::world::WRAPPED;

/// Term and index.
pub fn show_id(id: EntryId) -> String {
    format!("{}/{}", id.term, id.index)
}

/// Term, vote and commit.
pub fn show_hard_state(state: &HardState) -> String {
    let vote = state.vote.map_or(0, MemberId::get);
    format!("term={} vote={vote} commit={}", state.term, state.commit)
}

/// One entry, a change of the configuration by its content.
pub fn show_entry(entry: &Entry) -> String {
    let id = show_id(entry.id);
    match entry.kind {
        EntryKind::Normal => format!("{id} {:?}", String::from_utf8_lossy(&entry.data)),
        EntryKind::ConfChange if entry.data == LEAVE_JOINT => format!("{id} leave-joint"),
        EntryKind::ConfChange => {
            let wrapped = entry.data.first() == Some(&WRAPPED);
            let change = ConfChange::decode(&entry.data[usize::from(wrapped)..]);
            let mut text = format!("{id} change");
            for (kind, id) in change.unwrap_or_default().changes {
                let _ = match kind {
                    ChangeKind::AddVoter => write!(text, " +v{id}"),
                    ChangeKind::AddLearner => write!(text, " +l{id}"),
                    ChangeKind::Remove => write!(text, " -{id}"),
                    ChangeKind::Alone => write!(text, " ={id}"),
                };
            }
            text
        }
    }
}

/// Several entries.
pub fn show_entries(entries: &[Entry]) -> String {
    let entries: Vec<String> = entries.iter().map(show_entry).collect();
    format!("[{}]", entries.join(", "))
}

/// Who votes and who learns.
pub fn show_conf(conf: &ConfState) -> String {
    let mut text = String::new();
    for (name, set) in [
        ("voters", &conf.voters),
        ("outgoing", &conf.voters_outgoing),
        ("learners", &conf.learners),
        ("learners-next", &conf.learners_next),
    ] {
        if !set.is_empty() {
            let ids: Vec<String> = set.iter().map(ToString::to_string).collect();
            let _ = write!(text, "{name}={} ", ids.join(","));
        }
    }
    text.push_str(if conf.auto_leave { "auto-leave" } else { "" });
    text.trim_end().to_owned()
}

/// One message.
pub fn show_message(message: &Message) -> String {
    let Message {
        from,
        to,
        term,
        body,
    } = message;
    let name = body.name();
    let verdict = |granted: &bool| if *granted { "granted" } else { "refused" };
    let details = match body {
        Body::PreVote { last } => show_id(*last),
        Body::Vote {
            last,
            transfer: true,
        } => format!("{} for transfer", show_id(*last)),
        Body::Vote { last, .. } => show_id(*last),
        Body::PreVoteReply { granted, commit } | Body::VoteReply { granted, commit } => {
            format!("{} commit={}", verdict(granted), show_id(*commit))
        }
        Body::Append {
            prev,
            entries,
            commit,
        } => {
            format!(
                "after {} {} commit={commit}",
                show_id(*prev),
                show_entries(entries)
            )
        }
        Body::AppendReply { matched } => show_id(*matched),
        Body::AppendReject { rejected, hint } => format!("{rejected}, try {}", show_id(*hint)),
        Body::Heartbeat { commit, round } => format!("commit={commit} round={round}"),
        Body::HeartbeatReply { round } => format!("round={round}"),
        Body::Propose {
            sequence, entries, ..
        } => {
            let texts = entries
                .iter()
                .map(|(_, data)| String::from_utf8_lossy(data));
            format!("#{sequence} {:?}", texts.collect::<Vec<_>>())
        }
        Body::ReadIndex { id, .. } => id.to_string(),
        Body::ReadIndexReply { id, index, .. } => format!("{id} at {index}"),
        Body::TransferLeader { to } => to.to_string(),
        Body::TimeoutNow => String::new(),
    };
    format!("{from}->{to} t{term} {name} {details}")
        .trim_end()
        .to_owned()
}
