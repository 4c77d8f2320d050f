// Tempo's spans on a call's page: asked for once the page is there, and drawn as trace.json says.

const SVG = "http://www.w3.org/2000/svg";
const ASKED_AGAIN = 12;
const MANY = 60;
const WHOSE = {
  child_call: "asked by a policy", other_call: "another call", caller: "caller", callee: "called by the call",
};

export function make(name, text, attributes = {}) {
  const element = document.createElement(name);
  if (text !== null && text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function drawn(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// Asks, and asks again where that is worth it. Nothing else of the page waits for this.
export async function trace(rounds = 0) {
  const holder = document.querySelector("[data-trace]");
  const said = holder?.querySelector("[data-trace-said]");
  if (!said) return;
  if (!rounds) said.textContent = "Asking Tempo …";
  let found;
  try {
    found = await (await fetch(holder.dataset.trace)).json();
  } catch {
    said.textContent = "Luthien could not be asked for the spans. ";
    return again(said);
  }
  if (!said.isConnected) return;
  holder.querySelector("[data-spans]")?.remove();
  if (found.state === "found") said.after(picture(found));
  said.textContent = `${found.state === "found" ? summary(found) : found.sentence ?? "Nothing came of asking Tempo."} `;
  if (found.state === "found" && found.sentence) said.append(make("strong", found.sentence), " ");
  if (found.state !== "found" || found.sentence) again(said, found.retry_after_s, rounds);
}

function again(said, seconds = null, rounds = 0) {
  const button = make("button", "Ask again", { type: "button", class: "small" });
  button.addEventListener("click", () => trace());
  said.append(button);
  if (seconds === null || rounds >= ASKED_AGAIN) return;
  setTimeout(() => { if (button.isConnected && !document.hidden) trace(rounds + 1); }, seconds * 1000);
}

function summary(found) {
  const many = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const services = found.services.map((each) => `${each.name || "(no name)"} ${each.spans}`).join(", ");
  const others = found.omitted ? `, ${found.omitted} more not shown` : "";
  const own = found.spans.some((span) => span.of_this_call) ? ` This call’s take ${time(found.total_ms)} in all.` : "";
  return `${many(found.spans.length, "span")}${others}: ${services}.${own}`;
}

function picture(found) {
  const part = make("div", null, { "data-spans": "" });
  for (const note of found.notes) part.append(make("p", note, { class: "warning" }));
  const far = found.spans.filter((span) => !span.near).length;
  const isCut = found.spans.length > MANY && far > 0 && far < found.spans.length;
  const grid = table(found, isCut ? found.spans.filter((span) => span.near) : found.spans);
  part.append(grid);
  if (isCut) {
    const more = make("button", `Show the other ${far} spans of the trace`, { type: "button", class: "small" });
    more.addEventListener("click", () => {
      more.remove();
      part.querySelector(".wide").replaceWith(table(found, found.spans));
    });
    part.append(more);
  }
  part.append(...traces("Other traces have spans of this call, too:", found.others));
  part.append(...traces("The caller, who is not trusted to be joined, says that its trace is", found.linked));
  return part;
}

function traces(words, ids) {
  if (!ids.length) return [];
  const line = make("p", `${words} `, { class: "dim" });
  for (const [number, each] of ids.entries()) {
    if (number) line.append(", ");
    line.append(make("code", each.trace_id));
    if (each.link) line.append(" ", make("a", "in Grafana", { href: each.link, rel: "noreferrer" }));
  }
  return [line];
}

function table(found, spans) {
  const wide = make("div", null, { class: "wide", tabindex: "0", role: "group", "aria-label": "Spans in Tempo" });
  const grid = make("table", null, { class: "waterfall spans" });
  const head = grid.createTHead().insertRow();
  for (const [name, kind] of [["Span", ""], ["Drawn", "chart"], ["Began at", "number"], ["Took", "number"]])
    head.append(make("th", name, { scope: "col", class: kind }));
  const axis = drawn("svg", { width: "100%", height: "16", "aria-hidden": "true", overflow: "visible" });
  for (const tick of found.ticks) {
    const label = drawn("text", { class: "axis", x: `${tick.x}%`, y: "12", "text-anchor": tick.anchor });
    label.textContent = tick.label;
    axis.append(label);
  }
  head.cells[1].replaceChildren(make("span", "Drawn", { class: "unseen" }), axis);
  const body = grid.createTBody();
  for (const span of spans) body.append(row(span, found.ticks));
  wide.append(grid);
  return wide;
}

function row(span, ticks) {
  const line = make("tr", null, { class: span.whose });
  const name = make("th", null, { scope: "row", class: `d${span.depth}` });
  name.append(span.call ? make("a", span.name || "(no name)", { href: span.call }) : span.name || "(no name)");
  const about = [span.service, span.kind === "internal" ? "" : span.kind].filter(Boolean).join(", ");
  if (about) name.append(" ", make("span", about, { class: "dim" }));
  for (const [word, kind, title] of marks(span)) name.append(" ", make("span", word, { class: `tag ${kind}`, ...(title && { title }) }));
  const chart = make("td", null, { class: "chart" });
  const svg = drawn("svg", { width: "100%", height: "16", "aria-hidden": "true", overflow: "visible" });
  for (const tick of ticks) svg.append(drawn("line", { class: "grid", x1: `${tick.x}%`, x2: `${tick.x}%`, y1: "-8", y2: "26" }));
  svg.append(bar(span));
  chart.append(svg);
  line.append(name, chart, make("td", time(span.at_ms), { class: "number" }), make("td", time(span.ms), { class: "number" }));
  return line;
}

// One that lies before or after what is drawn is an arrow.
function bar(span) {
  const looks = `bar-span ${span.whose}${span.error ? " failed" : ""}`;
  if (!span.outside) return drawn("rect", { x: `${span.left}%`, width: `${Math.max(span.width, 0.15)}%`, y: "2", height: "12", rx: "2", class: looks });
  const arrow = drawn("text", { x: span.outside === "before" ? "0%" : "100%", y: "12", class: looks, "text-anchor": span.outside === "before" ? "end" : "start" });
  arrow.textContent = span.outside === "before" ? "◂" : "▸";
  return arrow;
}

// What stands behind a span's name: word, class and, where the word does not say it all, more of them.
function marks(span) {
  const found = [];
  if (span.first_of_kind && WHOSE[span.whose]) found.push([WHOSE[span.whose], "whose"]);
  if (span.error) found.push(["error", "error"]);
  if (span.parent_missing) found.push(["parent not in Tempo", "missing-parent", `Its parent is the span ${span.parent}, which was not exported to this Tempo, or is still on its way.`]);
  if (span.skew_ms) found.push([`clock off by ${time(span.skew_ms)}`, "skew", "At the least: it does not lie within the span that it is below."]);
  return found;
}

// As the pages write it.
function time(ms) {
  if (ms < 0) return `−${time(-ms)}`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return ms >= 1 ? `${ms.toFixed(1)} ms` : `${(ms * 1000).toFixed(0)} µs`;
}
