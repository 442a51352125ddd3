//! Which classes of work a plan has, and what a step of each looks like.

use fated::kernel::Entropy;

use super::{
    Condition, KubeStep, LeaseStep, LockStep, LookStep, Naming, Of, Part, QueueStep, UpkeepStep,
    What, WideStep,
};
use crate::draw;

/// A class of work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    /// Single reads and writes, and compactions.
    Plain,
    /// Reads with filters and txns of many operations.
    Wide,
    Leases,
    Locks,
    Queues,
    Kube,
    Upkeep,
}

const CLASSES: [Class; 7] = [
    Class::Plain,
    Class::Wide,
    Class::Leases,
    Class::Locks,
    Class::Queues,
    Class::Kube,
    Class::Upkeep,
];

/// What the steps of one plan are drawn from.
#[derive(Clone, Debug)]
pub(super) struct Mix {
    members: usize,
    keys: u64,
    bytes_max: u64,
    /// How many locks, queues and objects there are.
    few: u64,
    objects: u64,
    ttl_max: i64,
    /// The most operations of a list of a txn.
    width: u64,
    /// Of the classes; those that are off have none.
    weights: Vec<u64>,
    plain: Vec<u64>,
}

impl Mix {
    /// Plain work is on in three of four plans, because every guarantee is about it; each other
    /// class in half of them.
    pub(super) fn draw(members: usize, entropy: &mut Entropy) -> Self {
        let mut weigh = |on: bool| {
            let weight = draw::log_uniform(1, 64, entropy);
            if on { weight } else { 0 }
        };
        let plain = (0..8).map(|_| weigh(true)).collect();
        let mut classes = entropy.fork("classes");
        let mut weights: Vec<u64> = CLASSES
            .iter()
            .map(|class| {
                let on = match class {
                    Class::Plain => !classes.one_in(4),
                    Class::Wide
                    | Class::Leases
                    | Class::Locks
                    | Class::Queues
                    | Class::Kube
                    | Class::Upkeep => classes.one_in(2),
                };
                let weight = draw::log_uniform(1, 64, &mut classes);
                if on { weight * class.share() } else { 0 }
            })
            .collect();
        if weights.iter().all(|weight| *weight == 0) {
            weights[draw::index(CLASSES.len(), &mut classes)] = 1;
        }
        // What an operator does must not crowd out the rest.
        let others: u64 = weights[..6].iter().sum();
        if others > 0 {
            weights[6] = weights[6].min(others.div_ceil(8));
        }
        Self {
            members,
            keys: draw::log_uniform(1, 20, entropy),
            bytes_max: draw::log_uniform(1, 2000, entropy),
            few: classes.between(1, 3),
            objects: draw::log_uniform(2, 40, &mut classes),
            ttl_max: draw::log_uniform(1, 12, &mut classes).cast_signed(),
            width: draw::log_uniform(1, 40, &mut classes),
            weights,
            plain,
        }
    }

    /// One step.
    pub(super) fn draw_step(&mut self, entropy: &mut Entropy) -> What {
        match CLASSES[pick(&self.weights, entropy)] {
            Class::Plain => self.plain(entropy),
            Class::Wide if entropy.one_in(2) => What::Look(self.look(entropy)),
            Class::Wide => What::Wide(self.wide(2, entropy)),
            Class::Leases => What::Lease(self.lease(entropy)),
            Class::Locks => What::Lock(self.lock(entropy)),
            Class::Queues => {
                let queue = entropy.below(self.few);
                What::Queue(match entropy.one_in(2) {
                    true => QueueStep::Enqueue { queue },
                    false => QueueStep::Dequeue { queue },
                })
            }
            Class::Kube => What::Kube(self.kube(entropy)),
            Class::Upkeep => What::Upkeep(self.upkeep(entropy)),
        }
    }

    fn plain(&self, entropy: &mut Entropy) -> What {
        let key = entropy.below(self.keys);
        let to = key + 1 + entropy.below(self.keys);
        match pick(&self.plain, entropy) {
            0 => self.put(key, entropy),
            1 => What::Get {
                key,
                serializable: entropy.one_in(8),
            },
            2 => What::Range {
                from: key,
                to,
                back: back(2, 50, entropy),
            },
            3 => What::Delete { key },
            4 => What::DeleteRange { from: key, to },
            5 | 6 if entropy.one_in(3) => {
                let count = draw::usize(self.keys.min(4));
                let size = 1 + draw::index(count, entropy);
                let keys = draw::subset(draw::usize(self.keys), size, entropy);
                What::Txn {
                    keys: keys.into_iter().map(|key| key as u64).collect(),
                }
            }
            5 | 6 => What::Swap { key },
            // Compactions are rare beside everything else, else there is no history to read.
            _ if entropy.one_in(5) => What::Compact {
                back: entropy.below(30).cast_signed(),
            },
            _ => self.put(key, entropy),
        }
    }

    fn put(&self, key: u64, entropy: &mut Entropy) -> What {
        What::Put {
            key,
            bytes: 1 + entropy.below(self.bytes_max),
        }
    }

    fn look(&self, entropy: &mut Entropy) -> LookStep {
        let from = entropy.below(self.keys);
        let sorts = !entropy.one_in(3);
        let mut number = |of: u64| i32::try_from(entropy.below(of)).expect("a small number");
        let (order, target) = (number(3), number(5));
        let limits = entropy.one_in(2);
        LookStep {
            from,
            to: from + entropy.below(self.keys),
            back: back(2, 40, entropy),
            limit: if limits {
                entropy.below(6).cast_signed()
            } else {
                0
            },
            sort_order: if sorts { order } else { 0 },
            sort_target: if sorts { target } else { 0 },
            serializable: entropy.one_in(8),
            keys_only: entropy.one_in(4),
            count_only: entropy.one_in(6),
            mod_from: back(4, 60, entropy),
            mod_to: back(4, 60, entropy),
            create_from: back(4, 60, entropy),
            create_to: back(4, 60, entropy),
        }
    }

    /// Keys of a list are mostly different, for a key that is written twice is refused.
    fn wide(&self, depth: u64, entropy: &mut Entropy) -> WideStep {
        let conditions = entropy.below(3);
        WideStep {
            compare: (0..conditions).map(|_| self.condition(entropy)).collect(),
            success: self.parts(depth, entropy),
            failure: self.parts(depth, entropy),
        }
    }

    fn condition(&self, entropy: &mut Entropy) -> Condition {
        let key = entropy.below(self.keys);
        Condition {
            key,
            to: entropy
                .one_in(4)
                .then(|| key + 1 + entropy.below(self.keys)),
            result: i32::try_from(entropy.below(4)).expect("a small number"),
            of: match entropy.below(6) {
                0 => Of::Version(entropy.below(4).cast_signed()),
                1 => Of::Create(entropy.below(40).cast_signed()),
                2 => Of::Lease(entropy.below(8)),
                3 => Of::Value,
                _ => Of::Seen,
            },
        }
    }

    fn parts(&self, depth: u64, entropy: &mut Entropy) -> Vec<Part> {
        let most = self.width.min(self.keys);
        let size = draw::usize(entropy.below(most + 1));
        let keys = draw::subset(draw::usize(self.keys), size, entropy);
        let mut parts: Vec<Part> = keys
            .into_iter()
            .map(|key| self.part(key as u64, entropy))
            .collect();
        if depth > 0 && entropy.one_in(3) {
            let inner = Part::Txn(self.wide(depth - 1, entropy));
            parts.insert(draw::index(parts.len() + 1, entropy), inner);
        }
        parts
    }

    fn part(&self, key: u64, entropy: &mut Entropy) -> Part {
        match entropy.below(8) {
            0..=2 => Part::Put {
                key,
                prev_kv: entropy.one_in(2),
                lease: entropy.one_in(8).then(|| entropy.below(8)),
            },
            3 => Part::Delete { key },
            4 if entropy.one_in(3) => Part::Touch { key },
            _ => Part::Read {
                from: key,
                to: key + entropy.below(self.keys),
                back: back(2, 40, entropy),
                limit: entropy.below(4).cast_signed(),
            },
        }
    }

    fn lease(&self, entropy: &mut Entropy) -> LeaseStep {
        let pick = entropy.below(8);
        match entropy.below(12) {
            0..=2 => LeaseStep::Grant {
                ttl: self.ttl(entropy),
                naming: match entropy.below(6) {
                    0 | 1 => Naming::Cluster,
                    2 => Naming::Again { pick },
                    _ => Naming::Fresh,
                },
            },
            3..=5 => LeaseStep::KeepAlive { pick },
            6 => LeaseStep::Revoke { pick },
            7 => LeaseStep::TimeToLive {
                pick,
                keys: !entropy.one_in(3),
            },
            8 => LeaseStep::List,
            _ => LeaseStep::Put {
                key: entropy.below(self.keys),
                pick,
                bytes: 1 + entropy.below(self.bytes_max),
            },
        }
    }

    fn ttl(&self, entropy: &mut Entropy) -> i64 {
        1 + entropy.below(self.ttl_max.cast_unsigned()).cast_signed()
    }

    fn lock(&self, entropy: &mut Entropy) -> LockStep {
        LockStep {
            lock: entropy.below(self.few),
            ttl: self.ttl(entropy),
            election: entropy.one_in(3),
            writes: entropy.below(5),
            pause_us: draw::log_uniform(1, 2_000_000, entropy),
            gives_back: !entropy.one_in(5),
        }
    }

    fn kube(&self, entropy: &mut Entropy) -> KubeStep {
        let object = entropy.below(self.objects);
        match entropy.below(16) {
            0..=3 => KubeStep::Create {
                object,
                event: entropy.one_in(4),
            },
            4..=9 => KubeStep::Update { object },
            10 | 11 => KubeStep::Delete { object },
            12..=14 => KubeStep::List {
                page: draw::log_uniform(1, 20, entropy).cast_signed(),
            },
            _ => KubeStep::Compact,
        }
    }

    fn upkeep(&self, entropy: &mut Entropy) -> UpkeepStep {
        let member = draw::index(self.members, entropy);
        match entropy.below(10) {
            0 | 1 => UpkeepStep::Defragment { member },
            2 | 3 => UpkeepStep::Snapshot { member },
            4 | 5 => UpkeepStep::Hash {
                back: back(4, 30, entropy),
            },
            6 => UpkeepStep::Status { member },
            7 => UpkeepStep::Downgrade {
                member,
                begins: true,
            },
            8 => UpkeepStep::Downgrade {
                member,
                begins: false,
            },
            _ => UpkeepStep::Alarms,
        }
    }
}

impl Class {
    /// What makes up for steps of many requests: of those, fewer are drawn.
    fn share(self) -> u64 {
        match self {
            Self::Plain | Self::Wide | Self::Leases | Self::Kube => 4,
            Self::Queues | Self::Upkeep => 2,
            Self::Locks => 1,
        }
    }
}

/// Revisions back: none in one of so many draws.
fn back(one_in: u64, most: u64, entropy: &mut Entropy) -> i64 {
    if entropy.one_in(one_in) {
        1 + entropy.below(most).cast_signed()
    } else {
        0
    }
}

/// An index, by weight.
fn pick(weights: &[u64], entropy: &mut Entropy) -> usize {
    let mut left = entropy.below(weights.iter().sum());
    let found = weights.iter().position(|weight| {
        let here = left < *weight;
        left = left.saturating_sub(*weight);
        here
    });
    found.expect("the draw lies below the sum")
}
