//! What clients do, step by step, drawn before the run so that it can be cut down.

use fated::kernel::Entropy;
use serde::{Deserialize, Serialize};

use crate::draw;

/// One step of a client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// How long the client thinks before it.
    pub wait_us: u64,
    /// What it does.
    pub what: What,
}

/// What a client does. Keys are small numbers; values are made unique when they are sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum What {
    Put {
        key: u64,
        bytes: u64,
    },
    Get {
        key: u64,
        serializable: bool,
    },
    /// A range of keys, at the present or this many revisions back.
    Range {
        from: u64,
        to: u64,
        back: i64,
    },
    Delete {
        key: u64,
    },
    DeleteRange {
        from: u64,
        to: u64,
    },
    /// Writes if the key is as this client last saw it, else reads it.
    Swap {
        key: u64,
    },
    /// Writes several keys at once if the first does not exist, else deletes it and reads the rest.
    Txn {
        keys: Vec<u64>,
    },
    /// Compacts up to this many revisions before the last seen one.
    Compact {
        back: i64,
    },
}

/// Scripts that keep clients busy for about this long.
pub fn draw(span_ms: u64, entropy: &mut Entropy) -> Vec<Vec<Step>> {
    let clients = entropy.between(1, 8);
    let keys = draw::log_uniform(1, 20, entropy);
    let total = entropy.between(800, 1600);
    let each = total / clients;
    let mean_us = (span_ms * 1000 / each).max(2);
    let bytes_max = draw::log_uniform(1, 2000, entropy);
    let weights: Vec<u64> = (0..8).map(|_| draw::log_uniform(1, 64, entropy)).collect();
    let script = |_| {
        let step = |_| Step {
            wait_us: entropy.below(mean_us),
            what: draw_what(keys, bytes_max, &weights, entropy),
        };
        (0..each).map(step).collect()
    };
    (0..clients).map(script).collect()
}

fn draw_what(keys: u64, bytes_max: u64, weights: &[u64], entropy: &mut Entropy) -> What {
    let key = entropy.below(keys);
    let to = key + 1 + entropy.below(keys);
    let mut left = entropy.below(weights.iter().sum());
    let class = weights.iter().position(|weight| {
        let here = left < *weight;
        left = left.saturating_sub(*weight);
        here
    });
    match class.expect("the draw lies below the sum") {
        0 => What::Put {
            key,
            bytes: 1 + entropy.below(bytes_max),
        },
        1 => What::Get {
            key,
            serializable: entropy.one_in(8),
        },
        2 => What::Range {
            from: key,
            to,
            back: if entropy.one_in(2) {
                0
            } else {
                1 + entropy.below(50).cast_signed()
            },
        },
        3 => What::Delete { key },
        4 => What::DeleteRange { from: key, to },
        5 | 6 if entropy.one_in(3) => {
            let count = draw::usize(keys.min(4));
            let size = 1 + draw::index(count, entropy);
            let keys = draw::subset(draw::usize(keys), size, entropy);
            What::Txn {
                keys: keys.into_iter().map(|key| key as u64).collect(),
            }
        }
        5 | 6 => What::Swap { key },
        _ => {
            // Compactions are rare beside everything else, else there is no history to read.
            if entropy.one_in(5) {
                What::Compact {
                    back: entropy.below(30).cast_signed(),
                }
            } else {
                What::Put {
                    key,
                    bytes: 1 + entropy.below(bytes_max),
                }
            }
        }
    }
}
