// The page: files in, reports out. Whatever comes from a file reaches the document as text and never as markup.

import { base64, hex } from "./bytes.js";
import { iso, verifyContainer } from "./check.js";
import { trustFrom } from "./configuration.js";
import { readContainer } from "./container.js";
import { Unverified } from "./errors.js";
import { senderOf } from "./sender.js";

const CONTAINERS_MAX = 500;
const TRUST_FILES_MAX = 500;
const TRUST_BYTES_MAX = 64 * 1024 * 1024;
const DIGEST_BYTES_MAX = 256 * 1024 * 1024;
const SHOWN_CHARACTERS_MAX = 600;
const MARKS = { passed: "✓", failed: "✗", skipped: "–", undecided: "?", not_reached: "" };
/** Characters that would change how the text around them reads. */
const DECEIVING = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

const catalogue = JSON.parse(document.getElementById("catalogue").textContent);
const embedded = JSON.parse(document.getElementById("embedded").textContent);
let language = 0;
let trust = null;
let trustError = null;
let done = [];
let queue = Promise.resolve();

const byId = (id) => document.getElementById(id);

function say(key, facts = {}) {
  const found = catalogue.texts[key]?.[language] ?? key;
  return found.replace(/\{(\w+)\}/g, (whole, name) => facts[name] ?? whole);
}

function shown(value) {
  const clean = String(value).replace(DECEIVING, "\ufffd");
  return clean.length > SHOWN_CHARACTERS_MAX ? `${clean.slice(0, SHOWN_CHARACTERS_MAX)} …` : clean;
}

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

// ---- trust material

async function takeTrust(files) {
  await inTurn(async () => {
    trust = null;
    trustError = null;
    try {
      if (files.length > TRUST_FILES_MAX || files.reduce((sum, file) => sum + file.size, 0) > TRUST_BYTES_MAX) {
        throw new Unverified("configuration.malformed", `more than ${TRUST_FILES_MAX} files or ${TRUST_BYTES_MAX} bytes`);
      }
      const read = [];
      for (const file of files) read.push({ name: file.webkitRelativePath || file.name, bytes: new Uint8Array(await file.arrayBuffer()) });
      trust = await trustFrom(read);
    } catch (error) {
      trustError = error;
    }
    showTrust();
  });
}

async function takeEmbedded() {
  if (!embedded.length) return;
  await takeTrust(embedded.map(({ name, data }) => new File([base64(data)], name)));
  if (trust) trust.embedded = true;
  showTrust();
}

function trustText() {
  if (trustError) return `${say("page.trust.refused")}: ${shown(trustError.message)}`;
  if (!trust || trust.kind === "none") return say("page.trust.none");
  return say(`page.trust.${trust.kind}`, { instances: trust.instances.map(shown).join(", ") });
}

function showTrust() {
  const lines = [make("p", "", trustText())];
  if (trust?.fingerprint) lines.push(make("p", "mono", trust.fingerprint));
  if (trust?.embedded) lines.push(make("p", "", say("page.trust.embedded")));
  if (trust?.ignored.length) lines.push(make("p", "facts", `${say("page.trust.ignored")}: ${trust.ignored.slice(0, 20).map(shown).join(", ")}`));
  byId("trust-state").replaceChildren(...lines);
}

/** Certificates alone stand for the instance of whoever sent the message, as `xacbe verify --ca --tsa` takes them. */
async function configurationFor(blob) {
  if (trust?.kind !== "certificates") return trust?.configuration ?? null;
  let instance = "";
  try {
    instance = senderOf((await readContainer(blob)).message)[0];
  } catch {
    // the container's own steps will say so
  }
  return trust.configurationFor(instance);
}

// ---- containers

async function takeContainers(files) {
  await inTurn(async () => {
    const moment = byId("moment").value;
    const atUs = moment ? BigInt(Date.parse(`${moment}Z`)) * 1000n : null;
    done = [];
    byId("results").replaceChildren();
    byId("results-zone").hidden = false;
    document.documentElement.dataset.state = "working";
    for (const file of files.slice(0, CONTAINERS_MAX)) {
      byId("progress").textContent = say("page.working", { name: shown(file.name) });
      const report = await verifyContainer(file, await configurationFor(file), atUs, catalogue.codes);
      done.push({ name: file.name, sha256: await sha256(file), checkedAt: iso(BigInt(Date.now()) * 1000n), trusted: trustText(), fingerprint: trust?.fingerprint ?? "", isMomentGiven: atUs !== null, report });
      byId("results").append(section(done[done.length - 1]));
    }
    byId("progress").textContent = files.length > CONTAINERS_MAX ? say("page.container.too_many", { most: CONTAINERS_MAX }) : "";
    byId("results-title").focus();
    document.documentElement.dataset.state = `done ${done.length}`;
  });
}

async function sha256(file) {
  if (file.size > DIGEST_BYTES_MAX) return null;
  return hex(new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer())));
}

/** One thing after another: a second drop waits for the first. */
function inTurn(act) {
  queue = queue.then(act, act);
  return queue;
}

// ---- reports

function section(one) {
  const { report } = one;
  const verdict = make("div", "verdict", make("strong", "", say(`verify.verdict.${report.verdict}`)), make("p", "", say(`page.verdict.${report.verdict}`)));
  const parts = [verdict, summary(one), make("h3", "", say("page.steps")), steps(report)];
  if (report.attachments.length) parts.push(make("h3", "", say("page.attachments")), attachments(report));
  parts.push(make("details", "", make("summary", "", say("page.json")), make("pre", "json", JSON.stringify(report, null, 1))));
  const found = make("article", `report ${report.verdict}`, ...parts);
  found.dataset.file = one.name;
  return found;
}

function summary(one) {
  const { report } = one;
  const facts = Object.assign({}, ...report.steps.map((step) => step.facts));
  const rows = [["page.file", shown(one.name)], ["page.digest", one.sha256 ?? say("page.digest.too_large"), "mono"]];
  if (facts.sender) rows.push(["page.sender", shown(facts.sender)]);
  if (facts.stamped_at) rows.push(["page.stamped", moment(facts.stamped_at)]);
  if (report.reason) rows.push(["page.reason", reasonText(report.reason)]);
  rows.push(["page.trusted", one.trusted + (one.fingerprint ? ` ${one.fingerprint}` : "")]);
  rows.push(["page.checked", moment(one.checkedAt) + (one.isMomentGiven ? ` · ${say("page.moment.given")}` : "")]);
  return make("dl", "", ...rows.flatMap(([key, value, className]) => [make("dt", "", say(key)), make("dd", className ?? "", make("bdi", "", value))]));
}

function steps(report) {
  const head = make("tr", "", ...["number", "name", "verdict"].map((name) => make("th", "", say(`page.step.${name}`))));
  const rows = report.steps.map((step) => {
    const told = step.reason ? `${reasonText(step.reason)} (${shown(step.detail)})` : Object.entries(step.facts).map(([name, value]) => `${say(`fact.${name}`)}: ${shown(value)}`).join(" · ");
    const name = make("td", "name", say(`verify.step.${step.name}`), make("bdi", "facts", told));
    return make("tr", step.verdict, make("td", "", String(step.number)), name, make("td", "state", `${MARKS[step.verdict]} ${say(`page.step.${step.verdict}`)}`));
  });
  return make("table", "steps", make("thead", "", head), make("tbody", "", ...rows));
}

function attachments(report) {
  const head = make("tr", "", ...["page.attachment.name", "page.step.verdict", "page.attachment.digest"].map((key) => make("th", "", say(key))));
  const rows = report.attachments.map((one) => {
    const state = one.stored && one.verified ? "stored" : one.stored ? "unverified" : "not_stored";
    return make("tr", "", make("td", "", shown(one.name)), make("td", "", say(`verify.attachment.${state}`)), make("td", "mono", shown(one.digest)));
  });
  return make("table", "attachments", make("thead", "", head), make("tbody", "", ...rows));
}

function reasonText(kind) {
  return `${say(`verify.reason.${kind}`)} [${kind}]`;
}

/** UTC, which is what was signed, and the reader's own time beside it. */
function moment(text) {
  const local = new Date(text).toLocaleString(language ? "en-GB" : "es-MX", { dateStyle: "long", timeStyle: "medium" });
  return `${text.replace("T", " ").replace("Z", " UTC")} (${local})`;
}

// ---- the page itself

function render() {
  document.documentElement.lang = language ? "en" : "es";
  document.title = say("page.title");
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = say(element.dataset.text);
  byId("version").textContent = say("page.version", { version: catalogue.version });
  const unusable = !globalThis.crypto?.subtle ? "page.insecure" : typeof DecompressionStream === "undefined" || !Array.prototype.findLast ? "page.too_old" : "";
  byId("unusable").hidden = !unusable;
  byId("unusable").textContent = unusable && say(unusable);
  document.querySelector("main").hidden = Boolean(unusable);
  showTrust();
  byId("results").replaceChildren(...done.map(section));
}

function zone(id, take) {
  const element = byId(id);
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    element.addEventListener(kind, (event) => {
      event.preventDefault();
      element.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    });
  }
  element.addEventListener("drop", async (event) => take(await dropped(event.dataTransfer)));
}

/** Files of a drop; folders are opened, to the trust material's bound. */
async function dropped(transfer) {
  const waiting = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!waiting.some((entry) => entry.isDirectory)) return [...transfer.files];
  const files = [];
  while (waiting.length && files.length <= TRUST_FILES_MAX) {
    const entry = waiting.shift();
    if (entry.isFile) files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    else waiting.push(...(await entriesOf(entry.createReader())));
  }
  return files;
}

async function entriesOf(reader) {
  const found = [];
  for (let more = null; more === null || (more.length && found.length <= TRUST_FILES_MAX); ) {
    more = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    found.push(...more);
  }
  return found;
}

function start() {
  for (const [id, take] of [["trust-files", takeTrust], ["trust-folder", takeTrust], ["containers", takeContainers]]) {
    byId(id).addEventListener("change", async (event) => {
      const files = [...event.target.files];
      event.target.value = ""; // the same file may be chosen again
      if (files.length) await take(files);
    });
  }
  zone("trust-zone", takeTrust);
  zone("container-zone", takeContainers);
  for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
  byId("language").addEventListener("click", () => {
    language = 1 - language;
    render();
  });
  byId("print").addEventListener("click", () => window.print());
  render();
  takeEmbedded().then(() => {
    document.documentElement.dataset.state = "ready";
  });
}

start();
