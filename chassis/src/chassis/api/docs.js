"use strict";
const NOW = new Date().toISOString();
const EXAMPLES = { // example strings, by format
  uuid: "123e4567-e89b-42d3-a456-426614174000", "date-time": NOW, date: NOW.slice(0, 10), time: NOW.slice(11),
  duration: "PT1H", email: "user@example.com", uri: "https://example.com/", ipv4: "192.0.2.1", ipv6: "2001:db8::1",
};
// Headers that a script must not set (Fetch Standard, "forbidden request-header").
const FORBIDDEN = /^(accept-(charset|encoding)|access-control-request-.*|connection|content-length|cookie2?|date|dnt|expect|host|keep-alive|origin|referer|set-cookie|te|trailer|transfer-encoding|upgrade|via|proxy-.*|sec-.*)$/i;
const STREAMS = /^(text\/event-stream|application\/(x-)?(ndjson|jsonl|json-seq|jsonlines))/;
const TEXT = /^text\/|[/+](json|xml|yaml|javascript|x-www-form-urlencoded|ndjson|jsonl)\b/;
const MAX_SHOWN = 1_000_000; // characters of a response
const METHODS = ["get", "post", "put", "patch", "delete", "head", "options", "trace"];
const METHODS_TO_TRY = METHODS.filter((method) => method !== "trace"); // scripts must not send TRACE
let api = {}; // the OpenAPI document
let server = ""; // the base URL of its paths
let fieldCount = 0; // for unique ids
const credentials = new Map(); // by security scheme; never stored, so they are gone when the page is closed
const login = JSON.parse(document.querySelector("meta[name=login]").content); // the endpoints of the provider, or null
const LOGIN = "chassis-login"; // the key of a login in progress, in sessionStorage

function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  const absent = (value) => value === undefined || value === null || value === false;
  for (const [name, value] of Object.entries(attributes)) {
    if (!absent(value)) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => !absent(child)));
  return node;
}
const code = (text) => element("code", {}, text);
const small = (text) => element("small", {}, text);
const heading = (text) => element("h3", {}, text);
const badge = (text, kind) => element("code", { class: `badge ${kind}` }, text);
const documentLink = () => element("a", { href: "openapi.json" }, "openapi.json");
const link = (url, text = url) => (/^https?:\/\//i.test(url)
  ? element("a", { href: url, rel: "noreferrer noopener" }, text) : [text]);
const announce = (name) => dispatchEvent(new Event(name));
const block = (label, text) => element("pre", { role: "region", "aria-label": label, tabindex: 0 }, text);

// Render the Markdown that docstrings use: paragraphs, lists and code.
const inline = (line = "") => line.split(/`+([^`]+)`+/).map((part, i) => (i % 2 ? code(part) : part));
function prose(text = "") {
  return text.trim().split(/\n\s*\n/).filter(Boolean).map((part) => (/^[-*] /.test(part)
    ? element("ul", {}, part.split(/^[-*] /m).slice(1).map((item) => element("li", {}, inline(item))))
    : element("p", {}, inline(part))));
}

// Resolve a local reference. Members beside `$ref` override those of the referenced object.
function resolve(node, seen = []) {
  if (!node?.$ref) return node ?? {};
  const { $ref, ...beside } = node;
  if (!$ref.startsWith("#/") || seen.includes($ref)) return { description: `Unresolved: ${$ref}`, ...beside };
  const keys = $ref.slice(2).split("/").map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~"));
  return resolve({ ...keys.reduce((value, key) => value?.[key], api), ...beside }, [...seen, $ref]);
}

// The alternatives of a schema without null: `X | null` has one.
function choices(schema) {
  return (schema.anyOf ?? schema.oneOf ?? []).filter((choice) => resolve(choice).type !== "null");
}

// The schema of a parameter, a header or a media type.
function schemaOf({ schema, content = {}, description }) {
  return { ...(schema ?? Object.values(content)[0]?.schema), ...(description && { description }) };
}

function typeName(schema) {
  const join = (parts, separator) => parts.map((part, i) => [i > 0 && separator, typeName(part)]);
  const { $ref, anyOf, oneOf, allOf, type, format, items, properties, additionalProperties: rest } = schema ?? {};
  if ($ref) return element("a", { href: $ref.replace(/.*\//, "#schema-") }, $ref.split("/").at(-1));
  if (anyOf ?? oneOf) return join(anyOf ?? oneOf, " | ");
  if (allOf) return join(allOf, " & ");
  if (type === "array") return ["array<", typeName(items), ">"];
  if (rest && !properties) return ["map<string, ", typeName(rest), ">"];
  const guess = properties ? "object" : schema?.enum || schema?.const !== undefined ? "enum" : "any";
  return [type ?? guess].flat().join(" | ") + (format ? ` (${format})` : "");
}

function bounds(quantity, minimum, maximum, above, below) {
  const low = [[minimum, "≤"], [above, "<"]].filter(([limit]) => limit !== undefined);
  const high = [["≤", maximum], ["<", below]].filter(([, limit]) => limit !== undefined);
  return low.length + high.length > 0 && [...low, quantity, ...high].flat().join(" ");
}

function facts(schema) {
  const values = (label, list) => list.some((value) => value !== undefined)
    && [label, list.map((value) => [" ", code(JSON.stringify(value))])];
  const known = [
    bounds("value", schema.minimum, schema.maximum, schema.exclusiveMinimum, schema.exclusiveMaximum),
    bounds("length", schema.minLength, schema.maxLength),
    bounds("items", schema.minItems, schema.maxItems),
    schema.pattern && ["pattern ", code(schema.pattern)],
    values("multiple of", [schema.multipleOf]),
    values("one of", schema.enum ?? []),
    values("always", [schema.const]),
    values("default", [schema.default]),
    schema.additionalProperties === false && "no other properties",
    schema.contentMediaType && ["content ", code(schema.contentMediaType)],
    values("examples", schema.examples ?? []),
    ...["uniqueItems", "readOnly", "writeOnly"].map((key) => schema[key] && code(key)),
  ].filter(Boolean);
  return known.length ? element("ul", { class: "facts" }, known.map((fact) => element("li", {}, fact, " "))) : [];
}

// The details of a schema beyond its type. `open` has the references of the enclosing schemas, to stop recursion.
function outline(schema = {}, open = []) {
  const { $ref } = schema;
  if (open.includes($ref)) return [small("recursive")];
  if ($ref) [schema, open] = [resolve(schema), [...open, $ref]];
  const { properties = {}, additionalProperties: rest, allOf = [], items, required } = schema;
  const [only, ...others] = choices(schema);
  const parts = [...allOf, ...(others.length ? [only, ...others] : [])].filter((part) => outline(part, open).length);
  const rows = [
    ...Object.entries(properties).map(([name, part]) => row(name, part, open, required?.includes(name))),
    ...parts.map((part) => row(undefined, part, open)),
  ];
  return [
    prose(schema.description), facts(schema), rows.length ? element("dl", {}, rows) : [],
    ...[others.length ? undefined : only, items, rest].map((part) => (part ? outline(part, open) : [])),
  ].flat();
}

function row(name, schema, open, required, place, deprecated, more) {
  const old = deprecated || resolve(schema).deprecated;
  return element("div", {},
    element("dt", {}, name && (old ? element("s", {}, code(name)) : code(name)),
      element("code", { class: "type" }, typeName(schema)), place && small(`in ${place}`),
      required && badge("required", "required"), old && badge("deprecated", "deprecated")),
    element("dd", {}, outline(schema, open), more));
}

// The named examples and the unnamed one, each as text.
function namedExamples({ example: unnamed, examples = {} }) {
  const named = Object.entries(examples).map(([name, reference]) => [name, resolve(reference)]);
  const all = unnamed === undefined ? named : [["example", { value: unnamed }], ...named];
  return all.filter(([, { value }]) => value !== undefined)
    .map(([name, { summary, value }]) => [summary ?? name, typeof value === "string" ? value : JSON.stringify(value, null, 2)]);
}
const showExamples = (holder) => namedExamples(holder).map(([name, text]) => [small(name), block(`Example: ${name}`, text)]);

function example(schema = {}, open = []) {
  const { $ref } = schema;
  if (open.includes($ref)) return undefined;
  if ($ref) [schema, open] = [resolve(schema), [...open, $ref]];
  const first = (values) => values.find((value) => value !== undefined);
  const given = first([schema.examples?.[0], schema.default, schema.const, schema.enum?.[0]]);
  if (given !== undefined) return given;
  if (choices(schema).length) return first(choices(schema).map((choice) => example(choice, open))) ?? null;
  if (schema.allOf) return Object.assign({}, ...schema.allOf.map((part) => example(part, open)));
  const { properties = {}, items, format, minimum, exclusiveMinimum = 0, maximum = Infinity } = schema;
  const make = {
    object: () => Object.fromEntries(Object.entries(properties).map(([name, part]) => [name, example(part, open)])),
    array: () => Array(schema.minItems || 1).fill(example(items, open)).filter((item) => item !== undefined),
    integer: () => Math.min(minimum ?? exclusiveMinimum + 1, maximum),
    number: () => Math.min(minimum ?? exclusiveMinimum + 1, maximum),
    string: () => EXAMPLES[format] ?? "string".slice(0, schema.maxLength).padEnd(schema.minLength, "x"),
    boolean: () => true,
  }[schema.properties ? "object" : [schema.type].flat()[0]];
  return make?.() ?? null;
}

// The documented example, or one generated from the schema.
function exampleOf({ example: given, examples = {}, schema }) {
  return given ?? resolve(Object.values(examples)[0]).value ?? example(schema) ?? null;
}

const isFile = (schema) => schema.format === "binary" || (schema.type === "string"
  && schema.contentEncoding === undefined && schema.contentMediaType !== undefined && !TEXT.test(schema.contentMediaType));

// A control for one parameter, and `read`, which returns its values: a list of texts or files, possibly empty.
function showField({ name, in: place, required, deprecated, style, explode, ...holder }) {
  const schema = resolve(schemaOf(holder));
  const core = resolve(choices(schema)[0] ?? schema);
  const isList = core.type === "array";
  const item = isList ? resolve(choices(resolve(core.items))[0] ?? core.items) : core;
  const options = item.type === "boolean" ? [true, false] : item.enum ?? (item.const === undefined ? undefined : [item.const]);
  const first = required && !isFile(item) ? exampleOf({ ...holder, schema: schemaOf(holder) }) : undefined;
  const text = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value ?? ""));
  const samples = namedExamples(holder).map(([, sample]) => sample);
  const hint = schema.default === undefined || schema.default === null ? undefined : text(schema.default);
  const listId = samples.length > 0 && !isList && !options && `examples-${fieldCount += 1}`;
  let control;
  if (isFile(item)) control = element("input", { type: "file", multiple: isList, required });
  else if (options) {
    const size = isList && Math.min(options.length, 6);
    control = element("select", { required, multiple: isList, size }, [...(isList ? [] : [""]), ...options].map((option) =>
      element("option", { value: text(option), selected: required && (isList ? [first].flat() : [first]).includes(option) },
        option === "" ? "(none)" : text(option))));
  } else if (isList) {
    control = element("textarea", { rows: 2, required, placeholder: "one value per line" }, [first ?? []].flat().map(text).join("\n"));
  } else if (core.type === "object" || core.properties) {
    control = element("textarea", { rows: 3, required, placeholder: "JSON" }, first === undefined || first === null ? "" : JSON.stringify(first));
  } else {
    const type = item.format === "password" || item.writeOnly ? "password" : "text";
    control = element("input", { type, required, value: first === undefined ? undefined : text(first), placeholder: hint, list: listId });
  }
  const note = place === "header" && FORBIDDEN.test(name) ? "The browser sets this header itself; use the curl command." : undefined;
  const label = element("label", {}, deprecated ? element("s", {}, code(name)) : code(name),
    small([place && ` in ${place}`, required && ", required", deprecated && ", deprecated"].filter(Boolean).join("")), control,
    listId && element("datalist", { id: listId }, samples.map((sample) => element("option", { value: sample }))),
    note && small(note));
  const read = () => {
    if (control.type === "file") return [...control.files];
    if (control.multiple) return [...control.selectedOptions].map((option) => option.value);
    if (isList) return control.value.split("\n").map((line) => line.trim()).filter(Boolean);
    return control.value === "" ? [] : [control.value];
  };
  const joined = explode === false || (explode === undefined && style !== undefined && style !== "form");
  const separator = { spaceDelimited: " ", pipeDelimited: "|" }[style] ?? ",";
  return { name, place, label, read, isObject: core.type === "object", style, separator: joined && separator };
}

// The controls for a body of one media type, and `read`, which returns [body for fetch, options for curl].
function showBody(mediaType, media, isRequired) {
  const schema = resolve(media.schema);
  const base = mediaType.split(";")[0].trim().toLowerCase();
  const isForm = base === "application/x-www-form-urlencoded" || base === "multipart/form-data";
  if (isForm) {
    const object = resolve(choices(schema)[0] ?? schema);
    const parts = [object, ...(object.allOf ?? []).map((part) => resolve(part))];
    const properties = Object.assign({}, ...parts.map((part) => part.properties));
    const required = parts.flatMap((part) => part.required ?? []);
    const given = media.example ?? resolve(Object.values(media.examples ?? {})[0]).value ?? {};
    const fields = Object.entries(properties).map(([name, part]) => showField({
      name, required: isRequired && required.includes(name), deprecated: resolve(part).deprecated, schema: part,
      example: given[name] }));
    return { controls: fields.map((field) => field.label), read() {
      const pairs = fields.flatMap(({ name, read }) => read().map((value) => [name, value]));
      if (base === "application/x-www-form-urlencoded") {
        const body = new URLSearchParams(pairs.map(([name, value]) => [name, value.name ?? value]));
        return [body, pairs.map(([name, value]) => `--data-urlencode ${quote(`${name}=${value.name ?? value}`)}`)];
      }
      const body = new FormData();
      for (const [name, value] of pairs) body.append(name, value);
      return [body, pairs.map(([name, value]) => (value instanceof File
        ? `--form ${quote(`${name}=@${value.name}`)}` : `--form-string ${quote(`${name}=${value}`)}`))];
    } };
  }
  if (isFile(schema) || (!TEXT.test(base) && base !== "*/*")) {
    const control = element("input", { type: "file", required: isRequired });
    return { controls: [element("label", {}, "Body ", small(`a file, as ${mediaType}`), control)], read: () => (control.files[0]
      ? [control.files[0], [`--data-binary ${quote(`@${control.files[0].name}`)}`], mediaType] : [undefined, []]) };
  }
  const value = exampleOf(media);
  const text = base.includes("json") || typeof value !== "string" ? JSON.stringify(value, null, 2) : value;
  const control = element("textarea", { rows: Math.min(text.split("\n").length + 1, 24), required: isRequired }, text);
  const examples = namedExamples(media);
  const choose = examples.length > 1 && element("select", {}, examples.map(([name], i) => element("option", { value: i }, name)));
  if (choose) {
    control.value = examples[0][1];
    choose.addEventListener("change", () => { control.value = examples[choose.value][1]; });
  }
  return { controls: [choose && element("label", {}, "Example", choose), element("label", {}, "Body ", small(mediaType), control)],
    read: () => (control.value ? [control.value, [`--data-raw ${quote(control.value)}`], mediaType] : [undefined, []]) };
}

// Add the credentials of the first alternative whose security schemes all have some.
function authorize(operation, query, headers, cookies) {
  const alternatives = operation.security ?? api.security ?? [];
  const names = alternatives.map(Object.keys).find((list) => list.length > 0 && list.every((name) => credentials.get(name)?.()));
  for (const name of names ?? []) {
    const { type, scheme = "", in: place, name: key } = resolve(api.components.securitySchemes[name]);
    const value = credentials.get(name)();
    if (type === "apiKey" && place === "query") query.append(key, value);
    else if (type === "apiKey" && place === "cookie") cookies.push([key, value]);
    else if (type === "apiKey") headers[key] = value;
    else headers.Authorization = `${type === "http" && scheme.toLowerCase() !== "bearer" ? scheme.replace(/^./, (letter) => letter.toUpperCase()) : "Bearer"} ${value}`;
  }
}

const base64url = (bytes) => btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
const randomText = () => base64url(crypto.getRandomValues(new Uint8Array(32)));
const loginReturn = () => location.origin + location.pathname; // the URL that the provider must allow

// Go to the provider: the authorization code flow with PKCE (RFC 7636). The page is loaded again with a code.
async function logIn(scope) {
  if (!crypto.subtle) throw new Error("browsers allow this over HTTPS only, or on localhost");
  const [verifier, state] = [randomText(), randomText()];
  const challenge = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier));
  sessionStorage.setItem(LOGIN, JSON.stringify({ verifier, state }));
  const url = new URL(login.authorization_endpoint);
  for (const [key, value] of Object.entries({
    response_type: "code", client_id: login.client_id, redirect_uri: loginReturn(), scope, state, audience: login.audience,
    code_challenge: base64url(new Uint8Array(challenge)), code_challenge_method: "S256",
  })) if (value) url.searchParams.set(key, value);
  location.assign(url);
}

// Exchange the code with which the provider has returned for a token. Undefined if it has not returned.
async function finishLogIn() {
  const query = new URLSearchParams(location.search);
  if (!login || !query.has("state")) return undefined;
  const { verifier, state } = JSON.parse(sessionStorage.getItem(LOGIN) ?? "{}");
  sessionStorage.removeItem(LOGIN);
  history.replaceState(null, "", location.pathname); // the code is not kept in the history
  if (query.get("state") !== state) throw new Error("the response belongs to another login; log in again");
  if ((query.get("iss") ?? login.issuer) !== login.issuer) throw new Error(`the response is from another issuer, ${query.get("iss")}`);
  if (!query.has("code")) throw new Error([query.get("error"), query.get("error_description")].filter(Boolean).join(": "));
  const response = await fetch(login.token_endpoint, { method: "POST", credentials: "omit", body: new URLSearchParams({
    grant_type: "authorization_code", code: query.get("code"), redirect_uri: loginReturn(), client_id: login.client_id, code_verifier: verifier,
  }) });
  const { access_token: token, error, error_description: reason } = await response.json();
  if (!token) throw new Error([error ?? response.status, reason].filter(Boolean).join(": "));
  return token;
}

// The controls of a login, whose token is put into `control`.
function showLogin(control) {
  const operations = Object.values(api.paths ?? {}).flatMap((item) => METHODS.map((method) => item[method]?.security ?? []));
  const scopes = [...new Set(operations.flat().flatMap((schemes) => Object.values(schemes).flat()))].sort();
  const wanted = element("input", { type: "text", value: scopes.join(" "), spellcheck: "false" });
  const button = element("button", { type: "button" }, "Log in");
  const state = element("p", { role: "status" });
  const fail = (error) => {
    state.replaceChildren(badge("login failed", "status-4"), ` ${error.message}`);
    document.getElementById("authorize").open = true;
  };
  button.addEventListener("click", () => logIn(wanted.value.trim()).catch(fail));
  finishLogIn().then((token) => {
    if (!token) return;
    control.value = token;
    state.textContent = "Logged in.";
    announce("authorized");
  }).catch(fail);
  return [element("label", {}, "Scopes ", small("separated by spaces"), wanted), element("p", {}, button), state];
}

function showScheme([name, reference]) {
  const scheme = resolve(reference);
  const { type, description, flows = {}, openIdConnectUrl } = scheme;
  const input = (label, inputType = "password") => {
    const control = element("input", { type: inputType, autocomplete: "off", spellcheck: "false" });
    control.addEventListener("input", () => announce("authorized"));
    return [control, element("label", {}, label, control)];
  };
  const summary = [type, scheme.scheme, scheme.bearerFormat, scheme.in && `in ${scheme.in}`, scheme.name].filter(Boolean).join(" · ");
  const labels = [];
  let loginParts = [];
  if (type === "http" && scheme.scheme?.toLowerCase() === "basic") {
    const [user, userLabel] = input("User name", "text");
    const [password, passwordLabel] = input("Password");
    labels.push(userLabel, passwordLabel);
    credentials.set(name, () => (user.value || password.value)
      && btoa(String.fromCharCode(...new TextEncoder().encode(`${user.value}:${password.value}`))));
  } else if (type !== "mutualTLS") {
    const [control, label] = input(type === "apiKey" ? "Key" : "Token");
    labels.push(label);
    credentials.set(name, () => control.value.trim());
    if (type === "openIdConnect" && login) loginParts = showLogin(control);
  }
  return element("fieldset", {}, element("legend", {}, code(name), " ", small(summary)), prose(description),
    type === "mutualTLS" && element("p", {}, "The browser asks for a client certificate itself."),
    Object.entries(flows).map(([flow, { authorizationUrl, tokenUrl, scopes = {} }]) => [
      element("p", {}, small(["Flow ", code(flow), ". Get a token there and paste it here. ",
        [authorizationUrl, tokenUrl].filter(Boolean).map((url) => [link(url), " "])])),
      element("ul", {}, Object.entries(scopes).map(([scope, text]) => element("li", {}, code(scope), " ", small(text))))]),
    openIdConnectUrl && element("p", {}, small(["OpenID Connect: ", link(openIdConnectUrl), login ? ". Log in, or paste a token."
      : ". Get a token there and paste it here."])), loginParts, labels);
}

function showAuthorize() {
  const schemes = Object.entries(api.components?.securitySchemes ?? {});
  if (schemes.length === 0) return [];
  const state = small("");
  addEventListener("authorized", () => {
    const given = schemes.filter(([name]) => credentials.get(name)?.()).map(([name]) => name);
    state.textContent = given.length ? `using ${given.join(", ")}` : "";
  });
  return element("details", { class: "card", id: "authorize" }, element("summary", {}, element("strong", {}, "Authorize"), " ", state),
    element("div", {}, element("p", {}, small("Credentials are sent with the requests that require them. They are gone when you close this page.")),
      element("div", { class: "schemes" }, schemes.map(showScheme))));
}

function showSecurity(operation) {
  const alternatives = operation.security ?? api.security ?? [];
  if (alternatives.length === 0) return [];
  const names = alternatives.map((schemes) => Object.entries(schemes).map(([name, scopes], i) => [i > 0 && " and ", code(name),
    scopes.length > 0 && ` (${scopes.join(", ")})`]));
  return element("p", {}, element("a", { href: "#authorize" }, "Authorize"), ": ",
    names.map((name, i) => [i > 0 && ", or ", name.length ? name : "nothing"]));
}

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curl(url, { method, headers, cookies, options, hasBody }) {
  const verb = { GET: hasBody ? "--request GET " : "", HEAD: "--head " }[method] ?? `--request ${method} `;
  return [`curl ${verb}${quote(url)}`,
    ...Object.entries(headers).map(([name, value]) => `--header ${quote(`${name}: ${value}`)}`),
    ...(cookies.length ? [`--cookie ${quote(cookies.map((pair) => pair.join("=")).join("; "))}`] : []), ...options].join(" \\\n  ");
}

// Indent JSON and keep the digits of its numbers, if the browser supports that. Other text is returned unchanged.
function pretty(text) {
  const exact = (_, value, context) =>
    (typeof value === "number" && context && JSON.rawJSON ? JSON.rawJSON(context.source) : value);
  try { return JSON.stringify(JSON.parse(text, exact), null, 2); } catch { return text; }
}

// Set these cookies for the site while `send` runs, because a script cannot set cookies for a single request.
async function withCookies(cookies, send) {
  const before = new Map(document.cookie.split("; ").filter(Boolean).map((pair) => [pair.split("=", 1)[0], pair]));
  for (const [name, value] of cookies) document.cookie = `${name}=${value}; path=/; SameSite=Strict`;
  try {
    return await send();
  } finally {
    for (const [name] of cookies) {
      document.cookie = before.has(name) ? `${before.get(name)}; path=/` : `${name}=; path=/; max-age=0`;
    }
  }
}

const sizeOf = (count) => (count < 10_000 ? `${count} bytes` : `${Math.round(count / 1000).toLocaleString("en")} kB`);

function download(blob, headers, path) {
  const named = /filename="?([^";]+)/i.exec(headers.get("content-disposition") ?? "")?.[1];
  const name = named ?? (path.split("/").filter(Boolean).at(-1) || "response");
  return element("p", {}, element("a", { href: URL.createObjectURL(blob), download: name }, `Download ${name}`),
    small(` ${blob.type || "no content type"}, ${sizeOf(blob.size)}`));
}

// Show the body of a response: a stream as it arrives, indented JSON, text, or a link to download the bytes.
async function showContent(response, result, path) {
  const type = response.headers.get("content-type") ?? "";
  if (STREAMS.test(type)) {
    const shown = block("Response body", "");
    result.append(shown);
    const decoder = new TextDecoder();
    for (const reader = response.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) return;
      const isAtEnd = shown.scrollTop + shown.clientHeight >= shown.scrollHeight - 8;
      shown.append(decoder.decode(value, { stream: true }));
      while (shown.childNodes.length > 500) shown.firstChild.remove();
      if (isAtEnd) shown.scrollTop = shown.scrollHeight;
    }
  }
  const blob = await response.blob();
  if (blob.size > 0 && !TEXT.test(type)) {
    result.append(download(blob, response.headers, path));
    return;
  }
  const text = await blob.text();
  const whole = type.includes("json") ? pretty(text) : text;
  if (whole.length > MAX_SHOWN) result.append(small("Only the beginning is shown. Download the file for the rest."), download(blob, response.headers, path));
  result.append(block("Response body", whole.slice(0, MAX_SHOWN) || "(empty body)"));
}

function tryOut(method, path, operation, parameters, body) {
  const fields = parameters.map((parameter) => showField(parameter));
  const bodies = Object.entries(body.content ?? {}).map(([name, media]) => [name, showBody(name, media, body.required)]);
  bodies.sort(([first], [second]) => second.includes("json") - first.includes("json"));
  const choose = bodies.length > 1 && element("select", {}, bodies.map(([name]) => element("option", {}, name)));
  const parts = bodies.map(([name, { controls }]) => element("fieldset", { "aria-label": `Body: ${name}` },
    name.includes("form") && element("p", {}, small(name)), controls));
  const accepted = [...new Set(Object.entries(operation.responses ?? {}).filter(([status]) => status.startsWith("2"))
    .flatMap(([, response]) => Object.keys(resolve(response).content ?? {})))];
  const accept = accepted.length > 1 && element("select", {}, ["*/*", ...accepted].map((name) => element("option", {}, name)));
  const copy = element("button", { type: "button" }, "Copy curl");
  const stop = element("button", { type: "button", hidden: true }, "Stop");
  const command = block("curl command");
  const state = element("p", { role: "status" });
  const result = element("div", {});
  const form = element("form", { autocomplete: "off", spellcheck: "false" }, heading("Try it"),
    fields.map((field) => field.label),
    fields.some(({ place }) => place === "cookie") && element("p", {}, small("The cookie is set for this site while the request is "
      + "sent. The browser sends HttpOnly cookies itself; this page cannot read or replace them.")),
    choose && element("label", {}, "Media type of the body", choose), parts,
    accept && element("label", {}, code("Accept"), accept),
    element("p", {}, element("button", { type: "submit" }, "Send"), " ", copy, " ", stop), command, state, result);
  let running; // the AbortController of the request in flight

  function showChosen() {
    parts.forEach((part, i) => {
      part.hidden = choose && choose.selectedIndex !== i;
      part.disabled = part.hidden; // not validated and not sent
    });
  }

  function request() {
    const query = new URLSearchParams();
    const headers = accept && accept.value !== "*/*" ? { Accept: accept.value } : {};
    const cookies = [];
    let target = path;
    for (const { name, place, read, isObject, style, separator } of fields) {
      const values = read();
      if (values.length === 0) continue;
      if (place === "path") target = target.replace(`{${name}}`, () => values.map(encodeURIComponent).join(","));
      else if (place === "header") headers[name] = values.join(", ");
      else if (place === "cookie") cookies.push([name, encodeURIComponent(values.join(","))]);
      else if (isObject && style === "deepObject") {
        try {
          for (const [key, value] of Object.entries(JSON.parse(values[0]))) query.append(`${name}[${key}]`, value);
        } catch { /* the user has not finished typing */ }
      } else if (separator) query.append(name, values.join(separator));
      else for (const value of values) query.append(name, value);
    }
    authorize(operation, query, headers, cookies);
    const [content, options, mediaType] = bodies[choose ? choose.selectedIndex : 0]?.[1].read() ?? [undefined, []];
    if (mediaType) headers["Content-Type"] = mediaType;
    const url = server + target + (query.size ? `?${query}` : "");
    return { url, target, method: method.toUpperCase(), headers, cookies, options, body: content, hasBody: options.length > 0 };
  }

  function showCommand() {
    const { url, ...facts } = request();
    command.textContent = curl(url, facts);
    copy.textContent = "Copy curl";
  }

  for (const name of ["input", "change"]) form.addEventListener(name, () => { showChosen(); showCommand(); });
  addEventListener("authorized", showCommand);
  showChosen();
  showCommand();
  stop.addEventListener("click", () => running?.abort());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    running?.abort();
    const mine = running = new AbortController();
    const { url, target, method: verb, headers, cookies, body: content } = request();
    for (const old of result.querySelectorAll("a[download]")) URL.revokeObjectURL(old.href);
    state.textContent = "Waiting for the response …";
    result.replaceChildren();
    stop.hidden = false;
    const start = performance.now();
    const elapsed = () => `${Math.round(performance.now() - start)} ms`;
    let status;
    try {
      const hasBody = content !== undefined && !["GET", "HEAD"].includes(verb); // `fetch` allows no body with these
      const response = await withCookies(cookies, () => fetch(url,
        { method: verb, headers, body: hasBody ? content : undefined, signal: mine.signal, cache: "no-store" }));
      status = badge(`${response.status} ${response.statusText}`.trim(), `status-${String(response.status)[0]}`);
      state.replaceChildren(status, ` headers in ${elapsed()}`);
      const fields = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
      result.append(block("Response headers", fields));
      await showContent(response, result, target);
      state.replaceChildren(status, ` in ${elapsed()}`);
    } catch (error) {
      if (running !== mine) return; // another request has replaced this one
      const reason = mine.signal.aborted ? `stopped after ${elapsed()}` : error.message;
      const hint = new URL(url).origin !== location.origin
        && ". This page can only send requests to its own origin; use the curl command.";
      state.replaceChildren(...[status ?? badge("no response", "status-5"), ` ${reason}`, hint].filter(Boolean));
    } finally {
      if (running === mine) stop.hidden = true;
    }
  });
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command.textContent);
      copy.textContent = "Copied";
    } catch { // browsers allow the clipboard only in secure contexts, such as HTTPS
      getSelection().selectAllChildren(command);
      copy.textContent = "Selected";
    }
  });
  return form;
}

function showResponse([status, reference]) {
  const { description, headers = {}, content = {} } = resolve(reference);
  const rows = [
    ...Object.entries(headers).map(([name, holder]) => [name, resolve(holder), "header"]),
    ...Object.entries(content).map(([name, holder]) => [name, holder]),
  ].map(([name, holder, place]) =>
    row(name, schemaOf(holder), [], holder.required, place, holder.deprecated, showExamples(holder)));
  const line = [badge(status, `status-${status[0]}`), " ", inline(description), " ", small(Object.keys(content).join(", "))];
  return rows.length
    ? element("details", { class: "response" }, element("summary", {}, line), element("dl", {}, rows))
    : element("p", { class: "response" }, line);
}

function showOperation(method, path, operation, shared = []) {
  const all = [...shared, ...(operation.parameters ?? [])].map((parameter) => resolve(parameter));
  const parameters = [...new Map(all.map((parameter) => [parameter.in + parameter.name, parameter])).values()];
  const body = resolve(operation.requestBody);
  const content = Object.entries(body.content ?? {});
  const id = operation.operationId ?? method + path.replace(/\W+/g, "-");
  const { deprecated, tags = [], externalDocs } = operation;
  const name = element("code", { class: "path" }, deprecated ? element("s", {}, path) : path);
  const words = [method, path, operation.summary, operation.operationId, operation.description, ...tags].join(" ").toLowerCase();
  return element("details", { class: "card", id, "data-words": words },
    element("summary", {}, badge(method.toUpperCase(), `method ${method}`), name,
      element("span", { class: "title" }, operation.summary), deprecated && [" ", badge("deprecated", "deprecated")]),
    element("div", { class: "columns" },
      element("div", {},
        prose(operation.description), externalDocs && element("p", {}, link(externalDocs.url, externalDocs.description)),
        element("p", {}, element("a", { href: `#${id}` }, small(`#${id}`)),
          tags.length > 1 && small(` · also ${tags.slice(1).join(", ")}`)), showSecurity(operation),
        parameters.length > 0 && [heading("Parameters"), element("dl", {}, parameters.map((parameter) =>
          row(parameter.name, schemaOf(parameter), [], parameter.required, parameter.in, parameter.deprecated, showExamples(parameter))))],
        content.length > 0 && [heading("Request body"), prose(body.description), element("dl", {},
          content.map(([type, media]) => row(type, schemaOf(media), [], body.required, undefined, false, showExamples(media))))],
        heading("Responses"), Object.entries(operation.responses ?? {}).map(showResponse)),
      METHODS_TO_TRY.includes(method) && tryOut(method, path, operation, parameters, body)));
}

// The address of a server, with the defaults of its variables: `https://{region}.example`.
function addressOf({ url, variables = {} }) {
  const filled = url.replace(/\{(.+?)\}/g, (whole, name) => variables[name]?.default ?? whole);
  return new URL(filled, location.href).href.replace(/\/$/, "");
}

function showServers() {
  const servers = api.servers?.length ? api.servers : [{ url: "." }];
  server = addressOf(servers[0]);
  if (servers.length === 1) return [];
  const control = element("select", {}, servers.map((choice) =>
    element("option", { value: addressOf(choice) }, [addressOf(choice), choice.description].filter(Boolean).join(" · "))));
  control.addEventListener("change", () => { server = control.value; announce("authorized"); });
  return element("label", {}, "Server", control);
}

function showSearch() {
  const input = element("input", { type: "search", placeholder: "Press / to search", "aria-label": "Search operations" });
  const state = element("p", { role: "status" });
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const hidden = new Set();
    const cards = [...document.querySelectorAll("[data-words]")];
    for (const card of cards) {
      card.hidden = !words.every((word) => card.dataset.words.includes(word));
      if (card.hidden) hidden.add(`#${card.id}`);
    }
    for (const item of document.querySelectorAll("nav li")) item.hidden = hidden.has(item.firstChild.getAttribute("href"));
    for (const group of document.querySelectorAll("main > section, nav > section")) {
      group.hidden = words.length > 0 && !group.querySelector("[data-words]:not([hidden]), li:not([hidden])");
    }
    state.textContent = words.length ? `${cards.length - hidden.size} of ${cards.length} operations` : "";
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
    event.preventDefault();
    input.focus();
  });
  return [input, state];
}

function showDocument() {
  const { info, tags = [], paths = {}, components = {} } = api;
  const choice = showServers();
  const authorization = showAuthorize();
  const groups = new Map(tags.map((tag) => [tag.name, []]));
  const links = new Map();
  for (const [path, item] of Object.entries(paths)) {
    const { parameters, ...operations } = resolve(item);
    for (const method of METHODS) {
      if (!operations[method]) continue;
      const group = operations[method].tags?.[0] ?? (path.split("/")[1] || "/");
      const card = showOperation(method, path, operations[method], parameters);
      groups.set(group, [...(groups.get(group) ?? []), card]);
      links.set(card, element("li", {}, element("a", { href: `#${card.id}` }, badge(method.toUpperCase(), `method ${method}`),
        operations[method].deprecated ? element("s", {}, path) : path)));
    }
  }
  const schemas = Object.entries(components.schemas ?? {}).map(([name, schema]) =>
    element("details", { class: "card", id: `schema-${name}` },
      element("summary", {}, element("code", { class: "path" }, name), small(typeName(schema))),
      element("div", {}, outline(schema, [`#/components/schemas/${name}`]))));
  const { contact, license } = info;
  document.title = info.title;
  document.querySelector("main").replaceWith(
    element("a", { class: "skip", href: "#operations" }, "Skip to the operations"),
    element("div", { class: "layout" },
      element("nav", { "aria-label": "Operations" }, showSearch(), [...groups].map(([name, cards]) => cards.length > 0
        && element("section", {}, element("h2", {}, name), element("ul", {}, cards.map((card) => links.get(card)))))),
      element("main", { id: "operations", tabindex: -1 },
        element("h1", {}, info.title),
        element("p", {}, small([`Version ${info.version} · `, choice.length === 0 && `${server} · `, documentLink()].filter(Boolean))),
        prose(info.description),
        (contact || license || info.termsOfService) && element("p", {}, small([
          contact?.name, contact?.email, contact?.url && link(contact.url), license?.name,
          info.termsOfService && link(info.termsOfService, "Terms of service"),
        ].filter(Boolean).map((part, i) => [i > 0 && " · ", part]))),
        choice, authorization,
        [...groups, ["Schemas", schemas]].map(([name, cards]) => cards.length > 0 && element("section", {},
          element("h2", {}, name), prose(tags.find((tag) => tag.name === name)?.description), cards)))));
}

// Open and show the card that the fragment of the URL names.
function reveal() {
  const card = document.getElementById(location.hash.slice(1));
  if (!card) return;
  if (!(card instanceof HTMLDetailsElement)) return;
  card.open = true;
  card.hidden = false;
  card.scrollIntoView();
  card.querySelector("summary").focus({ preventScroll: true });
}

async function start() {
  try {
    const response = await fetch("openapi.json");
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    api = await response.json();
    showDocument();
    reveal();
  } catch (error) {
    document.querySelector("main").replaceChildren(element("h1", {}, "The API document cannot be shown"),
      element("p", { role: "alert" }, documentLink(), `: ${error.message}`));
  }
}

addEventListener("hashchange", reveal);
addEventListener("click", ({ target }) => target.closest("a[href^='#']") && setTimeout(reveal)); // also for the current fragment, which fires no event
start();
