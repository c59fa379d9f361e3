// Trust material out of files, in whatever order they were dropped: an anchor with the signed directory and its parts, a configuration in
// X-Road's local layout, or certificates. Only what verification needs is read; what an anchor's key signed is believed, what came without
// an anchor is used as the person's own word, and the page says which.

import { base64, DIGEST_URIS, digestOf, equal, fromLatin1, hex, latin1, utf8 } from "./bytes.js";
import { Unverified } from "./errors.js";
import { sha224 } from "./sha224.js";
import { isGenuine, schemeOfUri } from "./signatures.js";
import { elements, parseXml, text } from "./xml.js";
import { hasExtendedUsage, pemBlocks, readCertificate, readCertificateText, subjectText } from "./x509.js";

const SHARED_BYTES_MAX = 32 * 1024 * 1024;
const DIRECTORY_BYTES_MAX = 256 * 1024;
const FRESHNESS_S_MAX = 7 * 24 * 3600;
const FRESHNESS_S = 8 * 3600; // for certificates alone: what our instances publish
const PARTS_MAX = 64;
const HEADERS_MAX = 16;
const NAMESPACE = "{http://x-road.eu/xsd/xroad.xsd}";
const SHARED = "SHARED-PARAMETERS";
const BASIC = "ee.ria.xroad.common.certificateprofile.impl.BasicCertificateProfileInfoProvider";
const TIME_STAMPING = "1.3.6.1.5.5.7.3.8";
const BOUNDARY = /^[A-Za-z0-9'()+_,./:=?-]{1,70}$/;

function malformed(message) {
  return new Unverified("configuration.malformed", message);
}

/**
 * What [{name, bytes}] are worth: {kind, configuration or null, instances, fingerprint, ignored}. `kind`: none; anchored; layout (used on
 * the person's word); certificates (then `configurationFor(instance)` makes the sender's instance of them).
 * Throws configuration.*, certificate.malformed.
 */
export async function trustFrom(files) {
  const sorted = { anchors: [], directories: [], shared: [], instance: "", certificates: [], ignored: [] };
  for (const file of files) sortIn(sorted, file);
  if (sorted.anchors.length > 1) throw malformed("more than one anchor");
  const found = { kind: "none", configuration: null, instances: [], fingerprint: "", ignored: sorted.ignored };
  if (sorted.anchors.length) return { ...found, ...(await anchored(sorted, files)) };
  if (sorted.shared.length) return { ...found, ...layout(sorted) };
  if (sorted.certificates.length) return { ...found, kind: "certificates", configurationFor: (instance) => loose(sorted.certificates, instance) };
  return found;
}

function sortIn(sorted, { name, bytes }) {
  if (bytes.length > SHARED_BYTES_MAX) throw malformed(`${name}: more than ${SHARED_BYTES_MAX} bytes`);
  const begin = latin1(bytes.subarray(0, 4096));
  if (/(^|\/)instance-identifier$/.test(name)) sorted.instance = utf8(bytes).trim();
  else if (/\.metadata$/.test(name)) return;
  else if (begin.includes("BEGIN CERTIFICATE")) sorted.certificates.push(...pemBlocks(latin1(bytes)).map(readCertificate));
  else if (bytes[0] === 0x30) sorted.certificates.push(readCertificate(bytes));
  else if (/^content-type:\s*multipart\//im.test(begin)) sorted.directories.push(bytes);
  else if (/^(?:\xef\xbb\xbf)?\s*</.test(begin)) sortXml(sorted, name, bytes);
  else sorted.ignored.push(name);
}

function sortXml(sorted, name, bytes) {
  let root;
  try {
    root = parseXml(bytes, { bytesMax: SHARED_BYTES_MAX });
  } catch (error) {
    throw error instanceof Unverified ? malformed(`${name}: ${error.message}`) : error;
  }
  if (root.tag === `${NAMESPACE}configurationAnchor`) sorted.anchors.push({ root, bytes });
  else if (root.tag === `${NAMESPACE}conf` && child(root, "globalSettings")) sorted.shared.push({ root, bytes });
  else sorted.ignored.push(name);
}

function layout(sorted) {
  const shared = new Map();
  const contents = new Map();
  for (const { root, bytes } of sorted.shared) {
    const one = readShared(root);
    if (shared.has(one.instance) && !equal(contents.get(one.instance), bytes)) throw malformed(`two configurations of ${one.instance}`);
    shared.set(one.instance, one);
    contents.set(one.instance, bytes);
  }
  const instance = sorted.instance || (shared.size === 1 ? [...shared.keys()][0] : "");
  if (!shared.has(instance)) throw new Unverified("configuration.absent", "instance-identifier is missing, or names an instance that did not come");
  return { kind: "layout", configuration: { instance, shared }, instances: [...shared.keys()] };
}

/** One instance, the sender's, made of certificates: those for time stamps are its authorities of time. */
function loose(certificates, instance) {
  const isTsa = (certificate) => hasExtendedUsage(certificate, TIME_STAMPING);
  const cas = certificates.filter((one) => !isTsa(one)).map((certificate) => ({ certificate, ocspCertificates: [], profile: BASIC }));
  const tsas = certificates.filter(isTsa).map((certificate) => ({ name: subjectText(certificate), certificate }));
  return { instance, shared: new Map([[instance, { instance, cas, tsas, ocspFreshness: FRESHNESS_S }]]) };
}

// ---- under an anchor

async function anchored(sorted, files) {
  const [{ root, bytes }] = sorted.anchors;
  const instance = textIn(root, "instanceIdentifier");
  const signers = children(root, "source").flatMap((source) => children(source, "verificationCert").map(certificateIn));
  if (!signers.length) throw malformed("an anchor without a certificate");
  const fingerprint = Array.from(sha224(bytes), (byte) => hex([byte]).toUpperCase()).join(":");
  if (!sorted.directories.length) throw new Unverified("configuration.absent", `no signed directory of ${instance} came; an anchor cannot judge unsigned files`);
  let failure = null;
  for (const body of sorted.directories) {
    try {
      const shared = await sharedOf(readDirectory(body), signers, instance, files);
      return { kind: "anchored", configuration: { instance, shared: new Map([[instance, shared]]) }, instances: [instance], fingerprint };
    } catch (error) {
      if (!(error instanceof Unverified)) throw error;
      failure = error;
    }
  }
  throw failure;
}

async function sharedOf(directory, signers, instance, files) {
  await checkDirectory(directory, signers);
  const listed = directory.parts.filter((part) => part.identifier === SHARED);
  if (listed.length !== 1) throw malformed("a directory lists its shared parameters once");
  if (directory.parts.some((part) => part.instance && part.instance !== instance)) {
    throw new Unverified("configuration.wrong_instance", "the directory is another instance's");
  }
  for (const { bytes } of files) {
    if (!equal(await digestOf(listed[0].algorithm, bytes), listed[0].digest)) continue;
    const shared = readShared(parseXml(bytes, { bytesMax: SHARED_BYTES_MAX }));
    if (shared.instance !== instance) throw new Unverified("configuration.wrong_instance", "a part is another instance's");
    return shared;
  }
  throw new Unverified("configuration.mixed", "the shared parameters that the directory lists did not come");
}

/** One of the anchor's certificates signed these very bytes. */
async function checkDirectory(directory, signers) {
  const scheme = schemeOfUri(directory.algorithm);
  if (!scheme) throw new Unverified("configuration.untrusted", "signed with an algorithm that this network does not use");
  for (const signer of signers) {
    if (!equal(await digestOf(directory.certificateAlgorithm, signer.der), directory.certificateDigest)) continue;
    if (await isGenuine(signer, scheme, directory.signature, directory.signed)) return;
    throw new Unverified("configuration.untrusted", "the signature does not fit the directory");
  }
  throw new Unverified("configuration.untrusted", "signed with a certificate that may not sign here");
}

/** The MIME document of sheet 6.3; the list is read from the signed bytes only. */
function readDirectory(body) {
  if (body.length > DIRECTORY_BYTES_MAX) throw malformed(`a directory of ${body.length} bytes, at most ${DIRECTORY_BYTES_MAX}`);
  const [head, rest] = headers(latin1(body));
  const outer = multipart(rest, boundaryOf(head, "multipart/related"));
  if (outer.length !== 2) throw malformed("a directory has two parts: list and signature");
  const [innerHead, signed] = headers(outer[0]);
  const inner = boundaryOf(innerHead, "multipart/mixed");
  if (signed.split("\n", 1)[0].replace(/\r+$/, "") !== `--${inner}`) throw malformed("the signed list does not begin with its delimiter");
  const listed = multipart(signed, inner);
  if (!listed.length || listed.length > PARTS_MAX + 1) throw malformed("an impossible number of parts");
  need(headers(listed[0])[0], "expire-date");
  const [signatureHead, signature] = headers(outer[1]);
  const [certificateDigest, parameters] = parametersOf(need(signatureHead, "verification-certificate-hash"));
  return {
    parts: listed.slice(1).map(readEntry),
    signed: fromLatin1(signed),
    algorithm: need(signatureHead, "signature-algorithm-id"),
    signature: decoded(signature),
    certificateAlgorithm: digestUri(parameters.get("hash-algorithm-id")),
    certificateDigest: decoded(certificateDigest),
  };
}

function readEntry(part) {
  const [head, content] = headers(part);
  if (need(head, "content-transfer-encoding").toLowerCase() !== "base64") throw malformed("a digest that is not base64");
  const [identifier, parameters] = parametersOf(need(head, "content-identifier"));
  return { identifier, instance: parameters.get("instance") ?? "", algorithm: digestUri(need(head, "hash-algorithm-id")), digest: decoded(content) };
}

/** Header lines up to the blank line or the end, and the rest, untouched. CRLF or LF. */
function headers(block) {
  const head = new Map();
  let at = 0;
  for (;;) {
    const found = block.indexOf("\n", at);
    const end = found < 0 ? block.length : found;
    const line = block.slice(at, end).replace(/\r+$/, "");
    at = end + 1;
    if (!line) return [head, block.slice(at)];
    const colon = line.indexOf(":");
    const key = line.slice(0, Math.max(colon, 0)).trim().toLowerCase();
    if (!key || head.has(key) || head.size === HEADERS_MAX) throw malformed("a header that is none, or twice, or too many");
    head.set(key, line.slice(colon + 1).trim());
  }
}

/** The parts between delimiter lines; the line end before a delimiter belongs to the delimiter. */
function multipart(body, boundary) {
  const delimiter = new RegExp(`(?:^|\\r?\\n)--${boundary.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&")}(--)?[ \\t]*(?:\\r?\\n|$)`, "g");
  const parts = [];
  let begin = -1;
  for (let found = delimiter.exec(body); found; found = delimiter.exec(body)) {
    if (begin >= 0) parts.push(body.slice(begin, found.index));
    if (found[1]) return parts;
    if (parts.length > PARTS_MAX + 1) throw malformed("too many parts");
    begin = found.index + found[0].length;
    // a part may be empty: its line end may serve the next delimiter, so look again from that line end
    if (found[0].endsWith("\n")) delimiter.lastIndex = begin - 1;
  }
  if (begin >= 0) parts.push(body.slice(begin));
  return parts;
}

function boundaryOf(head, wanted) {
  const [kind, parameters] = parametersOf(need(head, "content-type"));
  const boundary = parameters.get("boundary") ?? "";
  if (kind.toLowerCase() !== wanted || !BOUNDARY.test(boundary)) throw malformed(`not ${wanted} with a boundary`);
  return boundary;
}

function parametersOf(value) {
  const found = [...value.matchAll(/;\s*([A-Za-z-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s;"']+))/g)];
  return [value.split(";", 1)[0].trim(), new Map(found.map((one) => [one[1].toLowerCase(), one[2] ?? one[3] ?? one[4] ?? ""]))];
}

function need(head, name) {
  if (!head.get(name)) throw malformed(`the header ${name} is missing`);
  return head.get(name);
}

function digestUri(uri) {
  if (!DIGEST_URIS.has(uri)) throw malformed("a digest algorithm that this network does not use");
  return uri;
}

function decoded(value) {
  const bytes = base64(value);
  if (bytes === null) throw malformed("not base64");
  return bytes;
}

// ---- shared parameters (sheet 6.5): what verification needs of them

function readShared(root) {
  const cas = children(root, "approvedCA").flatMap((approved) => {
    const profile = textIn(approved, "certificateProfileInfo");
    return elements(approved)
      .filter((one) => ["topCA", "intermediateCA"].includes(one.tag))
      .map((ca) => ({
        certificate: certificateIn(child(ca, "cert")),
        ocspCertificates: children(ca, "ocsp").flatMap((ocsp) => children(ocsp, "cert").slice(0, 1).map(certificateIn)),
        profile,
      }));
  });
  const tsas = children(root, "approvedTSA").map((tsa) => ({ name: textIn(tsa, "name"), certificate: certificateIn(child(tsa, "cert")) }));
  const settings = child(root, "globalSettings");
  const freshness = settings ? textIn(settings, "ocspFreshnessSeconds") : "";
  if (!/^[0-9]{1,9}$/.test(freshness) || Number(freshness) < 1 || Number(freshness) > FRESHNESS_S_MAX) throw malformed("ocspFreshnessSeconds");
  return { instance: textIn(root, "instanceIdentifier"), cas, tsas, ocspFreshness: Number(freshness) };
}

function children(element, tag) {
  return elements(element).filter((one) => one.tag === tag);
}

function child(element, tag) {
  return children(element, tag)[0] ?? null;
}

function textIn(element, tag) {
  const found = child(element, tag);
  const value = found ? text(found).trim() : "";
  if (!value) throw malformed(`${element.local}: ${tag} is missing or empty`);
  return value;
}

function certificateIn(element) {
  if (!element) throw malformed("a certificate is missing");
  return readCertificateText(text(element).trim());
}
