//! No text makes the reader panic, and what it says about one is bounded.

use std::path::Path;

use super::parse;
use crate::model::spoiled::spoiled;

/// What is said about 64 KiB of nonsense.
const MOST_BYTES: usize = 1 << 20;

#[test]
fn any_text_is_objects_or_problems_with_a_place() {
    let seeds: &[&[u8]] = &[
        include_bytes!("../../../tests/fixtures/manifests/limits.yml"),
        include_bytes!("../../../tests/fixtures/manifests/refused.yml"),
        b"apiVersion: v1\nkind: List\nitems:\n- &a {apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: \"b\"}}\n- *a\n",
        b"{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {\"name\": \"m\"}, \"data\": {\"k\": \"v\\u00e9\"}}\n{\"kind\": \"Pod\"}",
        b"--- # first\nkind: Service\napiVersion: v1\nmetadata:\n  name: >-\n    folded\n    text\nspec: {ports: [{port: 0x50}, {port: 0o17}]}\n...\n---\n",
    ];
    spoiled(seeds, 1_500, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.lines().count() as u64;
        match parse(Path::new("spoiled.yml"), &text, |_, _| Vec::new()) {
            Ok(manifests) => {
                assert!(manifests.iter().all(|one| one.line <= lines + 1));
            }
            Err(problems) => {
                let all: usize = problems.iter().map(|one| one.problem.len()).sum();
                assert!(all <= MOST_BYTES, "{all} bytes of problems");
                assert!(problems.iter().all(|one| one.line <= lines + 1));
            }
        }
    });
}
