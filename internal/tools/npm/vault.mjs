// vault.mjs computes what package vault computes, with other people's code. It
// reads one JSON value a line on standard input, each for the function that the
// argument names, and answers each with a line.
import { createInterface } from "node:readline";
import { gcm } from "@noble/ciphers/aes";
import { secp256k1 } from "@noble/curves/secp256k1";
import { hkdf } from "@noble/hashes/hkdf";
import { hmac } from "@noble/hashes/hmac";
import { sha256, sha512 } from "@noble/hashes/sha2";
import { keccak_256 } from "@noble/hashes/sha3";
import { HDKey } from "@scure/bip32";
import * as bip39 from "@scure/bip39";
import { wordlist } from "@scure/bip39/wordlists/english";
import hdkey from "ed25519-hd-key";
import { HDKey as Slip10 } from "micro-key-producer/slip10.js";

const hex = (b) => Buffer.from(b).toString("hex");
const unhex = (s) => new Uint8Array(Buffer.from(s, "hex"));
const unbase64 = (s) => new Uint8Array(Buffer.from(s, "base64"));
const utf8 = (s) => new TextEncoder().encode(s);
const number = (n, size) => {
  const b = Buffer.alloc(size);
  for (let i = size - 1, v = BigInt(n); i >= 0; i--, v >>= 8n) b[i] = Number(v & 255n);
  return b;
};
const join = (...parts) => new Uint8Array(Buffer.concat(parts.map((p) => (typeof p === "string" ? utf8(p) : Uint8Array.from(p)))));
const lp = (s) => join(number(utf8(s).length, 2), s);
const node = (seed, path) => Slip10.fromMasterSeed(unhex(seed)).derive(path);

function sitePassword(root, { site, login, counter, length, classes }) {
  const info = join("alknet/site-password/1", [0], lp(site), lp(login), number(counter, 4));
  const stream = hkdf(sha256, root, undefined, info, 1024);
  let at = 0;
  const pick = (k) => {
    for (;;) {
      const b = stream[at++];
      if (b < 256 - (256 % k)) return b % k;
    }
  };
  const chars = { a: "abcdefghijkmnopqrstuvwxyz", A: "ABCDEFGHJKLMNPQRSTUVWXYZ", 1: "23456789", "!": "!#%+-./:=?@_" };
  const out = [...classes].map((c) => chars[c][pick(chars[c].length)]);
  const all = [...classes].map((c) => chars[c]).join("");
  while (out.length < length) out.push(all[pick(all.length)]);
  for (let i = length - 1; i > 0; i--) {
    const j = pick(i + 1);
    [out[i], out[j]] = [out[j], out[i]];
  }
  return out.join("");
}

// BIP32-Ed25519, version 2, as the Rust project uses it, in big integers.
function upstreamKey(seed, version) {
  const little = (b) => BigInt("0x" + hex(Uint8Array.from(b).reverse()));
  const bytes = (n) => number(n & ((1n << 256n) - 1n), 32).reverse();
  const master = hmac(sha512, utf8("ed25519 seed"), unhex(seed));
  let k = sha512(master.slice(0, 32)), chain = master.slice(32);
  k[0] &= 248;
  k[31] = (k[31] & 31) | 64;
  for (const n of [74, 2, 0, version - 2]) {
    const index = number(n + 2 ** 31, 4).reverse();
    const z = hmac(sha512, chain, join([0], k, index));
    chain = hmac(sha512, chain, join([1], k, index)).slice(32);
    const left = little(k.slice(0, 32)) + 8n * little(z.slice(0, 28));
    const right = little(k.slice(32)) + little(z.slice(32));
    k = join(bytes(left), bytes(right));
  }
  return k.slice(0, 32);
}

const functions = {
  phrase: ({ entropy, passphrase }) => {
    const text = bip39.entropyToMnemonic(unhex(entropy), wordlist);
    return { text, seed: hex(bip39.mnemonicToSeedSync(text, passphrase)) };
  },
  slip10: ({ seed, path }) => {
    const a = node(seed, path);
    const b = hdkey.derivePath(path, seed);
    return {
      a: hex(a.privateKey) + hex(a.chainCode), b: hex(b.key) + hex(b.chainCode),
      publicA: hex(a.publicKeyRaw), publicB: hex(hdkey.getPublicKey(b.key, false)),
    };
  },
  purpose: ({ seed, purpose, n }) => {
    const info = join("alknet/purpose/1", [0], purpose, [0], number(n, 4));
    return { key: hex(hkdf(sha256, node(seed, "m/74'/4'/0'").privateKey, undefined, info, 32)) };
  },
  site: (q) => ({ password: sitePassword(node(q.seed, "m/74'/1'/0'/0'").privateKey, q) }),
  open: ({ seed, record: e }) => {
    let key = node(seed, `m/74'/2'/0'/${e.key_version - 2}'`).privateKey, head;
    if (e.envelope === 2) {
      key = hkdf(sha256, key, unbase64(e.salt), utf8("alknet/vault/envelope/2"), 32);
      const generation = number(e.generation ?? 0, 8);
      head = join("alknet/vault/envelope/2", [0], number(e.key_version, 4), generation, lp(e.name), lp(e.purpose));
    }
    return { plain: hex(gcm(key, unbase64(e.iv), head).decrypt(unbase64(e.data))) };
  },
  ethereum: ({ seed, i, digest, signature }) => {
    const key = HDKey.fromMasterSeed(unhex(seed)).derive(`m/44'/60'/0'/0/${i}`);
    const sig = secp256k1.Signature.fromCompact(signature.slice(0, 128)).addRecoveryBit(Number(signature.slice(129)));
    const point = secp256k1.ProjectivePoint.fromHex(key.publicKey).toRawBytes(false);
    return {
      address: hex(keccak_256(point.slice(1)).slice(12)),
      valid: secp256k1.verify(sig, digest, key.publicKey),
      recovered: sig.recoverPublicKey(digest).toHex(true) === hex(key.publicKey),
      same: sig.toCompactHex() === secp256k1.sign(digest, key.privateKey).toCompactHex(),
    };
  },
  upstream: ({ seed, version, plain, iv }) => {
    const key = upstreamKey(seed, version);
    const data = gcm(key, unhex(iv)).encrypt(unhex(plain));
    return { key_version: version, salt: "AAAA", iv: Buffer.from(unhex(iv)).toString("base64"), data: Buffer.from(data).toString("base64") };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(functions[process.argv[2]](JSON.parse(line))));
}
