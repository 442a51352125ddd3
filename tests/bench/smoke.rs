//! Every load and every cell, small and short, against a server as it is tested: so that the
//! yardstick works on the day it is needed.

use std::{path::PathBuf, process::Command, time::Duration};

use clap::{Args, CommandFactory, FromArgMatches, ValueEnum};

use crate::{
    beside,
    cells::{self, Sizes, Subject},
    client::Conn,
    null,
    results::figure,
    rows::{self, Kind, Side},
    server::Cluster,
    workload::{self, Spec, Workload},
};

/// The server, built as for the tests of its own.
fn fated() -> PathBuf {
    let cargo = std::env::var_os("CARGO").expect("cargo runs the tests");
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--bin", "fated"])
        .current_dir(root)
        .status();
    assert!(built.expect("cargo is there").success(), "fated is built");
    let this = std::env::current_exe().expect("it runs");
    let deps = this.parent().expect("a test is in a directory");
    deps.parent().expect("so is that").join("fated")
}

fn spec() -> Spec {
    Spec {
        keys: 2000,
        watchers: 50,
        seconds: 0.3,
        warm_up: 0.2,
        ..Spec::new(10, 2)
    }
}

fn sizes() -> Sizes {
    let command = Sizes::augment_args(clap::Command::new("sizes"));
    let defaults = Sizes::from_arg_matches(&command.get_matches_from(["sizes"]));
    Sizes {
        seconds: 0.3,
        keys: 2000,
        leases: 200,
        leases_ending: 100,
        ending_seconds: 5,
        history: 2000,
        steady_seconds: 0.3,
        latency_seconds: 0.3,
        big_seconds: 0.3,
        big_mb: 2,
        small_mb: 1,
        ..defaults.expect("sound defaults")
    }
}

/// Every load does something against a server, and nothing of it fails.
#[tokio::test]
async fn every_load_works() {
    let directory = std::env::temp_dir();
    let cluster = Cluster::start(&fated(), &directory, 1, &[])
        .await
        .expect("it starts");
    for workload in Workload::value_variants() {
        let done = workload::run(*workload, &spec(), &cluster.endpoints(), &cluster).await;
        let figures = done.unwrap_or_else(|why| panic!("{workload:?}: {why}"));
        assert_eq!(
            figure(&figures, "errors"),
            Some(0.0),
            "{workload:?}: {figures:?}"
        );
        assert!(
            figure(&figures, "ops") > Some(0.0),
            "{workload:?}: {figures:?}"
        );
    }
}

/// Rows that are more than a load can be measured, and give the figures of their targets.
async fn cells_work(wanted: impl Fn(&Kind) -> bool) {
    let (binary, directory) = (fated(), std::env::temp_dir());
    let subject = Subject {
        side: Side::Fated,
        binary: &binary,
        directory: &directory,
    };
    for row in rows::all().iter().filter(|row| wanted(&row.kind)) {
        let done = cells::measure(row, &subject, &sizes()).await;
        let figures = done.unwrap_or_else(|why| panic!("{}: {why}", row.name));
        let stolen = figure(&figures, "stolen_percent").expect("each cell tells it");
        assert!((0.0..=100.0).contains(&stolen), "{}: {stolen}", row.name);
        for target in &row.targets {
            let seen = figure(&figures, target.figure);
            // A run this short has no whole seconds.
            let known = seen.is_some() || target.figure == "worst_second";
            assert!(known, "{}: no {} in {figures:?}", row.name, target.figure);
        }
    }
}

#[tokio::test]
async fn many_keys_work() {
    cells_work(|kind| matches!(kind, Kind::Many | Kind::ManyPuts | Kind::Idle)).await;
}

#[tokio::test]
async fn leases_work() {
    cells_work(|kind| matches!(kind, Kind::LeasesHeld | Kind::LeasesEnding)).await;
}

#[tokio::test]
async fn long_rows_work() {
    // Puts beside large ranges take a while even if they are few; they are a command of their own.
    cells_work(|kind| matches!(kind, Kind::Compaction | Kind::Steady | Kind::Big)).await;
}

/// No two options have one name.
#[test]
fn the_commands_are_sound() {
    crate::Cli::command().debug_assert();
}

/// The options of puts beside a load can be made; a server that is not there is told.
#[tokio::test]
async fn beside_knows_its_defaults() {
    let (binary, directory) = (PathBuf::from("no-such-server"), std::env::temp_dir());
    let told = beside::figures(&binary, &directory, 1).await;
    let why = told.expect_err("there is no server");
    assert!(why.contains("cannot start no-such-server"), "{why}");
}

/// A failure is seen as one: nobody is there, or the server refuses.
#[tokio::test]
async fn failures_are_counted() {
    let listen = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listen.local_addr().expect("it listens");
    drop(listen);
    let endpoint = format!("http://{address}");
    assert!(Conn::open(&endpoint).await.is_err(), "nobody is there");
    tokio::spawn(async move { null::run(&null::Options { listen: address }).await });
    while Conn::open(&endpoint).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let endpoints = [endpoint];
    let done = workload::run(Workload::Put, &spec(), &endpoints, &())
        .await
        .expect("it serves");
    assert_eq!(figure(&done, "errors"), Some(0.0));
    // It keeps nothing, so a range of many records brings too little.
    let done = workload::run(Workload::RangeMany, &spec(), &endpoints, &()).await;
    assert!(
        figure(&done.expect("it serves"), "errors") > Some(0.0),
        "answers are looked at"
    );
}
