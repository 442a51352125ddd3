//! Downgrades: an operator begins one, or takes one back.
//!
//! Whatever happens meanwhile, the cluster stands at the servers' version or one below, and a
//! target is always the version below. Where it must come to stand is judged at the end of a run.

use fated::{
    kernel::{Request, Response},
    pb::etcdserverpb::{self as rpc, downgrade_request::DowngradeAction},
};

use super::{Desk, Job, Turn, answer};
use crate::client::Outcome;

/// The versions of a cluster whose servers have this one: its own, and the one below. Made here and
/// not by the members' own rules, which are what is judged.
pub fn levels(server: &str) -> Option<[String; 2]> {
    let mut parts = server.split('.');
    let major: u32 = parts.next()?.parse().ok()?;
    let minor: u32 = parts.next()?.parse().ok()?;
    let below = minor.checked_sub(1)?;
    Some([format!("{major}.{minor}.0"), format!("{major}.{below}.0")])
}

/// Asks a member for its version, then for a downgrade to the one below, or for its end.
#[derive(Debug)]
pub(super) struct Downgrade {
    member: usize,
    begins: bool,
    levels: Option<[String; 2]>,
    asked: u32,
}

impl Downgrade {
    pub(super) fn new(member: usize, begins: bool) -> Self {
        Self {
            member,
            begins,
            levels: None,
            asked: 0,
        }
    }
}

impl Job for Downgrade {
    fn next(&mut self, _: &mut Desk<'_>) -> Turn {
        self.asked += 1;
        let request = match (self.asked, &self.levels) {
            (1, _) => Request::Status(rpc::StatusRequest::default()),
            (2, Some([_, below])) => Request::Downgrade(rpc::DowngradeRequest {
                action: match self.begins {
                    true => DowngradeAction::Enable,
                    false => DowngradeAction::Cancel,
                } as i32,
                version: below.clone(),
            }),
            (_, _) => return Turn::Done,
        };
        Turn::AskAt(self.member, request)
    }

    fn hear(&mut self, desk: &mut Desk<'_>, outcome: &Outcome) {
        match answer(outcome) {
            Some(Response::Status(status)) => {
                self.levels = levels(&status.version);
                judge_status(status, desk);
            }
            Some(Response::Downgrade(response)) => {
                desk.counters.hit(match self.begins {
                    true => "work: downgrade begun",
                    false => "work: downgrade taken back",
                });
                let [own, below] = self.levels.as_ref().expect("asked behind the status");
                // The answer leaves out the patch, and everything until the first leader has said
                // what the version is.
                let told = format!("{}.0", response.version);
                if !response.version.is_empty() && told != *own && told != *below {
                    let story = format!("a downgrade from {own} is answered with {told}");
                    desk.shared.fail(GUARANTEE, story);
                }
            }
            Some(_) => {}
            None if matches!(outcome, Outcome::Failed(_)) && self.asked == 2 => {
                desk.counters.hit("work: downgrade refused");
            }
            None => {}
        }
    }
}

/// What is found broken where a version goes wrong.
pub const GUARANTEE: &str = "the version of the cluster follows its downgrade";

/// Judges what a member says of versions.
fn judge_status(status: &rpc::StatusResponse, desk: &mut Desk<'_>) {
    let Some([own, below]) = levels(&status.version) else {
        let story = format!("a server of version {:?}", status.version);
        return desk.shared.fail(GUARANTEE, story);
    };
    let stored = &status.storage_version;
    // Until the first leader has said so, there is no version.
    if !stored.is_empty() && *stored != own && *stored != below {
        let story = format!("a server of {own} is in a cluster of {stored}");
        desk.shared.fail(GUARANTEE, story);
    }
    let info = status.downgrade_info.clone().unwrap_or_default();
    if info.enabled && info.target_version != below {
        let story = format!("a server of {own} is to become {}", info.target_version);
        desk.shared.fail(GUARANTEE, story);
    }
}
