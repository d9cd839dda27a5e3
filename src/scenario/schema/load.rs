//! `[load.NAME]`.

use serde_json::{Value as Json, json};

use super::super::expectations::STREAMS;
use super::super::file::LOAD_KEYS;
use super::shapes::{closed, list, map, named, text, words};

pub(super) fn load() -> Json {
    let properties: Vec<(&str, Json)> = LOAD_KEYS.iter().map(|key| (*key, of(key))).collect();
    closed(
        &properties,
        &["url", "rate", "streams", "deadline", "baseline"],
    )
}

fn of(key: &str) -> Json {
    match key {
        "url" => named("url"),
        "method" => named("method"),
        "headers" => map(&named("header"), &text()),
        "body" => text(),
        "rate" => {
            let automatic = [("auto", named("share")), ("at_most", named("rate"))];
            json!({ "anyOf": [named("rate"), closed(&automatic, &["auto", "at_most"])] })
        }
        "streams" => {
            json!({ "type": "array", "items": words(&STREAMS), "minItems": 1, "uniqueItems": true })
        }
        "deadline" => named("positive"),
        "good" => {
            let several = json!({ "type": "array", "items": named("status"), "minItems": 1 });
            closed(
                &[
                    ("status", json!({ "anyOf": [named("status"), several] })),
                    ("header", map(&named("header"), &text())),
                    ("body_contains", text()),
                    (
                        "json",
                        map(&json!({ "pattern": "^(/.*)?$" }), &named("scalar")),
                    ),
                ],
                &["status"],
            )
        }
        "version" | "endpoint" => closed(&[("header", named("header"))], &["header"]),
        "baseline" => closed(
            &[
                ("for", named("positive")),
                ("good", named("share")),
                ("p99", named("duration")),
                ("within", named("duration")),
            ],
            &["for", "good"],
        ),
        _ => json!(true),
    }
}

/// Commands, labels and such.
pub(super) fn texts() -> Json {
    list(&text())
}
