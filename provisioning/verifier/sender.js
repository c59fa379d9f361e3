// Who sent a stored message, read from /message.xml as strictly as X-Road reads it (appliance/seal/sender.py), and whom a certificate names.

import { utf8 } from "./bytes.js";
import { Unverified } from "./errors.js";
import { child, elements, parseXml, text } from "./xml.js";
import { subjectField } from "./x509.js";

const HEAD_BYTES_MAX = 64 * 1024;
const SOAP_BYTES_MAX = 32 * 1024 * 1024;
const PART_CHARACTERS_MAX = 255;
const SEGMENT = /^(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})*$/;
const NEVER_TRAVEL = new Set(
  "transfer-encoding keep-alive proxy-authenticate proxy-authorization te trailer upgrade connection user-agent host content-length server expect".split(" "),
);
const SOAP = "{http://schemas.xmlsoap.org/soap/envelope/}";
const XROAD = "{http://x-road.eu/xsd/xroad.xsd}";
const ID = "{http://x-road.eu/xsd/identifiers}";
const CLIENT_PARTS = ["xRoadInstance", "memberClass", "memberCode", "subsystemCode"];

function unreadable(message) {
  return new Unverified("seal.sender_unreadable", message);
}

/** The parts of the sender's name: instance, class, code and perhaps subsystem. Throws seal.sender_unreadable. */
export function senderOf(message) {
  const begin = message[0] === 0xef && message[1] === 0xbb && message[2] === 0xbf ? 3 : 0;
  const first = message.subarray(begin).find((byte) => !(byte === 0x20 || (byte >= 0x09 && byte <= 0x0d)));
  try {
    return first === 0x3c ? soapSender(message) : restSender(message);
  } catch (error) {
    if (error instanceof Unverified) throw unreadable(error.message);
    throw error;
  }
}

function restSender(head) {
  if (head.length > HEAD_BYTES_MAX) throw unreadable(`a head of ${head.length} bytes, at most ${HEAD_BYTES_MAX}`);
  let whole;
  try {
    whole = utf8(head);
  } catch {
    throw unreadable("the head is not UTF-8");
  }
  const lines = whole.replace(/\r\n?/g, "\n").replace(/\n$/, "").split("\n");
  if (lines.length < 3) throw unreadable("a head has a first line, a second line and headers");
  const headers = new Map();
  for (const line of lines.slice(2)) {
    const colon = line.indexOf(":");
    const name = line.slice(0, Math.max(colon, 0)).toLowerCase();
    if (!name || NEVER_TRAVEL.has(name)) throw unreadable("a line that is no header, or a header that never travels");
    headers.set(name, line.slice(colon + 1));
  }
  const isResponse = /^[1-9]/.test(lines[0]);
  const wanted = isResponse ? "x-road-service" : "x-road-client";
  if (!headers.has(wanted)) throw unreadable(`no ${wanted}`);
  if (isResponse && !(headers.has("x-road-id") && headers.has("x-road-request-hash"))) {
    throw unreadable("a response without x-road-id or x-road-request-hash");
  }
  const parts = headers.get(wanted).split("/").map(decodedPart);
  if (!isResponse) return client(parts);
  if (parts.length !== 5) throw unreadable("a service has 5 parts");
  checkParts(parts);
  return parts.slice(0, 4);
}

function decodedPart(segment) {
  if (!SEGMENT.test(segment)) throw unreadable("a part is not percent-encoded as a path segment");
  try {
    return decodeURIComponent(segment);
  } catch {
    throw unreadable("a part is not UTF-8");
  }
}

function soapSender(envelope) {
  const root = parseXml(envelope, { bytesMax: SOAP_BYTES_MAX });
  const [header, body] = [child(root, `${SOAP}Header`), child(root, `${SOAP}Body`)];
  if (root.tag !== `${SOAP}Envelope` || !header || !body || elements(body).length !== 1) {
    throw unreadable("not a SOAP 1.1 envelope with a header and one element in its body");
  }
  const service = partsIn(header, "service");
  const code = service.get("serviceCode") ?? "";
  // the answer to `x` is `xResponse`; a service may itself be called `xResponse`
  const isResponse = code && elements(body)[0].local === `${code}Response`;
  const named = isResponse ? service : partsIn(header, "client");
  return client(CLIENT_PARTS.filter((name) => named.has(name)).map((name) => named.get(name)));
}

function partsIn(header, name) {
  const found = elements(header).filter((one) => one.tag === XROAD + name);
  if (found.length !== 1) throw unreadable(`not exactly one ${name}`);
  const parts = new Map();
  for (const part of elements(found[0])) {
    if (part.tag !== ID + part.local || parts.has(part.local)) throw unreadable(`${part.local} in ${name}`);
    parts.set(part.local, text(part));
  }
  return parts;
}

function client(parts) {
  if (parts.length < 3 || parts.length > 4) throw unreadable(`a client has 3 or 4 parts, not ${parts.length}`);
  checkParts(parts);
  return parts;
}

function checkParts(parts) {
  if (parts.some((part) => !part || Array.from(part).length > PART_CHARACTERS_MAX)) throw unreadable("a part is empty, or too long");
}

// ---- the member that a signing certificate names, by the profile of its issuer (sheet 5.5)

const C = "2.5.4.6";
const O = "2.5.4.10";
const OU = "2.5.4.11";
const CN = "2.5.4.3";
const SERIAL = "2.5.4.5";
const CATEGORY = "2.5.4.15";
const ORGANIZATION_ID = "2.5.4.97";

function misprofiled(message) {
  return new Unverified("certificate.profile", message);
}

/** [instance, class, code]. `profile`: as the configuration names it. Throws certificate.profile. */
export function memberOf(certificate, profile, instance) {
  const name = profile.slice(profile.lastIndexOf(".") + 1).replace(/CertificateProfileInfoProvider$/, "");
  if (!PROFILES.has(name)) throw misprofiled(`unknown certificate profile ${profile.slice(0, 120)}`);
  const field = (oid) => subjectField(certificate, oid);
  const member = PROFILES.get(name)(field, instance);
  if (!member.every(Boolean)) throw misprofiled("an empty part in the member's name");
  return member;
}

function need(field, oid) {
  const value = field(oid);
  if (!value) throw misprofiled(`the subject has no ${oid}`);
  return value;
}

function country(field, wanted) {
  if (field(C) !== wanted) throw misprofiled(`the subject's C is not ${wanted}`);
}

function ejbca(field) {
  return [need(field, C), need(field, O), need(field, CN)];
}

function fivrk(field, instance) {
  const serial = field(SERIAL);
  if (serial === null) {
    if (field(OU) === null) return ejbca(field);
    country(field, "FI");
    return [need(field, O), need(field, OU), need(field, CN)];
  }
  country(field, "FI");
  need(field, O);
  const parts = serial.split("/");
  if (parts.length !== 3) throw misprofiled("serialNumber is not instance/server/class");
  return [parts[0], parts[2], need(field, CN)];
}

function basic(field, instance) {
  return [instance, need(field, CATEGORY), need(field, SERIAL)];
}

function skKlass3(field, instance) {
  const organization = field(ORGANIZATION_ID);
  if (organization) {
    const prefixes = { "NTREE-": "COM", "GO:EE-": "GOV", "NP:EE-": "NGO" };
    const prefix = Object.keys(prefixes).find((one) => organization.startsWith(one));
    return prefix ? [instance, prefixes[prefix], organization.slice(prefix.length)] : [instance, "NEE", organization];
  }
  const serial = need(field, SERIAL);
  if (!/^[1-9][0-9]{7}$/.test(serial)) throw misprofiled("serialNumber does not have 8 digits, or begins with 0");
  return [instance, "123456".includes(serial[0]) ? "COM" : serial[0] === "7" ? "GOV" : "NGO", serial];
}

function countryAndUnit(field, wanted) {
  country(field, wanted);
  need(field, SERIAL);
  return [need(field, O), need(field, OU), need(field, CN)];
}

const PROFILES = new Map([
  ["Ejbca", ejbca],
  ["FiVRK", fivrk],
  ["Basic", basic],
  ["BasicACME", basic],
  ["SkKlass3", skKlass3],
  ["Is", (field) => (field(SERIAL) === null && field(OU) === null ? ejbca(field) : countryAndUnit(field, "IS"))],
  ["Fo", (field) => countryAndUnit(field, "FO")],
  ["SkEsteId", (field, instance) => [instance, "PERSON", need(field, SERIAL)]],
]);
