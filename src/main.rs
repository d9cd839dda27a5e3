//! The one binary: command line, daemon, server, agent, proxy and pod helper.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything starts a thread: libcontainer and namespaces need a process that has one.
    if let Some(code) = flightcage::orchestrator::agent::containers::dispatch() {
        return code;
    }
    flightcage::cli::main();
    ExitCode::SUCCESS
}
