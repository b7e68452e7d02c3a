// Views that change the service: settings (only shown), log levels, readiness, faults.

// A form. `send` returns what to tell the operator; what the service rejects is shown as the service says it.
function form(label, controls, submit, send) {
  const state = element("output");
  const node = element("form", { "aria-label": label, onsubmit: async (event) => {
    event.preventDefault();
    await attempt(state, () => send(node));
  } }, element("div", { class: "fields" }, controls, element("button", {}, submit)), state);
  return node;
}
async function attempt(state, send) {
  state.dataset.tone = "";
  setText(state, "…");
  try {
    setText(state, await send() ?? "Done.");
    current.refresh(true).catch(() => {});
  } catch (error) {
    state.dataset.tone = "bad";
    setText(state, error.message);
  }
}
const numberField = (name, attributes) => element("input", { type: "number", name, ...attributes });
const asNumber = (value) => (value === "" ? undefined : Number(value));

// --- Settings

const settingTable = new Table("Settings", [
  { label: "Variable", kind: "code", text: (row) => row.variable },
  { label: "Value", kind: "main code", text: (row) => brief(row.value) },
  { label: "Source", text: (row) => row.source, tone: (row) => row.source !== "default" && "one" },
  { label: "Default", kind: "code wide", text: (row) => brief(row.default) },
  { label: "Live", kind: "wide", text: (row) => (row.is_live ? "yes" : "at restart") },
], { key: (row) => workerKey(row, row.variable) });
const settingFilter = textField("Filter settings", "Filter", () => showSettings());
const changedOnly = element("input", { type: "checkbox", onchange: () => showSettings() });
let settingRows = [];
function showSettings() {
  settingTable.show(settingRows.filter((row) => (has(row.variable, settingFilter.value) || has(row.value, settingFilter.value)) && (!changedOnly.checked || row.source !== "default")),
    settingRows.length ? "No setting matches." : "Nothing to show.");
}
const settings = {
  name: "settings", title: "Settings", path: "settings",
  node: element("div", { class: "tall" }, heading("Settings", settingFilter, element("label", { class: "check" }, changedOnly, "set only")), settingTable.node),
  async refresh() {
    settingRows = ofOneWorker(await ask("settings"));
    showSettings();
  },
};

// --- Log levels

const levels = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];
const loggerNames = element("datalist", { id: "loggers" });
const levelState = element("output");
const loggerTable = new Table("Loggers", [
  { label: "Logger", kind: "main code", text: (row) => row.name },
  { label: "Level", text: (row) => row.level, tone: (row) => row.until && "warn" },
  { label: "Configured", text: (row) => row.configured ?? "as above", kind: "wide" },
  { label: "Until", text: (row) => (row.until ? clock(new Date(row.until)) : "") },
  { label: "", make: (row) => button("Reset", () => attempt(levelState, async () => {
    await ask(`loggers/${encodeURIComponent(row.name)}`, { method: "DELETE" });
    return `${row.name} has its configured level again.`;
  }), { class: "quiet", "aria-label": `Reset ${row.name}` }) },
], { key: (row) => `${workerKey(row, row.name)} ${row.until ?? ""}` });
const levelForm = form("Log level", [
  field("Logger", element("input", { name: "logger", value: "root", list: "loggers", required: true })),
  field("Level", element("select", { name: "level" }, options(levels))), field("For seconds", numberField("seconds", { value: 600, min: 1, max: 86400 })),
], "Set level", async ({ elements }) => {
  const name = elements.logger.value.trim();
  const seconds = asNumber(elements.seconds.value);
  await ask(`loggers/${encodeURIComponent(name)}`, { method: "PUT", body: { level: elements.level.value, seconds } });
  return `${name} logs ${elements.level.value} and above for ${span(seconds ?? 600)}.`;
});

// --- Readiness

const readinessState = element("p", { class: "state" });
const takeOut = form("Take out of rotation", [
  field("Reason", element("input", { name: "reason", required: true, maxlength: 500, size: 30 })), field("For seconds (empty: until put back)", numberField("seconds", { min: 1, max: 86400 })),
], "Take out of rotation", async ({ elements }) => {
  await ask("readiness", { method: "PUT", body: { ready: false, reason: elements.reason.value, ...(elements.seconds.value && { seconds: asNumber(elements.seconds.value) }) } });
  await readReadiness();
  return "The service gets no new traffic once its probes have failed. Requests are served as before.";
});
const putBack = form("Put back", [], "Put back into rotation", async () => {
  await ask("readiness", { method: "DELETE" });
  await readReadiness();
  return "The checks decide again.";
});

// --- Faults

const faultState = element("output");
let faultRules = [];
const describeRule = (rule) => brief(rule);
const faultTable = new Table("Faults", [
  { label: "Rule", kind: "main code", text: (row) => describeRule(row.rule) },
  { label: "Left", kind: "number", text: (row) => (row.remaining_seconds === null ? "stays" : span(row.remaining_seconds)) },
  { label: "Injected", kind: "number", text: (row) => number(row.injected) },
  { label: "", make: (row) => button("Remove", () => attempt(faultState, () => putRules(faultRules.filter((other) => describeRule(other.rule) !== describeRule(row.rule)))), { class: "quiet" }) },
], { key: (row) => workerKey(row, describeRule(row.rule)), empty: "No faults are injected." });
// The time that is left of the other rules stays as it is.
const putRules = (rows, added = []) => ask("faults", { method: "PUT",
  body: [...rows.map(({ rule, remaining_seconds: left }) => ({ ...rule, ...(left !== null && { seconds: Math.max(left, 0.001) }) })), ...added] }).then(() => "The faults were changed.");
const faultForm = form("Fault", [
  field("Client (empty: requests)", element("input", { name: "client", size: 14 })), field("Route", element("input", { name: "route", placeholder: "/orders/{order_id}" })),
  field("Share in %", numberField("share", { value: 100, min: 0, max: 100, step: "any" })), field("Latency in ms", numberField("latency", { min: 0, max: 300000 })),
  field("Status", numberField("status", { min: 400, max: 599, placeholder: "503" })),
  element("label", { class: "check" }, element("input", { type: "checkbox", name: "abort" }), "Close the connection"), field("For seconds", numberField("seconds", { value: 300, min: 1 })),
], "Inject", ({ elements }) => {
  const rule = { client: elements.client.value || undefined, [elements.client.value ? "path_prefix" : "route"]: elements.route.value || undefined,
    share: Number(elements.share.value) / 100, latency_seconds: Number(elements.latency.value) / 1000, status: asNumber(elements.status.value),
    abort: elements.abort.checked, seconds: asNumber(elements.seconds.value) };
  return putRules(faultRules, [rule]);
});
const clearFaults = button("Remove all", () => attempt(faultState, () => ask("faults", { method: "DELETE" }).then(() => "No faults are injected.")), { class: "quiet" });

const part = (title, notes, ...content) => element("section", { class: "card" }, element("h2", {}, title), element("p", { class: "muted" }, notes), content);
const problems = Object.fromEntries(["loggers", "readiness", "faults"].map((path) => [path, element("p", { class: "empty" })]));
const controls = {
  name: "control", title: "Control",
  node: element("div", { class: "cards" },
    part("Readiness", "Take this instance out of rotation by hand. /readyz is 503 until you put it back.", problems.readiness, readinessState, takeOut, putBack),
    part("Log level", "For the whole service (root) or one logger. It goes back by itself.", problems.loggers, levelForm, loggerNames, loggerTable.node, levelState),
    part("Faults", "Inject latency, errors or aborted connections, for tests. The first rule that matches wins.", problems.faults, faultForm, faultTable.node, clearFaults, faultState)),
  async refresh() {
    await fillPart("readiness", (readiness) => {
      setText(readinessState, readiness.ready ? "In rotation, as far as the checks pass." : `Out of rotation${readiness.until ? ` until ${clock(new Date(readiness.until))}` : ""}: ${readiness.reason}`);
      readinessState.dataset.tone = readiness.ready ? "good" : "warn";
      [takeOut.hidden, putBack.hidden] = [!readiness.ready, readiness.ready];
    });
    await fillPart("loggers", (rows) => {
      loggerTable.show(rows.toSorted((a, b) => Boolean(b.until) - Boolean(a.until)));
      const names = rows.map(({ name }) => name).sort();
      if (loggerNames.childElementCount !== names.length) loggerNames.replaceChildren(...options(names));
      for (const row of rows) loggerTable.rows.get(loggerTable.key(row)).cells.at(-1).hidden = !row.until;
    });
    await fillPart("faults", (rows) => {
      faultRules = rows;
      faultTable.show(rows);
      clearFaults.hidden = rows.length === 0;
    });
  },
};
// A part without its endpoint, or that is not for this operator, says so.
async function fillPart(path, show) {
  const card = problems[path].parentNode;
  try {
    const content = await ask(path);
    show(Array.isArray(content) ? ofOneWorker(content) : content);
    setText(problems[path], "");
    card.classList.remove("off");
  } catch (error) {
    setText(problems[path], path === "faults" && error.status === 404 ? "Fault injection is off: see APP_FAULT_INJECTION." : error.message);
    card.classList.add("off");
  }
}
