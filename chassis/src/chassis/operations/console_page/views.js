// Views of what the service keeps in memory: requests, traces, log lines, its insides.

const textField = (label, placeholder, oninput) => element("input", { type: "search", "aria-label": label, placeholder, oninput });
const has = (text, part) => String(text ?? "").toLowerCase().includes(part.trim().toLowerCase());
const toneOf = (status) => (status >= 500 ? "bad" : status >= 400 ? "warn" : "");
const workerKey = (item, key) => `${item.worker ?? ""} ${key}`;

// A list on the left, and on the right what is selected in it. While somebody is at the list, it waits with new rows.
class Selection {
  constructor(table, hint) {
    this.table = table;
    this.news = button("", () => this.release(), { class: "quiet", hidden: true });
    this.detail = element("div", { class: "detail", "aria-live": "polite" }, element("p", { class: "empty" }, hint));
    this.node = element("div", { class: "columns" }, table.node, this.detail);
    this.waiting = null;
  }

  show(items, note, { force = false } = {}) {
    const known = this.table.rows;
    const added = items.filter((item) => !known.has(this.table.key(item))).length;
    this.waiting = this.table.isHeld && !force && added > 0 ? [items, note] : null;
    this.news.hidden = !this.waiting;
    if (this.waiting) setText(this.news, `Show ${added} new`);
    else this.table.show(items, note);
  }

  release() {
    this.show(...this.waiting, { force: true });
    this.table.node.scrollTop = 0;
  }
}

// --- Requests

const kindField = element("select", { "aria-label": "Kind of requests", onchange: () => requests.refresh(true) },
  options(["recent", "slow", "failed"], ["latest", "slowest", "failed"]));
const [statusField, pathField, traceField] = [["Status", "Status: 404, 5xx"], ["Route or path", "Route or path"], ["Trace or request id", "Trace or request id"]]
  .map(([label, placeholder]) => textField(label, placeholder, () => requests.refresh(true)));
const requestTable = new Table("Requests", [
  { label: "Time", text: (row) => clockOf(row.timestamp) },
  { label: "Status", kind: "number", text: (row) => row.code ?? String(row.status), tone: (row) => toneOf(row.status) },
  { label: "Method", kind: "wide", text: (row) => row.method },
  { label: "Path", text: (row) => row.path, kind: "main" },
  { label: "Duration", kind: "number", text: (row) => milliseconds(row.duration_ms) },
  { label: "Trace", kind: "code wide", text: (row) => row.trace_id?.slice(0, 8) },
], { key: (row) => workerKey(row, row.span_id), empty: "No requests yet.", onSelect: (row) => showRequest(row) });
const requestList = new Selection(requestTable, "Select a request to see all its facts.");

const slowness = (row) => row.first_byte_ms ?? row.duration_ms; // of a stream, until it has started

function showRequest({ facts: own = {}, ...row }) {
  requestList.detail.replaceChildren(element("h3", {}, `${row.method} ${row.path}`), element("p", { class: "actions" },
    element("a", { href: `#logs/${row.trace_id}` }, "Log lines"), isOffered("spans") && element("a", { href: `#traces/${row.trace_id}` }, "Spans"),
    element("a", { href: `#requests/${row.trace_id}` }, "Requests of this trace")), facts({ ...row, ...own }));
}

const requests = {
  name: "requests", title: "Requests", path: "requests", open(id) { if (id) [traceField.value, statusField.value, pathField.value] = [id, "", ""]; },
  node: element("div", {}, heading("Requests", kindField, statusField, pathField, traceField, requestList.news), requestList.node),
  async refresh(force) {
    const filters = [statusField, pathField, traceField].map(({ value }) => value.trim().toLowerCase());
    const [status, path, id] = filters;
    const rows = await ask(`requests?kind=${kindField.value}&limit=${filters.some(Boolean) ? 1000 : 200}`);
    const isWanted = (row) => new RegExp(`^${status.replace(/[^0-9]/g, "") || "."}`).test(row.status) && (has(row.route, path) || has(row.path, path))
      && (has(row.trace_id, id) || has(row.request_id, id));
    // Those of several workers come one after the other.
    rows.sort(kindField.value === "slow" ? (a, b) => slowness(b) - slowness(a) : (a, b) => Date.parse(b.timestamp) - Date.parse(a.timestamp));
    requestList.show(rows.filter(isWanted), filters.some(Boolean) ? "No request matches these filters." : undefined, { force });
  },
};

// --- Traces: the spans of requests, in development

const traceTable = new Table("Traces", [
  { label: "Time", text: (trace) => clockOf(trace.start / 1000) },
  { label: "Root", text: (trace) => trace.name, kind: "main", tone: (trace) => trace.isFailed && "bad" },
  { label: "Spans", kind: "number", text: (trace) => String(trace.spans.length) },
  { label: "Duration", kind: "number", text: (trace) => milliseconds((trace.end - trace.start) / 1000) },
], { key: (trace) => trace.id, empty: "No traces yet. Send a request to the service.", onSelect: (trace) => { location.hash = `#traces/${trace.id}`; } });
const traceList = new Selection(traceTable, "Select a trace to see its spans.");
let shownTrace = ""; // its id, and its number of spans

// A trace from its spans: in the order of a walk from the root, with the depth of each.
function traceOf(id, spans) {
  const ids = new Set(spans.map((one) => one.span_id));
  const childrenOf = Map.groupBy(spans.toSorted((a, b) => a.start_us - b.start_us), (one) => (ids.has(one.parent_span_id) ? one.parent_span_id : null));
  const ordered = [];
  const walk = (parent, depth) => (childrenOf.get(parent) ?? []).forEach((one) => {
    ordered.push({ ...one, depth });
    walk(one.span_id, depth + 1);
  });
  walk(null, 0);
  const root = ordered[0];
  return { id, spans: ordered, name: root.name, start: Math.min(...spans.map((one) => one.start_us)),
    end: Math.max(...spans.map((one) => one.start_us + one.duration_us)), isFailed: spans.some((one) => one.status === "error") };
}

function showTrace(trace) {
  const length = Math.max(1, trace.end - trace.start);
  const part = (us) => `${(us / length) * 100}%`;
  const attributes = element("div", {});
  const rows = trace.spans.map((one) => {
    const bar = element("i", { class: "bar", "data-tone": one.status === "error" ? "bad" : { server: "one", client: "two", internal: "three" }[one.kind] ?? "one" });
    [bar.style.left, bar.style.width] = [part(one.start_us - trace.start), part(one.duration_us)];
    const events = one.events.map((event) => {
      const mark = element("i", { class: "event", title: event.name });
      mark.style.left = part(one.start_us - trace.start + event.after_us);
      return mark;
    });
    const name = element("span", { class: "name" }, one.name);
    name.style.paddingLeft = `${0.25 + Math.min(one.depth, 12) * 0.8}rem`;
    const row = button("", () => {
      rows.forEach((other) => other.setAttribute("aria-pressed", other === row));
      const { kind, status, description, scope, links: linked, span_id: id } = one;
      attributes.replaceChildren(element("h3", {}, one.name), facts({ ...one.attributes, ...(one.events.length && { events: one.events }), status, description,
        ...(linked.length && { links: linked }), kind, "started at": clockOf(one.start_us / 1000), duration: milliseconds(one.duration_us / 1000), scope, span_id: id }));
    }, { class: "span", "aria-pressed": false });
    row.append(name, element("span", { class: "track" }, bar, events), element("span", { class: "took" }, milliseconds(one.duration_us / 1000)));
    return row;
  });
  const ticks = [0, 0.5, 1].map((at) => element("span", {}, milliseconds(length * at / 1000)));
  traceList.detail.replaceChildren(element("h3", {}, trace.name), element("p", { class: "actions" }, element("code", {}, trace.id),
    element("a", { href: `#logs/${trace.id}` }, "Log lines"), element("a", { href: `#requests/${trace.id}` }, "Requests")),
  element("div", { class: "waterfall" }, element("div", { class: "scale", "aria-hidden": true }, ticks), rows), attributes);
  rows[0].click();
}

const traces = {
  name: "traces", title: "Traces", path: "spans", wanted: "", open(id) { [this.wanted, shownTrace] = [id, ""]; },
  node: element("div", {}, heading("Traces", element("span", { class: "muted wide" }, "the last 50, in development"), traceList.news), traceList.node),
  async refresh(force) {
    const list = (spans) => [...Map.groupBy(spans, (one) => one.trace_id)].map(([id, own]) => traceOf(id, own));
    const all = list(await ask("spans?limit=50")).toSorted((a, b) => b.start - a.start);
    traceList.show(all, undefined, { force });
    if (!this.wanted) return;
    const found = all.find(({ id }) => id === this.wanted) ?? list(await ask(`spans?trace_id=${encodeURIComponent(this.wanted)}`))[0];
    traceTable.mark(this.wanted);
    if (!found) {
      traceList.detail.replaceChildren(element("p", { class: "empty" }, "The spans of this trace are not kept any more, or it was not sampled."));
    } else if (shownTrace !== `${found.id} ${found.spans.length}`) {
      shownTrace = `${found.id} ${found.spans.length}`;
      showTrace(found);
    }
  },
};

// --- Log lines

const MAX_LINES = 1000;
const LEVELS = ["debug", "info", "warning", "error", "critical"];
const levelField = element("select", { "aria-label": "Lowest level", onchange: () => showLines() }, options(LEVELS, LEVELS.map((level) => (level === "debug" ? "all levels" : `${level} and above`))));
const lineFilter = textField("Filter log lines", "Filter: text, trace id", () => showLines());
const levelOf = ({ line }) => String(line.level ?? /\[(\w+)\s*\]/.exec(line)?.[1] ?? "info").toLowerCase();
const lineTable = new Table("Log lines", [
  { label: "Time", text: ({ line }) => (line.timestamp ? clockOf(line.timestamp) : "") },
  { label: "Level", text: levelOf, tone: (item) => ({ warning: "warn", error: "bad", critical: "bad" })[levelOf(item)] },
  { label: "Event", kind: "what", text: ({ line }) => line.event ?? "" },
  { label: "Facts", kind: "main code", text: ({ line }) => (typeof line === "string" ? line : factsOf(line)) },
], { key: (item) => workerKey(item, item.number) });
let lines = [];
const timeOf = ({ line }) => Date.parse(line.timestamp) || 0;

const factsOf = ({ timestamp, level, event, ...rest }) => (Object.keys(rest).length ? brief(rest) : "");

function showLines() {
  const lowest = LEVELS.indexOf(levelField.value);
  const isAtEnd = lineTable.node.scrollHeight - lineTable.node.scrollTop - lineTable.node.clientHeight < 40;
  lineTable.show(lines.filter((item) => LEVELS.indexOf(levelOf(item)) >= lowest && has(JSON.stringify(item.line), lineFilter.value)),
    lines.length ? "No line matches these filters." : "No log lines yet.");
  if (isAtEnd) lineTable.node.scrollTop = lineTable.node.scrollHeight;
}

const logs = {
  name: "logs", title: "Logs", path: "logs", open(id) { if (id) [lineFilter.value, levelField.value] = [id, "debug"]; },
  node: element("div", { class: "logs" }, heading("Log lines", levelField, lineFilter), lineTable.node),
  async refresh() {
    const last = new Map(); // the line of each worker; the numbers of another process in its place are higher
    for (const item of lines) if (!(last.get(item.worker)?.number > item.number)) last.set(item.worker, item);
    const several = service.info?.workers?.map(({ worker }) => worker);
    const workers = new Set(several ? [...several, "supervisor"] : [undefined]);
    const answers = await Promise.allSettled([...workers].map((worker) => ask(`logs?${new URLSearchParams({ limit: MAX_LINES,
      ...(worker !== undefined && { worker }), ...(last.has(worker) && { after: last.get(worker).number }) })}`)));
    if (answers.every(({ reason }) => reason)) throw answers[0].reason; // one that is just replaced may be missing
    const news = answers.flatMap(({ value }) => value ?? []).filter((item) => !(item.number <= last.get(item.worker)?.number));
    for (const item of news) { // text has no time: it has that of the line before
      item.at = Math.max(timeOf(item), last.get(item.worker)?.at ?? 0);
      last.set(item.worker, item);
    }
    lines = [...lines, ...news].sort((a, b) => a.at - b.at).slice(-MAX_LINES);
    showLines();
  },
};

// --- The process: what it does right now

async function showAny(table, path) {
  try {
    const items = await ask(path);
    table.show(path === "routes" ? ofOneWorker(items) : items);
  } catch (error) {
    table.show([], error.message);
  }
}

const inside = [["tasks", "Tasks"], ["threads", "Threads"], ["gc", "Garbage collector"], ["routes", "Routes"]].filter(([path]) => isOffered(path))
  .map(([path, title]) => ({ path, title, table: new AnyTable(title) }));
const insides = {
  name: "process", title: "Process", path: inside[0]?.path ?? "tasks",
  node: element("div", {}, heading("Periodic work"), schedules.node, inside.map(({ title, table }) => [heading(title), table.node])),
  async refresh() {
    await showAny(schedules, "schedules");
    for (const { path, table } of inside) await showAny(table, path);
  },
};
