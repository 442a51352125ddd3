//! The simulator: a cluster under faults, and the judges of what it did.
//!
//! The judges (histories, the sequential model, the checkers) and the parts that only decide or
//! keep things (plans, clocks, disks, traces) are pure code. The world that runs a plan exists in
//! simulation builds only.

pub mod broken;
pub mod check;
pub mod history;
pub mod model;

pub mod clock;
pub mod counters;
pub mod disk;
pub mod draw;
pub mod faults;
pub mod membership;
pub mod mutants;
pub mod observe;
pub mod overload;
pub mod plan;
pub mod queue;
pub mod relevant;
pub mod roster;
pub mod script;
pub mod shrink;
pub mod store;
pub mod trace;
pub mod watching;

#[cfg(madsim)]
pub mod boot;
#[cfg(madsim)]
pub mod client;
#[cfg(madsim)]
pub mod host;
#[cfg(madsim)]
pub mod lanes;
#[cfg(madsim)]
pub mod links;
#[cfg(madsim)]
pub mod nemesis;
#[cfg(madsim)]
pub mod operator;
#[cfg(madsim)]
pub mod record;
#[cfg(madsim)]
pub mod run;
#[cfg(madsim)]
pub mod tally;
#[cfg(madsim)]
pub mod transfers;
#[cfg(madsim)]
pub mod watcher;
#[cfg(madsim)]
pub mod work;
#[cfg(madsim)]
pub mod world;
