//! Measures a server under load: fated, or any other that speaks etcd's API.
//!
//! `core` asks what the core can do without gRPC. `beside` asks how much puts suffer from large
//! ranges and silent watchers. Invariant of the latter: puts are sent at fixed moments, whether or
//! not the server keeps up, and their delay counts from that moment, so a stall is seen by every
//! put that would have met it.

mod allocations;
mod beside;
mod core;
mod fill;
mod flood;
mod puts;
mod server;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures a server under load", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Puts at a steady rate, alone and then beside ranges and watchers that do not read
    Beside(beside::Options),
    /// The ranges and watchers alone, until standard input ends; `beside` starts this
    Flood(flood::Options),
    /// The core without gRPC: puts or reads by function calls
    Core(core::Options),
}

/// The allocator of the server.
type Allocator = mimalloc::MiMalloc;
#[cfg_attr(not(feature = "count-allocations"), global_allocator)]
static ALLOCATOR: Allocator = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Beside(options) => beside::run(&options).await,
        Command::Flood(options) => flood::run(&options).await,
        Command::Core(options) => core::run(&options).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(story) => {
            eprintln!("fated-bench: {story}");
            ExitCode::FAILURE
        }
    }
}

/// The key of a number: eight bytes, in the order of the numbers.
fn key(number: u64) -> String {
    format!("k{number:07}")
}
