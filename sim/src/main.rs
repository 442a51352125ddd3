//! Runs, repeats and replays simulated lives of a cluster.
fn main() {}
