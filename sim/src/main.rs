//! Runs, repeats and replays simulated lives of a cluster. See `README.md` of this directory.

#[cfg(madsim)]
mod cli;

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    cli::main()
}

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    eprintln!(
        "This is a plain build of the simulator, in which there is no simulated time.\n\
         Run it as `cargo sim ...`: the alias in .cargo/config.toml sets the cfg it needs."
    );
    std::process::ExitCode::from(2)
}
