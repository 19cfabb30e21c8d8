// The operations, with their checks in the order of section 9 of format.md.
//
// Both take the text of an ID, what gives access, and the objects of the recording (store.mjs). Access is one of
//
//   { grant, keyrings }   the text of a grant, and a function for each keyring (vault.mjs)
//   { recordingKey }      RK
//   { metadataKey }       MK, which can only describe
//
// Every failure is a Failure (outcome.mjs).
import { MAX_ENVELOPE, mediaKeyOf, metadataKeyOf, openEnvelope, parseEnvelope, parseID } from './envelope.mjs';
import { damaged, Failure, unavailable } from './outcome.mjs';
import { decrypt, HEADER_SIZE, mediaBytes, plaintextLength, planRange } from './stream.mjs';
import { checkToken, parseGrant } from './vault.mjs';

// describe is Stat: it returns the metadata, fields of it that are unknown, and the length of the plaintext.
export async function describe(idText, access, { envelope: object }) {
  const { id, envelope, grant } = await prepare(idText, access, object, access.recordingKey ?? access.metadataKey);
  let { recordingKey, metadataKey } = access;
  if (grant) metadataKey = await unwrap(id, grant, access, envelope.wrappedMetadataKey, id.metadataBinding);
  else metadataKey ??= metadataKeyOf(recordingKey);
  const { metadata, unknown } = openEnvelope(envelope, id, metadataKey);
  return { metadata, unknown, length: plaintextLength(metadata.media_size) };
}

// open returns what describe returns, and read: Open without arguments, Range with an offset and a length. It yields
// plaintext that has authenticated. On a failure, what it yielded before is genuine, and not all.
export async function open(idText, access, { envelope: object, media }) {
  const { id, envelope, grant } = await prepare(idText, access, object, access.recordingKey);
  const recordingKey = grant ? await unwrap(id, grant, access, envelope.wrappedKey, id.binding) : access.recordingKey;
  const { metadata, unknown } = openEnvelope(envelope, id, metadataKeyOf(recordingKey));
  const size = metadata.media_size;

  async function* read(offset = 0, length = Infinity) {
    const range = planRange(size, offset, length);
    const { start, end } = mediaBytes(size, range);
    const found = await media.read(start, end);
    if (!found) {
      if (!await object.read(0, 1)) throw notFound();
      throw damaged('the media is missing');
    }
    const { stream } = found;
    try {
      if (found.size !== size) throw damaged('the media has another size than the metadata says');
      const header = Buffer.from(metadata.media_header, 'base64');
      if (header[0] !== HEADER_SIZE) throw damaged('the header in the metadata is not valid');
      yield* decrypt({ mediaKey: mediaKeyOf(recordingKey), rec: id.rec, size, header, range, stream });
    } finally {
      stream.destroy();
    }
  }

  return { metadata, unknown, length: plaintextLength(size), read };
}

// prepare makes checks 1 to 7. key is the key in the place of a grant, if there is one that serves.
async function prepare(idText, access, object, key) {
  const id = parseID(idText);
  if (key) return { id, envelope: parseEnvelope(await readObject(object), id) };
  if (access.grant === undefined) throw new Failure('invalid-grant', 'there is no grant, and no key that serves');
  const grant = parseGrant(access.grant);
  const envelope = await hideFrom(grant, id, async () => parseEnvelope(await readObject(object), id));
  checkToken(grant);
  return { id, envelope, grant };
}

// unwrap makes checks 8 and 9.
async function unwrap(id, grant, { keyrings }, wrapped, binding) {
  const keyring = await hideFrom(grant, id, () => {
    if (Object.hasOwn(keyrings, wrapped.keyring)) return keyrings[wrapped.keyring];
    throw new Failure('unsupported', `the keyring ${wrapped.keyring} is unknown to this reader`);
  });
  const key = await keyring(grant, id.keyID, wrapped.text, binding);
  if (key.length !== 32) throw damaged('what the keyring unwrapped is not a key of 32 bytes');
  return key;
}

// hideFrom makes a check. If it fails and the grant is for another patient, that is the failure: whoever tries IDs
// must not learn which exist.
async function hideFrom(grant, id, check) {
  try {
    return await check();
  } catch (failure) {
    if (grant.keyID === id.keyID || failure.outcome === 'unavailable') throw failure;
    throw new Failure('wrong-patient', 'the grant is for another patient');
  }
}

// readObject makes check 3, and takes one byte more than an envelope may have.
async function readObject(object) {
  const found = await object.read(0, MAX_ENVELOPE + 1);
  if (!found) throw notFound();
  const chunks = [];
  let size = 0;
  try {
    for await (const chunk of found.stream) {
      chunks.push(chunk);
      size += chunk.length;
      if (size > MAX_ENVELOPE) break;
    }
  } catch {
    throw unavailable('the store broke off');
  }
  return Buffer.concat(chunks);
}

const notFound = () => new Failure('not-found', 'the recording does not exist');
