"use strict";
// A cluster by hand: shows what the command tells of it, and sends orders. Everything is written as text.
(() => {
const $ = (selector, from = document) => from.querySelector(selector);
const base = location.pathname, SVG = "http://www.w3.org/2000/svg";
const element = (name, className, text) => Object.assign(document.createElement(name), { className, textContent: text });

function write(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

const list = (place, texts) => place.replaceChildren(...texts.map(text => element("li", "", text)));
const refuse = text => write($(".refused"), text);

async function send(order) {
  refuse("");
  try {
    const answer = await fetch(`${base}order`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(order),
    });
    if (!answer.ok) refuse(`not taken: ${await answer.text() || answer.status}`);
  } catch {
    refuse("not taken: no connection, the command is over");
  }
}

// Whatever was told last is drawn only when it has changed, and the focus stays where it was.
const drawn = new Map();
function changed(name, value) {
  const text = JSON.stringify(value);
  if (drawn.get(name) === text) return false;
  drawn.set(name, text);
  return true;
}

function rows(id, facts, cells) {
  if (!changed(id, facts)) return;
  const body = $(`#${id} tbody`), active = document.activeElement;
  const key = body.contains(active) ? active.dataset.key : undefined;
  body.replaceChildren(...facts.map(fact => {
    const row = element("tr", fact.good === false ? "bad" : "", "");
    row.append(...cells(fact));
    return row;
  }));
  $(`#${id} .none`).hidden = facts.length > 0;
  if (key) [...body.querySelectorAll("button")].find(button => button.dataset.key === key)?.focus();
}

const cell = (text, className = "") => element("td", className, String(text));
function action(text, words, order) {
  const button = element("button", "", text), place = element("td", "", "");
  button.type = "button";
  button.dataset.key = JSON.stringify(order);
  button.setAttribute("aria-label", words);
  button.addEventListener("click", () => send(order));
  place.append(button);
  return place;
}

const ports = new Map([...document.querySelectorAll(".port")].map(port => [port.dataset.port, port]));
const cards = new Map([...document.querySelectorAll(".machine")].map(card => [card.dataset.node, card]));

function machine(fact) {
  const card = cards.get(fact.name);
  if (!card) return;
  const away = fact.power !== "on";
  card.classList.toggle("away", away);
  card.classList.toggle("unready", fact.ready !== "Ready");
  ports.get(fact.name)?.classList.toggle("away", away);
  write($(".power", card), fact.power);
  write($(".ready", card), fact.ready);
  write($(".process", card), fact.process);
  write($(".console", card), fact.console.join("\n"));
}

// One arrow a directed link on which something acts, beside the one of the other direction.
function arrow(link) {
  const [from, to] = [ports.get(link.from), ports.get(link.to)];
  if (!from || !to) return [];
  const [x1, y1, x2, y2] = [+from.dataset.x, +from.dataset.y, +to.dataset.x, +to.dataset.y];
  const length = Math.hypot(x2 - x1, y2 - y1) || 1, dx = (x2 - x1) / length, dy = (y2 - y1) / length;
  const at = along => [x1 + dx * along - dy * 6, y1 + dy * along + dx * 6].map(Math.round);
  const group = document.createElementNS(SVG, "g"), path = document.createElementNS(SVG, "path");
  const text = document.createElementNS(SVG, "text"), [tx, ty] = at(length * .36);
  group.setAttribute("class", link.cut ? "cut" : "shaped");
  path.setAttribute("d", `M${at(14).join(" ")}L${at(length - 14).join(" ")}`);
  path.setAttribute("marker-end", "url(#head)");
  text.setAttribute("x", tx);
  text.setAttribute("y", ty);
  text.textContent = link.rules.length > 40 ? `${link.rules.slice(0, 39)}…` : link.rules;
  group.append(path, text);
  return [group];
}

function show(news) {
  const facts = news.facts;
  write($(".what"), news.what || "up");
  write($(".clock"), news.clock);
  write($(".way"), news.under_way.length ? `under way: ${news.under_way.join(", ")}` : news.told.at(-1) ?? "");
  facts.machines.forEach(machine);
  if (changed("arrows", facts.links)) $(".ruled").replaceChildren(...facts.links.flatMap(arrow));
  rows("rules", facts.links, link => [
    cell(link.from), cell(link.to), cell(link.rules, "wrap"), cell(link.counted),
    action("heal", `heal ${link.from} and ${link.to}`, { do: "heal", from: link.from, to: link.to }),
  ]);
  rows("pods", facts.pods, pod => [
    cell(pod.node || "none"), cell(pod.namespace), cell(pod.name), cell(pod.state, "state"), cell(pod.ready), cell(pod.restarts, "r"),
    action("kill", `kill pod ${pod.name}`, { do: "kill-pod", namespace: pod.namespace, name: pod.name, uid: pod.uid }),
  ]);
  rows("endpoints", facts.endpoints, one => [
    cell(one.service), cell(one.host), cell(one.endpoint), cell(one.node), cell(one.state, "state wrap"),
    cell(one.open, "r"), cell(one.waiting, "r"), cell(one.tried, "r"), cell(one.failed, "r"),
  ]);
  if (changed("gaps", facts.gaps)) list($(".gaps"), facts.gaps);
  if (changed("notes", facts.notes)) list($(".notes"), facts.notes);
  if (changed("told", news.told)) list($(".told"), [...news.told].reverse());
  if (news.over) {
    source.close();
    document.querySelectorAll("button").forEach(button => { button.disabled = true; });
  }
  document.documentElement.dataset.ready = "yes";
}

cards.forEach((card, node) => card.addEventListener("click", event => {
  const { action: power, links } = event.target.dataset;
  if (power) send({ do: "power", node, action: power });
  if (links === "cut") send({ do: "link", from: node, to: "", cut: true });
  if (links === "heal") send({ do: "heal", from: node, to: "" });
}));

const form = $("#link");
const typed = name => form.elements.namedItem(name).value;
const ends = () => ({ from: typed("from"), to: typed("to") });
const link = () => ({ do: "link", ...ends(), one_way: form.elements.namedItem("one_way").checked, lasts: typed("lasts") });
const SHAPES = ["delay", "jitter", "loss", "duplicate", "reorder", "rate"];
$("#cut").addEventListener("click", () => send({ ...link(), cut: true }));
$("#heal").addEventListener("click", () => send({ do: "heal", ...ends() }));
form.addEventListener("submit", event => {
  event.preventDefault();
  send({ ...link(), ...Object.fromEntries(SHAPES.map(name => [name, typed(name)])) });
});
$("#heal-all").addEventListener("click", () => send({ do: "heal-all" }));
$("#shade").addEventListener("click", () => {
  const root = document.documentElement.classList;
  const dark = root.contains("dark") || !root.contains("light") && matchMedia("(prefers-color-scheme: dark)").matches;
  root.toggle("dark", !dark);
  root.toggle("light", dark);
});
addEventListener("keydown", event => {
  const typing = event.target.matches?.("input, select");
  if (event.key === "h" && !typing && !event.ctrlKey && !event.altKey && !event.metaKey) $("#heal-all").focus();
});

const source = new EventSource(`${base}events`);
source.onmessage = event => show(JSON.parse(event.data));
source.onerror = () => write($(".what"), "no connection: the command is over, or too busy to answer");
})();
