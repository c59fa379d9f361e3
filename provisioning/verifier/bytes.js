// Bytes and the texts that stand for them. Strict where the box is strict, so that both verifiers read the same.

import { Unverified } from "./errors.js";

/** What Python's str.split() takes for white space. */
const SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/g;
const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;

/** UTF-8, strictly; a byte order mark stays. Throws TypeError. */
export function utf8(bytes) {
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
}

export function encodeUtf8(text) {
  return new TextEncoder().encode(text);
}

/** One character for each byte. */
export function latin1(bytes) {
  const pieces = [];
  for (let at = 0; at < bytes.length; at += 8192) pieces.push(String.fromCharCode(...bytes.subarray(at, at + 8192)));
  return pieces.join("");
}

export function fromLatin1(text) {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

/** Base64 with white space anywhere and padding where it belongs; null when it is not that. */
export function base64(text) {
  const packed = text.replace(SPACE, "");
  if (packed.length % 4 || !BASE64.test(packed)) return null;
  return fromLatin1(atob(packed));
}

export function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function concat(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

export function equal(left, right) {
  return left.length === right.length && left.every((byte, at) => byte === right[at]);
}

/** A digest by its WebCrypto name. */
export async function digest(name, bytes) {
  return new Uint8Array(await crypto.subtle.digest(name, bytes));
}

/** Digest algorithms in XML, by URI. SHA-1 and MD5 are not among them. */
export const DIGEST_URIS = new Map([
  ["http://www.w3.org/2001/04/xmlenc#sha512", "SHA-512"],
  ["http://www.w3.org/2001/04/xmlenc#sha256", "SHA-256"],
  ["http://www.w3.org/2001/04/xmldsig-more#sha384", "SHA-384"],
]);
export const SHA512 = "http://www.w3.org/2001/04/xmlenc#sha512";

/** The digest under one of DIGEST_URIS. */
export async function digestOf(uri, bytes) {
  return digest(DIGEST_URIS.get(uri), bytes);
}

/** Throws seal.wrong_digest. `expected`: {algorithm, value}. */
export async function checkDigest(name, bytes, expected) {
  if (!equal(await digestOf(expected.algorithm, bytes), expected.value)) {
    throw new Unverified("seal.wrong_digest", `${name} has another digest than the signed one`);
  }
}
