//! Flags of what the server does by itself: compaction by the clock, and clearing the alarm about
//! space.

use std::time::Duration;

use super::args::{Args, parse_duration};
use crate::node::upkeep::{AutoCompaction, compaction::REVISION_EVERY};

/// Whether the NOSPACE alarm is cleared by itself.
pub fn quota_alarm_clears(args: &Args) -> Result<bool, String> {
    match args.text("quota-alarm-clear") {
        "auto" => Ok(true),
        "manual" => Ok(false),
        other => Err(format!(
            "--quota-alarm-clear is \"auto\" or \"manual\" (set to {other:?})"
        )),
    }
}

/// What is kept of the history. A number counts hours or revisions, anything else is a time.
pub fn auto_compaction(args: &Args) -> Result<Option<AutoCompaction>, String> {
    let is_periodic = match args.text("auto-compaction-mode") {
        "periodic" => true,
        "revision" => false,
        "" => return Err("undefined auto-compaction-mode".to_owned()),
        other => return Err(format!("unknown auto-compaction-mode {other:?}")),
    };
    let retention = args.text("auto-compaction-retention");
    let retention = if retention.is_empty() { "0" } else { retention };
    let wrong =
        || format!("error parsing CompactionRetention: time: invalid duration {retention:?}");
    match (is_periodic, retention.parse::<u32>().ok()) {
        (_, Some(0)) => Ok(None),
        (true, Some(hours)) => {
            let keep = Duration::from_secs(u64::from(hours) * 3600);
            Ok(Some(AutoCompaction::Periodic { keep }))
        }
        (true, None) => match parse_duration(retention).ok_or_else(wrong)? {
            Duration::ZERO => Ok(None),
            keep if keep < AutoCompaction::PERIOD_MIN => Err(format!(
                "--auto-compaction-retention must be at least {:?} (set to {keep:?})",
                AutoCompaction::PERIOD_MIN
            )),
            keep => Ok(Some(AutoCompaction::Periodic { keep })),
        },
        (false, _) => {
            let keep = retention.parse::<i64>().ok().filter(|keep| *keep > 0);
            // etcd takes "5m" for that many nanoseconds' worth of revisions; nobody can mean it.
            let keep = keep.ok_or_else(|| {
                format!("error parsing CompactionRetention: {retention:?} counts no revisions")
            })?;
            let every = REVISION_EVERY;
            Ok(Some(AutoCompaction::Revision { keep, every }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(arguments: &[&str]) -> Args {
        let arguments = arguments.iter().map(|text| (*text).to_owned());
        Args::parse(arguments, []).expect("flags that exist")
    }

    fn compaction(mode: &str, retention: &str) -> Result<Option<AutoCompaction>, String> {
        let mode = format!("--auto-compaction-mode={mode}");
        let retention = format!("--auto-compaction-retention={retention}");
        auto_compaction(&args(&[&mode, &retention]))
    }

    #[test]
    fn retentions_are_read_as_etcd_reads_them() {
        let keep = |seconds| {
            Ok(Some(AutoCompaction::Periodic {
                keep: Duration::from_secs(seconds),
            }))
        };
        assert_eq!(auto_compaction(&args(&[])), Ok(None));
        assert_eq!(compaction("periodic", "1"), keep(3600));
        assert_eq!(compaction("periodic", "72h"), keep(72 * 3600));
        assert_eq!(compaction("periodic", "5m30s"), keep(330));
        for none in ["0", "0s", ""] {
            assert_eq!(compaction("periodic", none), Ok(None), "{none:?}");
        }
        let every = REVISION_EVERY;
        let revisions = Ok(Some(AutoCompaction::Revision { keep: 1000, every }));
        assert_eq!(compaction("revision", "1000"), revisions);
        assert_eq!(compaction("revision", "0"), Ok(None));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (mode, retention, expected) in [
            ("", "1", "undefined auto-compaction-mode"),
            ("daily", "1", "unknown auto-compaction-mode \"daily\""),
            ("periodic", "soon", "error parsing CompactionRetention"),
            ("periodic", "-1", "error parsing CompactionRetention"),
            ("periodic", "5ns", "must be at least"),
            ("revision", "5m", "counts no revisions"),
            ("revision", "-5", "counts no revisions"),
        ] {
            let refused = compaction(mode, retention).unwrap_err();
            assert!(refused.contains(expected), "{mode} {retention}: {refused}");
        }
    }

    #[test]
    fn the_alarm_clears_itself_unless_told_otherwise() {
        assert_eq!(quota_alarm_clears(&args(&[])), Ok(true));
        assert_eq!(
            quota_alarm_clears(&args(&["--quota-alarm-clear=manual"])),
            Ok(false)
        );
        assert!(quota_alarm_clears(&args(&["--quota-alarm-clear=never"])).is_err());
    }
}
