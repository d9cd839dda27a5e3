//! What volumes and claims of them share.

use serde_json::Value;

use super::causes::Causes;
use super::cells::list;

/// How a volume may be mounted, and the letters that tables have for it.
const ACCESS_MODES: [(&str, &str); 4] = [
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", "RWOP"),
];

/// `RWO,ROX`.
pub(in crate::orchestrator::api) fn access_modes(modes: Option<&Value>) -> String {
    let modes = modes.and_then(Value::as_array);
    let given = |mode: &str| modes.is_some_and(|modes| modes.iter().any(|one| one == mode));
    let letters: Vec<&str> = ACCESS_MODES
        .iter()
        .filter(|(mode, _)| given(mode))
        .map(|(_, letters)| *letters)
        .collect();
    letters.join(",")
}

/// `accessModes` and `volumeMode` of a spec.
pub(in crate::orchestrator::api) fn modes(spec: &Value, found: &mut Causes) {
    let modes = list(spec, "/accessModes");
    if modes.is_empty() {
        found.required("spec.accessModes", "at least 1 access mode is required");
    }
    let known = ACCESS_MODES.map(|(mode, _)| mode);
    for mode in modes {
        found.one_of("spec.accessModes", Some(mode), &known);
    }
    found.one_of(
        "spec.volumeMode",
        spec.get("volumeMode"),
        &["Block", "Filesystem"],
    );
}
