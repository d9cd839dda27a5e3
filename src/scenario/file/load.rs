//! Reads `[load.NAME]`.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};

use super::{json_of, positive, rate, share, status, url, word};
use crate::model::reader::{Table, Value};
use crate::scenario::spec::{Arrival, Asked, Baseline, Good, HttpVersion, Load, StreamKind};

/// How long the baseline may take that says nothing.
const BASELINE_WITHIN: Duration = Duration::from_mins(1);

/// Keys of a load.
pub(in crate::scenario) const KEYS: &[&str] = &[
    "url", "method", "headers", "body", "http", "via", "rate", "stages", "arrival", "streams",
    "deadline", "good", "version", "endpoint", "baseline",
];

pub(super) fn load(table: &Table<'_, '_>) -> Option<Load> {
    table.allow(KEYS);
    let url = table.require("url").and_then(|value| url(&value));
    let rates = rate::rates(table);
    let versions = [("1.1", HttpVersion::One), ("2", HttpVersion::Two)];
    let http = table.get("http").map_or(Some(HttpVersion::One), |value| {
        word(&value, "HTTP version", &versions)
    });
    let via = table
        .get("via")
        .map_or(Some(None), |value| via(&value).map(Some));
    let arrivals = [Arrival::Constant, Arrival::Poisson].map(|arrival| (arrival.name(), arrival));
    let arrival = table
        .get("arrival")
        .map_or(Some(Arrival::Constant), |value| {
            word(&value, "arrival", &arrivals)
        });
    let known = [("new", StreamKind::New), ("reused", StreamKind::Reused)];
    let streams_value = table.require("streams");
    let mut streams: Vec<StreamKind> = Vec::new();
    for value in streams_value
        .and_then(|value| value.array())
        .unwrap_or_default()
    {
        if let Some(stream) = word(&value, "stream", &known) {
            if streams.contains(&stream) {
                value.problem(format!("`{}` is there twice", stream.name()), None);
            } else {
                streams.push(stream);
            }
        }
    }
    if let Some(value) = streams_value
        && value.if_array().is_some_and(|values| values.is_empty())
    {
        value.problem("no stream", Some("`new`, `reused` or both".into()));
    }
    let deadline = table.require("deadline").and_then(|value| positive(&value));
    let asked = asked(table);
    let good = match table.get("good") {
        Some(value) => value.table().and_then(|table| good(&table)),
        None => Some(Good::default()),
    };
    let version_header = header_name(table, "version");
    let endpoint_header = header_name(table, "endpoint");
    let baseline = table
        .require("baseline")
        .and_then(|value| value.table())
        .and_then(|table| baseline(&table));
    let rates = rates?;
    Some(Load {
        url: url?,
        rate: rates.rate,
        stages: rates.stages,
        arrival: arrival?,
        automatic: rates.automatic,
        streams,
        http: http?,
        via: via?,
        deadline: deadline?,
        asked: asked?,
        good: good?,
        version_header,
        endpoint_header,
        baseline: baseline?,
    })
}

/// `via = "ADDRESS:PORT"`.
fn via(value: &Value<'_, '_>) -> Option<SocketAddr> {
    let text = value.string()?;
    let address = text.parse::<SocketAddr>().ok();
    let address = address.filter(|address| address.port() != 0);
    if address.is_none() {
        value.problem(
            format!("`{text}` is not an address and its port"),
            Some("such as \"192.0.2.7:443\" or \"[2001:db8::7]:443\"".into()),
        );
    }
    address
}

/// `key = { header = "…" }`.
fn header_name(table: &Table<'_, '_>, key: &str) -> Option<String> {
    let inner = table.get(key)?.table()?;
    inner.allow(&["header"]);
    let value = inner.require("header")?;
    let name = value.string()?;
    if name.parse::<http::HeaderName>().is_err() {
        value.problem(format!("`{name}` is not a header's name"), None);
    }
    Some(name.to_owned())
}

fn baseline(table: &Table<'_, '_>) -> Option<Baseline> {
    table.allow(&["for", "good", "p99", "within"]);
    let window = table.require("for").and_then(|value| positive(&value));
    let good = table.require("good").and_then(|value| {
        let good = share(&value)?;
        if good <= 0.0 {
            let what = "no baseline can fail this, so that nothing of the load counts";
            value.warn(what, Some("such as \"100%\"".into()));
        }
        Some(good)
    });
    let p99 = table.get("p99").and_then(|value| value.duration());
    let within = table
        .get("within")
        .and_then(|value| value.duration())
        .unwrap_or(BASELINE_WITHIN);
    Some(Baseline {
        window: window?,
        good: good?,
        p99,
        within,
    })
}

/// `method`, `headers`, `body`.
fn asked(table: &Table<'_, '_>) -> Option<Asked> {
    let method = table.get("method").map_or(Some(Method::GET), |value| {
        let text = value.string()?;
        // A method is in capitals; `CONNECT` would make a tunnel.
        let method = text.parse::<Method>().ok();
        let method = method.filter(|method| {
            *method != Method::CONNECT && text.bytes().all(|c| c.is_ascii_uppercase())
        });
        if method.is_none() {
            let help = "such as `GET`, `HEAD`, `POST` or `PUT`";
            value.problem(format!("`{text}` is not a method"), Some(help.into()));
        }
        method
    });
    let headers = table.get("headers").map_or(Some(Vec::new()), |value| {
        let header = |(name, value): (HeaderName, String)| {
            let value = HeaderValue::from_str(&value).ok()?;
            Some((name, value))
        };
        let read = headers(&value)?;
        read.into_iter().map(header).collect()
    });
    let body = table.get("body").map_or(Some(Bytes::new()), |value| {
        Some(Bytes::from(value.string()?.to_owned()))
    });
    Some(Asked {
        method: method?,
        headers: headers?,
        body: body?,
    })
}

/// `{ "name" = "value" }`.
fn headers(value: &Value<'_, '_>) -> Option<Vec<(HeaderName, String)>> {
    let header = |(name, _, value): &(&str, _, Value<'_, '_>)| {
        let text = value.string()?;
        let name = name.parse::<HeaderName>().ok();
        if name.is_none() || HeaderValue::from_str(text).is_err() {
            value.problem("not a header's name and value", None);
            return None;
        }
        Some((name?, text.to_owned()))
    };
    let entries = value.table()?.entries();
    let read: Vec<_> = entries.iter().map(header).collect();
    read.into_iter().collect()
}

/// `good = { status, header, body_contains, json }`.
fn good(table: &Table<'_, '_>) -> Option<Good> {
    table.allow(&["status", "header", "body_contains", "json"]);
    let statuses = table.require("status").and_then(|value| {
        let several = value.if_array();
        let Some(values) = several else {
            return status(&value).map(|status| vec![status]);
        };
        if values.is_empty() {
            value.problem("no status is good", None);
            return None;
        }
        let read: Vec<Option<u16>> = values.iter().map(status).collect();
        read.into_iter().collect()
    });
    let header = table
        .get("header")
        .map_or(Some(Vec::new()), |value| headers(&value));
    let body_contains = table.get("body_contains").map_or(Some(None), |value| {
        value.string().map(|text| Some(text.to_owned()))
    });
    let json = table.get("json").map_or(Some(Vec::new()), |value| {
        let entries = value.table()?.entries();
        let field = |(pointer, _, value): &(&str, _, Value<'_, '_>)| {
            if !pointer.is_empty() && !pointer.starts_with('/') {
                let help = "a place begins with `/`, such as `/ok` or `/items/0/name`";
                value.problem(
                    format!("`{pointer}` is not a place in JSON"),
                    Some(help.into()),
                );
                return None;
            }
            Some(((*pointer).to_owned(), json_of(value)?))
        };
        let read: Vec<_> = entries.iter().map(field).collect();
        read.into_iter().collect()
    });
    Some(Good {
        statuses: statuses?,
        headers: header?,
        body_contains: body_contains?,
        json: json?,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::{Against, parse};
    use super::*;

    fn read(keys: &str) -> Result<Load, Vec<String>> {
        let text = format!(
            "flightcage = 1\n[load.web]\nurl = \"http://web/\"\nrate = \"5/s\"\nstreams = [\"new\"]\n\
             deadline = \"1s\"\nbaseline = {{ for = \"5s\", good = \"100%\" }}\n{keys}\n"
        );
        let name = "test".parse().unwrap();
        let against = Against::own_cluster(&name, |_, _| Vec::new());
        let scenario = parse(Path::new("demo.toml"), &text, &against).map_err(|refusal| {
            let told = refusal.problems().iter();
            told.map(|problem| format!("{}:{} {}", problem.line, problem.column, problem.message))
                .collect::<Vec<_>>()
        })?;
        Ok(scenario.loads["web"].clone())
    }

    #[test]
    fn what_is_asked_and_what_is_good_is_read() {
        let load = read(
            "method = \"POST\"\nheaders = { Accept = \"text/plain\" }\nbody = \"{}\"\n\
             good = { status = [200, 204], header = { X-A = \"b\" }, body_contains = \"yes\", json = { \"/ok\" = true, \"/n\" = 3 } }",
        )
        .unwrap();
        assert_eq!(load.asked.method, Method::POST);
        assert_eq!(load.asked.headers[0].0, "accept");
        assert_eq!(load.asked.body, "{}");
        assert_eq!(load.good.statuses, [200, 204]);
        assert_eq!(load.good.headers[0].1, "b");
        assert_eq!(
            load.good.json,
            [("/ok".to_owned(), json!(true)), ("/n".to_owned(), json!(3))]
        );
        let plain = read("").unwrap();
        assert_eq!(
            (plain.asked, plain.good),
            (Asked::default(), Good::default())
        );
        assert_eq!(
            read("good = { status = 204 }").unwrap().good,
            Good::status(204)
        );
    }

    #[test]
    fn what_is_spoken_and_how_requests_arrive_is_read() {
        let plain = read("").unwrap();
        assert_eq!(
            (plain.http, plain.arrival, plain.via, plain.stages),
            (HttpVersion::One, Arrival::Constant, None, Vec::new())
        );
        let load =
            read("http = \"2\"\narrival = \"poisson\"\nvia = \"[2001:db8::7]:443\"").unwrap();
        assert_eq!(
            (load.http, load.arrival),
            (HttpVersion::Two, Arrival::Poisson)
        );
        assert_eq!(load.via, "[2001:db8::7]:443".parse().ok());
        let problems = read("http = \"3\"\narrival = \"poison\"\nvia = \"web:443\"").unwrap_err();
        assert_eq!(
            problems,
            [
                "8:8 unknown HTTP version `3`",
                "9:11 unknown arrival `poison`",
                "10:7 `web:443` is not an address and its port",
            ]
        );
        assert_eq!(read("via = \"192.0.2.7:0\"").unwrap_err().len(), 1);
    }

    #[test]
    fn every_problem_of_it_is_told() {
        let problems = read(
            "method = \"post\"\nheaders = { \"a b\" = \"c\" }\nbody = 1\n\
             good = { status = [], header = { a = \"\\n\" }, json = { ok = true, \"/x\" = 1.5 } }",
        )
        .unwrap_err();
        assert_eq!(problems.len(), 7, "{problems:?}");
        assert_eq!(problems[0], "8:10 `post` is not a method");
    }
}
