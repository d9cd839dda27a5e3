//! No text makes the reader panic, and what it says about one is bounded.

use std::path::Path;

use super::{Against, parse};
use crate::model::spoiled::spoiled;

#[test]
fn any_text_is_a_scenario_or_problems() {
    let seeds: &[&[u8]] = &[
        include_bytes!("../../../scenarios/failover.toml"),
        include_bytes!("../../../tests/fixtures/scenarios/every-fault.toml"),
        include_bytes!("../../../tests/fixtures/scenarios/guest-faults.toml"),
        include_bytes!("../../../tests/fixtures/wrong.toml"),
    ];
    let name = "test".parse().expect("a name");
    let against = Against::own_cluster(&name, |_, _| Vec::new());
    spoiled(seeds, 1_500, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Err(refusal) = parse(Path::new("nowhere/spoiled.toml"), &text, &against) {
            assert!(!refusal.problems().is_empty());
            assert!(refusal.to_string().len() <= 1 << 20);
        }
    });
}
