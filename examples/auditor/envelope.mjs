// Names, keys, the envelope and its wrapped keys: sections 3 to 7 of format.md.
import { timingSafeEqual } from 'node:crypto';
import { parseMetadata } from './metadata.mjs';
import { base32, decodeBase64, hkdf, openGCM } from './notation.mjs';
import { damaged, Failure } from './outcome.mjs';

export const MAX_ENVELOPE = 65_536;
const MAX_WRAPPED = 4_096;
const MAX_VERSION = 2_147_483_647;

const ID = /^([a-z2-7]{32})\.([a-z2-7]{25}[aeimquy4])$/;
const WRAPPED = '[a-z0-9]{1,16}:v[1-9][0-9]{0,9}:[A-Za-z0-9+/]+={0,2}';
const ENVELOPE = new RegExp(
  '^\\{"version":1,"id":"([a-z2-7]{32}\\.[a-z2-7]{25}[aeimquy4])",' +
  `"wrapped_key":"(${WRAPPED})","wrapped_metadata_key":"(${WRAPPED})",` +
  '"commitment":"([A-Za-z0-9+/]{43}=)","metadata":"([A-Za-z0-9+/]*={0,2})"\\}$');

// parseID makes check 1 of section 9.
export function parseID(text) {
  const match = typeof text === 'string' && ID.exec(text);
  if (!match) throw new Failure('invalid-id', 'the text is not the ID of a recording');
  const [, keyID, rec] = match;
  return {
    text,
    keyID,
    rec,
    binding: `recvault/v1/${keyID}/${rec}`,
    metadataBinding: `recvault/v1/metadata/${keyID}/${rec}`,
  };
}

// parseEnvelope makes checks 4 to 6 of section 9.
export function parseEnvelope(bytes, id) {
  if (bytes.length > MAX_ENVELOPE) throw damaged('the envelope is too large');
  const text = bytes.toString('latin1'); // every byte is one character, and those that are not ASCII match nothing
  const version = /^\{"version":([1-9][0-9]{0,8}),/.exec(text);
  if (!version) throw damaged('the envelope does not start with a version');
  if (version[1] !== '1') throw new Failure('unsupported', `the envelope has version ${version[1]}`);
  const match = ENVELOPE.exec(text);
  if (!match) throw damaged('the envelope is not canonical');
  const [, owner, wrappedKey, wrappedMetadataKey] = match;
  const [commitment, metadata] = match.slice(4).map((field) => decodeBase64(field));
  if (!commitment || !metadata) throw damaged('the base64 in the envelope is not canonical');
  const envelope = {
    wrappedKey: parseWrapped(wrappedKey),
    wrappedMetadataKey: parseWrapped(wrappedMetadataKey),
    commitment,
    metadata,
  };
  if (owner !== id.text) throw damaged('the envelope is that of another recording');
  return envelope;
}

function parseWrapped(text) {
  const [keyring, version, ciphertext] = text.split(':');
  if (text.length > MAX_WRAPPED || Number(version.slice(1)) > MAX_VERSION || !decodeBase64(ciphertext)) {
    throw damaged('a wrapped key in the envelope is out of its bounds');
  }
  return { text, keyring };
}

export const metadataKeyOf = (recordingKey) => hkdf(recordingKey, 'recvault/v1/metadata');
export const mediaKeyOf = (recordingKey) => hkdf(recordingKey, 'recvault/v1/media');

// openEnvelope makes checks 10 to 13 of section 9 with the metadata key, and returns the metadata.
export function openEnvelope(envelope, id, metadataKey) {
  const rec = base32(hkdf(metadataKey, 'recvault/v1/id').subarray(0, 16));
  const commitment = hkdf(metadataKey, `recvault/v1/commitment\0${id.binding}`);
  const isRec = timingSafeEqual(Buffer.from(rec), Buffer.from(id.rec));
  if (!timingSafeEqual(commitment, envelope.commitment) || !isRec) {
    throw damaged('the key is not the one to which the ID and the envelope commit');
  }
  const sealKey = hkdf(metadataKey, 'recvault/v1/seal');
  const sealed = envelope.metadata;
  const text = openGCM(sealKey, sealed.subarray(0, 12), Buffer.from(id.binding), sealed.subarray(12));
  if (!text) throw damaged('the metadata does not authenticate');
  return parseMetadata(text);
}
