//! Makes Lock and Election calls.
//!
//! Every call names a lease that the episode granted: a lease of the server's own would run out by
//! the clock. A call that has to wait for another holder ends by its own deadline.

use bytes::Bytes;
use fated::pb::{
    v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest},
    v3lockpb::{LockRequest, UnlockRequest},
};

use crate::{ask::Ask, world::World};

/// The next of them.
pub fn next(world: &mut World) -> Ask {
    let name = Bytes::from_static(world.random.of(&[b"l1", b"l2", b"a/", b""]));
    match world.random.below(12) {
        0 | 1 => Ask::Lock(LockRequest {
            name,
            lease: given_lease(world),
        }),
        2 | 3 => {
            let held = world.locks.clone();
            let key = match held.is_empty() || world.random.one_in(5) {
                true => world.key(),
                false => world.random.of(&held),
            };
            Ask::Unlock(UnlockRequest { key })
        }
        4 | 5 => Ask::Campaign(CampaignRequest {
            name,
            lease: given_lease(world),
            value: world.value(),
        }),
        6 | 7 => Ask::Proclaim(ProclaimRequest {
            leader: leader(world),
            value: world.value(),
        }),
        8 => Ask::Leader(LeaderRequest { name }),
        9 => Ask::Observe(LeaderRequest { name }),
        _ => Ask::Resign(ResignRequest {
            leader: leader(world),
        }),
    }
}

/// A lease that is given, though perhaps not granted.
fn given_lease(world: &mut World) -> i64 {
    match world.lease() {
        0 => 4711,
        lease => lease,
    }
}

fn leader(world: &mut World) -> Option<LeaderKey> {
    let won = world.leaders.clone();
    match world.random.below(8) {
        0 => None,
        1 => Some(LeaderKey {
            name: world.key(),
            key: world.key(),
            rev: world.any_revision(),
            // The server would make a lease for none.
            lease: given_lease(world),
        }),
        _ if won.is_empty() => None,
        _ => Some(world.random.of(&won)),
    }
}
