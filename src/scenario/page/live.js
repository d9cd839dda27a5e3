"use strict";
// Of a run that goes on: says what happens now, and fetches a newer page when there is one. At the end the report takes its place.
(() => {
const box = document.getElementById("live"), $ = selector => box.querySelector(selector);
const base = location.pathname, PAUSE_MS = 1000;
let shown = -1, newest = -1, over = false, busy = false;

const element = (name, className, text) => Object.assign(document.createElement(name), { className, textContent: text });
function tell(state) {
  $(".what").textContent = state.what;
  $(".clock").textContent = state.clock;
  $(".more").textContent = state.more;
  $(".machines").replaceChildren(...state.machines.map(machine => {
    const card = element("div", machine.away ? "machine away" : "machine", "");
    card.append(element("div", "", `${machine.name} · ${machine.power}`), element("div", "t", machine.does));
    return card;
  }));
  $(".told").replaceChildren(...state.told.map(line => element("li", "", line)));
}

const source = new EventSource(`${base}events`);
source.onmessage = event => {
  const state = JSON.parse(event.data);
  ({ page: newest, over } = state);
  tell(state);
  load();
};
source.onerror = () => { $(".more").textContent = "no connection: the command is over, or too busy to answer"; };

async function load() {
  if (busy || newest === shown) return;
  busy = true;
  try {
    const last = over, answer = await fetch(`${base}page?${shown}`);
    if (answer.status === 200) {
      shown = +answer.headers.get("x-page");
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      document.dispatchEvent(new CustomEvent("newer", { detail: page }));
      if (last) {
        source.close();
        if (page.getElementById("live")) $(".what").textContent = "over, without a report";
        else box.remove();
        return;
      }
    }
  } catch { /* told by the source of events */ }
  setTimeout(() => { busy = false; load(); }, PAUSE_MS);
}
})();
