// What an RFC 3161 time-stamp token proves about bytes (appliance/trust/timestamps.py).

import { digest, equal } from "./bytes.js";
import { BOOLEAN, INTEGER, OCTET_STRING, OID, parseDer, SEQUENCE, SET } from "./der.js";
import { Unverified } from "./errors.js";
import { HASH_OIDS, isGenuine, SCHEME_OIDS } from "./signatures.js";
import { hasExtendedUsage, isValidAt } from "./x509.js";

const TOKEN_BYTES_MAX = 64 * 1024;
const SIGNED_DATA = "1.2.840.113549.1.7.2";
const TST_INFO = "1.2.840.113549.1.9.16.1.4";
const CONTENT_TYPE = "1.2.840.113549.1.9.3";
const MESSAGE_DIGEST = "1.2.840.113549.1.9.4";
const SIGNING_CERTIFICATE = "1.2.840.113549.1.9.16.2.12";
const SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.47";
const FAMILIES = new Map([
  ["1.2.840.113549.1.1.1", "rsa"],
  ["1.2.840.113549.1.1.10", "rsa-pss"],
]);
const TIME_STAMPING = "1.3.6.1.5.5.7.3.8";
const KEY_IDENTIFIER = 0x80;

function malformed(message) {
  return new Unverified("tsa.malformed", message);
}

function untrusted(message) {
  return new Unverified("tsa.untrusted", message);
}

/**
 * {genTime, accuracy} in BigInt microseconds and the approved authority's name. `tsas`: [{name, certificate}].
 * Throws tsa.malformed, tsa.mismatch, seal.tsa_not_approved, tsa.untrusted.
 */
export async function checkToken(bytes, data, tsas) {
  const token = await asTokenError(() => readToken(bytes));
  // (1) over these very bytes
  if (!equal(await digestBy(token.info.digest, data), token.info.imprint)) throw new Unverified("tsa.mismatch", "a stamp over something else");
  const tsa = await asTokenError(() => checkSigner(token, tsas));
  return { genTime: token.info.genTime, accuracy: token.info.accuracy, authority: tsa.name };
}

async function checkSigner(token, tsas) {
  // (2) the signer is an approved authority: found by its name in the token, believed as pinned in the global configuration
  const tsa = tsas.find((one) => isNamed(token.signer, one.certificate));
  if (!tsa) throw new Unverified("seal.tsa_not_approved", "the time-stamping authority is not in the global configuration");
  const { certificate } = tsa;
  // (3) whose certificate is for this purpose (a critical one), and was valid then
  if (!hasExtendedUsage(certificate, TIME_STAMPING, true)) throw untrusted("the authority's certificate is not for time stamps");
  if (!isValidAt(certificate, token.info.genTime)) throw untrusted("the authority's certificate was not valid at the time of the stamp");
  // (4) the signed attributes bind the content, its type and this certificate
  const found = attributesOf(token.attributes);
  if (one(found, CONTENT_TYPE).oid() !== TST_INFO) throw untrusted("signed as something else than a time stamp");
  if (!equal(one(found, MESSAGE_DIGEST).octets(), await digestBy(token.digest, token.content))) {
    throw untrusted("the signed digest is not that of the content");
  }
  await checkSigningCertificate(found, certificate.der);
  // (5) the signature, over the attributes as a SET
  const signed = token.attributes.encoded.slice();
  signed[0] = SET;
  if (!(await isGenuine(certificate, token.scheme, token.signature, signed))) throw untrusted("the authority did not sign this token");
  return tsa;
}

/** SignerIdentifier: issuer and serial number, or subject key identifier. */
function isNamed(signer, certificate) {
  if (signer.tag === KEY_IDENTIFIER) return certificate.keyIdentifier !== null && equal(signer.content, certificate.keyIdentifier);
  const parts = signer.children();
  const [issuer, serial] = [parts.take().encoded, parts.take(INTEGER).integer()];
  return equal(issuer, certificate.issuer) && serial === certificate.serial;
}

/** Attribute type -> its only value. An attribute twice, or with two values, says nothing certain. */
function attributesOf(attributes) {
  const found = new Map();
  for (const attribute of attributes.children().rest()) {
    const parts = attribute.children();
    const kind = parts.take(OID).oid();
    const values = parts.take(SET).children();
    parts.finish();
    if (found.has(kind)) throw malformed("a signed attribute twice");
    found.set(kind, values.take());
    values.finish();
  }
  return found;
}

function one(found, kind) {
  if (!found.has(kind)) throw untrusted(`the signed attribute ${kind} is missing`);
  return found.get(kind);
}

/** ESSCertID (SHA-1) or ESSCertIDv2: the first one names the signer; the pinned bytes prove it. */
async function checkSigningCertificate(found, pinned) {
  const version2 = found.get(SIGNING_CERTIFICATE_V2);
  const first = (version2 ?? one(found, SIGNING_CERTIFICATE)).children().take(SEQUENCE).children().take(SEQUENCE).children();
  let expected;
  if (version2) {
    const algorithm = first.optional(SEQUENCE);
    expected = algorithm ? await digestBy(algorithm.children().take(OID).oid(), pinned) : await digest("SHA-256", pinned);
  } else {
    expected = await digest("SHA-1", pinned);
  }
  if (!equal(first.take().octets(), expected)) throw untrusted("signed with another certificate");
}

function readToken(bytes) {
  const outer = parseDer(bytes, TOKEN_BYTES_MAX).children();
  if (outer.take(OID).oid() !== SIGNED_DATA) throw malformed("not signed data");
  const wrapped = outer.take(0xa0).children();
  outer.finish();
  const parts = wrapped.take(SEQUENCE).children();
  wrapped.finish();
  parts.take(INTEGER);
  parts.take(SET);
  const content = contentOf(parts.take(SEQUENCE).children());
  parts.optional(0xa0)?.children();
  parts.optional(0xa1);
  const signers = parts.take(SET).children();
  parts.finish();
  const signer = signers.take(SEQUENCE).children();
  signers.finish(); // exactly one signer: a second one could be anybody
  return { content, ...readSigner(signer), info: readInfo(content) };
}

function readSigner(parts) {
  parts.take(INTEGER);
  const signer = parts.take();
  if (![SEQUENCE, KEY_IDENTIFIER].includes(signer.tag)) throw malformed("a signer without a name");
  if (signer.tag === SEQUENCE) {
    const named = signer.children();
    named.take(SEQUENCE);
    named.take(INTEGER).integer();
    named.finish();
  }
  const hash = parts.take(SEQUENCE).children().take(OID).oid();
  const attributes = parts.take(0xa0);
  attributesOf(attributes);
  const algorithm = parts.take(SEQUENCE).children().take(OID).oid();
  const signature = parts.take(OCTET_STRING).octets();
  parts.optional(0xa1);
  parts.finish();
  return { signer, digest: hash, attributes, signature, scheme: schemeOf(algorithm, hash) };
}

function contentOf(parts) {
  if (parts.take(OID).oid() !== TST_INFO) throw malformed("the signed content is not a time stamp");
  const wrapped = parts.take(0xa0).children();
  parts.finish();
  const content = wrapped.take(OCTET_STRING).octets();
  wrapped.finish();
  return content;
}

function readInfo(content) {
  const parts = parseDer(content, TOKEN_BYTES_MAX).children();
  if (parts.take(INTEGER).integer() !== 1n) throw malformed("an unknown version of TSTInfo");
  parts.take(OID).oid();
  const imprint = parts.take(SEQUENCE).children();
  const hash = imprint.take(SEQUENCE).children().take(OID).oid();
  const hashed = imprint.take(OCTET_STRING).octets();
  imprint.finish();
  parts.take(INTEGER).integer();
  const genTime = parts.take().timeUs();
  const accuracy = parts.optional(SEQUENCE);
  parts.optional(BOOLEAN);
  parts.optional(INTEGER)?.integer();
  parts.optional(0xa0);
  const extensions = parts.optional(0xa1)?.children().rest() ?? [];
  parts.finish();
  for (const extension of extensions) {
    const fields = extension.children();
    fields.take(OID).oid();
    const critical = fields.optional(BOOLEAN);
    if (critical && !equal(critical.content, [0])) throw malformed("an unknown critical extension");
  }
  return { digest: hash, imprint: hashed, genTime, accuracy: accuracy ? accuracyOf(accuracy.children()) : 0n };
}

function accuracyOf(parts) {
  let total = 0n;
  for (const [tag, unit] of [[INTEGER, 1000000n], [0x80, 1000n], [0x81, 1n]]) {
    const content = parts.optional(tag)?.content;
    if (!content) continue;
    let value = 0n;
    for (const byte of content) value = value * 256n + BigInt(byte);
    if (content.length > 5 || content[0] >= 0x80 || (unit < 1000000n && value > 999n)) throw malformed("an impossible accuracy");
    total += value * unit;
  }
  parts.finish();
  return total;
}

/** CMS names either key type and digest apart, or both at once; they must agree. */
function schemeOf(algorithm, hash) {
  const byDigest = HASH_OIDS.get(hash);
  if (byDigest && FAMILIES.has(algorithm)) return { family: FAMILIES.get(algorithm), hash: byDigest };
  const scheme = SCHEME_OIDS.get(algorithm);
  if (!byDigest || scheme?.hash !== byDigest) throw untrusted("an algorithm that this network does not use");
  return scheme;
}

async function digestBy(oid, bytes) {
  if (!HASH_OIDS.has(oid)) throw untrusted("an algorithm that this network does not use");
  return digest(HASH_OIDS.get(oid), bytes);
}

async function asTokenError(act) {
  try {
    return await act();
  } catch (error) {
    if (error instanceof Unverified && error.kind === "der.malformed") throw malformed(`not a time-stamp token: ${error.message}`);
    throw error;
  }
}
