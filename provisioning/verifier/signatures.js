// Raw signatures, checked by WebCrypto: which algorithms are believed. SHA-1 and MD5 are refused everywhere.

import { concat, equal } from "./bytes.js";
import { INTEGER, parseDer, SEQUENCE } from "./der.js";
import { Undecided, Unverified } from "./errors.js";

export const RSA_KEY_BITS_MIN = 2048;
export const HASH_OIDS = new Map([
  ["2.16.840.1.101.3.4.2.1", "SHA-256"],
  ["2.16.840.1.101.3.4.2.2", "SHA-384"],
  ["2.16.840.1.101.3.4.2.3", "SHA-512"],
]);
const SALT_BYTES = { "SHA-256": 32, "SHA-384": 48, "SHA-512": 64 };
const RSA_PSS = "1.2.840.113549.1.1.10";
const MGF1 = "1.2.840.113549.1.1.8";
const WEAK = new Set(["1.2.840.113549.1.1.4", "1.2.840.113549.1.1.5", "1.2.840.10045.4.1"]);

/** X.509, OCSP and CMS names -> {family: rsa, rsa-pss or ecdsa; hash}. */
export const SCHEME_OIDS = new Map([
  ["1.2.840.113549.1.1.11", { family: "rsa", hash: "SHA-256" }],
  ["1.2.840.113549.1.1.12", { family: "rsa", hash: "SHA-384" }],
  ["1.2.840.113549.1.1.13", { family: "rsa", hash: "SHA-512" }],
  ["1.2.840.10045.4.3.2", { family: "ecdsa", hash: "SHA-256" }],
  ["1.2.840.10045.4.3.3", { family: "ecdsa", hash: "SHA-384" }],
  ["1.2.840.10045.4.3.4", { family: "ecdsa", hash: "SHA-512" }],
]);

/** XML signature names -> the same; undefined for what this network does not use. */
export function schemeOfUri(uri) {
  const plain = /^http:\/\/www\.w3\.org\/2001\/04\/xmldsig-more#(rsa|ecdsa)-sha(256|384|512)$/.exec(uri);
  if (plain) return { family: plain[1], hash: `SHA-${plain[2]}` };
  const pss = /^http:\/\/www\.w3\.org\/2007\/05\/xmldsig-more#sha(256|384|512)-rsa-MGF1$/.exec(uri);
  return pss ? { family: "rsa-pss", hash: `SHA-${pss[1]}` } : undefined;
}

/** Whether `signature` (ECDSA: DER) is this certificate's key's over `data`; a weak key signs nothing. */
export async function isGenuine(certificate, scheme, signature, data) {
  const { key } = certificate;
  if (key.kind === "rsa" && key.size < RSA_KEY_BITS_MIN) return false;
  if (scheme.family !== "ecdsa") return isOfKey(key, scheme, signature, data);
  if (key.kind !== "ec") return false;
  const raw = rawEcdsa(signature, curveOf(key).bytes);
  return raw !== null && isOfKey(key, scheme, raw, data);
}

/** The same for a signature value as XML carries it (ECDSA: r and s side by side). Throws verify.unsupported_here. */
export async function isOfKey(key, scheme, signature, data) {
  if ((key.kind === "ec") !== (scheme.family === "ecdsa")) return false;
  const names = { rsa: "RSASSA-PKCS1-v1_5", "rsa-pss": "RSA-PSS", ecdsa: "ECDSA" };
  const algorithm = { name: names[scheme.family], hash: scheme.hash, saltLength: scheme.salt ?? SALT_BYTES[scheme.hash] };
  if (key.kind === "ec") {
    algorithm.namedCurve = curveOf(key).name;
    if (signature.length !== 2 * curveOf(key).bytes) return false;
  }
  let imported;
  try {
    imported = await crypto.subtle.importKey("spki", key.spki, algorithm, false, ["verify"]);
  } catch {
    throw new Undecided("verify.unsupported_here", "this browser does not read the key");
  }
  return crypto.subtle.verify(algorithm, imported, signature, data);
}

function curveOf(key) {
  if (key.curve === null) throw new Undecided("verify.unsupported_here", "this browser does not know the key's curve");
  return key.curve;
}

/** Whether `issuer` signed `certificate`: its name, and its signature with an algorithm that still means something. */
export async function isIssuedBy(certificate, issuer) {
  if (!equal(certificate.issuer, issuer.subject) || !certificate.sameAlgorithm) return false;
  const scheme = certificateScheme(certificate.algorithm);
  if (scheme === null) return false;
  if (scheme.family !== "ecdsa") return isOfKey(issuer.key, scheme, certificate.signature, certificate.tbs);
  if (issuer.key.kind !== "ec") return false;
  const raw = rawEcdsa(certificate.signature, curveOf(issuer.key).bytes);
  return raw !== null && isOfKey(issuer.key, scheme, raw, certificate.tbs);
}

function certificateScheme(algorithm) {
  const parts = algorithm.children();
  const oid = parts.take().oid();
  if (WEAK.has(oid)) return null;
  const known = SCHEME_OIDS.get(oid);
  if (known) return known;
  if (oid === RSA_PSS) return pssScheme(parts.take(SEQUENCE).children());
  throw new Undecided("verify.unsupported_here", `the signature algorithm ${oid} is not known here`);
}

/** RSASSA-PSS-params: the same digest twice, and the salt's length. */
function pssScheme(parts) {
  const hash = parts.optional(0xa0)?.children().take(SEQUENCE).children().take().oid();
  const mask = parts.optional(0xa1)?.children().take(SEQUENCE).children();
  const isMgf1 = mask?.take().oid() === MGF1 && mask.take(SEQUENCE).children().take().oid() === hash;
  if (!HASH_OIDS.has(hash) || !isMgf1) throw new Unverified("chain.wrong_signature", "signed with a broken digest algorithm");
  return { family: "rsa-pss", hash: HASH_OIDS.get(hash), salt: Number(parts.optional(0xa2)?.children().take(INTEGER).integer() ?? 20n) };
}

/** SEQUENCE of two INTEGERs -> both side by side, `size` bytes each; null when it is not that. */
function rawEcdsa(der, size) {
  try {
    const parts = parseDer(der, 256).children();
    const numbers = [parts.take(INTEGER), parts.take(INTEGER)];
    parts.finish();
    return concat(numbers.map((number) => fixed(number, size)));
  } catch (error) {
    if (error instanceof Unverified) return null;
    throw error;
  }
}

function fixed(number, size) {
  if (number.integer() < 0n) throw new Unverified("der.malformed", "a negative number");
  const content = number.content[0] === 0 ? number.content.subarray(1) : number.content;
  if (content.length > size) throw new Unverified("der.malformed", "a number too large");
  return concat([new Uint8Array(size - content.length), content]);
}
