// The first view: the state of the service, charts, its routes and its checks.

const RATE_SECONDS = 10; // for the points of a chart: single steps would be too jagged
const MINUTE = 60;
const records = new History();
let publicPaths = new Set();
let route = null; // the key of the route whose charts are shown; null for all

const tiles = Object.fromEntries([
  ["rate", "Requests/s", "requests a second"], ["errorShare", "Errors", "responses of 500 and above"], ["p50", "Latency p50", "half of the requests take less"],
  ["p95", "p95", "95 % of the requests take less"], ["p99", "p99", "99 % of the requests take less"], ["active", "In progress", "requests"],
  ["cpu", "CPU", "of one core"], ["lag", "Loop lag", "99th percentile"], ["memory", "Memory", "resident"],
].map(([name, label, title]) => [name, { value: element("dd"), label, title }]));

const rateChart = new Chart("Requests per second", [["2xx, 3xx", "good"], ["4xx", "warn"], ["5xx", "bad"]], (value) => number(value), { isStacked: true });
const errorChart = new Chart("Errors", [["4xx", "warn"], ["5xx", "bad"]], percent, { minimum: 0.01 });
const latencyChart = new Chart("Latency", [["p50", "one"], ["p95", "two"], ["p99", "three"]], milliseconds);
const cpuChart = new Chart("CPU of one core", [["used", "one"]], percent, { minimum: 0.1 });
const lagChart = new Chart("Event loop lag", [["p99", "two"]], milliseconds);
const loadChart = new Chart("In progress", [["requests", "one"], ["threads", "two"], ["shed/s", "bad"]], (value) => number(value), { minimum: 5 });
const chartsOf = element("span", { class: "muted" }, "all routes");
const allRoutes = button("Show all routes", () => chooseRoute(null), { class: "quiet", hidden: true });

const routeColumns = [
  { label: "Route", text: (row) => row.path, kind: "main", sort: (row) => row.path },
  { label: "Method", text: (row) => row.method, sort: (row) => row.method },
  { label: "Req/s", kind: "number", text: (row) => number(row.rate ?? 0), sort: (row) => row.rate },
  { label: "4xx", kind: "number wide", text: (row) => percent(row.clientErrorShare), sort: (row) => row.clientErrorShare },
  { label: "5xx", kind: "number", text: (row) => percent(row.errorShare), sort: (row) => row.errorShare, tone: (row) => row.errorShare > 0 && "bad" },
  { label: "p50", kind: "number", text: (row) => milliseconds(row.p50), sort: (row) => row.p50 },
  { label: "p95", kind: "number", text: (row) => milliseconds(row.p95), sort: (row) => row.p95 },
  { label: "p99", kind: "number", text: (row) => milliseconds(row.p99), sort: (row) => row.p99 },
  { label: "Since start", kind: "number wide", text: (row) => number(row.total), sort: (row) => row.total },
];
const routeTable = new Table("Routes", routeColumns, { key: (row) => row.key, order: routeColumns.at(-1), empty: "No requests yet.", onSelect: (row) => chooseRoute(row.key) });
const routeFilter = element("input", { type: "search", placeholder: "Filter", "aria-label": "Filter routes", oninput: () => showRoutes() });
const checkTable = new Table("Readiness checks", [
  { label: "Check", text: (row) => row.name, kind: "main" },
  { label: "Status", text: (row) => row.status, tone: (row) => (row.status === "pass" ? "good" : "bad") },
  { label: "Required", text: (row) => (row.required ? "yes" : "no") },
  { label: "Took", kind: "number", text: (row) => milliseconds(row.duration_seconds * 1000) },
  { label: "Age", kind: "number", text: (row) => `${number(row.age_seconds, 0)} s` },
  { label: "Error", text: (row) => row.error ?? "" },
], { key: (row) => `${row.worker ?? ""} ${row.name}`, empty: "The service has no readiness checks." });

const overview = {
  name: "overview", title: "Overview",
  node: element("div", {},
    element("dl", { class: "tiles", "aria-label": "The last minute" }, Object.values(tiles).map(({ value, label, title }) =>
      element("div", { title }, element("dt", {}, label), value))),
    heading("Charts", chartsOf, allRoutes),
    element("div", { class: "charts" }, [rateChart, errorChart, latencyChart, cpuChart, lagChart, loadChart].map((chart) => chart.node)),
    heading("Routes", element("span", { class: "muted" }, "the last minute"), routeFilter), routeTable.node,
    heading("Readiness checks"), checkTable.node),
  async refresh() { /* the pollers below refresh it, whatever is shown */ },
};

// The requests to the admin port are not the service's traffic, unless the service has a route of that name.
const isOwn = (path) => (path === "/" || PATHS.has(path)) && !publicPaths.has(path);

async function readMetricsNow() {
  const at = Date.now();
  const state = snapshot(await ask("metrics"), at, isOwn);
  const restarts = records.restarts.length;
  records.add(state);
  if (records.restarts.length > restarts) {
    service.restartedAt = at;
    dispatchEvent(new Event("restarted"));
  }
  if (document.body.dataset.view === overview.name) showOverview();
}

function showOverview() {
  const { steps } = records;
  const last = steps.at(-1);
  const minute = { ...traffic(records.window(MINUTE)), ...saturation(records.window(MINUTE)) };
  const numbers = records.last?.numbers ?? {};
  // The request for the metrics itself is in progress, too.
  const inProgress = (counts) => Math.max(0, (counts.http_server_active_requests ?? 1) - 1);
  const shown = {
    ...minute, active: number(inProgress(numbers)) + (numbers.http_server_max_requests ? ` of ${numbers.http_server_max_requests}` : ""),
    rate: number(minute.rate), errorShare: percent(minute.errorShare), p50: milliseconds(minute.p50), p95: milliseconds(minute.p95),
    p99: milliseconds(minute.p99), lag: milliseconds(minute.lag), cpu: percent(minute.cpu), memory: megabytes(numbers.process_resident_memory_bytes),
  };
  for (const [name, { value }] of Object.entries(tiles)) setText(value, shown[name]);
  tiles.errorShare.value.dataset.tone = minute.errorShare > 0 ? "bad" : "";
  if (!last) return;
  const points = steps.map((step, i) => ({ at: step.at, isGap: step.isGap, step, ...traffic(records.window(RATE_SECONDS, i), picked), ...saturation([step]) }));
  const draw = (chart, values) => chart.show(points.map((point) => ({ at: point.at, isGap: point.isGap, values: values(point) })),
    Math.max(last.at - KEPT_SECONDS * 1000, Math.min(steps[0].at, last.at - 2 * MINUTE * 1000)), last.at, records.restarts);
  draw(rateChart, (point) => [point.ok, point.clientErrors, point.errors]);
  draw(errorChart, (point) => [point.clientErrorShare, point.errorShare]);
  draw(latencyChart, (point) => [point.p50, point.p95, point.p99]);
  draw(cpuChart, (point) => [point.cpu]);
  draw(lagChart, (point) => [point.lag]);
  draw(loadChart, ({ step, shed }) => [inProgress(step.numbers), step.numbers.handler_threads ?? null, shed]);
  showRoutes();
}
const picked = (step) => (route === null ? step.all : step.routes.get(route));

function showRoutes() {
  const steps = records.window(MINUTE);
  const words = routeFilter.value.toLowerCase();
  const rows = [...(records.last?.routes.values() ?? [])].filter(({ key }) => key.toLowerCase().includes(words))
    .map(({ key, labels, count }) => ({ key, method: labels.http_request_method ?? "gRPC", path: labels.http_route ?? labels.rpc_method, total: count, ...traffic(steps, (step) => step.routes.get(key)) }));
  routeTable.show(rows, words ? "No route has this text." : undefined);
  routeTable.mark(route);
}

function chooseRoute(key) {
  route = route === key ? null : key;
  setText(chartsOf, route === null ? "all routes" : route);
  allRoutes.hidden = route === null;
  showOverview();
}

async function readReadiness() {
  const document = await ask("readyz", { accepts: ({ status }) => status === 200 || status === 503 });
  service.readiness = document?.status ?? "unknown";
  const checks = Object.entries(document?.checks ?? {}).map(([name, check]) => ({ name, ...check }));
  checkTable.show(checks);
  announce();
}

async function readInfo() {
  service.info = await ask("info");
  const routes = await ask("routes").catch(() => []); // forbidden, perhaps
  publicPaths = new Set(routes.map(({ path }) => path));
  announce();
}
