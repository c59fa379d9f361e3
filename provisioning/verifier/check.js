// Is this container evidence: the eleven numbered steps of `xacbe verify` (appliance/seal/container_check.py), in the same order, with the
// same names, kinds and facts. The first failed step ends the list; a step that lacks trust material is undecided, the others go on.

import { checkDigest, equal, hex, SHA512 } from "./bytes.js";
import { CHAIN, CHAIN_RESULT, MESSAGE, readContainer, SIGNATURES, STAMP_CHAIN } from "./container.js";
import { renamed, Skip, Undecided, Unverified } from "./errors.js";
import { checkChain, fileOf, parseResult } from "./hash_chain.js";
import { checkResponse } from "./ocsp.js";
import { memberOf, senderOf } from "./sender.js";
import { isIssuedBy, RSA_KEY_BITS_MIN } from "./signatures.js";
import { checkToken } from "./timestamps.js";
import { isSigningCertificate, isValidAt, readCertificate, subjectText } from "./x509.js";
import { checkValue, parseSignature } from "./xades.js";

const EVIDENCE_GAP_MAX_US = 8n * 3600n * 1000000n;

const STEPS = [
  ["container", read],
  ["sender", readSender],
  ["signature_form", readSignature],
  ["stamp", checkStamp],
  ["chain", checkSignedChain],
  ["signature", checkSignature],
  ["signer", checkSigner],
  ["path", checkPath],
  ["ocsp", checkOcsp],
  ["coverage", checkCoverage],
  ["evidence_gap", checkEvidenceGap],
];

/**
 * The report {verdict, reason, xroad_code, steps, attachments}, as `xacbe verify --json` prints it. Never throws for what is in the file.
 * `configuration`: {instance, shared: Map} or null. `atUs`: BigInt, or null for the stamp's moment. `codes`: our kinds -> X-Road's.
 */
export async function verifyContainer(blob, configuration, atUs, codes) {
  const state = { blob, configuration, givenMoment: atUs !== null, moment: atUs, covered: new Map(), confirmed: new Set(), digests: new Map() };
  const steps = [];
  for (const [number, [name, act]] of STEPS.entries()) {
    const step = { number, name, verdict: "not_reached", reason: null, xroad_code: null, detail: "", facts: {} };
    if (!steps.some((done) => done.verdict === "failed") && (number === 0 || state.container)) Object.assign(step, await carriedOut(act, state, codes));
    steps.push(step);
  }
  const failed = steps.find((step) => step.verdict === "failed");
  const decisive = failed ?? steps.find((step) => step.verdict === "undecided");
  const verdict = failed ? "invalid" : decisive ? "undecidable" : "valid";
  return { verdict, reason: decisive?.reason ?? null, xroad_code: decisive?.xroad_code ?? null, steps, attachments: attachmentsOf(state) };
}

async function carriedOut(act, state, codes) {
  try {
    return { verdict: "passed", facts: await act(state) };
  } catch (error) {
    if (error instanceof Skip) return { verdict: "skipped" };
    if (error instanceof Undecided) return { verdict: "undecided", reason: error.kind, detail: error.message };
    if (error instanceof Unverified) return { verdict: "failed", reason: error.kind, xroad_code: codes[error.kind] ?? null, detail: error.message };
    // a defect of ours, or the browser's memory is full: nothing was decided, and it is said
    return { verdict: "undecided", reason: "verify.unsupported_here", detail: String(error) };
  }
}

async function read(state) {
  state.container = await readContainer(state.blob);
  return { bytes: String(state.blob.size), attachments: String(state.container.attachments.size) };
}

function readSender(state) {
  state.sender = senderOf(state.container.message);
  return { sender: state.sender.join("/") };
}

function readSignature(state) {
  const signature = parseSignature(state.container.signature);
  if (!signature.references.has(MESSAGE) && !signature.references.has(CHAIN_RESULT)) {
    throw new Unverified("seal.malformed", "the signature covers neither the message nor a hash chain result");
  }
  state.signature = signature;
  return { references: [...signature.references.keys()].join(" "), claimed_time: signature.signingTime };
}

async function checkStamp(state) {
  const [token, stamped] = await tokenOf(state);
  // the stamp covers this very signature, not another one, and an approved authority made it
  const stamp = await checkToken(token, stamped, approvedTsas(state));
  state.stamp = stamp;
  if (!state.givenMoment) state.moment = stamp.genTime;
  return { stamped_at: iso(stamp.genTime), authority: stamp.authority };
}

/** The token and what it must cover: a batch's result document, or this signature's value. */
async function tokenOf({ container, signature }) {
  if (container.stampToken === null) {
    if (!signature.stamps.length) throw new Unverified("seal.no_stamp", "no time stamp");
    return [signature.stamps[0], signature.value];
  }
  if (container.stampChainResult === null || container.stampChain === null) {
    throw new Unverified("seal.no_stamp", "a time stamp of a batch without its hash chain");
  }
  await renamed("seal.stamp_chain", async () => {
    const result = parseResult(container.stampChainResult);
    await checkChain(result, new Map([[STAMP_CHAIN, container.stampChain]]), new Map([[SIGNATURES, fileOf(container.signature)]]));
  });
  return [container.stampToken, container.stampChainResult];
}

async function checkSignedChain(state) {
  const { container, signature } = state;
  const expected = signature.references.get(CHAIN_RESULT);
  if (!expected) throw new Skip();
  if (container.chainResult === null || container.chain === null) {
    throw new Unverified("seal.reference_missing", "the signature covers a hash chain that the container does not hold");
  }
  const result = parseResult(container.chainResult);
  const inputs = new Map([[MESSAGE, fileOf(container.message)]]);
  for (const name of container.attachments.keys()) inputs.set(name, { digest: (algorithm) => attachmentDigest(state, name, algorithm), data: null });
  const stated = await checkChain(result, new Map([[CHAIN, container.chain]]), inputs);
  inputs.forEach((_, name) => state.confirmed.add(name));
  stated.forEach((digest, name) => state.covered.set(name, digest));
  await checkDigest("the hash chain result", container.chainResult, expected);
  return { covered: [...new Set([...inputs.keys(), ...stated.keys()])].sort().join(" ") };
}

async function checkSignature(state) {
  const certificate = readCertificate(state.signature.certificate);
  if (!isSigningCertificate(certificate)) throw new Unverified("seal.key_usage", "the certificate is not for signing");
  state.certificate = certificate;
  for (const [name, expected] of state.signature.references) await checkReference(state, name, expected);
  await checkValue(state.signature, certificate);
  return { method: state.signature.method.slice(state.signature.method.lastIndexOf("#") + 1), subject: subjectText(certificate) };
}

async function checkReference(state, name, expected) {
  if (name === CHAIN_RESULT) return; // step 4 did
  if (name === MESSAGE) {
    await checkDigest(name, state.container.message, expected);
  } else if (state.container.attachments.has(name)) {
    if (!equal(await attachmentDigest(state, name, expected.algorithm), expected.value)) {
      throw new Unverified("seal.wrong_digest", `${name} has another digest than the signed one`);
    }
  } else {
    throw new Unverified("seal.reference_missing", `the signature covers ${name}, which the container does not hold`);
  }
  state.confirmed.add(name);
}

function checkSigner(state) {
  const certificate = there(state.certificate);
  const issuer = issuerOf(state, certificate);
  const member = memberOf(certificate, issuer.profile, state.sender[0]).join("/");
  const sender = state.sender.slice(0, 3).join("/");
  if (member !== sender) throw new Unverified("seal.wrong_signer", `sealed by ${member}, sent by ${sender}`);
  return { member };
}

/** The approved issuer is the trust anchor: certificates that came along are never used, the anchor's own validity is not looked at. */
async function checkPath(state) {
  const certificate = there(state.certificate);
  sendersInstance(state);
  const atUs = momentOf(state);
  // (1) the issuer is pinned: looked up by its exact name
  const issuer = issuerOf(state, certificate);
  // (2) the certificate may stand where it stands
  if (certificate.unknownCritical) throw new Unverified("chain.profile", "an unknown critical extension");
  if (certificate.key.kind === "rsa" && certificate.key.size < RSA_KEY_BITS_MIN) {
    throw new Unverified("chain.profile", `an RSA key of ${certificate.key.size} bits, at least ${RSA_KEY_BITS_MIN}`);
  }
  if (certificate.isCa) throw new Unverified("chain.profile", "a CA certificate in the place of a member's or a server's");
  // (3) valid at the moment that counts
  if (!isValidAt(certificate, atUs)) throw new Unverified("chain.expired", "the certificate is not valid at that moment");
  // (4) really signed by the issuer
  if (!(await isIssuedBy(certificate, issuer.certificate))) throw new Unverified("chain.wrong_signature", "the issuer did not sign this certificate");
  state.issuer = issuer;
  return { issuer: subjectText(issuer.certificate) };
}

async function checkOcsp(state) {
  const shared = sendersInstance(state);
  if (!state.issuer) throw new Undecided("verify.no_moment", "the issuer was not decided");
  const atUs = momentOf(state);
  state.ocsp = await confirmation(state, shared, atUs);
  return { produced_at: iso(state.ocsp.producedAt), this_update: iso(state.ocsp.thisUpdate) };
}

/** The response about the signing certificate among those that came, in any order. */
async function confirmation({ signature, certificate, issuer }, shared, atUs) {
  if (!signature.ocspResponses.length) throw new Unverified("seal.no_ocsp", "the signature carries no OCSP response");
  for (const response of signature.ocspResponses) {
    try {
      return await checkResponse(response, certificate, issuer, shared, atUs);
    } catch (error) {
      if (error.kind !== "ocsp.mismatch") throw error; // about an intermediate, or about nobody here
    }
  }
  throw new Unverified("ocsp.mismatch", "no OCSP response about the signing certificate");
}

function checkCoverage({ container, confirmed, covered }) {
  const loose = [MESSAGE, ...container.attachments.keys()].find((name) => !confirmed.has(name));
  if (loose !== undefined) throw new Unverified("seal.uncovered_part", `${loose} is not covered by the signature`);
  return { covered: String(container.attachments.size), not_stored: String(covered.size) };
}

/** At most eight hours to the further of the two OCSP times, plus the stamp's stated accuracy (IV.3.V); the boundary is valid. */
function checkEvidenceGap({ ocsp, stamp }) {
  if (!ocsp || !stamp) throw new Undecided("verify.no_moment", "confirmation or time stamp were not decided");
  const distances = [ocsp.producedAt, ocsp.thisUpdate].map((moment) => (moment > stamp.genTime ? moment - stamp.genTime : stamp.genTime - moment));
  const gap = (distances[0] > distances[1] ? distances[0] : distances[1]) + stamp.accuracy;
  if (gap > EVIDENCE_GAP_MAX_US) throw new Unverified("seal.evidence_gap", `OCSP response and time stamp are ${Number(gap) / 1e6} s apart`);
  return { gap_s: (Number(gap) / 1e6).toFixed(3) };
}

// ---- trust material

/** Time-stamping authorities of every known instance (sheet 4.8). */
function approvedTsas({ configuration }) {
  if (!configuration) throw new Undecided("verify.no_configuration", "no configuration was given");
  const tsas = [...configuration.shared.values()].flatMap((shared) => shared.tsas);
  if (!tsas.length) throw new Undecided("verify.no_tsa", "no time-stamping authority was given");
  return tsas;
}

/** The sender's instance, judged with our own instance's freshness (sheet 5.4). */
function sendersInstance({ configuration, sender }) {
  if (!configuration) throw new Undecided("verify.no_configuration", "no configuration was given");
  const shared = configuration.shared.get(sender[0]);
  if (!shared) throw new Undecided("verify.unknown_instance", `no configuration of the instance ${sender[0]}`);
  if (!shared.cas.length) throw new Undecided("verify.no_ca", "no certification authority was given");
  return { ...shared, ocspFreshness: (configuration.shared.get(configuration.instance) ?? shared).ocspFreshness };
}

/** The approved CA with exactly the issuer's name; the last one wins, as in X-Road (sheet 5.3). */
function issuerOf(state, certificate) {
  const issuer = sendersInstance(state).cas.findLast((ca) => equal(ca.certificate.subject, certificate.issuer));
  if (!issuer) throw new Unverified("chain.untrusted", "not issued by an approved certification service");
  return issuer;
}

function momentOf({ moment }) {
  if (moment === null) throw new Undecided("verify.no_moment", "the moment of sealing was not decided");
  return moment;
}

/** What an earlier step left; it is absent only where that step could not be decided here. */
function there(value) {
  if (value === undefined) throw new Undecided("verify.unsupported_here", "a step that this one rests on was not decided");
  return value;
}

// ---- attachments and moments

/** Stored ones first, verified or not; then those of which only the digest is covered. */
function attachmentsOf({ container, confirmed, covered, digests }) {
  const stored = container?.attachments ?? new Map();
  const found = [...stored.keys()].map((name) => ({ name, stored: true, verified: confirmed.has(name), digest: hex(digests.get(`${SHA512} ${name}`) ?? []) }));
  const others = [...covered].filter(([name]) => !stored.has(name)).sort(([left], [right]) => (left < right ? -1 : 1));
  return [...found, ...others.map(([name, digest]) => ({ name, stored: false, verified: false, digest: hex(digest.value) }))];
}

/** Inflated once, though chain and references may both ask. */
async function attachmentDigest(state, name, algorithm) {
  const key = `${algorithm} ${name}`;
  if (!state.digests.has(key)) state.digests.set(key, await state.container.digest(name, algorithm));
  return state.digests.get(key);
}

/** ISO 8601 with milliseconds and Z. */
export function iso(us) {
  return new Date(Number(us / 1000n)).toISOString();
}
