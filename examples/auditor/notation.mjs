// The functions of section 1 of format.md.
import { createDecipheriv, createHmac } from 'node:crypto';

// decodeBase64 returns the bytes, or null if text is not in the one form. Node's decoder is tolerant, so the bytes are
// encoded again. The encoding is 'base64' (with padding) or 'base64url' (without).
export function decodeBase64(text, encoding = 'base64') {
  const bytes = Buffer.from(text, encoding);
  return bytes.toString(encoding) === text ? bytes : null;
}

// base32 encodes with RFC 4648's alphabet in lower case, without padding.
export function base32(bytes) {
  const bits = [...bytes].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  const groups = bits.match(/.{1,5}/g).map((group) => parseInt(group.padEnd(5, '0'), 2));
  return groups.map((group) => 'abcdefghijklmnopqrstuvwxyz234567'[group]).join('');
}

// hkdf is HKDF-SHA-256 with one block of output (RFC 5869). No salt is a salt of 32 zero bytes.
export function hkdf(key, info, salt = Buffer.alloc(32)) {
  const extracted = createHmac('sha256', salt).update(key).digest();
  return createHmac('sha256', extracted).update(info).update('\x01').digest();
}

// openGCM returns the plaintext of AES-256-GCM, or null if it does not authenticate.
export function openGCM(key, nonce, associated, sealed) {
  if (nonce.length !== 12 || sealed.length < 16) return null;
  const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: 16 });
  decipher.setAAD(associated);
  decipher.setAuthTag(sealed.subarray(-16));
  const plaintext = decipher.update(sealed.subarray(0, -16));
  try {
    decipher.final();
  } catch {
    return null;
  }
  return plaintext;
}
