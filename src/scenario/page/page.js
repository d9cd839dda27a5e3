"use strict";
// Draws every request over the still timeline, and moves about in it. Without this script the page is complete, but stands still.
(() => {
const $ = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
let directory = JSON.parse($("#directory").textContent);
const timeline = $(".tl"), axis = $(".axis .p"), card = $("#card"), note = $("#note");
const cursor = $(".cursor"), chosen = $(".chosen"), figures = $("#span-figures");
const SHORTEST_MS = 50;
const full = { from: directory.from, to: directory.to };
let view = { ...full }, selection = null, lane = null, at = null, pinned = {};
let streams = [];

const number = (value, digits) => String(+value.toFixed(digits));
const duration = ms => ms < 10 ? `${number(ms, 1)} ms` : ms < 999.5 ? `${ms.toFixed(0)} ms`
  : ms < 1e4 ? `${number(ms / 1000, 2)} s` : `${(ms / 1000).toFixed(1)} s`;
const seconds = ms => number(ms / 1000, 3);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// ---- the view -------------------------------------------------------------------------------------------------------------
const plots = () => axis.getBoundingClientRect();
const toX = ms => (ms - view.from) / (view.to - view.from) * plots().width;
const toMs = x => view.from + x / plots().width * (view.to - view.from);

function show(from, to, { keep = false } = {}) {
  const length = clamp(to - from, SHORTEST_MS, full.to - full.from);
  from = clamp(from, full.from, full.to - length);
  view = { from, to: from + length };
  const zoom = (full.to - full.from) / length;
  const left = -(from - full.from) / (full.to - full.from) * zoom * 100;
  for (const inner of all("svg.z", timeline)) {
    inner.setAttribute("x", `${left}%`);
    inner.setAttribute("width", `${zoom * 100}%`);
  }
  ticks();
  labels();
  overlays();
  schedule();
  if (!keep) remember();
}

function ticks() {
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 10e3, 20e3, 30e3, 60e3, 120e3, 300e3, 600e3, 1800e3, 3600e3];
  const wanted = Math.max(plots().width / 90, 2);
  const step = steps.find(step => (view.to - view.from) / step <= wanted) || 3600e3;
  const group = $(".ticks");
  group.replaceChildren();
  for (let ms = Math.ceil(view.from / step) * step; ms <= view.to; ms += step) {
    const share = (ms - full.from) / (full.to - full.from) * 100;
    const tick = svg("svg", { x: `${share}%`, overflow: "visible" });
    tick.append(svg("path", { d: "M0 17v7" }));
    const edge = ms - view.from < step / 3 ? { x: 3, style: "text-anchor:start" } : {};
    const text = svg("text", { y: 12, ...edge });
    text.textContent = `${seconds(ms)} s`;
    tick.append(text);
    group.append(tick);
  }
}

// A bar that begins left of the view says what it is at the left edge.
let named = [];
function labels() {
  const factor = plots().width / (view.to - view.from);
  for (const text of named) text.setAttribute("x", 4 + Math.max(0, (view.from - text.closest(".m").dataset.a) * factor));
}

function svg(name, attributes) {
  const element = document.createElementNS(timeline.querySelector("svg").namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function overlays() {
  const gutter = axis.offsetLeft;
  const inside = ms => ms >= view.from && ms <= view.to;
  cursor.hidden = at === null || !inside(at);
  if (!cursor.hidden) cursor.style.left = `${gutter + toX(at)}px`;
  chosen.hidden = !selection || selection.to < view.from || selection.from > view.to;
  if (!chosen.hidden) {
    const left = clamp(toX(selection.from), 0, plots().width), right = clamp(toX(selection.to), 0, plots().width);
    chosen.style.left = `${gutter + left}px`;
    chosen.style.width = `${Math.max(right - left, 1)}px`;
  }
}

// ---- requests -------------------------------------------------------------------------------------------------------------
async function unpack(page = document, directory = JSON.parse($("#directory", page).textContent)) {
  const text = $("#columns", page).textContent, streams = [];
  if (!text) return streams;
  if (!("DecompressionStream" in window)) {
    note.textContent = "This browser cannot unpack the requests; they are drawn as columns, and the failed ones are in the table.";
    return streams;
  }
  const characters = atob(text), packed = new Uint8Array(characters.length);
  for (let i = 0; i < packed.length; i++) packed[i] = characters.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  let place = 0;
  const varint = () => {
    let value = 0, factor = 1;
    for (;;) {
      const byte = bytes[place++];
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) return value;
      factor *= 128;
    }
  };
  const latencyOf = Float32Array.from({ length: 5600 }, (_, step) => (directory.step ** step - 1) / 100);
  for (const entry of directory.streams) {
    const { count } = entry;
    const times = new Float64Array(count), latencies = new Float32Array(count);
    for (let i = 0, before = 0; i < count; i++) times[i] = (before += varint()) / 100;
    const low = bytes.subarray(place, place += count), high = bytes.subarray(place, place += count);
    for (let i = 0; i < count; i++) latencies[i] = latencyOf[low[i] + high[i] * 256];
    const classes = bytes.subarray(place, place += count), versions = bytes.subarray(place, place += count);
    const endpoints = new Uint16Array(count), connections = new Uint32Array(count);
    for (let i = 0; i < count; i++) endpoints[i] = varint();
    for (let i = 0, before = 0; i < count; i++) {
      const zigzag = varint();
      connections[i] = before += zigzag % 2 ? -(zigzag + 1) / 2 : zigzag / 2;
    }
    const numbers = entry.one_in > 1 ? new Uint32Array(count) : null;
    if (numbers) for (let i = 0, before = 0; i < count; i++) numbers[i] = before += varint();
    const element = page.getElementById(entry.lane);
    if (!element) continue;
    const canvas = document.createElement("canvas");
    $(".p", element).append(canvas);
    const failed = [];
    for (let i = 0; i < count; i++) if (classes[i] & 15) failed.push(i);
    streams.push({ entry, element, canvas, times, latencies, classes, versions, endpoints, connections, numbers, failed, failedAt: failed.map(i => times[i]) });
    if (entry.one_in > 1) $(".t", element).textContent += ` · 1 in ${entry.one_in} drawn`;
  }
  timeline.classList.add("drawn");
  return streams;
}

// The first index whose time is not before ms.
function search(times, ms) {
  let low = 0, high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < ms) low = middle + 1; else high = middle;
  }
  return low;
}

const heightOf = (entry, ms) => {
  const share = Math.log(Math.max(ms, entry.lowest) / entry.lowest) / Math.log(entry.highest / entry.lowest);
  return directory.plot_y + directory.plot_height * (1 - clamp(share, 0, 1));
};

let waiting = false;
function schedule() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; streams.forEach(draw); });
}

function draw(stream) {
  const { entry, canvas, times, latencies, classes } = stream;
  if (stream.element.hidden) return;
  const width = plots().width, height = stream.element.clientHeight, scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const style = getComputedStyle(document.documentElement);
  pen.fillStyle = style.getPropertyValue("--request");
  const first = search(times, view.from), last = search(times, view.to);
  const factor = width / (view.to - view.from);
  if (last - first > 4 * width) {
    // More requests than pixels: from the quickest to the slowest good answer of each column.
    for (let i = first; i < last;) {
      const column = Math.floor((times[i] - view.from) * factor);
      let quick = Infinity, slow = 0, sum = 0, good = 0;
      for (; i < last && Math.floor((times[i] - view.from) * factor) === column; i++) {
        if (classes[i] & 15) continue;
        const ms = latencies[i];
        quick = Math.min(quick, ms);
        slow = Math.max(slow, ms);
        sum += Math.log(Math.max(ms, 0.01));
        good++;
      }
      if (!good) continue;
      const top = heightOf(entry, slow), bottom = heightOf(entry, quick);
      pen.globalAlpha = 0.35;
      pen.fillRect(column, top, 1, Math.max(bottom - top, 1));
      pen.globalAlpha = 1;
      pen.fillRect(column, heightOf(entry, Math.exp(sum / good)) - 1, 1, 2);
    }
  } else {
    pen.globalAlpha = last - first > width ? 0.7 : 0.9;
    const size = last - first > width ? 2 : 3;
    for (let i = first; i < last; i++) {
      if (classes[i] & 15) continue;
      pen.fillRect((times[i] - view.from) * factor - size / 2, heightOf(entry, latencies[i]) - size / 2, size, size);
    }
    pen.globalAlpha = 1;
  }
  pen.lineWidth = 1.4;
  let before = -9, kind = 0;
  for (let at = search(stream.failedAt, view.from); at < stream.failed.length; at++) {
    const i = stream.failed[at], x = (times[i] - view.from) * factor, name = directory.classes[classes[i] & 15];
    if (x > width) break;
    if (x - before < 0.5 && kind === classes[i]) continue;
    before = x;
    kind = classes[i];
    pen.setTransform(scale, 0, 0, scale, x * scale, directory.failed_y * scale);
    pen.strokeStyle = style.getPropertyValue(name === "prober" ? "--muted" : "--fail");
    pen.fillStyle = pen.strokeStyle;
    const shape = new Path2D(directory.shapes[classes[i] & 15]);
    pen.globalAlpha = 0.5;
    if (name !== "prober") pen.fill(shape);
    pen.globalAlpha = 1;
    pen.stroke(shape);
  }
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  if (stream.lit !== undefined && times[stream.lit] >= view.from && times[stream.lit] <= view.to) {
    pen.strokeStyle = style.getPropertyValue("--text");
    pen.lineWidth = 1.5;
    pen.beginPath();
    const bad = classes[stream.lit] & 15;
    pen.arc((times[stream.lit] - view.from) * factor, bad ? directory.failed_y : heightOf(entry, latencies[stream.lit]), 7, 0, 7);
    pen.stroke();
  }
}

const titleOf = (stream, i) => `${stream.entry.name}.${(stream.numbers ? stream.numbers[i] : i) + 1}`;
function wordsOf(stream, i) {
  const lines = [`${titleOf(stream, i)} · ${directory.classes[stream.classes[i] & 15]}`,
    `intended at ${seconds(stream.times[i])} s, over after ${duration(stream.latencies[i])}`];
  if (stream.connections[i]) lines.push(`connection ${stream.connections[i]}`);
  if (stream.endpoints[i]) lines.push(`answered by ${directory.endpoints[stream.endpoints[i]]}`);
  if (stream.versions[i]) lines.push(`version ${directory.versions[stream.versions[i]]}`);
  if (stream.classes[i] & 16) lines.push("the prober sent it late");
  return lines.join("\n");
}

function nearest(stream, x, y) {
  const reach = 7, from = search(stream.times, toMs(x - reach)), to = search(stream.times, toMs(x + reach));
  let best = null, least = reach * reach;
  for (let i = from; i < to && i < from + 20000; i++) {
    const dx = toX(stream.times[i]) - x;
    const dy = (stream.classes[i] & 15 ? directory.failed_y : heightOf(stream.entry, stream.latencies[i])) - y;
    if (dx * dx + dy * dy < least) { least = dx * dx + dy * dy; best = i; }
  }
  return best;
}

// ---- the card -------------------------------------------------------------------------------------------------------------
function marks() {
  for (const mark of all(".m", timeline)) {
    const title = $("title", mark);
    mark.dataset.told = title.textContent;
    title.remove();
  }
  named = all(".m > svg > text", timeline).filter(text => text.parentNode.hasAttribute("width"));
}

function tell(text, x, y) {
  card.textContent = text;
  card.hidden = !text;
  if (!text) return;
  const box = card.getBoundingClientRect();
  card.style.left = `${clamp(x + 14, 4, innerWidth - box.width - 4)}px`;
  card.style.top = `${y + 18 + box.height > innerHeight ? Math.max(y - box.height - 12, 4) : y + 18}px`;
}

function light(stream, index) {
  for (const other of streams) if (other.lit !== undefined) { other.lit = undefined; draw(other); }
  if (stream) { stream.lit = index; draw(stream); }
}

timeline.addEventListener("pointermove", event => {
  if (dragging) return;
  const x = event.clientX - plots().left;
  if (x < 0) { at = null; overlays(); tell(""); return; }
  at = toMs(x);
  overlays();
  const mark = event.target.closest(".m");
  const element = event.target.closest(".lane");
  const stream = streams.find(stream => stream.element === element);
  if (stream) {
    const found = nearest(stream, x, event.clientY - element.getBoundingClientRect().top);
    light(found === null ? null : stream, found);
    if (found !== null) return tell(wordsOf(stream, found), event.clientX, event.clientY);
  }
  tell(mark ? mark.dataset.told : "", event.clientX, event.clientY);
  note.textContent = `${seconds(at)} s`;
});
timeline.addEventListener("pointerleave", () => { if (!dragging) { at = null; overlays(); tell(""); light(null); note.textContent = ""; } });

// ---- drag, wheel ----------------------------------------------------------------------------------------------------------
let dragging = null;
timeline.addEventListener("pointerdown", event => {
  if (event.button !== 0 || event.clientX < plots().left) return;
  const onAxis = Boolean(event.target.closest(".axis"));
  dragging = { x: event.clientX, from: toMs(event.clientX - plots().left), select: event.shiftKey || !onAxis, before: selection };
  timeline.setPointerCapture(event.pointerId);
});
timeline.addEventListener("pointermove", event => {
  if (!dragging || Math.abs(event.clientX - dragging.x) < 4) return;
  const now = clamp(toMs(event.clientX - plots().left), full.from, full.to);
  selection = { from: Math.min(dragging.from, now), to: Math.max(dragging.from, now) };
  overlays();
  tell(`${seconds(selection.from)} to ${seconds(selection.to)} s: ${duration(selection.to - selection.from)}`, event.clientX, event.clientY);
});
timeline.addEventListener("pointerup", event => {
  if (!dragging) return;
  const { select, before, x } = dragging;
  dragging = null;
  tell("");
  if (Math.abs(event.clientX - x) < 4) {
    const element = document.elementFromPoint(event.clientX, event.clientY)?.closest(".lane");
    const stream = streams.find(stream => stream.element === element);
    const found = stream && nearest(stream, x - plots().left, event.clientY - element.getBoundingClientRect().top);
    if (stream && found !== null) goTo(stream, found, { scroll: false });
    else { selection = null; summarise(); overlays(); remember(); }
  } else if (select) { summarise(); remember(); } else {
    const { from, to } = selection;
    selection = before;
    show(from, to);
  }
});
timeline.addEventListener("dblclick", event => { if (event.target.closest(".axis")) show(full.from, full.to); });
timeline.addEventListener("wheel", event => {
  if (!event.ctrlKey) return;
  event.preventDefault();
  zoom(event.deltaY > 0 ? 1.25 : 0.8, toMs(event.clientX - plots().left));
}, { passive: false });

function zoom(factor, around = selection ? (selection.from + selection.to) / 2 : (view.from + view.to) / 2) {
  show(around - (around - view.from) * factor, around + (view.to - around) * factor);
}

// ---- a span's own figures, and the spectrum -------------------------------------------------------------------------------
const percentile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)];
function summarise() {
  figures.hidden = !selection;
  for (const row of all("#failed tbody tr")) {
    const ms = +row.dataset.a;
    row.dataset.out = selection && (ms < selection.from || ms > selection.to) ? "1" : "";
  }
  sift();
  if (!selection) return;
  const parts = [`${seconds(selection.from)} to ${seconds(selection.to)} s (${duration(selection.to - selection.from)})`];
  for (const stream of streams) {
    const from = search(stream.times, selection.from), to = search(stream.times, selection.to);
    if (from === to) { parts.push(`${stream.entry.name}: no request`); continue; }
    let bad = 0;
    for (let i = from; i < to; i++) if (stream.classes[i] & 15) bad++;
    const sorted = stream.latencies.slice(from, to).sort();
    parts.push(`${stream.entry.name}: ${to - from} sent, ${bad} failed (${number(bad / (to - from) * 100, 2)} %), ` +
      `p50 ${duration(percentile(sorted, 0.5))}, p99 ${duration(percentile(sorted, 0.99))}, max ${duration(sorted[sorted.length - 1])}`);
  }
  figures.replaceChildren(...parts.map(text => Object.assign(document.createElement("div"), { textContent: text })));
}

// Latency at each share of the requests: before, during and after the first fault, one line each.
function spectrum() {
  const fault = $("#faults tbody tr"), box = $("#spectrum");
  if (!box || !streams.length) return;
  const spans = fault ? [["before", full.from, +fault.dataset.a], ["during", +fault.dataset.a, +fault.dataset.b], ["after", +fault.dataset.b, full.to]]
    : [["whole run", full.from, full.to]];
  const W = 420, H = 190, L = 52, B = 30;
  for (const stream of streams) {
    const { entry } = stream, x = share => L + Math.log10(1 / (1 - share)) / 4 * (W - L - 60);
    const y = ms => 14 + (H - B - 14) * (1 - clamp(Math.log(Math.max(ms, entry.lowest) / entry.lowest) / Math.log(entry.highest / entry.lowest), 0, 1));
    const picture = svg("svg", { width: W, height: H, role: "img", "aria-label": `latency spectrum of ${entry.name}` });
    const add = (name, attributes, text) => { const e = svg(name, attributes); if (text) e.textContent = text; picture.append(e); return e; };
    add("text", { x: L, y: 10, class: "name" }, entry.name);
    for (const share of [0, 0.9, 0.99, 0.999, 0.9999]) {
      add("path", { d: `M${x(share)} 16V${H - B}`, class: "grid" });
      add("text", { x: x(share), y: H - B + 14, class: "mid" }, share ? `p${number(share * 100, 3)}` : "p0");
    }
    for (let ms = 10 ** Math.ceil(Math.log10(entry.lowest)); ms < entry.highest; ms *= 10) {
      add("path", { d: `M${L} ${y(ms)}H${x(0.9999)}`, class: "grid" });
      add("text", { x: L - 5, y: y(ms) + 3, class: "end" }, duration(ms));
    }
    if (entry.deadline) add("path", { d: `M${L} ${y(entry.deadline)}H${x(0.9999)}`, class: "deadline" });
    spans.forEach(([name, from, to], index) => {
      const sorted = stream.latencies.slice(search(stream.times, from), search(stream.times, to)).sort();
      if (sorted.length < 10) return;
      let path = "", last = 0;
      const most = Math.min(0.9999, 1 - 1 / sorted.length);
      for (let step = 0; step <= 160; step++) {
        const share = Math.min(1 - 10 ** (-step / 40), most);
        path += `${path ? "L" : "M"}${number(x(share), 1)} ${number(last = y(percentile(sorted, Math.max(share, 1e-9))), 1)}`;
        if (share === most) break;
      }
      add("path", { d: path, class: `line l${index}` });
      add("text", { x: x(most) + 5, y: last + 3 + (index - 1) * 3, class: `t${index}` }, name);
    });
    box.append(picture);
  }
}

// ---- failed requests: order, sieve ----------------------------------------------------------------------------------------
let table = null;
const hiddenClasses = new Set();
function sift() {
  if (!table) return;
  for (const row of all("tbody tr", table)) row.hidden = Boolean(row.dataset.out) || hiddenClasses.has(row.dataset.class);
}
function sorting() {
  table = $("#failed table");
  if (!table) return;
  const classes = [...new Set(all("tbody tr", table).map(row => row.dataset.class))];
  const filters = $(".filters");
  filters.hidden = classes.length < 2;
  for (const name of classes) {
    const label = document.createElement("label"), box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !hiddenClasses.has(name) });
    box.addEventListener("change", () => { hiddenClasses[box.checked ? "delete" : "add"](name); sift(); });
    label.append(box, ` ${name} `);
    filters.append(label);
  }
  all("thead th", table).forEach((head, column) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: head.textContent, className: "sort" });
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      all("thead th", table).forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = row => {
        const text = row.cells[column].textContent.replace("−", "-"), amount = parseFloat(text);
        return Number.isNaN(amount) ? text : / s$/.test(text) ? amount * 1000 : amount;
      };
      const body = $("tbody", table), rows = all("tr", body);
      rows.sort((a, b) => { const [x, y] = [value(a), value(b)]; return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1); });
      body.append(...rows);
    });
  });
}

// ---- going somewhere ------------------------------------------------------------------------------------------------------
function around(from, to) {
  const margin = Math.max((to - from) * 0.3, 400);
  show(from - margin, to + margin);
}
function mark(row) {
  all("tr.here").forEach(other => other.classList.remove("here"));
  if (row) row.classList.add("here");
}
function goTo(stream, i, { scroll = true } = {}) {
  const ms = stream.times[i];
  light(stream, i);
  at = ms;
  pinned = { req: titleOf(stream, i) };
  if (ms < view.from || ms > view.to) around(ms - 1500, ms + 1500); else { overlays(); remember(); }
  const row = document.getElementById(`req=${titleOf(stream, i)}`);
  mark(row);
  if (scroll) timeline.scrollIntoView({ block: "nearest" });
  note.textContent = wordsOf(stream, i).replaceAll("\n", " · ");
}
function step(direction) {
  const failed = streams.flatMap(stream => stream.failed.map(i => [stream.times[i], stream, i])).sort((a, b) => a[0] - b[0]);
  if (!failed.length) { note.textContent = "no request failed"; return; }
  const now = failed.findIndex(([, stream, i]) => pinned.req === titleOf(stream, i));
  const next = now < 0 ? (direction > 0 ? 0 : failed.length - 1) : (now + direction + failed.length) % failed.length;
  goTo(failed[next][1], failed[next][2]);
}
const places = {};
function cycle(name, spans) {
  if (!spans.length) { note.textContent = `there is no ${name}`; return; }
  places[name] = ((places[name] ?? -1) + 1) % spans.length;
  const [from, to, told] = spans[places[name]];
  around(from, to);
  note.textContent = told;
}
const spansOf = selector => all(selector, timeline).map(mark => [+mark.dataset.a, +mark.dataset.b, mark.dataset.told]).sort((a, b) => a[0] - b[0]);
function walk(direction) {
  const lanes = all(".lane", timeline).filter(one => !one.hidden);
  const now = lanes.indexOf(lane);
  if (lane) lane.classList.remove("here");
  lane = lanes[clamp(now + direction, 0, lanes.length - 1)];
  lane.classList.add("here");
  lane.scrollIntoView({ block: "nearest" });
  note.textContent = lane.getAttribute("aria-label");
}
function enter() {
  const centre = at ?? (view.from + view.to) / 2;
  const marks = lane ? all(".m", lane) : [];
  const on = marks.find(mark => +mark.dataset.a <= centre && +mark.dataset.b >= centre);
  const box = (lane || timeline).getBoundingClientRect();
  tell(on ? on.dataset.told : lane ? lane.getAttribute("aria-label") : "", plots().left + toX(centre), box.top);
}
const filter = $(".filter");
filter.addEventListener("input", () => {
  const text = filter.value.toLowerCase();
  for (const one of all(".lane", timeline)) one.hidden = !one.dataset.name.toLowerCase().includes(text);
  schedule();
});

// ---- the address ----------------------------------------------------------------------------------------------------------
let own = "";
function remember() {
  const parts = [];
  if (view.from !== full.from || view.to !== full.to) parts.push(`t=${seconds(view.from)}-${seconds(view.to)}`);
  if (selection) parts.push(`span=${seconds(selection.from)}-${seconds(selection.to)}`);
  for (const [key, value] of Object.entries(pinned)) parts.push(`${key}=${encodeURIComponent(value)}`);
  own = parts.length ? `#${parts.join("&")}` : "";
  try { history.replaceState(null, "", own || location.pathname); } catch { /* a browser that forbids it for files */ }
}
function follow() {
  if (location.hash === own) return;
  const parts = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B"));
  const span = text => { const [from, to] = (text || "").split("-").map(part => parseFloat(part) * 1000); return to > from ? { from, to } : null; };
  pinned = {};
  if (parts.get("dark") !== null) theme("dark");
  const t = span(parts.get("t"));
  for (const key of ["expect", "fault"]) {
    const row = parts.get(key) !== null && document.getElementById(`${key}=${parts.get(key)}`);
    if (!row) continue;
    pinned[key] = parts.get(key);
    mark(row);
    row.scrollIntoView({ block: "center" });
    if (!t && +row.dataset.b > +row.dataset.a) show(+row.dataset.a, +row.dataset.b);
  }
  const pod = parts.get("pod");
  if (pod !== null) {
    const found = all(".lane").find(one => one.dataset.name === pod);
    if (found) { lane = found; walk(0); pinned.pod = pod; }
  }
  if (parts.get("span")) { selection = span(parts.get("span")); summarise(); }
  if (t) show(t.from, t.to);
  const wanted = parts.get("req");
  if (wanted !== null) {
    const dot = wanted.lastIndexOf("."), name = wanted.slice(0, dot), index = +wanted.slice(dot + 1) - 1;
    const stream = streams.find(stream => stream.entry.name === name);
    const place = stream && (stream.numbers ? stream.numbers.indexOf(index) : index);
    if (stream && place >= 0 && place < stream.times.length) {
      if (!t) show(stream.times[place] - 2000, stream.times[place] + 2000);
      goTo(stream, place, { scroll: false });
      const row = document.getElementById(`req=${wanted}`);
      (row || timeline).scrollIntoView({ block: "center" });
    } else note.textContent = `request ${wanted} is not in this page`;
  }
  remember();
}
addEventListener("hashchange", follow);
$("main").addEventListener("click", event => {
  const row = event.target.closest("tr[data-b]");
  if (!row || event.target.closest("a")) return;
  const [key, value] = row.id ? [row.id.slice(0, row.id.indexOf("=")), row.id.slice(row.id.indexOf("=") + 1)] : [];
  pinned = key ? { [key]: value } : {};
  mark(row);
  show(+row.dataset.a, +row.dataset.b);
  $("#timeline").scrollIntoView({ block: "nearest" });
});

// ---- keys and buttons -----------------------------------------------------------------------------------------------------
function theme(wanted) {
  const root = document.documentElement;
  const dark = wanted ? wanted === "dark" : !(root.classList.contains("dark") || (!root.classList.contains("light") && matchMedia("(prefers-color-scheme: dark)").matches));
  root.classList.toggle("dark", dark);
  root.classList.toggle("light", !dark);
  schedule();
}
const keys = {
  ArrowLeft: () => { const by = (view.to - view.from) / 10; show(view.from - by, view.to - by); },
  ArrowRight: () => { const by = (view.to - view.from) / 10; show(view.from + by, view.to + by); },
  "+": () => zoom(0.67), "=": () => zoom(0.67), "-": () => zoom(1.5),
  "0": () => { pinned = {}; show(full.from, full.to); },
  n: () => step(1), p: () => step(-1),
  o: () => cycle("outage", spansOf(".outage")), f: () => cycle("fault", spansOf(".fault")),
  j: () => walk(1), k: () => walk(-1), Enter: enter, d: () => theme(),
  "/": () => filter.focus(), "?": () => $("#keys").showModal(),
  Escape: () => { selection = null; pinned = {}; tell(""); light(null); mark(null); summarise(); overlays(); remember(); },
};
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("#keys").open) return;
  const target = event.target instanceof Element ? event.target : document.body;
  if (target.closest("input[type=search],select,textarea")) {
    if (event.key === "Escape") target.blur();
    return;
  }
  if (event.key === "Enter" && target.closest("a,button,summary,input")) return;
  const act = keys[event.key] || keys[event.key.toLowerCase()];
  if (act) { event.preventDefault(); act(); }
});
for (const button of all("[data-key]")) button.addEventListener("click", () => keys[button.dataset.key]());
async function copy(button, text) {
  let done = true;
  try { await navigator.clipboard.writeText(text); } catch {
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
  }
  const before = button.textContent;
  button.textContent = done ? "copied" : text;
  setTimeout(() => { button.textContent = before; }, 1500);
}
$("header").addEventListener("click", ({ target }) => { if (target.closest(".copy")) copy(target, target.dataset.copy); });
$(".link").addEventListener("click", event => { remember(); copy(event.target, location.href.split("#")[0] + own); });
$("main").addEventListener("click", event => {
  if (!event.target.closest(".save")) return;
  const blob = new Blob([JSON.stringify(JSON.parse($("#report-json").textContent), null, 2)], { type: "application/json" });
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "report.json" });
  link.click();
  URL.revokeObjectURL(link.href);
});
addEventListener("resize", () => { ticks(); labels(); overlays(); schedule(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", schedule);
let printed = null;
addEventListener("beforeprint", () => { printed = { ...view }; show(full.from, full.to, { keep: true }); all("details").forEach(one => { one.open = true; }); });
addEventListener("afterprint", () => { if (printed) show(printed.from, printed.to, { keep: true }); });

// A newer page of a run that goes on takes the place of this one; what is looked at stays.
document.addEventListener("newer", async ({ detail: page }) => {
  const next = JSON.parse($("#directory", page).textContent), fresh = await unpack(page, next);
  const whole = view.from === full.from && view.to === full.to, open = all("details[open]").map(one => one.closest("section").id);
  directory = next;
  streams = fresh;
  Object.assign(full, { from: next.from, to: next.to });
  const header = $("header"), main = $("main"), here = $("#timeline");
  header.className = $("header", page).className;
  header.replaceChildren(...$("header", page).childNodes);
  $(".legend").replaceWith($(".legend", page));
  all(".lane", timeline).forEach(one => one.remove());
  cursor.before(...all(".lane", page));
  for (const one of [...main.children]) if (one !== here && one.id !== "live") one.remove();
  let before = true;
  for (const one of [...$("main", page).children]) {
    if (one.id === "timeline") before = false;
    else if (one.id !== "live") before ? here.before(one) : main.append(one);
  }
  for (const id of ["directory", "columns", "report-json"]) $(`#${id}`).textContent = $(`#${id}`, page).textContent;
  for (const id of open) { const one = $(`#${id} details`); if (one) one.open = true; }
  document.title = page.title;
  if (lane) { lane = document.getElementById(lane.id); if (lane) lane.classList.add("here"); }
  begin();
  show(whole ? full.from : view.from, whole ? full.to : view.to, { keep: true });
  document.documentElement.dataset.newer = 1 + +(document.documentElement.dataset.newer || 0);
});

function begin() {
  marks();
  sorting();
  $(".save").hidden = false;
  spectrum();
  summarise();
  filter.dispatchEvent(new Event("input"));
}

$(".tools").hidden = false;
show(full.from, full.to, { keep: true });
unpack().then(fresh => { streams = fresh; begin(); show(full.from, full.to, { keep: true }); follow(); document.documentElement.dataset.ready = "1"; });
})();
