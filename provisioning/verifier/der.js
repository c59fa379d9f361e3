// A small strict reader of DER: definite lengths in their shortest form, single-byte tags, no trailing bytes, bounded sizes, no recursion.

import { Unverified } from "./errors.js";

export const BOOLEAN = 0x01;
export const INTEGER = 0x02;
export const BIT_STRING = 0x03;
export const OCTET_STRING = 0x04;
export const OID = 0x06;
export const ENUMERATED = 0x0a;
export const UTC_TIME = 0x17;
export const GENERALIZED_TIME = 0x18;
export const SEQUENCE = 0x30;
export const SET = 0x31;
const CHILDREN_MAX = 64;
const INTEGER_BYTES_MAX = 64;

export function derError(message) {
  return new Unverified("der.malformed", message);
}

/** One tag-length-value inside `data`. */
export class Element {
  constructor(data, start, limit) {
    if (limit - start < 2) throw derError("an element is cut off");
    this.tag = data[start];
    if ((this.tag & 0x1f) === 0x1f) throw derError("a tag of several bytes");
    let length = data[start + 1];
    let value = start + 2;
    if (length & 0x80) {
      const count = length & 0x7f;
      if (count < 1 || count > 4 || limit - value < count) throw derError("an indefinite or oversized length");
      length = 0;
      for (let at = 0; at < count; at += 1) length = length * 256 + data[value + at];
      if (length < 0x80 || length < 256 ** (count - 1)) throw derError("a length that is not in its shortest form");
      value += count;
    }
    if (limit - value < length) throw derError("an element is longer than what holds it");
    Object.assign(this, { data, start, value, end: value + length });
  }

  get content() {
    return this.data.subarray(this.value, this.end);
  }

  get encoded() {
    return this.data.subarray(this.start, this.end);
  }

  /** The parts of a constructed element, to be taken in order. */
  children(most = CHILDREN_MAX) {
    if (!(this.tag & 0x20)) throw derError("not a constructed element");
    const parts = [];
    for (let at = this.value; at < this.end; at = parts[parts.length - 1].end) {
      if (parts.length === most) throw derError(`more than ${most} parts`);
      parts.push(new Element(this.data, at, this.end));
    }
    return new Reader(parts);
  }

  /** A BigInt of at most 64 bytes. */
  integer(tag = INTEGER) {
    const value = this.of(tag);
    if (value.length < 1 || value.length > INTEGER_BYTES_MAX) throw derError("an integer of an unusable size");
    if (value.length > 1 && ((value[0] === 0 && value[1] < 0x80) || (value[0] === 0xff && value[1] >= 0x80))) {
      throw derError("an integer that is not in its shortest form");
    }
    let number = 0n;
    for (const byte of value) number = (number << 8n) | BigInt(byte);
    return value[0] & 0x80 ? number - (1n << BigInt(8 * value.length)) : number;
  }

  boolean() {
    const value = this.of(BOOLEAN);
    if (value.length !== 1 || (value[0] !== 0 && value[0] !== 0xff)) throw derError("not a boolean");
    return value[0] === 0xff;
  }

  octets() {
    return this.of(OCTET_STRING);
  }

  /** A BIT STRING of whole bytes. */
  bits() {
    const value = this.of(BIT_STRING);
    if (value.length < 1 || value[0] !== 0) throw derError("a bit string that does not end with a byte");
    return value.subarray(1);
  }

  /** Dotted form. */
  oid() {
    const value = this.of(OID);
    if (value.length < 1 || value.length > 32 || value[value.length - 1] & 0x80) throw derError("not an object identifier");
    const arcs = [];
    let arc = 0n;
    for (const byte of value) {
      if (arc === 0n && byte === 0x80) throw derError("an object identifier with padding");
      arc = (arc << 7n) | BigInt(byte & 0x7f);
      if (!(byte & 0x80)) {
        arcs.push(arc);
        arc = 0n;
      }
    }
    const first = arcs[0] < 80n ? arcs[0] / 40n : 2n;
    return [first, arcs[0] - 40n * first, ...arcs.slice(1)].join(".");
  }

  /** A GeneralizedTime in UTC, BigInt microseconds since 1970; a finer fraction is cut, a leap second is the next second. */
  timeUs() {
    const found = /^(\d{14})(?:\.(\d{1,9}))?Z$/.exec(String.fromCharCode(...this.of(GENERALIZED_TIME).subarray(0, 32)));
    if (!found) throw derError("a time that is not UTC in the form YYYYMMDDhhmmss[.f]Z");
    const leap = found[1].endsWith("60");
    const us = momentUs(leap ? `${found[1].slice(0, 12)}59` : found[1]);
    return us + (leap ? 1000000n : 0n) + BigInt((found[2] ?? "").padEnd(6, "0").slice(0, 6));
  }

  /** A time of X.509 (UTCTime or GeneralizedTime, whole seconds), BigInt microseconds. */
  certificateTimeUs() {
    const digits = String.fromCharCode(...this.content.subarray(0, 32));
    if (this.tag === UTC_TIME && /^\d{12}Z$/.test(digits)) return momentUs((digits < "5" ? "20" : "19") + digits.slice(0, 12));
    if (this.tag === GENERALIZED_TIME && /^\d{14}Z$/.test(digits)) return momentUs(digits.slice(0, 14));
    throw derError("not a time");
  }

  of(tag) {
    if (this.tag !== tag) throw derError(`tag ${this.tag} where ${tag} should be`);
    return this.content;
  }
}

/** `YYYYMMDDhhmmss` -> BigInt microseconds since 1970. */
function momentUs(digits) {
  const [year, month, day, hour, minute, second] = [0, 4, 6, 8, 10, 12].map((at) => parseInt(digits.slice(at, at === 0 ? 4 : at + 2), 10));
  const moment = new Date(0);
  moment.setUTCFullYear(year, month - 1, day);
  moment.setUTCHours(hour, minute, second);
  const same = moment.getUTCMonth() === month - 1 && moment.getUTCDate() === day && moment.getUTCHours() === hour && moment.getUTCMinutes() === minute;
  if (!same || moment.getUTCSeconds() !== second || year < 1) throw derError("a time that does not exist");
  return BigInt(moment.getTime()) * 1000n;
}

/** The parts of one element, taken strictly in order. */
export class Reader {
  constructor(parts) {
    this.parts = parts;
    this.at = 0;
  }

  take(tag) {
    const part = this.parts[this.at];
    if (!part) throw derError("a part is missing");
    if (tag !== undefined && part.tag !== tag) throw derError(`tag ${part.tag} where ${tag} should be`);
    this.at += 1;
    return part;
  }

  optional(tag) {
    return this.parts[this.at]?.tag === tag ? this.take() : null;
  }

  rest() {
    const left = this.parts.slice(this.at);
    this.at = this.parts.length;
    return left;
  }

  finish() {
    if (this.at !== this.parts.length) throw derError("a part too many");
  }
}

/** The one element that `data` is. */
export function parseDer(data, bytesMax) {
  if (data.length > bytesMax) throw derError(`${data.length} bytes, at most ${bytesMax}`);
  const element = new Element(data, 0, data.length);
  if (element.end !== data.length) throw derError("bytes after the end");
  return element;
}
