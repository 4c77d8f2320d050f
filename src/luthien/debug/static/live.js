// The list and the live monitor, kept up to date by server-sent events. Rows come from the server as it renders them.

const RETRY_MS = 3000;
const LOOK_MS = 15000;
const LOOKED_AT = 50;

function rowOf(html) {
  // A document of its own: nothing in it runs, and only the row is taken out.
  return new DOMParser().parseFromString(`<table><tbody>${html}</tbody></table>`, "text/html").querySelector("tr");
}

class Feed {
  constructor(address, tell) {
    this.address = address;
    this.tell = tell;
    this.position = null;
    this.open();
  }

  open() {
    const url = new URL(this.address, location.href);
    if (this.position) url.searchParams.set("after", this.position);
    const source = new EventSource(url);
    for (const kind of ["hello", "call", "left", "gap", "away", "held", "back"]) {
      source.addEventListener(kind, (event) => {
        if (event.lastEventId) this.position = event.lastEventId;
        this.tell(kind, JSON.parse(event.data));
      });
    }
    source.addEventListener("error", () => {
      this.tell("lost", {});
      // A refusal ends it for good; a broken line does not.
      if (source.readyState === EventSource.CLOSED) {
        source.close();
        setTimeout(() => this.open(), RETRY_MS);
      }
    });
    addEventListener("pagehide", () => source.close());
    addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  }
}

const SAID = {
  live: "Live", away: "The database is away; calls will come when it is back", lost: "Not connected; trying again",
  paused: "Paused",
};

class Table {
  constructor(bar) {
    this.bar = bar;
    this.body = document.querySelector("[data-live-rows]");
    this.isAway = false;
    this.isLost = false;
    this.waitsFor = null;
    bar.hidden = false;
    this.say("Connecting", "");
    this.feed = new Feed(bar.dataset.events, (kind, data) => this.hear(kind, data));
    setInterval(() => this.look().catch(() => { /* the feed says when there is no connection */ }), LOOK_MS);
  }

  // What makes no event, as that the process of a call died, is found by looking again at calls that seem to run.
  async look() {
    const ids = [...document.querySelectorAll("tr[data-running]")].slice(-LOOKED_AT).map((row) => row.dataset.call);
    if (!ids.length || document.hidden || this.isLost || this.isPaused) return;
    const url = new URL(this.bar.dataset.events.replace("/debug/events", "/debug/events/rows"), location.href);
    for (const id of ids) url.searchParams.append("call", id);
    const response = await fetch(url, { headers: { accept: "application/json" } });
    if (!response.ok) return;
    for (const [id, html] of Object.entries(await response.json())) {
      const old = this.row(id), row = rowOf(html);
      if (old?.hasAttribute("data-running") && !row.hasAttribute("data-running")) this.replace(old, row);
    }
    this.count?.();
  }

  say(words, state) {
    const said = this.bar.querySelector("[data-live-state]");
    if (said.textContent !== words) said.textContent = words;
    this.bar.dataset.state = state;
  }

  show() {
    const state = this.isLost ? "lost" : this.isAway ? "away" : this.waitsFor ? "held" : this.isPaused ? "paused" : "live";
    this.say(state === "held" ? this.waitsFor : SAID[state], state);
  }

  hear(kind, data) {
    this.isLost = kind === "lost";
    if (kind === "away") this.isAway = true;
    else if (kind !== "lost") this.isAway = false;
    if (kind === "held") this.waitsFor = data.sentence;
    else if (kind !== "lost") this.waitsFor = null;
    if (kind === "call") this.take(data);
    if (kind === "left") this.leave(data.call_id);
    if (kind === "gap") this.gap(data.sentence);
    if (kind === "lost") this.lose();
    this.show();
  }

  row(id) {
    return this.body?.querySelector(`tr[data-call="${CSS.escape(id)}"]`) ?? null;
  }

  // Puts a row in the place of what it was, and leaves the focus where it is.
  replace(old, row) {
    const held = old.contains(document.activeElement)
      ? [...old.querySelectorAll("a")].indexOf(document.activeElement) : null;
    if (old.hasAttribute("aria-current")) row.setAttribute("aria-current", old.getAttribute("aria-current"));
    if (old.hasAttribute("tabindex")) row.setAttribute("tabindex", old.getAttribute("tabindex"));
    old.replaceWith(row);
    if (held === null) return;
    if (held < 0) row.focus();
    else (row.querySelectorAll("a")[held] ?? row.querySelector("a"))?.focus();
  }

  freshen(row) {
    row.setAttribute("data-fresh", "");
    return row;
  }

  leave(id) {
    this.row(id)?.setAttribute("data-left", "");
  }

  gap() {}
  lose() {}
}

class List extends Table {
  constructor(bar) {
    super(bar);
    this.fresh = new Set();
    this.newest = this.body?.querySelector("tr[data-call]")?.dataset.call ?? "";
  }

  take(data) {
    const old = this.row(data.call_id);
    if (old) this.replace(old, this.freshen(rowOf(data.html)));
    else if (data.call_id > this.newest) this.offer(data.call_id);
  }

  offer(id) {
    this.fresh.add(id);
    const link = this.bar.querySelector("[data-live-new]");
    link.hidden = false;
    const many = this.fresh.size > 999 ? "999+" : String(this.fresh.size);
    link.textContent = many === "1" ? "Show 1 new call" : `Show ${many} new calls`;
    if (this.fresh.size > 999) this.fresh = new Set([...this.fresh].slice(-1000));
  }

  gap(sentence) {
    const link = this.bar.querySelector("[data-live-new]");
    link.hidden = false;
    link.textContent = `${sentence} Load the list again`;
  }
}

class Monitor extends Table {
  constructor(bar) {
    super(bar);
    this.most = Number(this.body.dataset.most);
    this.isPaused = false;
    this.held = new Map();
    this.dropped = 0;
    this.columns = document.querySelectorAll("thead th").length;
    const pause = bar.querySelector("[data-live-pause]");
    pause.addEventListener("click", () => this.pause(!this.isPaused));
    this.count();
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    const pause = this.bar.querySelector("[data-live-pause]");
    pause.setAttribute("aria-pressed", String(isPaused));
    if (!isPaused) {
      if (this.dropped) this.mark(`${this.dropped} changes came while this was paused and are not shown.`);
      for (const data of this.held.values()) this.place(data);
      this.held.clear();
      this.dropped = 0;
    }
    this.waiting();
    this.show();
  }

  take(data) {
    if (!this.isPaused) { this.place(data); return; }
    // As it is at last, and no more of them than would be shown.
    this.held.delete(data.call_id);
    this.held.set(data.call_id, data);
    if (this.held.size > this.most) {
      this.held.delete(this.held.keys().next().value);
      this.dropped += 1;
    }
    this.waiting();
  }

  waiting() {
    const many = this.held.size + this.dropped;
    this.bar.querySelector("[data-live-held]").textContent =
      !this.isPaused || !many ? "" : many === 1 ? "1 call waits" : `${many} calls wait`;
  }

  place(data) {
    const row = this.freshen(rowOf(data.html)), old = this.row(data.call_id);
    if (old) this.replace(old, row);
    else this.body.prepend(row);
    this.trim();
  }

  leave(id) {
    if (this.isPaused) this.held.delete(id);
    super.leave(id);
    this.count();
  }

  trim() {
    while (this.body.rows.length > this.most) this.body.lastElementChild.remove();
    this.count();
  }

  count() {
    const many = this.body.querySelectorAll("tr[data-running]:not([data-left])").length;
    this.bar.querySelector("[data-live-running]").textContent = many ? `${many} running` : "";
    const empty = document.querySelector("[data-live-empty]");
    if (empty) empty.hidden = this.body.rows.length > 0;
  }

  mark(words) {
    const row = document.createElement("tr"), cell = document.createElement("td");
    row.className = "gap";
    cell.colSpan = this.columns;
    cell.textContent = words;
    row.append(cell);
    this.body.prepend(row);
    this.trim();
    return row;
  }

  // Until it is known what was missed.
  lose() {
    this.broken ??= this.mark(`The connection broke at ${new Date().toISOString().slice(11, 19)} UTC.`);
  }

  hear(kind, data) {
    super.hear(kind, data);
    if (kind === "hello" && this.broken) {
      const words = `${this.broken.cells[0].textContent} Connected again at ${new Date().toISOString().slice(11, 19)} UTC`;
      this.broken.cells[0].textContent = `${words}; what came in between follows above.`;
      this.broken = null;
    }
  }

  gap(sentence) {
    this.mark(sentence);
  }
}

const bar = document.querySelector("[data-live]");
if (bar && typeof EventSource === "function") {
  if (bar.dataset.live === "list") new List(bar);
  else new Monitor(bar);
}
