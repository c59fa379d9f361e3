// XML from strangers, namespace-aware, without a way out: no document type, no entities but the five, bounded size, depth and number.
//
// Comments are dropped and CDATA is text, as the box and X-Road read; line ends and attribute white space are normalised as XML 1.0 says.
// Elements: {tag: "{namespace}local", prefix, local, namespace, attributes, declared, scope, parent, children}; children are elements and
// strings. Nothing here recurses: depth is bounded by a count.

import { utf8 } from "./bytes.js";
import { Unverified } from "./errors.js";

export const DEPTH_MAX = 64;
const DEPTH_EVER = 256;
const ELEMENTS_MAX = 20000;
const START = ":A-Z_a-z\\xc0-\\xd6\\xd8-\\xf6\\xf8-\\u02ff\\u0370-\\u037d\\u037f-\\u1fff\\u200c-\\u200d\\u2070-\\u218f\\u2c00-\\u2fef\\u3001-\\ud7ff\\uf900-\\ufdcf\\ufdf0-\\ufffd\\u{10000}-\\u{effff}";
const NAME = new RegExp(`[${START}][${START}\\-.0-9\\xb7\\u0300-\\u036f\\u203f-\\u2040]*`, "uy");
const NO_CHARACTER = /[^\x09\x0a\x0d\x20-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/u;
const DECLARATION = /^<\?xml[ \t\n]+version[ \t\n]*=[ \t\n]*("1\.[0-9]*"|'1\.[0-9]*')([ \t\n]+encoding[ \t\n]*=[ \t\n]*("[A-Za-z][A-Za-z0-9._-]*"|'[A-Za-z][A-Za-z0-9._-]*'))?([ \t\n]+standalone[ \t\n]*=[ \t\n]*("(yes|no)"|'(yes|no)'))?[ \t\n]*\?>/;
const REFERENCE = /&(?:#([0-9]{1,7})|#x([0-9a-fA-F]{1,6})|(amp|lt|gt|quot|apos));|&/g;
const NAMED = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };
const URI = /^(?:[A-Za-z0-9\-._~:/?#[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*$/;
const XML = "http://www.w3.org/XML/1998/namespace";
const XMLNS = "http://www.w3.org/2000/xmlns/";

function refused(message) {
  return new Unverified("xml.refused", message);
}

/** The root element. `instructions`: processing instructions inside it are refused (what is canonicalised) or dropped. Throws xml.refused. */
export function parseXml(bytes, { bytesMax, depthMax = DEPTH_EVER, elementsMax = Infinity, instructions = "drop" }) {
  if (bytes.length > bytesMax) throw refused(`XML of ${bytes.length} bytes, at most ${bytesMax}`);
  let text;
  try {
    text = utf8(bytes);
  } catch {
    throw refused("not UTF-8");
  }
  text = text.replace(/^\ufeff/, "").replace(/\r\n?/g, "\n");
  if (NO_CHARACTER.test(text)) throw refused("a character that XML does not have");
  return new Parser(text, { depthMax, elementsMax, instructions }).parse();
}

/** As parseXml for documents that are canonicalised: no processing instructions, few elements, all bounded. */
export function parseStrict(bytes, bytesMax, depthMax = DEPTH_MAX) {
  return parseXml(bytes, { bytesMax, depthMax, elementsMax: ELEMENTS_MAX, instructions: "refuse" });
}

class Parser {
  constructor(text, limits) {
    this.text = text;
    this.limits = limits;
    this.at = DECLARATION.exec(text)?.[0].length ?? 0;
    this.count = 0;
  }

  parse() {
    this.misc();
    if (this.text[this.at] !== "<") throw refused("not well-formed: no element");
    const root = this.element(null);
    let current = root.closed ? null : root.element;
    let depth = 1;
    while (current) {
      const next = this.content(current, depth);
      if (next) {
        current = next;
        depth += 1;
      } else {
        current = current.parent;
        depth -= 1;
      }
    }
    this.misc();
    if (this.at !== this.text.length) throw refused("not well-formed: something behind the root element");
    return root.element;
  }

  /** Comments, instructions and white space outside the root. */
  misc() {
    for (;;) {
      this.space();
      if (this.startsWith("<!--")) this.comment();
      else if (this.startsWith("<?")) this.instruction();
      else if (this.startsWith("<!")) throw refused("a document type declaration");
      else return;
    }
  }

  /** Reads up to the next opened child (returned) or the end tag of `parent` (null). */
  content(parent, depth) {
    for (;;) {
      const open = this.text.indexOf("<", this.at);
      if (open < 0) throw refused("not well-formed: an element does not end");
      if (open > this.at) {
        const raw = this.text.slice(this.at, open);
        if (raw.includes("]]>")) throw refused("not well-formed: ]]> in text");
        append(parent, resolved(raw));
        this.at = open;
      }
      if (this.startsWith("</")) return this.endTag(parent);
      if (this.startsWith("<!--")) this.comment();
      else if (this.startsWith("<![CDATA[")) append(parent, this.until("<![CDATA[", "]]>"));
      else if (this.startsWith("<?")) {
        if (this.limits.instructions === "refuse") throw refused("a processing instruction");
        this.instruction();
      } else {
        if (depth >= this.limits.depthMax) throw refused(`more than ${this.limits.depthMax} levels`);
        const child = this.element(parent);
        if (!child.closed) return child.element;
      }
    }
  }

  endTag(element) {
    this.at += 2;
    if (this.name() !== element.name) throw refused("not well-formed: an end tag that fits no start tag");
    this.space();
    if (this.text[this.at] !== ">") throw refused("not well-formed: an end tag");
    this.at += 1;
    return null;
  }

  element(parent) {
    this.count += 1;
    if (this.count > this.limits.elementsMax) throw refused(`more than ${this.limits.elementsMax} elements`);
    this.at += 1;
    const name = this.name();
    const raw = [];
    const names = new Set();
    for (;;) {
      const spaced = this.space();
      const character = this.text[this.at];
      if (character === ">" || this.startsWith("/>")) break;
      if (!spaced) throw refused("not well-formed: attributes are not separated");
      const [key, value] = this.attribute();
      if (names.has(key)) throw refused("not well-formed: an attribute twice");
      names.add(key);
      raw.push([key, value]);
    }
    const closed = this.text[this.at] === "/";
    this.at += closed ? 2 : 1;
    const element = built(name, raw, parent);
    if (parent) parent.children.push(element);
    return { element, closed };
  }

  attribute() {
    const key = this.name();
    this.space();
    if (this.text[this.at] !== "=") throw refused("not well-formed: an attribute without a value");
    this.at += 1;
    this.space();
    const quote = this.text[this.at];
    const end = quote === '"' || quote === "'" ? this.text.indexOf(quote, this.at + 1) : -1;
    if (end < 0) throw refused("not well-formed: an attribute without quotes");
    const raw = this.text.slice(this.at + 1, end);
    if (raw.includes("<")) throw refused("not well-formed: < in an attribute");
    this.at = end + 1;
    return [key, resolved(raw.replace(/[\t\n]/g, " "))];
  }

  comment() {
    this.until("<!--", "--");
    if (this.text[this.at] !== ">") throw refused("not well-formed: -- in a comment");
    this.at += 1;
  }

  instruction() {
    const begin = this.at;
    this.at += 2;
    if (/^xml$/i.test(this.name())) throw refused("not well-formed: a declaration in the wrong place");
    if (!this.startsWith("?>") && !/[ \t\n]/.test(this.text[this.at] ?? "")) throw refused("not well-formed: an instruction");
    this.at = begin;
    this.until("<?", "?>");
  }

  until(open, close) {
    const begin = this.at + open.length;
    const end = this.text.indexOf(close, begin);
    if (end < 0) throw refused(`not well-formed: ${open} does not end`);
    this.at = end + close.length;
    return this.text.slice(begin, end);
  }

  name() {
    NAME.lastIndex = this.at;
    const found = NAME.exec(this.text);
    if (!found) throw refused("not well-formed: a name");
    this.at += found[0].length;
    return found[0];
  }

  space() {
    const begin = this.at;
    while (this.at < this.text.length && " \t\n".includes(this.text[this.at])) this.at += 1;
    return this.at > begin;
  }

  startsWith(prefix) {
    return this.text.startsWith(prefix, this.at);
  }
}

function append(parent, text) {
  const last = parent.children.length - 1;
  if (typeof parent.children[last] === "string") parent.children[last] += text;
  else if (text) parent.children.push(text);
}

function resolved(raw) {
  if (!raw.includes("&")) return raw;
  return raw.replace(REFERENCE, (whole, decimal, hexadecimal, named) => {
    if (named) return NAMED[named];
    const code = decimal ? parseInt(decimal, 10) : hexadecimal ? parseInt(hexadecimal, 16) : -1;
    if (code < 0 || code > 0x10ffff || NO_CHARACTER.test(String.fromCodePoint(code))) throw refused("an entity, or a character that XML does not have");
    return String.fromCodePoint(code);
  });
}

function built(name, raw, parent) {
  const declared = new Map();
  const plain = [];
  for (const [key, value] of raw) {
    if (key === "xmlns") declare(declared, "", value);
    else if (key.startsWith("xmlns:")) declare(declared, key.slice(6), value);
    else plain.push([key, value]);
  }
  const above = parent ? parent.scope : new Map([["xml", XML]]);
  const scope = declared.size ? new Map([...above, ...declared]) : above;
  const [prefix, local] = split(name);
  const namespace = lookup(scope, prefix);
  const attributes = plain.map(([key, value]) => {
    const [attributePrefix, attributeLocal] = split(key);
    return { prefix: attributePrefix, local: attributeLocal, namespace: attributePrefix ? lookup(scope, attributePrefix) : "", value };
  });
  if (new Set(attributes.map((one) => `{${one.namespace}}${one.local}`)).size !== attributes.length) throw refused("not well-formed: an attribute twice");
  const tag = namespace ? `{${namespace}}${local}` : local;
  return { name, tag, prefix, local, namespace, attributes, declared, scope, parent, children: [] };
}

function declare(declared, prefix, uri) {
  if (prefix === "xml" && uri === XML) return;
  if (!/^[^:]*$/.test(prefix) || prefix === "xml" || prefix === "xmlns" || uri === XML || uri === XMLNS || (prefix && !uri) || !URI.test(uri)) {
    throw refused("not well-formed: a namespace declaration");
  }
  declared.set(prefix, uri);
}

function split(name) {
  const parts = name.split(":");
  if (parts.length > 2 || parts.some((part) => !part) || (parts.length === 2 && /^[-.0-9]/.test(parts[1]))) throw refused("not well-formed: a qualified name");
  return parts.length === 2 ? parts : ["", parts[0]];
}

function lookup(scope, prefix) {
  const uri = scope.get(prefix);
  if (prefix && uri === undefined) throw refused(`the prefix ${prefix} is not declared`);
  return uri ?? "";
}

// ---- what readers ask of elements

/** The child elements. */
export function elements(element) {
  return element.children.filter((child) => typeof child !== "string");
}

/** The text before the first child element. */
export function text(element) {
  return typeof element.children[0] === "string" ? element.children[0] : "";
}

/** The value of an attribute without a namespace, "" where there is none. */
export function attribute(element, local) {
  return element.attributes.find((one) => !one.namespace && one.local === local)?.value ?? "";
}

/** The first child element with this tag, or null. */
export function child(element, tag) {
  return elements(element).find((one) => one.tag === tag) ?? null;
}

/** The element and all below it, in document order. */
export function* walk(element) {
  const waiting = [element];
  while (waiting.length) {
    const current = waiting.pop();
    yield current;
    waiting.push(...elements(current).reverse());
  }
}
