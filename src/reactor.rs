//! The event loop, the same in production and in simulation. It has the only await of the core.

use crate::{
    backend::Backend,
    host::port::Host,
    kernel::{Effect, Event, Fault},
    node::Node,
};

/// Runs a member until it halts.
pub async fn run<B: Backend, H: Host>(node: &mut Node<B>, host: &mut H) -> Fault {
    let mut events = Vec::new();
    let mut effects = Vec::new();
    loop {
        if let Some(fault) = turn(node, host, &mut events, &mut effects) {
            return fault;
        }
        host.wait(node.deadline(), &mut events).await;
    }
}

/// One turn of the loop: a step of the node, and what it wants begun. `events` and `effects` come
/// back empty. Public for hosts that look at the node between two turns.
pub fn turn<B: Backend, H: Host>(
    node: &mut Node<B>,
    host: &mut H,
    events: &mut Vec<Event>,
    effects: &mut Vec<Effect>,
) -> Option<Fault> {
    let (now, wall) = (host.now(), host.wall()); // time stands still within a step
    node.step(now, wall, events, effects);
    node.stepped(host.now().since(now));
    for effect in effects.drain(..) {
        if let Effect::Halt(fault) = effect {
            return Some(fault);
        }
        host.execute(effect);
    }
    None
}
