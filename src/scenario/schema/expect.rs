//! `[expect]`: figures of loads by the list of figures, counts, and what is watched.

use serde_json::{Map, Value as Json, json};

use super::super::expectations::{COUNTS, FIGURES, GUARDS, STREAMS};
use super::super::guards;
use super::shapes::{closed, map, named, text};
use super::step;

pub(super) fn expect() -> Json {
    let mut properties = Map::new();
    for key in COUNTS {
        let one = json!({ "anyOf": [named("count"), named("count_bound")] });
        let of_each = ["replicas", "restarts"].contains(&key);
        let shape = if of_each {
            map(&json!(true), &one)
        } else {
            one
        };
        properties.insert(key.to_owned(), shape);
    }
    for key in GUARDS {
        properties.insert(key.to_owned(), guard());
    }
    // Every other key is a load's name.
    json!({ "type": "object", "properties": properties, "additionalProperties": load() })
}

fn load() -> Json {
    let mut properties = of_requests();
    properties.push(("final_version", text()));
    let stream = closed(&of_requests(), &[]);
    properties.extend(STREAMS.map(|name| (name, stream.clone())));
    closed(&properties, &[])
}

/// What may be expected of a load, and of one of its streams.
fn of_requests() -> Vec<(&'static str, Json)> {
    let figures: Vec<(&str, Json)> = FIGURES
        .iter()
        .map(|figure| (figure.key, like(figure.example)))
        .collect();
    let recovery = closed(
        &[("within", named("positive")), ("hold", named("duration"))],
        &["within", "hold"],
    );
    let mut all = figures.clone();
    all.push(("during", map(&json!(true), &closed(&figures, &[]))));
    all.push(("recovery", map(&json!(true), &recovery)));
    all
}

/// The shape of a figure's bound, of which this is an example.
fn like(example: &str) -> Json {
    let example: toml::Table =
        toml::from_str(&format!("example = {example}")).expect("examples are written in TOML");
    shape_of(&example["example"])
}

fn shape_of(example: &toml::Value) -> Json {
    match example {
        toml::Value::Table(entries) => {
            let shapes = entries.iter();
            let shapes: Vec<(&str, Json)> = shapes
                .map(|(key, value)| (key.as_str(), shape_of(value)))
                .collect();
            let required: Vec<&str> = entries.keys().map(String::as_str).collect();
            closed(&shapes, &required)
        }
        toml::Value::String(bound) => {
            let limit = bound.trim_start_matches(['<', '>', '=', ' ']);
            let is_bound = limit.len() < bound.len();
            if limit.ends_with('%') {
                named(if is_bound { "share_bound" } else { "share" })
            } else if limit.ends_with(|c: char| c.is_ascii_alphabetic()) {
                named(if is_bound { "time_bound" } else { "positive" })
            } else {
                named("count_bound")
            }
        }
        _ => json!(true),
    }
}

/// `never` and `always`.
fn guard() -> Json {
    let shapes: Vec<(&str, Json)> = guards::KEYS
        .iter()
        .map(|key| {
            let wanted = step::wanted().into_iter().find(|(known, _)| known == key);
            let shape = match (*key, wanted) {
                (_, Some((_, shape))) => shape,
                ("kind" | "selector", None) => text(),
                ("name", None) => step::name(),
                _ => json!(true),
            };
            (*key, shape)
        })
        .collect();
    let mut entry = closed(&shapes, &["kind"]);
    entry["oneOf"] = step::one_wanted();
    entry["not"] = json!({ "required": ["name", "selector"] });
    json!({ "type": "array", "items": entry, "minItems": 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_shaped_like_their_examples() {
        assert_eq!(like("\"<= 0.5%\""), named("share_bound"));
        assert_eq!(like("\"<= 3s\""), named("time_bound"));
        assert_eq!(like("\"<= 2\""), named("count_bound"));
        let worst = like("{ window = \"10s\", failed = \"<= 20%\" }");
        assert_eq!(worst["properties"]["window"], named("positive"));
        assert_eq!(worst["required"].as_array().map(Vec::len), Some(2));
    }
}
