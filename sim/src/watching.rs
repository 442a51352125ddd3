//! What watchers are like, drawn before the run.

use fated::kernel::Entropy;
use serde::{Deserialize, Serialize};

use crate::draw;

/// What a watcher is like.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WatcherPlan {
    /// The first key and the first one behind the range.
    pub from: u64,
    pub to: u64,
    /// Where a new watch begins, when it does not go on behind the last one: this many revisions
    /// from what the watcher knows; nothing for "from now on".
    pub start: Option<i64>,
    /// Whether it goes on where it stood after it lost its stream.
    pub resumes: bool,
    pub prev_kv: bool,
    pub no_put: bool,
    pub no_delete: bool,
    pub progress: bool,
    /// How long it takes to read what it was sent.
    pub slow_us: u64,
    /// How long it keeps a stream; it asks for progress halfway.
    pub keep_ms: u64,
    /// Whether it takes responses in pieces.
    #[serde(default)]
    pub fragment: bool,
    /// Whether it cancels its watch and listens on before it ends the stream.
    #[serde(default)]
    pub cancels: bool,
    /// Whether it wants its stream ended where there is no leader.
    #[serde(default)]
    pub requires_leader: bool,
}

/// The watchers of a plan.
pub fn draw(entropy: &mut Entropy) -> Vec<WatcherPlan> {
    let count = entropy.below(6);
    let watcher = |_| {
        let from = entropy.below(20);
        WatcherPlan {
            from,
            to: from + 1 + entropy.below(20),
            start: match entropy.below(3) {
                0 => None,
                1 => Some(-entropy.below(40).cast_signed()),
                _ => Some(entropy.below(10).cast_signed()),
            },
            resumes: !entropy.one_in(3),
            prev_kv: entropy.one_in(2),
            no_put: entropy.one_in(8),
            no_delete: entropy.one_in(8),
            progress: entropy.one_in(2),
            slow_us: draw::log_uniform(10, 3_000_000, entropy),
            keep_ms: draw::log_uniform(500, 60_000, entropy),
            fragment: false,
            cancels: false,
            requires_leader: false,
        }
    };
    let mut watchers: Vec<WatcherPlan> = (0..count).map(watcher).collect();
    let mut manners = entropy.fork("manners");
    for watcher in &mut watchers {
        watcher.fragment = manners.one_in(2);
        watcher.cancels = manners.one_in(3);
    }
    for watcher in &mut watchers {
        watcher.requires_leader = manners.one_in(3);
    }
    watchers
}
