//! The consensus core in a world of its own: random schedules under an observer, and golden
//! scripts.

mod cluster;
mod hostile;
mod observer;
mod print;
mod script;
mod world;
