//! SIGTERM and SIGINT become an event; a second one ends the process at once.

use std::io;

use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::UnboundedSender,
};

use super::log::Log;
use crate::kernel::{Event, Signal};

/// Begins to listen; the runtime must be running.
pub fn listen(events: UnboundedSender<Event>, log: Log) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for round in 0.. {
            let name = tokio::select! {
                _ = terminate.recv() => "terminated",
                _ = interrupt.recv() => "interrupt",
            };
            let fields = [("signal", json!(name))];
            if round > 0 {
                log.warn(
                    "tokio/signal.rs:0",
                    "received a second signal; exiting",
                    &fields,
                );
                log.flush();
                std::process::exit(1);
            }
            log.info(
                "tokio/signal.rs:0",
                "received signal; shutting down",
                &fields,
            );
            // Nobody listens once the event loop has ended; then the process is ending already.
            let _ = events.send(Event::Signal(Signal::Terminate));
        }
    });
    Ok(())
}
