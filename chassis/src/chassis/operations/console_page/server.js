// Requests to the admin port, polling, and what is known about the service.

const TOKEN = "chassis-admin-token"; // its key in sessionStorage: it is gone when the tab is closed
const EVERY_SECONDS = 2;
const PATHS = new Set(JSON.parse(document.querySelector("meta[name=paths]").content)); // of the admin port
const isOffered = (path) => [...PATHS].some((offered) => offered.split("/")[1] === path.split(/[/?]/)[0]);
const service = { name: "", lostAt: null, restartedAt: null, isLive: true, readiness: null, info: null };
const listeners = new Set(); // of changes of `service`
const announce = () => listeners.forEach((listener) => listener());

// What the service answers in place of the data: a problem document, or no response at all (status 0).
class Refusal extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function ask(path, { method = "GET", body, seconds = 10, accepts = (response) => response.ok } = {}) {
  if (!isOffered(path)) throw new Refusal(404, `This service has no /${path}.`);
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...(token && { authorization: `Bearer ${token}` }), ...(body !== undefined && { "content-type": "application/json" }) };
  let response, text;
  try {
    response = await fetch(path, { method, headers, body: JSON.stringify(body), cache: "no-store", redirect: "error", signal: AbortSignal.timeout(seconds * 1000) });
    text = await response.text();
  } catch {
    service.lostAt ??= Date.now();
    announce();
    throw new Refusal(0, "The service does not respond.");
  }
  if (service.lostAt) {
    service.lostAt = null;
    announce();
  }
  const isJson = /[/+]json\b/.test(response.headers.get("content-type") ?? "");
  const content = isJson && text ? JSON.parse(text) : text;
  if (accepts(response)) return content;
  if (response.status === 401) askForToken(Boolean(token));
  const { detail, errors = [], title } = isJson ? content : {};
  throw new Refusal(response.status, [detail ?? title ?? `The service answers ${response.status}.`,
    ...errors.map((error) => [error.name ?? error.pointer, error.detail].filter(Boolean).join(": "))].join(" "));
}

// With several workers, arrays have the objects of all. These are of one, for what is the same in all.
const ofOneWorker = (items) => items.filter(({ worker }) => worker === Math.min(...items.map((item) => item.worker ?? 0)) || worker === undefined);

// Call `work` again and again, while the page is visible and not paused. It takes at most a fifth of the time.
const pollers = new Set();
function poll(work) {
  let timer, isRunning = false, isAsked = false;
  const run = async () => {
    clearTimeout(timer);
    isAsked = isRunning; // asked for while it runs: again right after it
    if (isRunning || document.hidden || !service.isLive) return;
    isRunning = true;
    const began = performance.now();
    try {
      await work();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
    } finally {
      isRunning = false;
      timer = setTimeout(run, isAsked ? 0 : Math.max(EVERY_SECONDS * 1000, 4 * (performance.now() - began)));
    }
  };
  pollers.add(run);
  run();
  return run;
}
const pollNow = () => pollers.forEach((run) => run());
document.addEventListener("visibilitychange", pollNow);

// The form for the token; it is shown when the service asks for one.
const tokenField = element("input", { type: "password", autocomplete: "off", required: true, size: 40 });
const tokenState = element("output");
const tokenForm = element("form", { class: "card", hidden: true, "aria-label": "Token", onsubmit: (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, tokenField.value.trim());
  tokenForm.hidden = true;
  tokenField.value = "";
  dispatchEvent(new Event("admitted"));
} }, element("p", {}, "This service asks for its operators' token, the value of ", element("code", {}, "APP_ADMIN_TOKEN"),
  ". It is kept in this tab only."), element("div", { class: "fields" }, field("Token", tokenField), element("button", {}, "Use it"), tokenState));
function askForToken(wasSent) {
  sessionStorage.removeItem(TOKEN);
  if (wasSent) setText(tokenState, "The service did not accept this token.");
  if (!tokenForm.hidden) return;
  tokenForm.hidden = false;
  tokenField.focus();
}
