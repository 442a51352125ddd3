//! Real processes on loopback: what one member and three members promise, also when they are killed,
//! stopped and left behind.

mod single;
