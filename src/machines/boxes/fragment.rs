//! Ignition configurations of the user's, merged into a machine's own as Ignition merges parent and child: lists by their key, other
//! values replaced. What makes the machine's identity cannot be replaced.

use serde_json::{Map, Value};

/// Why a fragment cannot be used: a lower-case fragment of a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an Ignition fragment {0}")]
pub struct FragmentError(String);

/// The sections of a configuration (Ignition 3.3.0).
const SECTIONS: [&str; 5] = [
    "ignition",
    "kernelArguments",
    "passwd",
    "storage",
    "systemd",
];
/// What names the element of a list, by the list's name.
const KEYS: [(&str, &str); 10] = [
    ("files", "path"),
    ("directories", "path"),
    ("links", "path"),
    ("filesystems", "device"),
    ("disks", "device"),
    ("raid", "name"),
    ("luks", "name"),
    ("units", "name"),
    ("dropins", "name"),
    ("users", "name"),
];
/// Files that are the machine's identity or its network.
const OURS: [&str; 6] = [
    "/etc/hostname",
    "/etc/hosts",
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssh/ssh_host_ed25519_key.pub",
    "/home/core/.ssh",
    "/etc/flightcage",
];

/// Checks a fragment: what is wrong with it, or nothing.
///
/// # Errors
/// When it is not a configuration that can be merged.
pub fn check(text: &str) -> Result<(), FragmentError> {
    parse(text).map(drop)
}

fn parse(text: &str) -> Result<Map<String, Value>, FragmentError> {
    let refuse = |what: String| Err(FragmentError(what));
    let value: Value = serde_json::from_str(text)
        .map_err(|error| FragmentError(format!("is not JSON: {error}")))?;
    let Value::Object(sections) = value else {
        return refuse("is not a JSON object".into());
    };
    if let Some(unknown) = sections
        .keys()
        .find(|key| !SECTIONS.contains(&key.as_str()))
    {
        return refuse(format!(
            "has an unknown section `{unknown}`; known: {}",
            SECTIONS.join(", ")
        ));
    }
    let version = sections
        .get("ignition")
        .and_then(|ignition| ignition["version"].as_str())
        .unwrap_or_default();
    if !["3.0.0", "3.1.0", "3.2.0", "3.3.0"].contains(&version) {
        return refuse(format!(
            "has `ignition.version` \"{version}\", not 3.0.0 to 3.3.0"
        ));
    }
    for list in ["files", "directories", "links"] {
        for element in sections
            .get("storage")
            .and_then(|storage| storage[list].as_array())
            .into_iter()
            .flatten()
        {
            let Some(path) = element["path"].as_str() else {
                return refuse(format!("has an element of `storage.{list}` without `path`"));
            };
            let is_ours = |ours: &str| {
                path.strip_prefix(ours)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            if OURS.iter().any(|ours| is_ours(ours)) {
                return refuse(format!(
                    "writes `{path}`, which makes the machine what it is"
                ));
            }
        }
    }
    Ok(sections)
}

/// Merges a fragment into a configuration, which keeps its version.
pub(super) fn merge(config: Value, text: &str) -> Result<Value, FragmentError> {
    let mut sections = parse(text)?;
    if let Some(Value::Object(ignition)) = sections.get_mut("ignition") {
        ignition.remove("version");
    }
    let mut config = config;
    merge_value("", &mut config, Value::Object(sections));
    Ok(config)
}

fn merge_value(name: &str, parent: &mut Value, child: Value) {
    match (parent, child) {
        (Value::Object(parent), Value::Object(child)) => {
            for (key, value) in child {
                match parent.get_mut(&key) {
                    Some(existing) => merge_value(&key, existing, value),
                    None => drop(parent.insert(key, value)),
                }
            }
        }
        (Value::Array(parent), Value::Array(child)) => {
            let key = KEYS
                .iter()
                .find(|(list, _)| *list == name)
                .map(|(_, key)| *key);
            for element in child {
                let same = key.and_then(|key| {
                    parent
                        .iter_mut()
                        .find(|existing| existing[key] == element[key])
                });
                match same {
                    Some(existing) => merge_value("", existing, element),
                    None => parent.push(element),
                }
            }
        }
        (parent, child) => *parent = child,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_merge_by_their_keys() {
        let config = json!({ "ignition": { "version": "3.3.0" }, "systemd": { "units": [{ "name": "a.service", "mask": true }] } });
        let fragment = r#"{"ignition":{"version":"3.0.0"},"systemd":{"units":[{"name":"a.service","mask":false},{"name":"b.service"}]},
            "storage":{"files":[{"path":"/etc/x"}]}}"#;
        assert_eq!(
            merge(config, fragment).unwrap(),
            json!({
                "ignition": { "version": "3.3.0" },
                "systemd": { "units": [{ "name": "a.service", "mask": false }, { "name": "b.service" }] },
                "storage": { "files": [{ "path": "/etc/x" }] },
            })
        );
    }

    #[test]
    fn what_cannot_be_merged_is_refused_with_its_reason() {
        let table = [
            ("nonsense", "is not JSON"),
            ("[]", "is not a JSON object"),
            (
                r#"{"ignition":{"version":"2.3.0"}}"#,
                "`ignition.version` \"2.3.0\"",
            ),
            (
                r#"{"ignition":{"version":"3.0.0"},"storag":{}}"#,
                "unknown section `storag`",
            ),
            (
                r#"{"ignition":{"version":"3.0.0"},"storage":{"files":[{"path":"/etc/hostname"}]}}"#,
                "writes `/etc/hostname`",
            ),
            (
                r#"{"ignition":{"version":"3.0.0"},"storage":{"links":[{}]}}"#,
                "without `path`",
            ),
        ];
        for (text, reason) in table {
            let error = check(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn any_text_is_a_fragment_or_an_error() {
        let seeds: &[&[u8]] = &[
            include_bytes!("../../../tests/fixtures/fragment.ign"),
            br#"{"ignition": {"version": "3.4.0"}, "storage": {"files": [{"path": "/etc/motd", "contents": {"source": "data:,hi"}}]},
                "systemd": {"units": [{"name": "a.service", "enabled": true, "contents": "[Unit]"}]}, "passwd": {"users": [{"name": "core"}]}}"#,
        ];
        crate::model::spoiled::spoiled(seeds, 3_000, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            if let Err(error) = check(&text) {
                assert!(error.to_string().len() <= 256 << 10);
            }
        });
    }
}
