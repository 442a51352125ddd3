//! Log lines for the journal of systemd, one datagram a line.
//!
//! ```text
//! MESSAGE=<the line>\n
//! PRIORITY=<0..7>\n
//! SYSLOG_IDENTIFIER=fated\n
//! PACKAGE=<directory of the caller>\n
//! ```
//!
//! Invariant: a line that the journal does not take is written on standard error.

use std::{
    io::{self, Write},
    os::unix::net::UnixDatagram,
    path::Path,
};

use serde_json::Value;

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// The way to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// Finds the journal.
    pub fn connect(path: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path).map_err(|error| {
            let story = format!("cannot reach the journal at {path}: {error}");
            io::Error::new(error.kind(), story)
        })?;
        Ok(Self { socket })
    }
}

impl Write for Journal {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.socket.send(&datagram(line)).is_err() {
            io::stderr().write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn datagram(line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(line);
    let fields: Value = serde_json::from_str(&text).unwrap_or_default();
    let word = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
    let priority = match &*word("level") {
        "debug" => 7,
        "warn" => 4,
        "error" => 3,
        _ => 6,
    };
    let caller = word("caller");
    let package = Path::new(&caller).parent().unwrap_or(Path::new(""));
    // Several lines come together when lines were dropped; a field of one line ends at its end.
    let message = text.trim_end().replace('\n', " ");
    let package = package.display();
    format!("MESSAGE={message}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER=fated\nPACKAGE={package}\n")
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_datagram_with_its_priority() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let listener = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::connect(path.to_str().unwrap()).unwrap();
        journal
            .write_all(b"{\"level\":\"warn\",\"caller\":\"node/x.rs:0\",\"msg\":\"m\"}\n")
            .unwrap();
        let mut buffer = [0; 1000];
        let length = listener.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        assert!(text.starts_with("MESSAGE={\"level\":\"warn\","));
        assert!(text.ends_with("\nPRIORITY=4\nSYSLOG_IDENTIFIER=fated\nPACKAGE=node\n"));
        assert!(Journal::connect("/nowhere/journal").is_err());
    }
}
