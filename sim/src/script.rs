//! What clients do, step by step, drawn before the run so that it can be cut down.

use fated::kernel::Entropy;
use serde::{Deserialize, Serialize};

mod classes;
mod steps;

pub use steps::*;

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
    /// Reads with filters, order and limit.
    Look(LookStep),
    /// A txn of many operations.
    Wide(WideStep),
    Lease(LeaseStep),
    Lock(LockStep),
    Queue(QueueStep),
    Kube(KubeStep),
    Upkeep(UpkeepStep),
}

/// The least number of steps in all scripts of a plan; each is one request or more.
pub const STEPS_MIN: u64 = 1050;
const STEPS_MAX: u64 = 1500;

/// Scripts that keep clients busy for about this long.
pub fn draw(span_ms: u64, members: usize, entropy: &mut Entropy) -> Vec<Vec<Step>> {
    let clients = entropy.between(1, 8);
    let total = entropy.between(STEPS_MIN, STEPS_MAX);
    let each = total.div_ceil(clients);
    let mean_us = (span_ms * 1000 / each).max(2);
    let mut mix = classes::Mix::draw(members, entropy);
    let script = |_| {
        let step = |_| Step {
            wait_us: entropy.below(mean_us),
            what: mix.draw_step(entropy),
        };
        (0..each).map(step).collect()
    };
    (0..clients).map(script).collect()
}

#[cfg(test)]
mod tests {
    use fated::kernel::Entropy;

    use super::{STEPS_MIN, What, draw};

    /// Goal: every class of work is on in about half of the plans, never none, and no plan is too
    /// short. Method: many draws, counted by what is in them.
    #[test]
    fn classes_come_and_go() {
        let mut with = [0_u32; 7];
        for seed in 0..400 {
            let scripts = draw(60_000, 3, &mut Entropy::from_seed(seed));
            let steps: Vec<_> = scripts.iter().flatten().collect();
            assert!(steps.len() as u64 >= STEPS_MIN);
            let mut found = [false; 7];
            for step in steps {
                let class = match step.what {
                    What::Look(_) | What::Wide(_) => 1,
                    What::Lease(_) => 2,
                    What::Lock(_) => 3,
                    What::Queue(_) => 4,
                    What::Kube(_) => 5,
                    What::Upkeep(_) => 6,
                    What::Put { .. }
                    | What::Get { .. }
                    | What::Range { .. }
                    | What::Delete { .. }
                    | What::DeleteRange { .. }
                    | What::Swap { .. }
                    | What::Txn { .. }
                    | What::Compact { .. } => 0,
                };
                found[class] = true;
            }
            for (class, found) in found.into_iter().enumerate() {
                with[class] += u32::from(found);
            }
        }
        for count in with {
            assert!((100..400).contains(&count), "{with:?}");
        }
    }
}
