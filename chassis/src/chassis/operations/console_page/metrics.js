// The metrics of the service: the text of `/metrics` to numbers, and counters to rates and percentiles.

const LAG = "event_loop_lag_seconds";
const byError = ({ error_type: error }) => (error ? "5" : "2");
// The histograms whose series become rows: of which table, the key of a row, and the class of its results as by their status.
const HISTOGRAMS = new Map(Object.entries({
  http_server_request_duration_seconds: { table: "routes", key: (labels) => `${labels.http_request_method} ${labels.http_route}`,
    result: (labels) => (labels.http_response_status_code || "0")[0] },
  rpc_server_call_duration_seconds: { table: "routes", key: (labels) => `gRPC ${labels.rpc_method}`,
    result: (labels) => (labels.error_type ? "5" : labels.rpc_response_status_code === "OK" ? "2" : "4") },
  dependency_call_duration_seconds: { table: "calls", key: (labels) => labels.dependency, result: byError },
  http_client_request_duration_seconds: { table: "attempts", key: (labels) => [labels.server_address, labels.server_port].filter(Boolean).join(":"),
    result: (labels) => (labels.http_response_status_code || (labels.error_type ? "5" : "0"))[0] },
  db_client_operation_duration_seconds: { table: "queries", key: (labels) => labels.db_query_summary, result: byError },
  messaging_client_operation_duration_seconds: { table: "messages", key: (labels) => `publish ${labels.messaging_destination_name}`, result: byError },
  messaging_process_duration_seconds: { table: "messages", key: (labels) => `process ${labels.messaging_destination_name}`, result: byError },
}).map(([name, histogram]) => [`${name}_bucket`, histogram]));
const TABLES = [...new Set([...HISTOGRAMS.values()].map(({ table }) => table))];
const WANTED = new Set([...HISTOGRAMS.keys(), `${LAG}_bucket`, "db_client_connection_count", "db_client_connection_max",
  "db_client_connection_pending_requests", "http_server_active_requests", "http_server_max_requests", "http_server_shed_requests_total", "process_cpu_seconds_total", "process_resident_memory_bytes",
  "process_start_time_seconds", "process_open_fds", "handler_threads", "handler_threads_max"]);
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const labelsOf = new Map(); // by series: the same ones come again and again
const ESCAPED = /\\(.)/g;
const KEPT_SECONDS = 15 * 60;
const MAX_STEP_SECONDS = 30; // a longer one is a gap: the page was hidden, or the service did not respond

// The samples of the metrics that the console shows: `visit(name, labels, value)`.
function readMetrics(text, visit) {
  for (const line of text.split("\n")) {
    const end = line.search(/[{ ]/);
    if (!WANTED.has(line.slice(0, end))) continue;
    const place = line.lastIndexOf(" ");
    const series = line.slice(0, place);
    if (!labelsOf.has(series)) {
      labelsOf.set(series, Object.fromEntries([...series.matchAll(LABEL)].map(([, key, escaped]) =>
        [key, escaped.replace(ESCAPED, (_, letter) => (letter === "n" ? "\n" : letter))])));
    }
    visit(line.slice(0, end), labelsOf.get(series), Number(line.slice(place)));
  }
}

// A histogram of cumulative buckets by their upper bounds, with the counts of some label's values beside.
class Histogram {
  constructor() {
    this.buckets = new Map(); // upper bound in seconds to count
    this.classes = {}; // class of the status to count: "2", "5", or "0" without a response
  }

  get count() { return this.buckets.get(Infinity) ?? 0; }

  addBucket(bound, count) { this.buckets.set(bound, (this.buckets.get(bound) ?? 0) + count); }

  addClass(name, count) { this.classes[name] = (this.classes[name] ?? 0) + count; }

  add(other) {
    for (const [bound, count] of other.buckets) this.addBucket(bound, count);
    for (const [name, count] of Object.entries(other.classes)) this.addClass(name, count);
    return this;
  }

  // What was counted since an earlier state. A count that went back has begun anew at zero, as for Prometheus' `increase`.
  since(earlier) {
    const gained = new Histogram();
    const restarted = earlier === undefined || this.count < earlier.count;
    for (const [bound, count] of this.buckets) gained.addBucket(bound, count - (restarted ? 0 : earlier.buckets.get(bound) ?? 0));
    for (const [name, count] of Object.entries(this.classes)) {
      gained.addClass(name, Math.max(0, count - (restarted ? 0 : earlier.classes[name] ?? 0)));
    }
    return gained;
  }

  // A percentile in seconds, interpolated inside of its bucket, as by Prometheus' `histogram_quantile`; null without requests.
  quantile(share) {
    const bounds = [...this.buckets].sort(([a], [b]) => a - b);
    if (!this.count) return null;
    const rank = share * this.count;
    let [lower, below] = [0, 0];
    for (const [bound, count] of bounds) {
      if (count >= rank && count > below) return bound === Infinity ? lower : lower + (bound - lower) * ((rank - below) / (count - below));
      [lower, below] = [bound === Infinity ? lower : bound, count];
    }
    return lower;
  }
}
const totalOf = (histograms) => [...histograms].reduce((total, one) => total.add(one), new Histogram());
const share = (part, whole) => (whole ? part / whole : null);

// The state of all metrics at one moment, in milliseconds since the epoch, without the routes that are the admin port's own.
function snapshot(text, at, isOwn) {
  const state = { at, lag: new Histogram(), numbers: {}, ...Object.fromEntries(TABLES.map((table) => [table, new Map()])) };
  readMetrics(text, (name, labels, value) => {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    const family = HISTOGRAMS.get(name);
    if (name === `${LAG}_bucket`) state.lag.addBucket(bound, value);
    else if (family) {
      if (labels.http_route !== undefined && isOwn(labels.http_route)) return;
      const [rows, key] = [state[family.table], family.key(labels)];
      if (!rows.has(key)) rows.set(key, Object.assign(new Histogram(), { key, labels }));
      rows.get(key).addBucket(bound, value);
      if (bound === Infinity) rows.get(key).addClass(family.result(labels), value);
    } else if (labels.db_client_connection_state) state.numbers[labels.db_client_connection_state] = (state.numbers[labels.db_client_connection_state] ?? 0) + value;
    else if (name === "process_start_time_seconds") state.numbers[name] = Math.max(state.numbers[name] ?? 0, value);
    else state.numbers[name] = (state.numbers[name] ?? 0) + value;
  });
  return state;
}

// The last minutes, as what was gained from one snapshot to the next.
class History {
  constructor() {
    this.steps = [];
    this.restarts = []; // when the service was started again
    this.last = undefined;
  }

  add(state) {
    const before = this.last;
    this.last = state;
    if (!before) return;
    const seconds = (state.at - before.at) / 1000;
    const startOf = ({ numbers }) => numbers.process_start_time_seconds;
    const restarted = startOf(state) !== startOf(before) && before.numbers.process_cpu_seconds_total > state.numbers.process_cpu_seconds_total;
    const gain = (table) => new Map([...state[table]].map(([key, one]) => [key, one.since(restarted ? undefined : before[table].get(key))])
      .filter(([, gained]) => gained.count > 0));
    const gained = (name) => {
      const [now, then] = [state.numbers[name], restarted ? 0 : before.numbers[name] ?? 0];
      return now === undefined ? null : now - (now < then ? 0 : then);
    };
    if (restarted) this.restarts.push(state.at);
    const tables = Object.fromEntries(TABLES.map((table) => [table, gain(table)]));
    this.steps.push({
      at: state.at, seconds, isGap: seconds > MAX_STEP_SECONDS, restarted, numbers: state.numbers, ...tables, all: totalOf(tables.routes.values()),
      lag: state.lag.since(restarted ? undefined : before.lag),
      cpu: gained("process_cpu_seconds_total"), shed: gained("http_server_shed_requests_total"),
    });
    while (this.steps[0].at < state.at - KEPT_SECONDS * 1000) this.steps.shift();
    this.restarts = this.restarts.filter((at) => at >= this.steps[0].at);
  }

  // The steps of the `seconds` up to and including that number.
  window(seconds, last = this.steps.length - 1) {
    let first = last;
    while (first > 0 && this.steps[first - 1].at > this.steps[last].at - seconds * 1000) first -= 1;
    return last < 0 ? [] : this.steps.slice(first, last + 1);
  }
}

const secondsOf = (steps) => steps.reduce((sum, step) => sum + step.seconds, 0);

// Rate, errors and percentiles (in milliseconds) of some steps: of all routes, or of what `pick` finds.
function traffic(steps, pick = (step) => step.all) {
  const seconds = secondsOf(steps);
  const total = totalOf(steps.map(pick).filter(Boolean));
  const count = (...names) => names.reduce((sum, name) => sum + (total.classes[name] ?? 0), 0);
  const percentile = (part) => (total.count ? total.quantile(part) * 1000 : null);
  return {
    rate: share(total.count, seconds), ok: share(count("1", "2", "3"), seconds), clientErrors: share(count("4", "0"), seconds), errors: share(count("5"), seconds),
    errorShare: share(count("5"), total.count), clientErrorShare: share(count("4", "0"), total.count),
    p50: percentile(0.5), p95: percentile(0.95), p99: percentile(0.99),
  };
}

// How busy the process was: cores, lag of the event loop (in milliseconds), rejected requests a second.
function saturation(steps) {
  const seconds = secondsOf(steps);
  const lag = totalOf(steps.map((step) => step.lag));
  const sum = (name) => steps.reduce((result, step) => result + (step[name] ?? 0), 0);
  return { lag: lag.count ? lag.quantile(0.99) * 1000 : null, cpu: share(sum("cpu"), seconds), shed: share(sum("shed"), seconds) };
}
