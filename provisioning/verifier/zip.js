// ZIP archives from strangers, read from a source: of a large file only the directory and what is asked for ever comes into memory.
//
// An archive that two unzip programs could read differently is refused: entries follow each other from the first byte to the directory, the
// directory ends at the end record, the end record's comment at the end of the file, and local headers say what the directory says.

import { concat, equal, utf8 } from "./bytes.js";
import { Unverified } from "./errors.js";

export const CONTAINER_BYTES_MAX = 1280 * 1024 * 1024;
const HELD_BYTES_MAX = 32 * 1024 * 1024; // a smaller file is read at once: each look into a file costs a trip to another process
const ENTRIES_MAX = 1200;
const DIRECTORY_BYTES_MAX = 4 * 1024 * 1024;
const END = 22;
const COMMENT_MAX = 0xffff;
const STORED = 0;
const DEFLATED = 8;
const ENCRYPTED = 0x01;
const DESCRIPTOR = 0x08;
const UNREADABLE = 0x60; // patched data, strong encryption
const UTF8_NAME = 0x800;
const CP437 =
  "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0";

function malformed(message) {
  return new Unverified("container.malformed", message);
}

/** {entries in the directory's order, inflate}; `check` sees them before the layout is. Throws container.malformed, container.limit. */
export async function readZip(blob, check) {
  const source = await sourceOf(blob);
  const entries = await readEntries(source, check);
  return { entries, inflate: (entry) => inflate(source, entry) };
}

/** The bytes of a file, in memory or not: {size, bytes(start, size), stream(start, size)}. */
async function sourceOf(blob) {
  const part = (start, size) => blob.slice(start, start + size);
  if (blob.size > HELD_BYTES_MAX) {
    return { size: blob.size, bytes: async (start, size) => new Uint8Array(await part(start, size).arrayBuffer()), stream: (start, size) => part(start, size).stream() };
  }
  const held = new Uint8Array(await blob.arrayBuffer());
  return { size: held.length, bytes: (start, size) => held.subarray(start, start + size), stream: (start, size) => new Response(held.subarray(start, start + size)).body };
}

async function readEntries(source, check) {
  if (source.size > CONTAINER_BYTES_MAX) throw new Unverified("container.limit", `a container of ${source.size} bytes, at most ${CONTAINER_BYTES_MAX}`);
  const end = await endRecord(source);
  const entries = directory(await source.bytes(end.start, end.size), end.count);
  check(entries);
  await checkLayout(source, entries, end.start);
  return entries;
}

/** All bytes of one entry, never more than it declares. Throws container.malformed. */
async function inflate(source, entry) {
  const packed = source.stream(entry.dataAt, entry.packed);
  const reader = (entry.method === STORED ? packed : packed.pipeThrough(new DecompressionStream("deflate-raw"))).getReader();
  const pieces = [];
  let size = 0;
  let sum = 0xffffffff;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      size += value.length;
      if (size > entry.size) break;
      sum = crc(sum, value);
      pieces.push(value);
    }
  } catch (error) {
    throw malformed(`${entry.name} cannot be read: ${error.message}`);
  } finally {
    reader.cancel().catch(() => undefined);
  }
  if (size !== entry.size) throw malformed(`${entry.name} has another size than it declares`);
  if ((sum ^ 0xffffffff) >>> 0 !== entry.crc) throw malformed(`${entry.name} has another check sum than it declares`);
  return concat(pieces);
}

function view(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** The last end record in the file; its comment must reach the end, so that nothing hides behind it. */
async function endRecord(source) {
  const tailAt = Math.max(0, source.size - END - COMMENT_MAX);
  const tail = await source.bytes(tailAt, source.size - tailAt);
  const fields = view(tail);
  let at = tail.length - END;
  while (at >= 0 && fields.getUint32(at, true) !== 0x06054b50) at -= 1;
  if (at < 0) throw malformed("not a ZIP archive");
  const [disk, first, here, count] = [4, 6, 8, 10].map((offset) => fields.getUint16(at + offset, true));
  const size = fields.getUint32(at + 12, true);
  const start = fields.getUint32(at + 16, true);
  if (at + END + fields.getUint16(at + 20, true) !== tail.length) throw malformed("bytes behind the end of the archive");
  if (disk || first || here !== count || start + size !== tailAt + at) throw malformed("the directory does not lie where the archive says");
  if (count > ENTRIES_MAX || size > DIRECTORY_BYTES_MAX) throw new Unverified("container.limit", `${count} entries, at most ${ENTRIES_MAX}`);
  return { start, size, count };
}

function directory(bytes, count) {
  const fields = view(bytes);
  const entries = [];
  let at = 0;
  while (entries.length < count) {
    if (at + 46 > bytes.length || fields.getUint32(at, true) !== 0x02014b50) throw malformed("the directory is cut off");
    const [nameSize, extraSize, commentSize] = [28, 30, 32].map((offset) => fields.getUint16(at + offset, true));
    const next = at + 46 + nameSize + extraSize + commentSize;
    if (next > bytes.length) throw malformed("the directory is cut off");
    const flags = fields.getUint16(at + 8, true);
    const rawName = bytes.slice(at + 46, at + 46 + nameSize);
    entries.push({
      name: nameOf(rawName, flags),
      rawName,
      flags,
      version: bytes[at + 6],
      method: fields.getUint16(at + 10, true),
      crc: fields.getUint32(at + 16, true),
      packed: fields.getUint32(at + 20, true),
      size: fields.getUint32(at + 24, true),
      unixType: (fields.getUint32(at + 38, true) >>> 16) & 0o170000,
      at: fields.getUint32(at + 42, true),
      dataAt: 0,
    });
    checkExtra(bytes.subarray(at + 46 + nameSize, at + 46 + nameSize + extraSize));
    at = next;
  }
  if (at !== bytes.length) throw malformed("bytes behind the directory");
  for (const entry of entries) {
    if (entry.flags & (ENCRYPTED | UNREADABLE) || ![STORED, DEFLATED].includes(entry.method) || entry.version > 63) {
      throw malformed(`${entry.name} is encrypted, or packed in a way that we do not read`);
    }
    if (entry.method === STORED && entry.packed !== entry.size) throw malformed(`${entry.name} has two sizes`);
  }
  return entries;
}

function nameOf(raw, flags) {
  if (flags & UTF8_NAME) {
    try {
      return utf8(raw);
    } catch {
      throw malformed("a name that is not UTF-8");
    }
  }
  return Array.from(raw, (byte) => (byte < 0x80 ? String.fromCharCode(byte) : CP437[byte - 0x80])).join("");
}

/** No ZIP64 field: containers end far below 4 GiB, and two places for one size are one too many. */
function checkExtra(extra) {
  const fields = view(extra);
  for (let at = 0; at + 4 <= extra.length; at += 4 + fields.getUint16(at + 2, true)) {
    if (fields.getUint16(at, true) === 1) throw malformed("ZIP64 has no place in a container");
    if (at + 4 + fields.getUint16(at + 2, true) > extra.length) throw malformed("an extra field is cut off");
  }
}

async function checkLayout(source, entries, directoryAt) {
  let at = 0;
  for (const entry of [...entries].sort((left, right) => left.at - right.at)) {
    if (entry.at !== at) throw malformed("entries overlap, or bytes lie between them");
    const head = await source.bytes(at, 30 + entry.rawName.length);
    const fields = view(head);
    if (head.length < 30 || fields.getUint32(0, true) !== 0x04034b50) throw malformed("an entry has no local header");
    checkLocalHeader(entry, head, fields);
    entry.dataAt = at + 30 + fields.getUint16(26, true) + fields.getUint16(28, true);
    at = entry.dataAt + entry.packed;
    if (entry.flags & DESCRIPTOR) at += await descriptorSize(source, entry, at);
    if (at > directoryAt) throw malformed("entries overlap, or bytes lie between them");
  }
  if (at !== directoryAt) throw malformed("entries overlap, or bytes lie between them");
}

function checkLocalHeader(entry, head, fields) {
  const sizes = [fields.getUint32(14, true), fields.getUint32(18, true), fields.getUint32(22, true)];
  const isStreamed = entry.flags & DESCRIPTOR && sizes.every((value) => value === 0);
  const said = isStreamed ? sizes : [entry.crc, entry.packed, entry.size];
  const same =
    fields.getUint16(6, true) === entry.flags &&
    fields.getUint16(8, true) === entry.method &&
    fields.getUint16(26, true) === entry.rawName.length &&
    equal(head.subarray(30), entry.rawName) &&
    sizes.every((value, index) => value === said[index]);
  if (!same) throw malformed(`the local header of ${entry.name} says something else than the directory`);
}

/** Length of the data descriptor behind an entry written as a stream: with or without its mark, sizes of 32 or 64 bits. */
async function descriptorSize(source, entry, at) {
  const found = await source.bytes(at, 24);
  for (const marked of [true, false]) {
    for (const wide of [false, true]) {
      const expected = descriptor(entry, marked, wide);
      if (found.length >= expected.length && equal(found.subarray(0, expected.length), expected)) return expected.length;
    }
  }
  throw malformed(`no data descriptor behind ${entry.name}`);
}

function descriptor(entry, marked, wide) {
  const words = [...(marked ? [0x08074b50] : []), entry.crc, ...[entry.packed, entry.size].flatMap((size) => (wide ? [size, 0] : [size]))];
  const bytes = new Uint8Array(words.length * 4);
  words.forEach((word, index) => view(bytes).setUint32(index * 4, word, true));
  return bytes;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc(sum, bytes) {
  let value = sum;
  for (let at = 0; at < bytes.length; at += 1) value = CRC_TABLE[(value ^ bytes[at]) & 0xff] ^ (value >>> 8);
  return value;
}
