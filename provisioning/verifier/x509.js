// X.509 certificates as evidence needs them: names as bytes, key, validity, the extensions that decide something.

import { base64, digest, equal, latin1, utf8 } from "./bytes.js";
import { BIT_STRING, BOOLEAN, INTEGER, OCTET_STRING, OID, parseDer, SEQUENCE, SET } from "./der.js";
import { Unverified } from "./errors.js";

const CERTIFICATE_BYTES_MAX = 16 * 1024;
const PARTS_MAX = 256;
const RSA = "1.2.840.113549.1.1.1";
const EC = "1.2.840.10045.2.1";
export const CURVES = new Map([
  ["1.2.840.10045.3.1.7", { name: "P-256", bytes: 32 }],
  ["1.3.132.0.34", { name: "P-384", bytes: 48 }],
  ["1.3.132.0.35", { name: "P-521", bytes: 66 }],
]);
const KEY_USAGE = "2.5.29.15";
const EXTENDED_KEY_USAGE = "2.5.29.37";
const BASIC_CONSTRAINTS = "2.5.29.19";
const SUBJECT_KEY_IDENTIFIER = "2.5.29.14";
/** Extensions that may be critical: read, or unable to make a certificate worse than it is taken for. */
const HANDLED = new Set([KEY_USAGE, EXTENDED_KEY_USAGE, BASIC_CONSTRAINTS, "2.5.29.32", "2.5.29.17", "2.5.29.18", "2.5.29.31"]);
const SHORT_NAMES = new Map([
  ["2.5.4.3", "CN"],
  ["2.5.4.7", "L"],
  ["2.5.4.8", "ST"],
  ["2.5.4.10", "O"],
  ["2.5.4.11", "OU"],
  ["2.5.4.6", "C"],
  ["2.5.4.9", "STREET"],
  ["0.9.2342.19200300.100.1.25", "DC"],
  ["0.9.2342.19200300.100.1.1", "UID"],
]);
const PEM = /-----BEGIN CERTIFICATE-----([\s\S]*?)-----END CERTIFICATE-----/g;

function malformed(message) {
  return new Unverified("certificate.malformed", message);
}

/** One DER certificate, everything looked at once. Throws certificate.malformed. */
export function readCertificate(der) {
  if (der.length > CERTIFICATE_BYTES_MAX) throw malformed(`a certificate of ${der.length} bytes, at most ${CERTIFICATE_BYTES_MAX}`);
  try {
    return taken(der);
  } catch (error) {
    throw error instanceof Unverified && error.kind === "der.malformed" ? malformed(`not a usable certificate: ${error.message}`) : error;
  }
}

/** As configuration files carry one: base64 of DER or of a PEM text, or the PEM text itself. */
export function readCertificateText(text) {
  const [pem] = pemBlocks(text);
  if (pem) return readCertificate(pem);
  const inner = base64(text);
  if (!inner) throw malformed("a certificate is not base64");
  const [wrapped] = pemBlocks(latin1(inner));
  return readCertificate(wrapped ?? inner);
}

/** The DER of every PEM certificate in a text. */
export function pemBlocks(text) {
  return [...text.matchAll(PEM)].map(([, body]) => {
    const der = base64(body);
    if (!der) throw malformed("a PEM certificate is not base64");
    return der;
  });
}

function taken(der) {
  const whole = parseDer(der, CERTIFICATE_BYTES_MAX).children();
  const tbs = whole.take(SEQUENCE);
  const algorithm = whole.take(SEQUENCE);
  const signature = whole.take(BIT_STRING).bits();
  whole.finish();
  const parts = tbs.children();
  const version = parts.optional(0xa0)?.children().take(INTEGER).integer() ?? 0n;
  if (version < 1n || version > 2n) {
    if (version !== 0n) throw malformed("an unknown version");
  }
  const serial = parts.take(INTEGER).integer();
  if (serial <= 0n) throw malformed("the serial number is not positive");
  const inner = parts.take(SEQUENCE);
  const issuer = parts.take(SEQUENCE);
  const validity = parts.take(SEQUENCE).children();
  const [notBefore, notAfter] = [validity.take().certificateTimeUs(), validity.take().certificateTimeUs()];
  validity.finish();
  const subject = parts.take(SEQUENCE);
  const key = readKey(parts.take(SEQUENCE));
  parts.optional(0x81);
  parts.optional(0x82);
  const extensions = readExtensions(parts.optional(0xa3));
  parts.finish();
  const attributes = readName(subject);
  readName(issuer);
  return {
    der,
    tbs: tbs.encoded,
    serial,
    issuer: issuer.encoded,
    subject: subject.encoded,
    attributes,
    notBefore,
    notAfter,
    key,
    algorithm,
    sameAlgorithm: equal(inner.encoded, algorithm.encoded),
    signature,
    ...extensions,
  };
}

/** {kind: "rsa" or "ec", spki, bits (the key itself), size or curve}. */
function readKey(element) {
  const parts = element.children();
  const algorithm = parts.take(SEQUENCE).children();
  const kind = algorithm.take(OID).oid();
  const bits = parts.take(BIT_STRING).bits();
  parts.finish();
  if (kind === RSA) {
    const modulus = parseDer(bits, CERTIFICATE_BYTES_MAX).children().take(INTEGER).content;
    const lead = modulus.findIndex((byte) => byte !== 0);
    if (lead < 0) throw malformed("an RSA key without a modulus");
    return { kind: "rsa", spki: element.encoded, bits, size: (modulus.length - lead - 1) * 8 + (32 - Math.clz32(modulus[lead])) };
  }
  if (kind === EC) return { kind: "ec", spki: element.encoded, bits, curve: CURVES.get(algorithm.take(OID).oid()) ?? null };
  throw malformed("a key of a kind that this network does not use");
}

function readExtensions(wrapped) {
  const found = { unknownCritical: false, keyUsage: null, extendedUsages: null, extendedCritical: false, isCa: false, keyIdentifier: null };
  if (!wrapped) return found;
  const seen = new Set();
  const list = wrapped.children();
  for (const extension of list.take(SEQUENCE).children(PARTS_MAX).rest()) {
    const parts = extension.children();
    const kind = parts.take(OID).oid();
    const critical = parts.optional(BOOLEAN)?.boolean() ?? false;
    const value = parts.take(OCTET_STRING).octets();
    parts.finish();
    if (seen.has(kind)) throw malformed("an extension twice");
    seen.add(kind);
    if (critical && !HANDLED.has(kind)) found.unknownCritical = true;
    readExtension(found, kind, critical, value);
  }
  list.finish();
  return found;
}

function readExtension(found, kind, critical, value) {
  const element = () => parseDer(value, CERTIFICATE_BYTES_MAX);
  if (kind === KEY_USAGE) {
    const bits = element().of(BIT_STRING);
    if (bits.length < 2 || bits[0] > 7) throw malformed("an empty key usage");
    found.keyUsage = bits[1];
  } else if (kind === EXTENDED_KEY_USAGE) {
    found.extendedUsages = new Set(element().children(PARTS_MAX).rest().map((usage) => usage.oid()));
    found.extendedCritical = critical;
  } else if (kind === BASIC_CONSTRAINTS) {
    found.isCa = element().children().optional(BOOLEAN)?.boolean() ?? false;
  } else if (kind === SUBJECT_KEY_IDENTIFIER) {
    found.keyIdentifier = element().octets();
  }
}

/** [[{oid, value}]]: relative names, each with its attributes. `value` is null for what is no text. */
function readName(element) {
  return element.children(PARTS_MAX).rest().map((relative) => {
    if (relative.tag !== SET) throw malformed("a name that is none");
    return relative.children(PARTS_MAX).rest().map((attribute) => {
      const parts = attribute.children();
      const [oid, value] = [parts.take(OID).oid(), parts.take()];
      parts.finish();
      return { oid, value: textOf(value) };
    });
  });
}

function textOf(element) {
  if (element.tag === BIT_STRING) return null;
  try {
    if (element.tag === 0x1e) return new TextDecoder("utf-16be", { fatal: true, ignoreBOM: true }).decode(element.content);
    return utf8(element.content);
  } catch {
    throw malformed("a name in an unreadable encoding");
  }
}

/** The first value of a subject field, or null. */
export function subjectField(certificate, oid) {
  return certificate.attributes.flat().find((attribute) => attribute.oid === oid)?.value ?? null;
}

/** The subject for people, as RFC 4514 writes names. */
export function subjectText(certificate) {
  const one = ({ oid, value }) => `${SHORT_NAMES.get(oid) ?? oid}=${escaped(value ?? "")}`;
  return [...certificate.attributes].reverse().map((relative) => relative.map(one).join("+")).join(",");
}

function escaped(value) {
  return value
    .replace(/[\\"+,;<>]/g, "\\$&")
    .replace(/\0/g, "\\00")
    .replace(/^(#| (?=.))/s, "\\$1")
    .replace(/ $/, "\\ ");
}

/** Both ends included. */
export function isValidAt(certificate, atUs) {
  return certificate.notBefore <= atUs && atUs <= certificate.notAfter;
}

/** Key usage present, with nonRepudiation. */
export function isSigningCertificate(certificate) {
  return certificate.keyUsage !== null && (certificate.keyUsage & 0x40) !== 0;
}

export function hasExtendedUsage(certificate, usage, critical = false) {
  return (certificate.extendedUsages?.has(usage) ?? false) && (certificate.extendedCritical || !critical);
}

/** SHA-1 of the key: how OCSP names it. A name, not a proof. */
export async function keyHash(certificate) {
  return digest("SHA-1", certificate.key.bits);
}
