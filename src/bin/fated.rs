//! The server.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc's list of options.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// Milliseconds that freed memory is kept, ten times as many in large pieces. Large answers make
/// and free the same memory over and over; giving it back each time stops the event loop for as
/// long as the system takes to unmap it, some five milliseconds.
const PURGE_DELAY_MS: std::ffi::c_long = 100;

fn main() -> std::process::ExitCode {
    // SAFETY: no other thread runs yet. What the environment says (`MIMALLOC_PURGE_DELAY`) stands.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) };
    fated::cli::server::main()
}
