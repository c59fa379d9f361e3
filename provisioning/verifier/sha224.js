// SHA-224 (FIPS 180-4), which WebCrypto does not have: the fingerprint by which people compare anchors over the telephone, as CEIQROO and
// X-Road print it. It decides nothing here.

import { concat } from "./bytes.js";

const PRIMES = [];
for (let candidate = 2; PRIMES.length < 64; candidate += 1) if (PRIMES.every((prime) => candidate % prime)) PRIMES.push(candidate);
const K = PRIMES.map((prime) => Math.floor((Math.cbrt(prime) % 1) * 2 ** 32) >>> 0);
const START = [0xc1059ed8, 0x367cd507, 0x3070dd17, 0xf70e5939, 0xffc00b31, 0x68581511, 0x64f98fa7, 0xbefa4fa4];

export function sha224(bytes) {
  const padding = new Uint8Array(((119 - (bytes.length % 64)) % 64) + 9);
  padding[0] = 0x80;
  new DataView(padding.buffer).setBigUint64(padding.length - 8, BigInt(bytes.length) * 8n);
  const data = concat([bytes, padding]);
  const words = new DataView(data.buffer);
  let state = START;
  for (let at = 0; at < data.length; at += 64) state = block(state, words, at);
  const output = new DataView(new ArrayBuffer(28));
  state.slice(0, 7).forEach((word, index) => output.setUint32(index * 4, word));
  return new Uint8Array(output.buffer);
}

function block(state, words, at) {
  const w = Array.from({ length: 16 }, (_, index) => words.getUint32(at + index * 4));
  for (let t = 16; t < 64; t += 1) {
    const s0 = turned(w[t - 15], 7) ^ turned(w[t - 15], 18) ^ (w[t - 15] >>> 3);
    const s1 = turned(w[t - 2], 17) ^ turned(w[t - 2], 19) ^ (w[t - 2] >>> 10);
    w.push((w[t - 16] + s0 + w[t - 7] + s1) >>> 0);
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let t = 0; t < 64; t += 1) {
    const t1 = (h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + K[t] + w[t]) >>> 0;
    const t2 = ((turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) >>> 0;
    [a, b, c, d, e, f, g, h] = [(t1 + t2) >>> 0, a, b, c, (d + t1) >>> 0, e, f, g];
  }
  return [a, b, c, d, e, f, g, h].map((word, index) => (word + state[index]) >>> 0);
}

function turned(word, bits) {
  return (word >>> bits) | (word << (32 - bits));
}
