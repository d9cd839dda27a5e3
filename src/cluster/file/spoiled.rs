//! No text makes the reader panic, and what it says about one is bounded.

use super::parse;
use crate::model::spoiled::spoiled;

#[test]
fn any_text_is_a_cluster_or_problems() {
    let seeds: &[&[u8]] = &[
        include_bytes!("../../../tests/fixtures/cluster.toml"),
        b"[cluster]\nworkers = 2\nlabels = { zone = \"a\" }\ntaints = [\"x=y:NoExecute\"]\nkernel_arguments = [\"loglevel=7\"]\n\
          [[cluster.node]]\nname = \"w2\"\naddress = \"10.77.0.50\"\nmemory = \"512MiB\"\ndisk = \"4GiB\"\ncpus = 2\n",
        b"[cluster]\nprovider = \"hosts\"\n[[cluster.node]]\nname = \"a\"\nssh = \"root@192.0.2.1:22\"\nrole = \"controller\"\n",
    ];
    let name = "test".parse().expect("a name");
    spoiled(seeds, 2_000, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Err(refusal) = parse("nowhere/cluster.toml", &text, &name) {
            assert!(!refusal.problems().is_empty());
            assert!(refusal.to_string().len() <= 1 << 20);
        }
    });
}
