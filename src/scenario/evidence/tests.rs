//! Bounded, aligned, and without secrets.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use super::*;
use crate::kubernetes::client::resource_named;

fn begun() -> SystemTime {
    // 2026-11-30T10:00:00Z.
    UNIX_EPOCH + Duration::from_secs(1_796_032_800)
}

#[test]
fn it_is_kept_when_asked_for_or_when_a_run_did_not_pass() {
    let wants = |keep: Keep| {
        [Verdict::Pass, Verdict::Fail, Verdict::Inconclusive].map(|verdict| keep.wants(verdict))
    };
    assert_eq!(wants(Keep::NotPassed), [false, true, true]);
    assert_eq!(wants(Keep::Always), [true; 3]);
    assert_eq!(wants(Keep::Never), [false; 3]);
}

#[test]
fn what_a_secret_holds_stands_nowhere() {
    let mut redaction = Redaction::default();
    let pem = "-----BEGIN KEY-----\nMIGHAgEAMBMGByqGSM49AgEG\nCCqGSM49AwEHBG0wawIBAQQg\n-----END KEY-----\n";
    redaction.add(&Secret {
        metadata: serde_json::from_value(json!({ "name": "db" })).unwrap(),
        data: Some(BTreeMap::from([
            ("password".to_owned(), ByteString(b"correct-horse".to_vec())),
            ("key".to_owned(), ByteString(pem.as_bytes().to_vec())),
            ("flag".to_owned(), ByteString(b"on".to_vec())),
        ])),
        ..Secret::default()
    });
    let mut texts = Texts::default();
    texts.redact_with(redaction);
    let log =
        "turned on: login with correct-horse\nkey MIGHAgEAMBMGByqGSM49AgEG, Y29ycmVjdC1ob3JzZQ==\n";
    texts.add("a.log".to_owned(), log.to_owned());
    assert_eq!(
        texts.file("a.log"),
        Some(
            "turned on: login with (Secret db, password)\nkey (Secret db, key), (Secret db, password)\n"
        )
    );
    let secret = json!({
        "metadata": {
            "name": "db",
            "managedFields": [{}],
            "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "{\"data\":{\"password\":\"x\"}}" }
        },
        "data": { "password": "Y29ycmVjdC1ob3JzZQ==" }
    });
    let yaml = objects::yaml(&resource_named("secret").unwrap(), vec![secret]);
    assert!(
        yaml.starts_with("---\n") && yaml.contains("password: (left out)"),
        "{yaml}"
    );
    assert!(
        !yaml.contains("Y29ycm")
            && !yaml.contains("last-applied")
            && !yaml.contains("managedFields")
    );
    assert!(
        yaml.contains("kind: Secret") && yaml.contains("apiVersion: v1"),
        "{yaml}"
    );
}

#[test]
fn times_are_from_the_start_of_the_run() {
    let log = "2026-11-30T10:00:12.345678Z hello world\nno time\n2026-11-30T09:59:59.5Z before\n";
    assert_eq!(
        pods::aligned(log, begun()),
        "   +12.345 s  hello world\nno time\n    -0.500 s  before\n"
    );
    let event = |at: &str, reason: &str, count: u32| {
        json!({
            "type": "Warning", "reason": reason, "message": "a\nb", "count": count, "lastTimestamp": at,
            "involvedObject": { "kind": "Pod", "namespace": "default", "name": "web" }
        })
    };
    let events = vec![
        event("2026-11-30T10:00:02Z", "BackOff", 3),
        event("2026-11-30T10:00:01Z", "Killing", 1),
    ];
    assert_eq!(
        objects::events(events, begun()),
        "    +1.000 s  Warning Killing Pod default/web: a b\n    +2.000 s  Warning BackOff Pod default/web: a b (×3)\n"
    );
}

#[test]
fn files_are_bounded_and_what_is_left_out_is_told() {
    let mut texts = Texts::default();
    let long = "0123456789abcde\n".repeat(FILE_BYTES_MAX / 8);
    for number in 0..40 {
        texts.add(format!("pods/{number:02}.log"), long.clone());
    }
    let folder = tempfile::tempdir().unwrap();
    let evidence = folder.path().join(FOLDER);
    std::fs::create_dir_all(&evidence).unwrap();
    std::fs::write(evidence.join("of-an-earlier-run"), "").unwrap();
    texts.write(&evidence).unwrap();
    assert!(!evidence.join("of-an-earlier-run").exists());
    let first = std::fs::read_to_string(evidence.join("pods/00.log")).unwrap();
    assert!(
        first.len() <= FILE_BYTES_MAX && first.starts_with("(the beginning is left out)\n0123")
    );
    let files: u64 = std::fs::read_dir(evidence.join("pods"))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(files <= ALL_BYTES_MAX as u64);
    let index = std::fs::read_to_string(evidence.join("README.txt")).unwrap();
    assert!(
        index.contains("- `pods/39.log`: more than 32 MiB altogether"),
        "{index}"
    );
}
