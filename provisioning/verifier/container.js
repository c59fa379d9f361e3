// ASiC-E containers in X-Road's layout (appliance/seal/container.py). Attachments stay packed until their digest is asked for.

import { digestOf, latin1 } from "./bytes.js";
import { Undecided, Unverified } from "./errors.js";
import { readZip } from "./zip.js";

const MIMETYPE = "application/vnd.etsi.asic-e+zip";
const ENTRY_BYTES_MAX = 1024 * 1024 * 1024;
const SMALL_ENTRY_BYTES_MAX = 32 * 1024 * 1024;
const SMALL_ENTRIES_BYTES_MAX = 64 * 1024 * 1024;
const RATIO_MAX = 200;
const RATIO_FROM_BYTES = 4 * 1024 * 1024;
const ATTACHMENT_HERE_BYTES_MAX = 512 * 1024 * 1024; // WebCrypto hashes a whole buffer at once: what a browser's tab can hold
const NAME = /^[^\x00-\x1f\x7f\\:*?"<>|]{1,255}$/u;
const ATTACHMENT = /^attachment[1-9][0-9]{0,3}$/;
const SIGNATURE_ENTRY = /^meta-inf\/.*signatures.*\.xml$/u;
const REGULAR = 0o100000;
const DIRECTORY = 0o040000;

export const MESSAGE = "/message.xml";
export const CHAIN_RESULT = "/sig-hashchainresult.xml";
export const CHAIN = "/sig-hashchain.xml";
export const STAMP_CHAIN = "/ts-hashchain.xml";
export const SIGNATURES = "/META-INF/signatures.xml";

/** Throws container.malformed, .limit, .no_mimetype, .no_message, .no_signature. */
export async function readContainer(blob) {
  const { entries, inflate } = await readZip(blob, checkEntries);
  const names = byLowerCase(entries);
  need(names, "mimetype", "container.no_mimetype");
  if (latin1(await inflate(names.get("mimetype"))).replace(/^[\t-\r ]+|[\t-\r ]+$/g, "") !== MIMETYPE) {
    throw new Unverified("container.no_mimetype", "the mimetype entry names another type");
  }
  need(names, "message.xml", "container.no_message");
  const signatures = [...names.keys()].filter((name) => SIGNATURE_ENTRY.test(name));
  if (signatures.length !== 1) {
    throw new Unverified("container.no_signature", `${signatures.length} signature documents, exactly one is needed`);
  }
  const attachments = new Map([...names].filter(([name]) => ATTACHMENT.test(name)).map(([name, entry]) => [`/${name}`, entry]));
  // each is inflated, also where nothing reads it: a container with a damaged entry is not whole
  const contents = new Map();
  for (const [name, entry] of names) if (!ATTACHMENT.test(name)) contents.set(name, await inflate(entry));
  const content = (name) => contents.get(name) ?? null;
  return {
    message: content("message.xml"),
    signature: content(signatures[0]),
    chainResult: content("sig-hashchainresult.xml"),
    chain: content("sig-hashchain.xml"),
    stampChainResult: content("ts-hashchainresult.xml"),
    stampChain: content("ts-hashchain.xml"),
    stampToken: content("meta-inf/timestamp.tst"),
    attachments,
    /** An attachment's digest under one of DIGEST_URIS. */
    digest: async (name, algorithm) => {
      const entry = attachments.get(name);
      if (entry.size > ATTACHMENT_HERE_BYTES_MAX) throw new Undecided("verify.too_large_here", `${name} has ${entry.size} bytes`);
      return digestOf(algorithm, await inflate(entry));
    },
  };
}

function checkEntries(entries) {
  entries.forEach(checkEntry);
  const small = entries.filter((entry) => !ATTACHMENT.test(entry.name.toLowerCase())).reduce((sum, entry) => sum + entry.size, 0);
  if (small > SMALL_ENTRIES_BYTES_MAX) throw new Unverified("container.limit", `more than ${SMALL_ENTRIES_BYTES_MAX} bytes besides attachments`);
}

/** Name, kind, size and ratio of one entry, before anything is inflated. */
function checkEntry(entry) {
  const parts = entry.name.replace(/\/$/, "").split("/");
  if (!NAME.test(entry.name) || parts.some((part) => ["", ".", ".."].includes(part))) {
    throw new Unverified("container.malformed", `an entry named ${JSON.stringify(entry.name.slice(0, 80))}`);
  }
  const isDirectory = entry.name.endsWith("/");
  if (![0, isDirectory ? DIRECTORY : REGULAR].includes(entry.unixType)) {
    throw new Unverified("container.malformed", `${entry.name} is neither a file nor a directory`);
  }
  const limit = ATTACHMENT.test(entry.name.toLowerCase()) ? ENTRY_BYTES_MAX : SMALL_ENTRY_BYTES_MAX;
  if (entry.size > limit || (entry.size > RATIO_FROM_BYTES && entry.size > RATIO_MAX * entry.packed)) {
    throw new Unverified("container.limit", `${entry.name} inflates to ${entry.size} bytes`);
  }
  if (isDirectory && entry.size) throw new Unverified("container.malformed", `${entry.name} is a directory with content`);
}

/** X-Road matches names without regard to case, so two that differ only there are the same name twice. */
function byLowerCase(entries) {
  const names = new Map();
  for (const entry of entries) {
    const name = entry.name.toLowerCase();
    if (names.has(name)) throw new Unverified("container.malformed", `two entries named ${entry.name}`);
    names.set(name, entry);
  }
  return names;
}

function need(names, name, kind) {
  if (!names.has(name)) throw new Unverified(kind, `no entry ${name}`);
}
