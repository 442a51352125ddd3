//! One member: its actors and how they are wired.

pub mod config;

use std::marker::PhantomData;

use crate::{
    backend::Backend,
    kernel::{Effect, Event, Instant, WallTime},
};

pub use config::{InitialMember, NodeConfig};

/// One member of the cluster, without clock, threads, files or sockets.
#[derive(Debug)]
pub struct Node<B: Backend> {
    backend: PhantomData<B>,
}

impl<B: Backend> Node<B> {
    /// Takes in what happened and puts out what must be done.
    pub fn step(
        &mut self,
        _now: Instant,
        _wall: WallTime,
        events: &mut Vec<Event>,
        _effects: &mut Vec<Effect>,
    ) {
        events.clear();
    }

    /// When the node wants a step although nothing happened.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }
}
