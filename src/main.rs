//! The one binary: command line, daemon, server, agent, proxy and pod helper.

fn main() {
    flightcage::cli::main();
}
