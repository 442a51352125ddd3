//! What the log looks like and where it goes; known first, so that all else can be logged.

use super::args::Args;
use crate::{
    host::tokio::log::{LogFormat, LogOutput, Rotation},
    kernel::effect::LogLevel,
};

/// What the log looks like and where it goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// Lines below this are not written.
    pub level_min: LogLevel,
    /// JSON or console.
    pub format: LogFormat,
    /// Every output gets every line.
    pub outputs: Vec<LogOutput>,
}

/// Settings of the log; known first, so that all else can be logged.
pub fn log_config(args: &Args) -> Result<LogConfig, String> {
    match args.text("logger") {
        "zap" => {}
        "capnslog" => return Err("--logger=capnslog is removed in v3.5".to_owned()),
        other => return Err(format!("unknown logger option {other:?}")),
    }
    let level_min = match args.text("log-level") {
        "debug" => LogLevel::Debug,
        "info" => LogLevel::Info,
        "warn" => LogLevel::Warn,
        // We end with one line of level error where etcd has panic and fatal.
        "error" | "dpanic" | "panic" | "fatal" => LogLevel::Error,
        other => return Err(format!("unrecognized level: {other:?}")),
    };
    let format = match args.text("log-format") {
        "json" => LogFormat::Json,
        "console" => LogFormat::Console,
        other => return Err(format!("unknown log format: {other}")),
    };
    Ok(LogConfig {
        level_min,
        format,
        outputs: log_outputs(args)?,
    })
}

const ROTATES_ONE_FILE: &str =
    "--log-outputs requires a single file path when --log-rotate-config-json is defined";
const JOURNAL: &str = "systemd/journal";

fn log_outputs(args: &Args) -> Result<Vec<LogOutput>, String> {
    let mut outputs = args.list("log-outputs");
    if outputs.is_empty() {
        outputs.push("default");
    }
    if outputs.contains(&"default") && outputs.len() > 1 {
        return Err("multi logoutput for \"default\" is not supported yet".to_owned());
    }
    if outputs.contains(&JOURNAL) && outputs.len() > 1 {
        return Err(format!(
            "running with systemd/journal but other '--log-outputs' values ({outputs:?}) are \
             configured with 'default'; override 'default' value with something else"
        ));
    }
    let rotation = match args.bool("enable-log-rotation") {
        true => Some(rotation(args.text("log-rotation-config-json"))?),
        false => None,
    };
    let is_file = |output: &&&str| !["default", "stderr", "stdout"].contains(*output);
    let files = outputs.iter().filter(is_file).count();
    if rotation.is_some() && (files > 1 || (outputs.len() == 1 && files == 0)) {
        return Err(ROTATES_ONE_FILE.to_owned());
    }
    let outputs = outputs.into_iter().map(|output| match (output, rotation) {
        ("default" | "stderr", _) => LogOutput::Stderr,
        ("stdout", _) => LogOutput::Stdout,
        (JOURNAL, _) => LogOutput::Journal,
        (path, Some(rotation)) => LogOutput::Rotated(path.to_owned(), rotation),
        (path, None) => LogOutput::File(path.to_owned()),
    });
    Ok(outputs.collect())
}

/// The settings of a rotated file, in the JSON that etcd hands to its library.
fn rotation(text: &str) -> Result<Rotation, String> {
    let json: serde_json::Value = serde_json::from_str(text)
        .map_err(|error| format!("improperly formatted log rotation config: {error}"))?;
    let wrong = |name: &str| {
        format!("invalid log rotation config: json: cannot unmarshal the value of {name}")
    };
    if !json.is_object() {
        return Err(wrong("the whole"));
    }
    let number = |name: &str| match json.get(name) {
        None => Ok(0),
        Some(value) => value.as_u64().ok_or_else(|| wrong(name)),
    };
    let flag = |name: &str| match json.get(name) {
        None => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| wrong(name)),
    };
    Ok(Rotation {
        megabytes_max: number("maxsize")?,
        days_max: u32::try_from(number("maxage")?).map_err(|_| wrong("maxage"))?,
        files_max: usize::try_from(number("maxbackups")?).map_err(|_| wrong("maxbackups"))?,
        local_time: flag("localtime")?,
        compress: flag("compress")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_configured_by_etcds_words() {
        let log = |arguments: &[&str]| {
            let arguments = arguments.iter().map(|text| (*text).to_owned());
            log_config(&Args::parse(arguments, []).unwrap())
        };
        let standard = log(&[]).unwrap();
        assert_eq!(standard.outputs, [LogOutput::Stderr]);
        assert_eq!(standard.level_min, LogLevel::Info);
        let given = log(&[
            "--log-level=panic",
            "--log-outputs=stdout,/x",
            "--log-format=console",
        ]);
        let given = given.unwrap();
        assert_eq!(given.level_min, LogLevel::Error);
        let file = LogOutput::File("/x".to_owned());
        assert_eq!(given.outputs, [LogOutput::Stdout, file]);
        assert_eq!(given.format, LogFormat::Console);
        for wrong in [
            "--log-level=loud",
            "--log-format=xml",
            "--logger=capnslog",
            "--log-outputs=default,stdout",
            "--log-outputs=systemd/journal,stdout",
        ] {
            assert!(log(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_file_of_the_log_can_be_rotated() {
        let outputs = |outputs: &str, json: &str| {
            let arguments = [
                "--enable-log-rotation".to_owned(),
                format!("--log-outputs={outputs}"),
                format!("--log-rotation-config-json={json}"),
            ];
            log_config(&Args::parse(arguments, []).unwrap()).map(|log| log.outputs)
        };
        let json = r#"{"maxsize": 3, "maxage": 2, "maxbackups": 1, "compress": true}"#;
        let rotation = Rotation {
            megabytes_max: 3,
            days_max: 2,
            files_max: 1,
            local_time: false,
            compress: true,
        };
        let rotated = LogOutput::Rotated("/x".to_owned(), rotation);
        assert_eq!(outputs("/x", json).unwrap().first(), Some(&rotated));
        assert_eq!(
            outputs("stderr,/x", json).unwrap(),
            [LogOutput::Stderr, rotated]
        );
        for (names, json, reason) in [
            ("stderr", "{}", ROTATES_ONE_FILE),
            ("/x,/y", "{}", ROTATES_ONE_FILE),
            ("/x", "{", "improperly formatted log rotation config: "),
            (
                "/x",
                r#"{"maxsize": true}"#,
                "invalid log rotation config: ",
            ),
            ("/x", r#"{"maxage": -1}"#, "invalid log rotation config: "),
            ("/x", "[]", "invalid log rotation config: "),
        ] {
            let refused = outputs(names, json).unwrap_err();
            assert!(refused.starts_with(reason), "{names} {json}: {refused}");
        }
    }
}
