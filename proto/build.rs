//! Compiles the `.proto` files with protox, so that no protoc binary is needed.
//! Messages are always generated; the gRPC services only for the `server` feature.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 8] = [
    "etcd/kv.proto",
    "etcd/auth.proto",
    "etcd/rpc.proto",
    "etcd/lock.proto",
    "etcd/election.proto",
    "fated/command.proto",
    "fated/peer.proto",
    "fated/record.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    if env::var_os("CARGO_FEATURE_SERVER").is_some() {
        tonic_prost_build::configure()
            .bytes(".")
            .compile_fds(descriptors)?;
    } else {
        prost_build::Config::new()
            .bytes(["."])
            .compile_fds(descriptors)?;
    }
    Ok(())
}
