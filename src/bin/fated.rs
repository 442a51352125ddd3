//! The server.

fn main() -> std::process::ExitCode {
    fated::cli::server::main()
}
