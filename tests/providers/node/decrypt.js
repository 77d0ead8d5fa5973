// Decrypt one Web Push message (RFC 8291) with Node's crypto alone.
// One argument, JSON: {body, key, auth}, each base64url; `key`: the private scalar. Prints the plaintext.
"use strict";
const crypto = require("node:crypto");
const told = JSON.parse(process.argv[2]);
const [body, key, auth] = [told.body, told.key, told.auth].map((text) => Buffer.from(text, "base64url"));
const browser = crypto.createECDH("prime256v1");
browser.setPrivateKey(key);
const salt = body.subarray(0, 16);
const recordSize = body.readUInt32BE(16);
const sender = body.subarray(21, 21 + body[20]);
const record = body.subarray(21 + body[20]);
if (record.length > recordSize) throw new Error("more than one record");
const info = Buffer.concat([Buffer.from("WebPush: info\0"), browser.getPublicKey(), sender]);
const hkdf = (secret, salted, about, size) => Buffer.from(crypto.hkdfSync("sha256", secret, salted, about, size));
const secret = hkdf(browser.computeSecret(sender), auth, info, 32);
const cipher = crypto.createDecipheriv(
  "aes-128-gcm",
  hkdf(secret, salt, Buffer.from("Content-Encoding: aes128gcm\0"), 16),
  hkdf(secret, salt, Buffer.from("Content-Encoding: nonce\0"), 12),
);
cipher.setAuthTag(record.subarray(record.length - 16));
const padded = Buffer.concat([cipher.update(record.subarray(0, record.length - 16)), cipher.final()]);
const end = padded.lastIndexOf(2); // the delimiter of the last record, before zeros
process.stdout.write(padded.subarray(0, end));
