//! The one binary: command line, daemon, server, agent, proxy and pod helper.

use std::process::ExitCode;

use flightcage::machines::qemu;

fn main() -> ExitCode {
    // Before anything starts a thread: libcontainer and namespaces need a process that has one.
    if let Some(code) = flightcage::orchestrator::agent::containers::dispatch() {
        return code;
    }
    if let Some(code) = qemu::dispatch() {
        return code;
    }
    flightcage::cli::main();
    ExitCode::SUCCESS
}
