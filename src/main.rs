//! The one binary: command line, daemon, control plane, node agent, service proxy and pod helper.

fn main() -> std::process::ExitCode {
    flightcage::cli::main()
}
