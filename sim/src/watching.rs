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
    /// What it looks at; the keys above if nothing else.
    #[serde(default)]
    pub scope: Scope,
    /// Further watches on the same stream.
    #[serde(default)]
    pub more: Vec<WatchPlan>,
    /// How often one of those is cancelled and created anew where it stood; 0 for never.
    #[serde(default)]
    pub swaps_ms: u64,
}

/// What a watch looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Scope {
    /// A range of numbered keys.
    #[default]
    Keys,
    /// All keys there are.
    Everything,
    /// The objects of Kubernetes, from the last list of them on.
    Objects,
}

/// One watch of a stream.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WatchPlan {
    pub scope: Scope,
    pub from: u64,
    pub to: u64,
    /// As for the first watch of the stream.
    pub start: Option<i64>,
    pub prev_kv: bool,
    pub no_put: bool,
    pub no_delete: bool,
    pub progress: bool,
    pub fragment: bool,
}

impl WatcherPlan {
    /// The watches of its stream, the first one first.
    pub fn watches(&self) -> Vec<WatchPlan> {
        let first = WatchPlan {
            scope: self.scope,
            from: self.from,
            to: self.to,
            start: self.start,
            prev_kv: self.prev_kv,
            no_put: self.no_put,
            no_delete: self.no_delete,
            progress: self.progress,
            fragment: self.fragment,
        };
        std::iter::once(first)
            .chain(self.more.iter().cloned())
            .collect()
    }
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
            scope: Scope::Keys,
            more: Vec::new(),
            swaps_ms: 0,
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
    let mut company = entropy.fork("company");
    for watcher in &mut watchers {
        watcher.scope = draw_scope(&mut company);
        if company.one_in(2) {
            let count = draw::log_uniform(1, 8, &mut company);
            watcher.more = (0..count).map(|_| draw_watch(&mut company)).collect();
        }
        if company.one_in(2) {
            watcher.swaps_ms = draw::log_uniform(100, 20_000, &mut company);
        }
    }
    watchers
}

fn draw_scope(entropy: &mut Entropy) -> Scope {
    match entropy.below(8) {
        0 | 1 => Scope::Everything,
        2 => Scope::Objects,
        _ => Scope::Keys,
    }
}

fn draw_watch(entropy: &mut Entropy) -> WatchPlan {
    let from = entropy.below(20);
    WatchPlan {
        scope: draw_scope(entropy),
        from,
        to: from + 1 + entropy.below(20),
        start: match entropy.below(3) {
            0 => None,
            1 => Some(-entropy.below(40).cast_signed()),
            _ => Some(entropy.below(10).cast_signed()),
        },
        prev_kv: entropy.one_in(2),
        no_put: entropy.one_in(8),
        no_delete: entropy.one_in(8),
        progress: entropy.one_in(2),
        fragment: entropy.one_in(2),
    }
}
