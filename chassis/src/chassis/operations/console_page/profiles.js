// Profiles of the process: a form in its view, and the result.

const KINDS = [["cpu", "CPU (pyinstrument)"], ["heap", "Memory (tracemalloc)"]];
const FORMATS = [["text", "text, shown here"], ["html", "HTML, downloaded"], ["speedscope", "speedscope, downloaded"]];
const kindOfProfile = element("select", { name: "kind", onchange: () => showFormat() }, options(...[0, 1].map((i) => KINDS.map((kind) => kind[i]))));
const formatField = field("Result", element("select", { name: "format" }, options(...[0, 1].map((i) => FORMATS.map((format) => format[i])))));
const workerField = field("Worker", element("select", { name: "worker" }));
const showFormat = () => { formatField.hidden = kindOfProfile.value !== "cpu"; };
const allocations = new Table("Allocated memory", [
  { label: "Bytes", kind: "number", text: (row) => number(row.size_bytes) },
  { label: "Blocks", kind: "number", text: (row) => number(row.count) },
  { label: "Allocated at, and its callers", kind: "main code", text: (row) => row.at.join(" ← ") },
], { key: (row) => row.place, empty: "Nothing was allocated that was not freed again." });
const profileText = element("pre", {});
const textRegion = element("div", { class: "scroll profile", tabindex: 0, role: "region", "aria-label": "CPU profile", hidden: true }, profileText);
const profileLink = element("a", { hidden: true });
allocations.node.hidden = true;

// Offer the result as a file. Nothing of it becomes a part of this page.
function offerFile(name, type, content) {
  URL.revokeObjectURL(profileLink.href);
  profileLink.href = URL.createObjectURL(new Blob([content], { type }));
  profileLink.download = name;
  setText(profileLink, `Download ${name}`);
  profileLink.hidden = false;
}

async function takeProfile({ elements }) {
  const [kind, format, worker, seconds] = [elements.kind, elements.format, elements.worker, elements.seconds].map(({ value }) => value);
  const name = `${kind}-profile${worker && `-worker-${worker}`}-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}`;
  const query = new URLSearchParams({ seconds, ...(kind === "cpu" && { format }), ...(worker && { worker }) });
  const content = await ask(`profile/${kind}?${query}`, { method: "POST", seconds: Number(seconds) + 30 });
  [allocations.node.hidden, textRegion.hidden, profileLink.hidden] = [kind !== "heap", kind !== "cpu" || format !== "text", true];
  if (kind === "heap") {
    allocations.show(content.map((row, place) => ({ ...row, place })));
    offerFile(`${name}.json`, "application/json", JSON.stringify(content, null, 1));
  } else if (format === "speedscope") {
    offerFile(`${name}.speedscope.json`, "application/json", JSON.stringify(content));
  } else {
    setText(profileText, format === "text" ? content.trim() : "");
    offerFile(`${name}.${format === "text" ? "txt" : format}`, `text/${format === "text" ? "plain" : format}`, content);
  }
  if (kind === "cpu" && format !== "text") profileLink.click();
  return `Observed for ${seconds} s.`;
}

const profileForm = form("Profile", [field("Profile", kindOfProfile), field("For seconds", numberField("seconds", { value: 10, min: 0.1, max: 90, step: "any", required: true })),
  formatField, workerField], "Start", async (node) => {
  const start = node.querySelector("div button");
  const timer = setInterval(() => setText(node.querySelector("output"), `Observing: ${span((Date.now() - began) / 1000)} …`), 500);
  const began = Date.now();
  start.disabled = true; // a second profile would measure the first one
  try {
    return await takeProfile(node);
  } finally {
    clearInterval(timer);
    start.disabled = false;
  }
});
showFormat();
listeners.add(() => {
  const workers = [...new Set(service.info?.workers?.map(({ worker }) => worker) ?? [])].sort((a, b) => a - b);
  workerField.hidden = workers.length === 0;
  const control = workerField.lastChild;
  if (control.childElementCount !== workers.length) control.replaceChildren(...options(workers));
});
if (isOffered("profile")) {
  insides.node.prepend(part("Profile", "Observe this process for some seconds. Small requests take about six times the CPU while memory is traced.",
    profileForm, profileLink, textRegion, allocations.node));
}
