// Keys for all pages. Pages say with attributes what there is to go to:
//
//   data-row     an entry of a list; its link is a[data-open], else its first link       j k, o, Enter
//   data-block   a part of a page that j and k stop at besides: a stage, a decision      j k
//   data-op      a change                                                                j k, n p
//   data-up      the link to the list                                                    u
//   data-prev, data-next   links to the neighbours in the list                           [ ]
//   data-search  the field to type in                                                    /
//   data-copy    the button that copies; its value is what                               c
//   data-side    what switches between unified and side by side                          s
//   data-whitespace   what switches white space                                          w
//   data-go="x"  a link                                                                  g x
//   data-key="x" anything else that x is to click
//
// Nothing happens while somebody types, with a modifier, or once keys are switched off in the help.

const OFF = "luthien.keys.off";
const CLICKED = {
  u: "[data-up]", "[": "[data-prev]", "]": "[data-next]", c: "[data-copy-id]", s: "[data-side]", w: "[data-whitespace]",
};
const CHANGES = "[data-op]";
const STOPS = "[data-row], [data-block], [data-op]";
const CURRENT = "[aria-current=true]:is([data-row], [data-block], [data-op])";
const GO_MS = 1500;
let goUntil = 0;

function isOff() {
  try { return localStorage.getItem(OFF) === "1"; } catch { return false; }
}

function setOff(off) {
  try { off ? localStorage.setItem(OFF, "1") : localStorage.removeItem(OFF); } catch { /* for this page only */ }
}

function isTyping(target) {
  return target instanceof Element && target.closest("input, textarea, select, [contenteditable]") !== null;
}

function isShown(element) {
  return element.getClientRects().length > 0;
}

function stops(selector) {
  return [...document.querySelectorAll(selector)].filter(isShown);
}

function linkOf(row) {
  return row.querySelector("a[data-open]") ?? row.querySelector("a[href]");
}

// Where somebody is: the stop that has the focus, else the last one that keys went to.
function place(all) {
  const focused = all.findLastIndex((each) => each.contains(document.activeElement));
  if (focused >= 0) return focused;
  return all.findIndex((each) => each.getAttribute("aria-current") === "true");
}

// From anywhere else it goes on from the first stop below the top of the window.
function step(selector, by) {
  const all = stops(selector);
  if (!all.length) return;
  const here = place(all);
  let next;
  if (here >= 0) next = here + by;
  else if (document.querySelector(CURRENT) && selector !== STOPS) next = beside(all, by);
  else next = by > 0 ? 0 : all.length - 1;
  goTo(all[Math.min(Math.max(next, 0), all.length - 1)]);
}

function beside(all, by) {
  const current = document.querySelector(CURRENT);
  const after = all.findIndex((each) => current.compareDocumentPosition(each) & Node.DOCUMENT_POSITION_FOLLOWING);
  if (by > 0) return after < 0 ? all.length - 1 : after;
  return (after < 0 ? all.length : after) - 1;
}

function goTo(stop) {
  for (const old of document.querySelectorAll(CURRENT)) old.removeAttribute("aria-current");
  stop.setAttribute("aria-current", "true");
  for (let fold = stop.closest("details:not([open])"); fold; fold = fold.parentElement.closest("details:not([open])"))
    if (fold !== stop) fold.open = true; else break;
  const target = stop.matches("[data-row]") ? linkOf(stop) ?? stop : stop.querySelector(":scope > summary") ?? stop;
  if (target === stop && !stop.hasAttribute("tabindex")) stop.tabIndex = -1;
  target.focus({ preventScroll: true });
  stop.scrollIntoView({ block: "nearest", behavior: "instant" });
}

function open() {
  const row = document.activeElement?.closest(STOPS) ?? document.querySelector(CURRENT);
  if (!row) return;
  const fold = row.matches("details") ? row : null;
  if (fold) fold.open = !fold.open;
  else linkOf(row)?.click();
}

function help() {
  const dialog = document.getElementById("keys");
  if (!dialog) return;
  if (dialog.open) dialog.close(); else dialog.showModal();
}

function search() {
  const field = stops("[data-search]")[0];
  if (field) {
    field.focus();
    field.select?.();
  } else document.querySelector("[data-up]")?.click();
}

function click(selector) {
  const found = stops(selector).find((each) => !each.disabled);
  found?.click();
  return Boolean(found);
}

function press(key) {
  if (performance.now() < goUntil) {
    goUntil = 0;
    return click(`[data-go="${CSS.escape(key)}"]`);
  }
  switch (key) {
    case "j": step(STOPS, 1); return true;
    case "k": step(STOPS, -1); return true;
    case "n": step(CHANGES, 1); return true;
    case "p": step(CHANGES, -1); return true;
    case "o": open(); return true;
    case "/": search(); return true;
    case "g": goUntil = performance.now() + GO_MS; return true;
  }
  return click(CLICKED[key] ?? `[data-key="${CSS.escape(key)}"]`);
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key.length !== 1 || isTyping(event.target)) return;
  if (event.key === "?") {
    event.preventDefault();
    help();
  } else if (!isOff() && !document.querySelector("dialog[open]") && press(event.key)) event.preventDefault();
});

// Enter on a stop that is no link of its own opens it.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !isOff() && event.target instanceof Element && event.target.matches(STOPS)) open();
});

for (const link of document.querySelectorAll("[data-help]")) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || !document.getElementById("keys")) return;
    event.preventDefault();
    help();
  });
}

for (const box of document.querySelectorAll("[data-keys-switch]")) {
  box.closest("[hidden]")?.removeAttribute("hidden");
  box.checked = !isOff();
  box.addEventListener("change", () => setOff(!box.checked));
}
