// What the service calls: other services, their replicas, the database, messages.

const rateColumns = (calls) => [
  { label: calls, kind: "number", text: (row) => number(row.rate ?? 0), sort: (row) => row.rate },
  { label: "Failed", kind: "number", text: (row) => percent(row.errorShare), sort: (row) => row.errorShare, tone: (row) => row.errorShare > 0 && "bad" },
  { label: "p50", kind: "number", text: (row) => milliseconds(row.p50), sort: (row) => row.p50 },
  { label: "p99", kind: "number", text: (row) => milliseconds(row.p99), sort: (row) => row.p99 },
];
const clients = new Table("Clients", [
  { label: "Client", kind: "what", text: (row) => row.name },
  { label: "Breaker", text: breakerText, tone: ({ items }) => (items.some(isOpen) ? "bad" : items.some(isHalfOpen) ? "warn" : "good") },
  ...rateColumns("Calls/s"),
  { label: "In progress", kind: "number", text: ({ items }) => `${sumOf(items, "in_progress")} of ${sumOf(items, "max_in_progress")}` },
  { label: "Waiting", kind: "number wide", text: ({ items }) => String(sumOf(items, "waiting")), tone: ({ items }) => sumOf(items, "waiting") > 0 && "warn" },
  { label: "Base URL", kind: "main code wide", text: ({ items }) => items[0].base_url },
], { key: (row) => row.name, empty: "The service has no clients: see app.client." });
const replicas = new Table("Replicas", [
  { label: "Client", kind: "what", text: (row) => row.name },
  { label: "Replica", kind: "code", text: (row) => row.address },
  { label: "State", text: replicaText, tone: ({ items }) => (items.some(isEjected) ? "bad" : "good") },
  { label: "In progress", kind: "number", text: ({ items }) => String(sumOf(items, "in_progress")) },
  { label: "Latency now", kind: "number", text: ({ items }) => milliseconds(Math.max(...items.map((item) => item.latency_ms))) },
  { label: "Failed lately", kind: "number", text: (row) => percent(failedShare(row)), tone: (row) => failedShare(row) > 0 && "bad" },
  { label: "", kind: "main wide", text: () => "" },
], { key: (row) => `${row.name} ${row.address}`, empty: "No addresses are known." });
const isOpen = ({ breaker }) => breaker === "open";
const isHalfOpen = ({ breaker }) => breaker === "half-open";
const isEjected = (item) => item.is_ejected;
const sumOf = (items, name) => items.reduce((sum, item) => sum + item[name], 0);
const failedShare = ({ items }) => share(sumOf(items, "recent_failures"), sumOf(items, "recent_failures") + sumOf(items, "recent_successes"));
// With several workers, each has a state of its own: a state that only some of them have says in how many.
const inWorkers = (found, items) => (found.length < items.length ? ` in ${found.length} of ${items.length} workers` : "");

function breakerText({ items }) {
  const [open, probed] = [items.filter(isOpen), items.filter(isHalfOpen)];
  const wait = Math.ceil(Math.min(...open.map((item) => item.seconds_until_probe)));
  if (open.length) return `open${inWorkers(open, items)}, ${wait > 0 ? `next try in ${span(wait)}` : "tries the next call"}`;
  return probed.length ? `half-open${inWorkers(probed, items)}, tries a few calls` : "closed";
}

function replicaText({ items }) {
  const ejected = items.filter(isEjected);
  if (ejected.length) return `ejected${inWorkers(ejected, items)}: ${[...new Set(ejected.map((item) => item.ejected_for.replaceAll("_", " ")))].join(", ")}`;
  return items.every((item) => item.is_near) ? "in use, near" : "in use";
}

// Tables of metrics, which are shown when the service has them.
const measured = [
  ["attempts", "Requests sent", "by address, with retries and hedges", "Address"], ["queries", "Database", "by query", "Query"],
  ["messages", "Messages", "by subject", "Message"],
].map(([table, title, beside, label]) => {
  const note = element("span", { class: "muted" }, beside);
  const columns = [{ label, kind: "main", text: (row) => row.key, sort: (row) => row.key }, ...rateColumns(table === "messages" ? "Messages/s" : table === "queries" ? "Queries/s" : "Requests/s")];
  const rows = new Table(title, columns, { key: (row) => row.key, order: columns[1] });
  return { table, beside, note, rows, node: element("div", { hidden: true }, heading(title, note), rows.node) };
});

function connectionsText({ used = 0, idle = 0, db_client_connection_max: most, db_client_connection_pending_requests: waiting }) {
  return most === undefined ? "" : `, connections: ${used} used, ${idle} idle, at most ${most}${waiting ? `, ${waiting} requests wait for one` : ""}`;
}

const dependencies = {
  name: "dependencies", title: "Dependencies",
  node: element("div", {}, heading("Clients", element("span", { class: "muted" }, "the last minute")), clients.node,
    element("div", { class: "replicas", hidden: true }, heading("Replicas"), replicas.node), measured.map(({ node }) => node)),
  async refresh() {
    const steps = records.window(MINUTE);
    for (const { table, beside, note, rows, node } of measured) {
      const known = [...(records.last?.[table].keys() ?? [])];
      rows.show(known.map((key) => ({ key, ...traffic(steps, (step) => step[table].get(key)) })));
      node.hidden = known.length === 0;
      setText(note, beside + (table === "queries" ? connectionsText(records.last?.numbers ?? {}) : ""));
    }
    try {
      const states = await ask("dependencies");
      clients.show([...Map.groupBy(states, ({ name }) => name)].map(([name, items]) => ({ name, items, ...traffic(steps, (step) => step.calls.get(name)) })));
      const all = states.flatMap(({ name, replicas: own }) => own.map((item) => ({ name, address: item.address, item })));
      replicas.show([...Map.groupBy(all, ({ name, address }) => `${name} ${address}`).values()].map((same) => ({ ...same[0], items: same.map(({ item }) => item) })));
      replicas.node.parentNode.hidden = states.length === 0;
    } catch (error) {
      clients.show([], error.message);
      replicas.node.parentNode.hidden = true;
    }
  },
};
