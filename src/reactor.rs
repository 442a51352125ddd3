//! The event loop, the same in production and in simulation. It has the only await of the core.

use crate::{
    backend::Backend,
    host::port::Host,
    kernel::{Effect, Fault},
    node::Node,
};

/// Runs a member until it halts.
pub async fn run<B: Backend, H: Host>(node: &mut Node<B>, host: &mut H) -> Fault {
    let mut events = Vec::new();
    let mut effects = Vec::new();
    loop {
        let (now, wall) = (host.now(), host.wall()); // time stands still within a step
        node.step(now, wall, &mut events, &mut effects);
        for effect in effects.drain(..) {
            if let Effect::Halt(fault) = effect {
                return fault;
            }
            host.execute(effect);
        }
        host.wait(node.deadline(), &mut events).await;
    }
}
