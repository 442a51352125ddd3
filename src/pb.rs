//! Generated protobuf messages, in the module tree of their packages.

#![allow(missing_docs, clippy::all)]

/// The compiled descriptors of every `.proto` file, for reflection and JSON.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

pub mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
}
pub mod authpb {
    include!(concat!(env!("OUT_DIR"), "/authpb.rs"));
}
pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}
pub mod v3lockpb {
    include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
}
pub mod v3electionpb {
    include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
}
pub mod fated {
    pub mod command {
        include!(concat!(env!("OUT_DIR"), "/fated.command.rs"));
    }
    pub mod peer {
        include!(concat!(env!("OUT_DIR"), "/fated.peer.rs"));
    }
    pub mod record {
        include!(concat!(env!("OUT_DIR"), "/fated.record.rs"));
    }
}
