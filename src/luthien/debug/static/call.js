// A call's page: copying, a stage's text when it is opened, a stream frame by frame, Tempo's spans, and what is new.

import { make, trace } from "./spans.js";

const MOST_ROUNDS = 3000;

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
