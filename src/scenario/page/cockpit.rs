//! The page of a cluster by hand: a frame with a card for each machine, the places of the graph, and the controls. What is seen comes by
//! events; its script writes that as text, and sends orders. It is served by the command itself, on this host's loopback only.

use serde::Serialize;
use tera::{Context, Tera};

use super::svg::number;
use super::{STYLE, hash};
use crate::model::cluster::{ClusterSpec, MachineSpec, Role};

const NAME: &str = "cockpit.html";
const TEMPLATE: &str = include_str!("cockpit.html");
const OWN_STYLE: &str = include_str!("cockpit.css");
const OWN_SCRIPT: &str = include_str!("cockpit.js");

/// The graph's size in pixels, and how far its places are from its middle.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 380.0;
const RADIUS_X: f64 = 210.0;
const RADIUS_Y: f64 = 140.0;
/// With more places than this, links on which nothing acts are not drawn.
const PLACES_WITH_LINES: usize = 16;
/// The gateway's name where a link's end is named.
const HOST: &str = "host";

#[derive(Serialize)]
struct MachineRow {
    name: String,
    role: &'static str,
    address: String,
}

/// A place of the graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Place {
    name: String,
    x: String,
    y: String,
    label_y: String,
}

#[derive(Serialize)]
struct Line<'a> {
    one: &'a Place,
    other: &'a Place,
}

/// The page of this cluster, of which nothing has been seen yet.
///
/// # Panics
/// Never: the template is constant, and tests render it.
#[must_use]
pub fn cockpit_html(spec: &ClusterSpec) -> String {
    let machine = |(index, machine): (usize, &MachineSpec)| MachineRow {
        name: machine.name.to_string(),
        role: match machine.role {
            Role::Controller => "controller",
            Role::Worker => "worker",
        },
        address: spec.address(index).to_string(),
    };
    let machines: Vec<MachineRow> = spec.machines.iter().enumerate().map(machine).collect();
    let places = places(machines.iter().map(|machine| machine.name.as_str()));
    let mut context = Context::new();
    context.insert("name", spec.name.as_str());
    context.insert("provider", spec.provider.as_str());
    context.insert("machines", &machines);
    context.insert("ports", &places);
    context.insert("lines", &lines(&places));
    context.insert("width", &number(WIDTH));
    context.insert("height", &number(HEIGHT));
    context.insert("style", &style());
    context.insert("script", OWN_SCRIPT);
    let mut tera = Tera::default();
    tera.add_raw_template(NAME, TEMPLATE)
        .expect("the template is constant");
    tera.render(NAME, &context)
        .expect("the template is constant, and so is what it is given")
}

/// The policy of the page, as the header of its answer: its own style, its own script, and nobody asked but the command.
#[must_use]
pub fn cockpit_policy() -> String {
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        hash(&style()),
        hash(OWN_SCRIPT)
    )
}

fn style() -> String {
    format!("{STYLE}{OWN_STYLE}")
}

/// The host at the top, and the machines clockwise on an ellipse.
fn places<'a>(machines: impl Iterator<Item = &'a str>) -> Vec<Place> {
    let names: Vec<&str> = std::iter::once(HOST).chain(machines).collect();
    let count = f64::from(u32::try_from(names.len()).unwrap_or(u32::MAX));
    let mut turn = 0.0;
    let mut places = Vec::new();
    for name in names {
        let angle = std::f64::consts::TAU * (turn / count - 0.25);
        let x = WIDTH / 2.0 + RADIUS_X * angle.cos();
        let y = HEIGHT / 2.0 + RADIUS_Y * angle.sin();
        // Above the upper ones, below the others.
        let label_y = if angle.sin() < -0.2 {
            y - 16.0
        } else {
            y + 26.0
        };
        places.push(Place {
            name: name.to_owned(),
            x: number(x.round()),
            y: number(y.round()),
            label_y: number(label_y.round()),
        });
        turn += 1.0;
    }
    places
}

/// Every pair, unless there are too many to be seen.
fn lines(places: &[Place]) -> Vec<Line<'_>> {
    if places.len() > PLACES_WITH_LINES {
        return Vec::new();
    }
    let pairs = places.iter().enumerate().flat_map(|(index, one)| {
        places[index + 1..]
            .iter()
            .map(move |other| Line { one, other })
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(workers: usize) -> String {
        let name = "test".parse().unwrap();
        let mut spec = ClusterSpec::with_workers(name, 1);
        let worker = spec.machines[1].clone();
        for number in 2..=workers {
            let mut more = worker.clone();
            more.name = format!("w{number}").parse().unwrap();
            spec.machines.push(more);
        }
        cockpit_html(&spec)
    }

    #[test]
    fn every_machine_has_its_card_its_place_and_its_buttons() {
        let page = page(2);
        for name in ["c1", "w1", "w2"] {
            assert!(page.contains(&format!("data-node=\"{name}\"")), "{name}");
        }
        for name in ["host", "c1", "w1", "w2"] {
            assert!(page.contains(&format!("data-port=\"{name}\"")), "{name}");
            let option = format!("<option value=\"{name}\">");
            assert_eq!(page.matches(&option).count(), 2, "{name}: from and to");
        }
        for action in ["power-off", "power-on", "reset", "freeze", "thaw"] {
            let button = format!("data-action=\"{action}\"");
            assert_eq!(page.matches(&button).count(), 3, "{action}");
        }
        assert_eq!(page.matches("id=\"heal-all\"").count(), 1);
        let perfect = page.split("class=\"perfect\">").nth(1).unwrap();
        let perfect = perfect.split("</g>").next().unwrap();
        assert_eq!(
            perfect.matches("<path").count(),
            6,
            "four places, six pairs"
        );
    }

    #[test]
    fn of_many_machines_only_links_with_rules_are_drawn() {
        let page = page(20);
        assert!(page.contains("class=\"perfect\"></g>"));
        assert!(page.contains("data-node=\"w20\""));
    }

    #[test]
    fn the_policy_holds_what_stands_on_the_page_and_nothing_else() {
        let page = page(2);
        let policy = cockpit_policy();
        let between = |open: &str, close: &str| {
            let rest = page.split(open).nth(1).expect("it is there");
            rest.split(close).next().expect("it ends").to_owned()
        };
        assert!(policy.contains(&format!(
            "style-src 'sha256-{}'",
            hash(&between("<style>", "</style>"))
        )));
        assert!(policy.contains(&format!(
            "script-src 'sha256-{}'",
            hash(&between("<script>", "</script>"))
        )));
        assert!(!policy.contains("unsafe"));
        assert_eq!(page.matches("<script").count(), 1);
        assert_eq!(page.matches("<style").count(), 1);
        for inline in [
            " style=",
            " onclick=",
            " onload=",
            "javascript:",
            "http://",
            "https://",
        ] {
            let markup = page.replace(OWN_SCRIPT, "").replace(&style(), "");
            assert!(!markup.contains(inline), "{inline}");
        }
    }

    #[test]
    fn the_script_writes_nothing_as_html_and_is_small() {
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "DOMParser",
            "new Function",
            "srcdoc",
            "</",
        ] {
            assert!(!OWN_SCRIPT.contains(word), "{word}");
        }
        assert!(OWN_SCRIPT.lines().count() < 250);
    }

    #[test]
    fn the_host_is_at_the_top_and_nobody_in_the_same_place() {
        let places = places(["c1", "w1", "w2"].into_iter());
        assert_eq!((places[0].x.as_str(), places[0].y.as_str()), ("280", "50"));
        for (index, one) in places.iter().enumerate() {
            for other in &places[index + 1..] {
                assert_ne!((&one.x, &one.y), (&other.x, &other.y));
            }
        }
    }
}
