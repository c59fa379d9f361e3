// Checking a received hash chain: does the signed result cover exactly these parts (appliance/seal/chain_check.py).
//
// The schema is checked by hand, references are followed with memory of what was visited (a circle or a tower is refused, a shared step is
// computed once), and files at hand are hashed here whatever the chain says about them.

import { base64, concat, DIGEST_URIS, digestOf, encodeUtf8, equal } from "./bytes.js";
import { canonical, CANONICAL } from "./c14n.js";
import { Unverified } from "./errors.js";
import { attribute, elements, parseStrict, parseXml, text } from "./xml.js";

const CHAIN_BYTES_MAX = 256 * 1024;
const STEPS_MAX = 64;
const VALUES_MAX = 2048;
const HC = "{http://cyber.ee/hashchain}";
const DS = "{http://www.w3.org/2000/09/xmldsig#}";
const KINDS = new Map(["HashValue", "StepRef", "DataRef"].map((kind) => [HC + kind, kind]));

function malformed(message) {
  return new Unverified("seal.chain_malformed", message);
}

/** A file whose bytes are in memory, as an input of checkChain. */
export function fileOf(data) {
  return { digest: (algorithm) => digestOf(algorithm, data), data };
}

/** A HashChainResult document: {file, step, digest}. Throws seal.chain_malformed. */
export function parseResult(bytes) {
  const root = parsed(bytes, "HashChainResult");
  const children = elements(root);
  if (children.length !== 2 || children[0].tag !== `${DS}DigestMethod` || children[1].tag !== `${DS}DigestValue`) {
    throw malformed("a HashChainResult has DigestMethod and DigestValue");
  }
  const [file, step] = divided(attribute(root, "URI"));
  if (!file || !step) throw malformed("a HashChainResult names a file and a step");
  return { file, step, digest: { value: digestValue(children[1]), algorithm: algorithmOf(children[0]) } };
}

/**
 * Checks that `result` covers all `inputs` (Map: file name -> {digest, data}); returns the files that it covers besides, with the digests
 * that the chain states. `chains`: Map of the documents by file name. Throws seal.chain_malformed, _result, _reference, _unused_input.
 */
export async function checkChain(result, chains, inputs) {
  const walk = { chains, inputs, parsed: new Map(), values: new Map(), underWay: new Set(), used: new Set(), stated: new Map() };
  const value = await stepValue(walk, result.file, result.step, result.digest.algorithm);
  const unused = [...inputs.keys()].find((name) => !walk.used.has(name));
  if (unused !== undefined) throw new Unverified("seal.chain_unused_input", `${unused} is not covered by the hash chain`);
  if (!equal(value, result.digest.value)) throw new Unverified("seal.chain_result", "the hash chain does not lead to the signed result");
  return walk.stated;
}

/** H(DigestList of the step's values); H is the algorithm of who refers to it. */
async function stepValue(walk, file, step, algorithm) {
  const place = JSON.stringify([file, step]);
  const key = place + algorithm;
  if (walk.values.has(key)) return walk.values.get(key);
  const chain = chainOf(walk, file);
  const values = chain.steps.get(step);
  if (!values) throw malformed(`no step ${step} in ${file}`);
  if (walk.underWay.has(place) || walk.underWay.size >= STEPS_MAX) throw malformed("the steps of the hash chain run in a circle, or too deep");
  walk.underWay.add(place);
  const digests = [];
  for (const value of values) digests.push(await digestOfValue(walk, file, chain, value));
  walk.underWay.delete(place);
  const computed = await digestOf(algorithm, digestList(digests));
  walk.values.set(key, computed);
  return computed;
}

async function digestOfValue(walk, file, chain, value) {
  if (value.kind === "StepRef") {
    const [target, step] = divided(value.uri);
    return { value: await stepValue(walk, target || file, step, chain.algorithm), algorithm: chain.algorithm };
  }
  if (value.kind === "HashValue") return value.digest;
  const given = walk.inputs.get(value.uri);
  if (!given) {
    walk.stated.set(value.uri, value.digest);
    return value.digest;
  }
  walk.used.add(value.uri);
  if (!equal(await fileDigest(given, value), value.digest.value)) {
    throw new Unverified("seal.chain_reference", `the hash chain names ${value.uri} with another digest`);
  }
  return value.digest;
}

/** The file's digest as the reference says: under its algorithm, after its canonicalisation. */
async function fileDigest(file, { digest, transforms }) {
  if (!transforms.length) return file.digest(digest.algorithm);
  let { data } = file;
  for (const transform of transforms) {
    if (!CANONICAL.has(transform) || !data) throw malformed(`transform ${transform}`);
    data = asChainError(() => canonical(parseStrict(data, CHAIN_BYTES_MAX), transform));
  }
  return digestOf(digest.algorithm, data);
}

function chainOf(walk, file) {
  if (!walk.parsed.has(file)) {
    if (!walk.chains.has(file)) throw malformed(`no hash chain ${file}`);
    walk.parsed.set(file, parseChain(walk.chains.get(file)));
  }
  return walk.parsed.get(file);
}

function parseChain(bytes) {
  const [method, ...stepElements] = elements(parsed(bytes, "HashChain"));
  if (method?.tag !== `${HC}DefaultDigestMethod`) throw malformed("a HashChain begins with its DefaultDigestMethod");
  const algorithm = algorithmOf(method);
  const steps = new Map();
  let count = 0;
  for (const step of stepElements) {
    const name = attribute(step, "id");
    if (step.tag !== `${HC}HashStep` || !name || steps.has(name)) throw malformed("a HashChain consists of HashSteps with an id of their own");
    const values = elements(step);
    count += values.length;
    if (steps.size >= STEPS_MAX || count > VALUES_MAX) throw malformed(`more than ${STEPS_MAX} steps or ${VALUES_MAX} values`);
    steps.set(name, values.map((value) => parseValue(value, algorithm)));
  }
  return { algorithm, steps };
}

function parseValue(element, defaultAlgorithm) {
  const kind = KINDS.get(element.tag);
  const uri = attribute(element, "URI");
  const children = elements(element);
  if (!kind) throw malformed(`${element.local} in a HashStep`);
  if (kind === "StepRef") {
    if (children.length || !uri.includes("#")) throw malformed("a StepRef names a step and nothing else");
    return { kind, uri };
  }
  let algorithm = defaultAlgorithm;
  let transforms = [];
  if (children[0]?.tag === `${DS}DigestMethod`) algorithm = algorithmOf(children.shift());
  if (children[0]?.tag === `${DS}Transforms`) transforms = elements(children.shift()).map((one) => attribute(one, "Algorithm"));
  if (children.length !== 1 || children[0].tag !== `${DS}DigestValue` || (kind === "DataRef") !== Boolean(uri)) {
    throw malformed(`a ${kind} has a digest and nothing else`);
  }
  return { kind, uri, digest: { value: digestValue(children[0]), algorithm }, transforms };
}

function parsed(bytes, name) {
  const root = asChainError(() => parseXml(bytes, { bytesMax: CHAIN_BYTES_MAX }));
  if (root.tag !== HC + name) throw malformed(`not a ${name}`);
  return root;
}

function asChainError(act) {
  try {
    return act();
  } catch (error) {
    if (error instanceof Unverified) throw malformed(error.message);
    throw error;
  }
}

function algorithmOf(element) {
  const algorithm = attribute(element, "Algorithm");
  if (!DIGEST_URIS.has(algorithm)) throw malformed(`digest algorithm ${algorithm}`);
  return algorithm;
}

function digestValue(element) {
  const bytes = elements(element).length ? null : base64(text(element));
  if (bytes === null) throw malformed("a DigestValue that is not base64");
  return bytes;
}

/** `file#step` -> [file, step]. */
function divided(uri) {
  const at = uri.indexOf("#");
  return at < 0 ? [uri, ""] : [uri.slice(0, at), uri.slice(at + 1)];
}

/** DER DigestList: SEQUENCE of (digest, algorithm URI, no transforms). */
function digestList(digests) {
  return der(0x30, ...digests.map(({ value, algorithm }) => der(0x30, der(0x04, value), der(0x0c, encodeUtf8(algorithm)), der(0x30))));
}

function der(tag, ...parts) {
  const content = concat(parts);
  const size = [];
  for (let rest = content.length; rest > 0; rest = Math.floor(rest / 256)) size.unshift(rest % 256);
  const head = content.length < 0x80 ? [tag, content.length] : [tag, 0x80 | size.length, ...size];
  return concat([Uint8Array.from(head), content]);
}
