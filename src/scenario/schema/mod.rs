//! A JSON Schema (draft 2020-12) of scenario files, for editors.
//!
//! Its words come from the lists that the reader uses (kinds of faults, capabilities, steps, figures, keys of tables), so that there is
//! none that only one of them knows. A word of such a list whose shape is not told here may have any value. What a schema cannot say
//! (that a step is there, that a rate decides a bound) only `lint` tells; a schema refuses nothing that the reader accepts.

#[cfg(test)]
mod check;
mod expect;
mod fault;
mod load;
mod shapes;
mod step;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value as Json, json};

use super::faults::Capability;
use super::file::{FORMAT, KEYS};
use crate::cluster::file;
use shapes::{closed, list, map, named, text, word, words};

/// Runs that one matrix may ask for.
const SAMPLE_MAX: u64 = 1000;

/// The schema.
#[must_use]
pub fn schema() -> Json {
    let properties = KEYS.iter().map(|key| ((*key).to_owned(), of(key)));
    let properties: Map<String, Json> = properties.collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Flightcage scenario",
        "type": "object",
        "properties": properties,
        "required": ["flightcage"],
        "additionalProperties": false,
        "$defs": shapes::definitions(),
    })
}

/// What stands at a key of the file.
fn of(key: &str) -> Json {
    match key {
        "flightcage" => json!({ "description": "the format", "const": FORMAT }),
        "needs" => {
            let all = Capability::all();
            let names: Vec<&str> = all.iter().map(|one| one.name()).collect();
            list(&words(&names))
        }
        "include" => list(&text()),
        "var" => {
            json!({ "type": "object", "propertyNames": word(), "additionalProperties": { "type": "string" } })
        }
        "matrix" => matrix(),
        "cluster" => json!({ "type": "object", "propertyNames": { "enum": file::keys() } }),
        "deploy" => deploy(),
        "load" => map(&word(), &load::load()),
        "step" => list(&step::step()),
        "expect" => expect::expect(),
        _ => json!(true),
    }
}

fn matrix() -> Json {
    let any = json!({ "type": "integer", "minimum": 0 });
    let range = closed(
        &[("from", any.clone()), ("to", any.clone())],
        &["from", "to"],
    );
    let seeds = json!({ "type": "array", "items": any, "minItems": 1, "uniqueItems": true });
    let sample = json!({ "type": "integer", "minimum": 1, "maximum": SAMPLE_MAX });
    closed(
        &[
            ("seed", json!({ "anyOf": [seeds, range] })),
            ("sample", sample),
        ],
        &["seed"],
    )
}

fn deploy() -> Json {
    let parts = ["name", "crt", "key", "host"];
    let secret: Vec<(&str, Json)> = parts.iter().map(|part| (*part, text())).collect();
    closed(
        &[
            ("files", list(&text())),
            ("tls_secret", closed(&secret, &parts)),
            ("wait", named("duration")),
        ],
        &[],
    )
}
