//! The command line of the real binary: what it prints and how it ends.

use std::process::{Command, Output};

fn fated(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fated"));
    command.args(arguments).env_clear();
    command.envs(variables.iter().copied());
    command
        .output()
        .expect("the binary was built with this test")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("plain text")
}

/// Tools look for the line with etcd's version and compare its numbers.
#[test]
fn the_version_is_on_standard_output() {
    let output = fated(&["--version"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output.stdout);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("etcd Version: "));
    let numbers: Vec<u32> = line
        .expect("the line is there")
        .split('.')
        .map(|number| number.parse().expect("a number"))
        .collect();
    assert_eq!(numbers.len(), 3);
    assert!(output.stderr.is_empty());
}

#[test]
fn help_goes_to_standard_output_and_a_wrong_flag_to_standard_error() {
    let help = fated(&["-h"], &[]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("--initial-cluster-token 'etcd-cluster'"));
    let wrong = fated(&["--no-such-flag"], &[]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).starts_with("flag provided but not defined: -no-such-flag\n"));
    assert!(wrong.stdout.is_empty());
}

/// A refused configuration ends with 1, one clear line, and nothing on disk.
#[test]
fn a_refused_configuration_leaves_no_trace() {
    let home = tempfile::tempdir().expect("a directory");
    let data = home.path().join("data");
    let data_dir = format!("--data-dir={}", data.display());
    let refused = fated(&[&data_dir, "--election-timeout=1"], &[]);
    assert_eq!(refused.status.code(), Some(1));
    let log = text(&refused.stderr);
    let last = log.lines().last().expect("a line");
    let last: serde_json::Value = serde_json::from_str(last).expect("one object per line");
    assert_eq!(last["level"], "error");
    assert!(
        last["msg"]
            .as_str()
            .is_some_and(|msg| msg.contains("--election-timeout"))
    );
    let conflict = fated(&[&data_dir, "--name=a"], &[("ETCD_NAME", "b")]);
    assert_eq!(conflict.status.code(), Some(1));
    assert!(text(&conflict.stderr).contains("ETCD_NAME"));
    assert!(!data.exists());
}
