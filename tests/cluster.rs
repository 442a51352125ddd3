//! Real processes on loopback: what one member and three members promise, also when they are
//! killed, stopped and left behind.

mod behind;
mod chaos;
mod configured;
#[cfg(feature = "failpoints")]
mod failing;
mod failover;
mod forced;
mod founding;
mod joining;
mod leases;
mod ledger;
mod load;
mod members;
mod pause;
mod reader;
mod recipes;
mod rolling;
mod single;
mod sockets;
mod space;
mod three;
mod watches;
mod zombies;
