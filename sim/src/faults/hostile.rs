//! Rarer faults, drawn from a stream of their own: disks that mix up or lose places, partitions
//! that wander, clocks that flicker, links that crawl, crashes inside what is rarely reached.

use fated::kernel::Entropy;

use super::{DiskFault, Fault, FaultKind, Part, Point, Shape, Target};
use crate::{draw, plan::ClusterPlan};

const CLASSES: usize = 10;

/// The schedule of a plan. At most `damaged_max` members lose their disks' trust for good.
pub(super) fn draw(
    cluster: &ClusterPlan,
    faults_ms: u64,
    damaged_max: usize,
    entropy: &mut Entropy,
) -> Vec<Fault> {
    let on: Vec<usize> = (0..CLASSES).filter(|_| entropy.one_in(3)).collect();
    let mut faults = Vec::new();
    if on.is_empty() {
        return faults;
    }
    let mean_ms = draw::log_uniform(1_000, 10_000, entropy);
    let mut damage_left = damaged_max;
    let mut at_ms = entropy.below(2 * mean_ms);
    while at_ms < faults_ms {
        let class = on[draw::index(on.len(), entropy)];
        draw_class(
            class,
            at_ms,
            cluster,
            &mut damage_left,
            &mut faults,
            entropy,
        );
        at_ms += 1 + entropy.below(2 * mean_ms);
    }
    faults
}

fn draw_class(
    class: usize,
    at_ms: u64,
    cluster: &ClusterPlan,
    damage_left: &mut usize,
    faults: &mut Vec<Fault>,
    entropy: &mut Entropy,
) {
    let members = cluster.members;
    let member = draw::index(members, entropy);
    let target = match entropy.one_in(3) {
        true => Target::Leader,
        false => Target::Member(member),
    };
    let kind = match class {
        0 => {
            if *damage_left == 0 || !entropy.one_in(3) {
                return;
            }
            *damage_left -= 1;
            draw_damage(member, entropy)
        }
        1 => {
            let kinds = [
                DiskFault::CommitFull,
                DiskFault::Stage,
                DiskFault::StageFull,
                DiskFault::Read,
            ];
            let on = kinds[draw::index(kinds.len(), entropy)];
            FaultKind::DiskError { target, on }
        }
        2 if members > 2 => return swizzle(at_ms, members, faults, entropy),
        3 => return strobe(at_ms, member, faults, entropy),
        4 => FaultKind::ResetImage { target },
        5 => FaultKind::SlowLinks {
            target,
            bytes_per_ms: draw::log_uniform(1, 1000, entropy),
        },
        // A log write that is on its way is torn.
        6 => FaultKind::CrashAt {
            target,
            point: Point::LogWritten,
            power: true,
        },
        // The points behind the common ones.
        7 | 8 => {
            let rare = &Point::ALL[10..];
            FaultKind::CrashAt {
                target,
                point: rare[draw::index(rare.len(), entropy)],
                power: entropy.one_in(2),
            }
        }
        9 => FaultKind::CrashFirst {
            // Images are seldom dropped.
            point: match entropy.one_in(3) {
                true => Point::StageDropped,
                false => Point::OF_IMAGES[draw::index(Point::OF_IMAGES.len(), entropy)],
            },
            power: entropy.one_in(2),
        },
        _ => return,
    };
    faults.push(Fault {
        at_ms,
        for_ms: draw::log_uniform(50, 8_000, entropy),
        kind,
    });
}

fn draw_damage(member: usize, entropy: &mut Entropy) -> FaultKind {
    let part = [Part::Log, Part::Store, Part::All][draw::index(3, entropy)];
    match entropy.below(3) {
        0 => FaultKind::Miswrite { member },
        1 => FaultKind::Misread { member },
        _ => FaultKind::LostDisk { member, part },
    }
}

/// Members are cut off one after the other, and come back in another order.
fn swizzle(at_ms: u64, members: usize, faults: &mut Vec<Fault>, entropy: &mut Entropy) {
    let size = 1 + draw::index(members, entropy);
    let some = draw::subset(members, size, entropy);
    let gap_ms = draw::log_uniform(20, 1_000, entropy);
    let hold = entropy.one_in(3);
    let last_ms = at_ms + gap_ms * some.len() as u64;
    for member in some {
        let from_ms = at_ms + entropy.below(last_ms - at_ms);
        let to_ms = last_ms + entropy.below(last_ms - at_ms);
        let others = (0..members).filter(|other| *other != member);
        let pairs = others.flat_map(|other| [(member, other), (other, member)]);
        faults.push(Fault {
            at_ms: from_ms,
            for_ms: to_ms - from_ms,
            kind: FaultKind::Block {
                shape: Shape::Swizzle,
                pairs: pairs.collect(),
                hold,
            },
        });
    }
}

/// Civil time jumps to and fro.
fn strobe(at_ms: u64, member: usize, faults: &mut Vec<Fault>, entropy: &mut Entropy) {
    let ms = draw::signed(draw::log_uniform(1, 100_000, entropy), entropy);
    let gap_ms = draw::log_uniform(1, 200, entropy);
    for number in 0..2 * entropy.between(2, 20) {
        faults.push(Fault {
            at_ms: at_ms + number * gap_ms,
            for_ms: 1,
            kind: FaultKind::WallJump {
                member,
                ms: if number.is_multiple_of(2) { ms } else { -ms },
            },
        });
    }
}
