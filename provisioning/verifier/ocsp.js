// What an OCSP response proves about a certificate at a moment (appliance/trust/ocsp.py; RFC 6960). CertIDs are SHA-1: names, not proofs.

import { digest, equal, hex } from "./bytes.js";
import { BIT_STRING, BOOLEAN, ENUMERATED, GENERALIZED_TIME, INTEGER, OCTET_STRING, OID, parseDer, SEQUENCE } from "./der.js";
import { Unverified } from "./errors.js";
import { isGenuine, isIssuedBy, SCHEME_OIDS } from "./signatures.js";
import { hasExtendedUsage, isValidAt, keyHash, readCertificate } from "./x509.js";

const RESPONSE_BYTES_MAX = 64 * 1024;
const SINGLES_MAX = 16;
const ENCLOSED_CERTIFICATES_MAX = 4;
const BASIC = "1.3.6.1.5.5.7.48.1.1";
const NONCE = "1.3.6.1.5.5.7.48.1.2";
const OCSP_SIGNING = "1.3.6.1.5.5.7.3.9";
const STATUSES = new Map([
  [0x80, "good"],
  [0xa1, "revoked"],
  [0x82, "unknown"],
]);
const DIGESTS = new Map([
  ["1.3.14.3.2.26", "sha1"],
  ["2.16.840.1.101.3.4.2.4", "sha224"],
  ["2.16.840.1.101.3.4.2.1", "sha256"],
  ["2.16.840.1.101.3.4.2.2", "sha384"],
  ["2.16.840.1.101.3.4.2.3", "sha512"],
]);

function malformed(message) {
  return new Unverified("ocsp.malformed", message);
}

/**
 * The facts {producedAt, thisUpdate, nextUpdate or null} in BigInt microseconds, for a good and fresh response. `issuer`: a CA of `shared`.
 * Throws, in this order: ocsp.malformed, ocsp.mismatch, ocsp.untrusted, ocsp.stale, ocsp.revoked.
 */
export async function checkResponse(der, certificate, issuer, shared, atUs) {
  // (1) a successful basic response within our bounds
  const response = read(der);
  // (2) it speaks of this certificate, in the first SingleResponse
  const name = await digest("SHA-1", certificate.issuer);
  const wanted = ["sha1", hex(name), hex(await keyHash(issuer.certificate)), certificate.serial].join(" ");
  const [first] = response.singles;
  if (first.id !== wanted) throw new Unverified("ocsp.mismatch", "the OCSP response is about another certificate");
  // (3) signed by a responder that may speak for the issuer
  await checkResponder(response, issuer, shared, atUs);
  // (4) fresh: neither too old for the instance nor past its own end
  if (first.thisUpdate < atUs - BigInt(shared.ocspFreshness) * 1000000n) {
    throw new Unverified("ocsp.stale", `the OCSP response is older than ${shared.ocspFreshness} s`);
  }
  if (first.nextUpdate !== null && first.nextUpdate < atUs) throw new Unverified("ocsp.stale", "the OCSP response's next update has passed");
  // (5) good, and no second statement about the same certificate says otherwise
  const bad = response.singles.find((single) => single.id === wanted && single.status !== "good");
  if (bad) throw new Unverified("ocsp.revoked", `the certificate's status is ${bad.status}`);
  return { producedAt: response.producedAt, thisUpdate: first.thisUpdate, nextUpdate: first.nextUpdate };
}

async function checkResponder(response, issuer, shared, atUs) {
  const scheme = SCHEME_OIDS.get(response.algorithm);
  if (!scheme) throw new Unverified("ocsp.untrusted", "signed with an algorithm that this network does not use");
  for (const candidate of candidates(response, issuer, shared)) {
    if (!(await isNamed(candidate, response))) continue;
    if ((await isGenuine(candidate, scheme, response.signature, response.signed)) && (await isAuthorised(candidate, issuer, atUs))) return;
  }
  throw new Unverified("ocsp.untrusted", "no authorised responder signed the response");
}

function* candidates(response, issuer, shared) {
  yield* issuer.ocspCertificates;
  yield issuer.certificate;
  for (const ca of shared.cas) if (ca !== issuer) yield* ca.ocspCertificates;
  for (const der of response.enclosed) {
    try {
      yield readCertificate(der);
    } catch (error) {
      if (!(error instanceof Unverified)) throw error; // a certificate that we cannot read signs nothing
    }
  }
}

async function isNamed(candidate, response) {
  if (response.responderName) return equal(candidate.subject, response.responderName);
  return equal(await keyHash(candidate), response.responderKey);
}

/** Listed under the issuer, or the issuer itself, or its delegate: issued by it for this purpose and valid at that moment. */
async function isAuthorised(responder, issuer, atUs) {
  if ([issuer.certificate, ...issuer.ocspCertificates].some((listed) => equal(listed.der, responder.der))) return true;
  return hasExtendedUsage(responder, OCSP_SIGNING) && isValidAt(responder, atUs) && isIssuedBy(responder, issuer.certificate);
}

function read(der) {
  if (der.length > RESPONSE_BYTES_MAX) throw malformed(`an OCSP response of ${der.length} bytes, at most ${RESPONSE_BYTES_MAX}`);
  try {
    return readAll(der);
  } catch (error) {
    if (error instanceof Unverified) throw malformed(`not an OCSP response: ${error.message}`);
    throw error;
  }
}

function readAll(der) {
  const outer = parseDer(der, RESPONSE_BYTES_MAX).children();
  if (outer.take(ENUMERATED).integer(ENUMERATED) !== 0n) throw malformed("the responder has no answer");
  const wrapped = outer.take(0xa0).children().take(SEQUENCE).children();
  outer.finish();
  if (wrapped.take(OID).oid() !== BASIC) throw malformed("not a basic response");
  const basic = parseDer(wrapped.take(OCTET_STRING).octets(), RESPONSE_BYTES_MAX).children();
  wrapped.finish();
  const tbs = basic.take(SEQUENCE);
  const algorithm = basic.take(SEQUENCE).children().take(OID).oid();
  const signature = basic.take(BIT_STRING).bits();
  const enclosed = basic.optional(0xa0)?.children().take(SEQUENCE).children().rest() ?? [];
  basic.finish();
  if (enclosed.length > ENCLOSED_CERTIFICATES_MAX) throw malformed(`more than ${ENCLOSED_CERTIFICATES_MAX} certificates in one response`);
  return { ...readData(tbs.children()), algorithm, signature, signed: tbs.encoded, enclosed: enclosed.map((one) => one.encoded) };
}

function readData(parts) {
  parts.optional(0xa0);
  const responder = parts.take();
  const producedAt = wholeSeconds(parts.take());
  const singles = parts.take(SEQUENCE).children(1024).rest();
  checkExtensions(parts.optional(0xa1));
  parts.finish();
  if (!singles.length || singles.length > SINGLES_MAX) throw malformed(`no answer, or more than ${SINGLES_MAX} in one response`);
  if (![0xa1, 0xa2].includes(responder.tag)) throw malformed("a responder without a name");
  return {
    producedAt,
    responderName: responder.tag === 0xa1 ? responder.children().take(SEQUENCE).encoded : null,
    responderKey: responder.tag === 0xa2 ? responder.children().take(OCTET_STRING).octets() : null,
    singles: singles.map(readSingle),
  };
}

function readSingle(element) {
  const parts = element.children();
  const id = parts.take(SEQUENCE).children();
  const algorithm = DIGESTS.get(id.take(SEQUENCE).children().take(OID).oid());
  const [name, key, serial] = [id.take(OCTET_STRING).octets(), id.take(OCTET_STRING).octets(), id.take(INTEGER).integer()];
  id.finish();
  const status = STATUSES.get(parts.take().tag);
  const thisUpdate = wholeSeconds(parts.take());
  const next = parts.optional(0xa0)?.children();
  const nextUpdate = next ? wholeSeconds(next.take()) : null;
  parts.optional(0xa1);
  parts.finish();
  if (!algorithm || !status) throw malformed("an unknown digest or status");
  return { id: [algorithm, hex(name), hex(key), serial].join(" "), status, thisUpdate, nextUpdate };
}

function wholeSeconds(element) {
  element.of(GENERALIZED_TIME);
  return element.certificateTimeUs();
}

function checkExtensions(wrapped) {
  const seen = new Set();
  let answered = false; // behind the nonce nothing is looked at, as on the box
  for (const extension of wrapped?.children().take(SEQUENCE).children().rest() ?? []) {
    const parts = extension.children();
    const kind = parts.take(OID).oid();
    const critical = parts.optional(BOOLEAN)?.boolean() ?? false;
    parts.take(OCTET_STRING);
    parts.finish();
    if (seen.has(kind)) throw malformed("an extension twice");
    seen.add(kind);
    answered ||= kind === NONCE;
    if (critical && !answered) throw malformed("an unknown critical extension");
  }
}
