// Periodic work: the last run and the next one of each task.

const agoText = (timestamp) => (timestamp ? `${span((Date.now() - new Date(timestamp)) / 1000)} ago` : NONE);
const nextText = ({ state, next_start: at }) => (at ? `in ${span(Math.max(0, (new Date(at) - Date.now()) / 1000))}` : state);
const whoText = ({ once_per: oncePer, has_lease: hasLease }) => (hasLease ? "one replica" : oncePer === "pod" ? "one worker" : "each worker");
const resultText = ({ last_result: result, failures }) => (failures > 1 ? `${failures} failures` : result ?? NONE);
const schedules = new Table("Periodic work", [
  { label: "Task", kind: "what", text: (row) => row.name },
  { label: "Schedule", text: (row) => row.schedule },
  { label: "Done by", text: whoText },
  { label: "Worker", kind: "number", text: ({ worker }) => (worker === undefined ? NONE : String(worker)) },
  { label: "Last run", text: (row) => agoText(row.last_start) },
  { label: "Duration", kind: "number", text: (row) => milliseconds(isNumber(row.last_duration_seconds) ? row.last_duration_seconds * 1000 : undefined) },
  { label: "Result", text: resultText, tone: (row) => (row.failures ? "bad" : row.last_result === "success" ? "good" : "") },
  { label: "Next run", text: (row) => (row.state === "standby" ? "standby" : nextText(row)) },
  { label: "Error", kind: "main", text: (row) => row.last_error ?? "" },
], { key: (row) => `${row.worker ?? ""} ${row.name}`, empty: "The service has no periodic work: see app.every." });
