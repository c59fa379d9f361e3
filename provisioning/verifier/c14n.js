// Canonical XML 1.0 and Exclusive XML Canonicalization 1.0 of one element within its document, without comments.
//
// Attributes in the xml namespace are not inherited from outside the element: no document of this network has any, and one that did would
// fail here as it fails on the box.

import { encodeUtf8 } from "./bytes.js";
import { Unverified } from "./errors.js";

/** Algorithm -> is it exclusive? */
export const CANONICAL = new Map([
  ["http://www.w3.org/TR/2001/REC-xml-c14n-20010315", false],
  ["http://www.w3.org/2001/10/xml-exc-c14n#", true],
]);
export const INCLUSIVE = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315";
const ABSOLUTE = /^[A-Za-z][A-Za-z0-9+.-]*:[!#$%&'()*+,./:;=?@A-Z[\]_a-z~0-9-]*$/;
const IN_TEXT = { "&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#xD;" };
const IN_VALUE = { "&": "&amp;", "<": "&lt;", '"': "&quot;", "\t": "&#x9;", "\n": "&#xA;", "\r": "&#xD;" };

/** The canonical bytes. Throws xml.not_canonical for a relative namespace. */
export function canonical(element, algorithm) {
  const exclusive = CANONICAL.get(algorithm);
  const output = [];
  const waiting = [{ element, rendered: new Map(), apex: true }];
  while (waiting.length) {
    const next = waiting.pop();
    if (typeof next === "string") output.push(next);
    else open(next, exclusive, output, waiting);
  }
  return encodeUtf8(output.join(""));
}

function open({ element, rendered, apex }, exclusive, output, waiting) {
  for (const uri of apex ? element.scope.values() : element.declared.values()) {
    if (uri && !ABSOLUTE.test(uri)) throw new Unverified("xml.not_canonical", "cannot be canonicalised: a relative namespace");
  }
  const inside = new Map(rendered);
  const shown = [];
  for (const prefix of exclusive ? used(element) : (apex ? element.scope : element.declared).keys()) {
    const uri = element.scope.get(prefix) ?? "";
    if (prefix === "xml" || (inside.get(prefix) ?? "") === uri) continue;
    inside.set(prefix, uri);
    shown.push([prefix, uri]);
  }
  output.push(`<${element.name}`);
  for (const [prefix, uri] of shown.sort(([left], [right]) => order(left, right))) output.push(` xmlns${prefix && `:${prefix}`}="${escaped(uri, IN_VALUE)}"`);
  const attributes = [...element.attributes].sort((left, right) => order(left.namespace, right.namespace) || order(left.local, right.local));
  for (const { prefix, local, value } of attributes) output.push(` ${prefix && `${prefix}:`}${local}="${escaped(value, IN_VALUE)}"`);
  output.push(">");
  waiting.push(`</${element.name}>`);
  for (const child of [...element.children].reverse()) {
    waiting.push(typeof child === "string" ? escaped(child, IN_TEXT) : { element: child, rendered: inside, apex: false });
  }
}

/** Prefixes that the element and its attributes use visibly. */
function used(element) {
  return new Set([element.prefix, ...element.attributes.map((one) => one.prefix).filter(Boolean)]);
}

function escaped(text, replacements) {
  return text.replace(/[&<>"\t\n\r]/g, (character) => replacements[character] ?? character);
}

/** By code points, as canonical XML orders; JavaScript compares UTF-16. */
function order(left, right) {
  const [a, b] = [Array.from(left), Array.from(right)];
  for (let at = 0; at < Math.min(a.length, b.length); at += 1) {
    const difference = a[at].codePointAt(0) - b[at].codePointAt(0);
    if (difference) return difference;
  }
  return a.length - b.length;
}
