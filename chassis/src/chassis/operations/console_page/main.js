// The page: its header, its views, and which of them is shown.

const views = [overview, requests, traces, logs, dependencies, insides, settings, controls];
let current = overview;

const LABELS = { ready: "Ready", starting: "Starting", draining: "Draining", failing: "Not ready", disabled: "Out of rotation" };
const nameText = element("h1", {}, "…");
const pill = element("span", { class: "pill", role: "status" }, "…");
const factText = element("span", { class: "facts-line" });
const pause = button("Pause", () => {
  service.isLive = !service.isLive;
  setText(pause, service.isLive ? "Pause" : "Resume");
  pause.setAttribute("aria-pressed", !service.isLive);
  announce();
  pollNow();
}, { "aria-pressed": false });
const links = new Map(views.map((view) => [view.name,
  element("a", { href: `#${view.name}`, hidden: view.path !== undefined && !isOffered(view.path) }, view.title)]));
const trouble = element("p", { class: "trouble", role: "alert", hidden: true });
const content = element("main", { id: "content", tabindex: -1 }, tokenForm, trouble, views.map((view) => view.node));

function showService() {
  const { lostAt, restartedAt, readiness, info, isLive } = service;
  const status = lostAt ? "Unreachable" : LABELS[readiness] ?? readiness ?? "…";
  setText(pill, status);
  pill.dataset.tone = lostAt || readiness === "failing" ? "bad" : readiness === "ready" ? "good" : "warn";
  document.body.classList.toggle("stale", Boolean(lostAt) || !isLive);
  const name = info?.name ?? "…";
  setText(nameText, name);
  document.title = `${status === "Ready" ? "" : `${status}: `}${name} console`;
  const isNew = restartedAt && Date.now() - restartedAt < 60_000;
  const known = info && [info.version, info.commit !== "unknown" && info.commit.slice(0, 12), `up ${span((Date.now() - new Date(info.started)) / 1000)}`, `Python ${info.python}`];
  setText(factText, lostAt ? `No response since ${clock(new Date(lostAt))}. The last values are shown; trying again.`
    : isNew ? `The service was restarted. Seen at ${clock(new Date(restartedAt))}.` : !isLive ? "Paused." : (known || []).filter(Boolean).join(" · "));
  factText.dataset.tone = lostAt ? "bad" : isNew ? "warn" : "";
}

// A part of the address as text; as it is, if somebody has changed it to what cannot be decoded.
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function showView() {
  const [name, argument = ""] = location.hash.slice(1).split("/");
  current = views.find((view) => view.name === name) ?? overview;
  document.body.dataset.view = current.name;
  for (const view of views) {
    view.node.hidden = view !== current;
    links.get(view.name).toggleAttribute("data-current", view === current);
    links.get(view.name)[view === current ? "setAttribute" : "removeAttribute"]("aria-current", "page");
  }
  current.open?.(decoded(argument));
  if (current === overview) showOverview();
  refreshNow();
  links.get(current.name).scrollIntoView({ block: "nearest", inline: "nearest" });
}

async function refreshView() {
  const view = current;
  try {
    await view.refresh();
    if (view === current) trouble.hidden = true;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (view !== current) return;
    trouble.hidden = error.status === 0; // the header says so
    setText(trouble, error.message);
  }
}

document.querySelector("main").replaceWith(element("a", { class: "skip", href: "#content", onclick: (event) => {
  event.preventDefault();
  content.focus();
} }, "Skip to the content"), element("header", {}, element("div", { class: "title" }, nameText, pill, factText, pause),
  element("nav", { "aria-label": "Views" }, [...links.values()])), content);
listeners.add(showService);
addEventListener("hashchange", showView);
for (const event of ["admitted", "restarted"]) {
  addEventListener(event, () => {
    readInfo().catch(() => {});
    refreshNow();
  });
}
const refreshNow = poll(refreshView);
showView();
poll(readMetricsNow);
poll(async () => {
  if (!service.info) await readInfo();
  await readReadiness();
});
