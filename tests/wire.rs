//! Bad input over the wire, against the real binary.
//!
//! Goal: whatever comes in on a socket, the client gets etcd's answer, the process lives, and a
//! healthy client beside it notices nothing. Method: real servers on loopback, gRPC clients for
//! what is well-formed, a bare HTTP/2 client and bare sockets for what is not.
//!
//! With `FATED_WIRE_ENDPOINT=http://host:port` the tests that need only one healthy server run
//! against that one instead, so that a real etcd can be asked whether the expectations are its
//! own.
//!
//! Beside bad input stand the services that live at the edge alone: locks, elections, the JSON
//! gateway by HTTP and by WebSocket, reflection.

mod errors;
mod flood;
mod gateway;
mod junk;
mod level;
mod model;
mod odd;
mod pings;
mod quorum;
mod raw;
mod recipes;
mod server;
mod traces;
mod watches;
mod websocket;
