//! A member's life under madsim: the node and the event loop of production, on a host whose time,
//! disk, network and clients are the world's.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard},
    task::Poll,
};

use fated::{
    host::port::Host,
    kernel::{Effect, Event, Instant, WallTime},
    reactor,
};

use crate::world::World;

/// The world as everybody holds it. Only one task runs at a time, so nobody ever waits for it.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<World>>);

impl Shared {
    /// Shares a world.
    pub fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    /// The world, for a moment. Also after a panic, which is what the story of a failure is read
    /// from.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// One life of a member, as its node sees it.
struct SimHost {
    shared: Shared,
    at: usize,
}

impl Host for SimHost {
    fn now(&self) -> Instant {
        let world = self.shared.world();
        world.members[self.at].clock.now(world.now)
    }

    fn wall(&self) -> WallTime {
        let world = self.shared.world();
        world.members[self.at].clock.wall(world.now)
    }

    async fn wait(&mut self, until: Option<Instant>, events: &mut Vec<Event>) {
        self.shared.world().begin_wait(self.at, until);
        poll_fn(|cx| {
            let mut world = self.shared.world();
            if world.take_turn(self.at, cx.waker(), events) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    fn execute(&mut self, effect: Effect) {
        self.shared.world().execute(self.at, effect);
    }
}

/// From boot to halt; a kill ends it wherever it stands.
pub async fn live(shared: Shared, at: usize) {
    let booted = shared.world().boot_node(at);
    let mut node = match booted {
        Ok(Some(node)) => node,
        // It died while it started.
        Ok(None) => return shared.world().end_turn(),
        Err(fault) => return shared.world().on_halt(at, &fault),
    };
    let mut host = SimHost {
        shared: shared.clone(),
        at,
    };
    let (mut events, mut effects) = (Vec::new(), Vec::new());
    loop {
        // `reactor::run`, with a look at the node between two turns.
        if let Some(fault) = reactor::turn(&mut node, &mut host, &mut events, &mut effects) {
            return shared.world().on_halt(at, &fault);
        }
        shared.world().observe(at, &node);
        host.wait(fated::node::Node::deadline(&node), &mut events)
            .await;
    }
}
