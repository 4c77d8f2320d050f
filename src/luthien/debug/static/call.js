// A call's page: copying, a stage's text when it is opened, a stream frame by frame, Tempo's spans, and what is new.

const SVG = "http://www.w3.org/2000/svg";
const MOST_ROUNDS = 3000;

function make(name, text, attributes = {}) {
  const element = document.createElement(name);
  if (text !== null && text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// Copying

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no clipboard but over HTTPS and on localhost
    const field = make("textarea");
    field.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
}

async function copyBy(button) {
  const label = button.textContent;
  await copy(button.value);
  button.focus();
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
}

// The text of a stage

async function loadText(holder, url) {
  holder.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(`${answer.status}`);
    const next = answer.headers.get("luthien-next");
    const pre = make("pre", await answer.text(), { tabindex: "0", "aria-label": "The text of this stage" });
    holder.replaceWith(pre);
    if (next !== null) {
      const more = make("p");
      const link = make("a", "Show more", { href: `${url.split("?")[0]}?start=${next}` });
      link.addEventListener("click", (event) => {
        event.preventDefault();
        loadText(more, link.getAttribute("href"));
      }, { once: true });
      more.append(link);
      pre.after(more);
    }
  } catch {
    holder.removeAttribute("aria-busy");
    if (!holder.querySelector("[role=alert]")) holder.append(make("span", " It could not be loaded.", { role: "alert", class: "bad" }));
  }
}

// A stream, frame by frame

function explore() {
  const range = document.querySelector("[data-frames]");
  if (!range) return;
  const marks = [...document.querySelectorAll("[data-frame]")];
  const said = document.querySelector("[data-frame-said]");
  if (!marks.length) return;
  range.max = marks.length - 1;
  range.closest("[hidden]")?.removeAttribute("hidden");
  const show = () => {
    document.querySelector(".chosen")?.classList.remove("chosen");
    const mark = marks[range.value];
    mark.classList.add("chosen");
    said.textContent = mark.querySelector("title").textContent;
    range.setAttribute("aria-valuetext", said.textContent);
  };
  range.addEventListener("input", show);
}

// Tempo's spans

async function trace() {
  const holder = document.querySelector("[data-trace]");
  const said = holder?.querySelector("[data-trace-said]");
  if (!said) return;
  said.textContent = "Asking Tempo …";
  let found;
  try {
    found = await (await fetch(holder.dataset.trace)).json();
  } catch {
    said.textContent = "Tempo could not be asked. ";
    return again(said);
  }
  if (found.state !== "found") {
    said.textContent = `${found.sentence ?? "Nothing came of asking Tempo."} `;
    return again(said);
  }
  const others = found.omitted ? `, ${found.omitted} more not shown` : "";
  said.textContent = `${found.spans.length} span${found.spans.length === 1 ? "" : "s"}${others}, ${time(found.total_ms)} in all.`;
  holder.querySelector("[data-spans]")?.remove();
  said.after(table(found.spans));
}

function again(said) {
  const button = make("button", "Ask again", { type: "button", class: "small" });
  button.addEventListener("click", trace);
  said.append(button);
}

function table(spans) {
  const wide = make("div", null, { class: "wide", tabindex: "0", role: "group", "aria-label": "Spans in Tempo", "data-spans": "" });
  const grid = make("table", null, { class: "waterfall spans" });
  const head = grid.createTHead().insertRow();
  for (const [name, kind] of [["Span", ""], ["Drawn", "chart"], ["Began at", "number"], ["Took", "number"]])
    head.append(make("th", name, { scope: "col", class: kind }));
  const body = grid.createTBody();
  for (const span of spans) body.append(row(span));
  wide.append(grid);
  return wide;
}

function row(span) {
  const line = make("tr");
  const name = make("th", span.name || "(no name)", { scope: "row", class: `d${Math.min(span.depth, 5)}` });
  const about = [span.service, span.kind].filter(Boolean).join(", ");
  if (about) name.append(" ", make("span", about, { class: "dim" }));
  if (span.error) name.append(" ", make("span", "error", { class: "tag error" }));
  if (!span.of_this_call) name.append(" ", make("span", "not of this call", { class: "tag" }));
  const chart = make("td", null, { class: "chart" });
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({ width: "100%", height: "16", "aria-hidden": "true" })) svg.setAttribute(key, value);
  const bar = document.createElementNS(SVG, "rect");
  const shape = {
    x: `${span.left}%`, width: `${Math.max(span.width, 0.15)}%`, y: "2", height: "12", rx: "2",
    class: `bar-span${span.error ? " failed" : ""}${span.of_this_call ? "" : " other"}`,
  };
  for (const [key, value] of Object.entries(shape)) bar.setAttribute(key, value);
  svg.append(bar);
  chart.append(svg);
  line.append(name, chart, make("td", time(span.at_ms), { class: "number" }), make("td", time(span.ms), { class: "number" }));
  return line;
}

// As the pages write it.
function time(ms) {
  if (Math.abs(ms) >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return Math.abs(ms) >= 1 ? `${ms.toFixed(1)} ms` : `${(ms * 1000).toFixed(0)} µs`;
}

// A call that is not over: parts of the page that are new take the place of the old ones.

async function refresh(rounds = 0) {
  const old = document.querySelector("[data-refresh]");
  if (!old || rounds > MOST_ROUNDS) return;
  await new Promise((done) => { setTimeout(done, Number(old.dataset.refresh)); });
  if (!document.hidden) {
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (answer.status === 404) return location.reload();
      if (answer.ok && isOver(new DOMParser().parseFromString(await answer.text(), "text/html"), old)) return;
    } catch { /* away for a moment */ }
  }
  return refresh(rounds + 1);
}

// Shows what is new; true when no more will come.
function isOver(page, old) {
  const fresh = page.querySelector("[data-refresh]");
  const parts = [...page.querySelectorAll("[data-part]")];
  if (!parts.length) {
    if (!fresh) location.reload();
    return !fresh;
  }
  const isAnother = parts.some((part) => !document.getElementById(part.id));
  if (isAnother || (replaceParts(parts) && !fresh)) {
    location.reload();
    return true;
  }
  if (fresh) return false;
  old.removeAttribute("data-refresh");
  const said = document.querySelector("[data-announce]");
  if (said) said.textContent = `This call is over: ${document.querySelector(".verdict")?.textContent ?? ""}`;
  return true;
}

// True when one was left, because somebody is at it.
function replaceParts(parts) {
  let isLeft = false;
  for (const part of parts) {
    const old = document.getElementById(part.id);
    if (asServed.get(part.id) === part.outerHTML) continue;
    if (old.contains(document.activeElement) || holdsSelection(old)) {
      isLeft = true;
      continue;
    }
    asServed.set(part.id, part.outerHTML);
    const fresh = document.importNode(part, true);
    if (old.matches("details")) fresh.open = old.open;
    old.replaceWith(fresh);
    ready(fresh);
  }
  return isLeft;
}

function holdsSelection(element) {
  const selected = getSelection();
  return selected && !selected.isCollapsed && selected.containsNode(element, true);
}

const asServed = new Map([...document.querySelectorAll("[data-refresh] [data-part]")].map((part) => [part.id, part.outerHTML]));

function ready(root) {
  for (const button of root.querySelectorAll("[data-copy-id], [data-copy-text]")) {
    button.hidden = false;
    button.addEventListener("click", () => copyBy(button));
  }
  const folds = root.matches?.("details") ? [root] : root.querySelectorAll("details");
  for (const fold of folds) {
    const holder = fold.querySelector("[data-text]");
    if (!holder) continue;
    const load = () => { if (fold.open && holder.isConnected) loadText(holder, holder.dataset.text); };
    if (fold.open) load();
    else fold.addEventListener("toggle", load, { once: true });
  }
  if (root.querySelector("[data-frames]")) explore();
  if (root.querySelector("[data-trace-said]")) trace();
}

// What an address leads to is unfolded.
function unfold() {
  const target = document.getElementById(location.hash.slice(1));
  for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
}

ready(document);
unfold();
addEventListener("hashchange", unfold);
refresh();
