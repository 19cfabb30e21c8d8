// Runs docs/vectors with this reader: `node vectors.mjs`. Then it alters every expectation in the file, one by one, and
// fails if one of them goes unnoticed. It prints each operation that differs, and one line of counts.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { EXIT, Failure } from './outcome.mjs';
import { describe, open } from './reader.mjs';
import { bytesOf, tests } from './vectorfile.mjs';

const digest = (bytes) => ({ length: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') });

// object returns an object of a test, as store.mjs does.
function object(described) {
  if (described === null) return { read: async () => null };
  const bytes = bytesOf(described);
  assert.deepEqual(digest(bytes), { length: described.size, sha256: described.sha256 });
  return { read: async (start, end) => ({ size: bytes.length, stream: Readable.from([bytes.subarray(start, end)]) }) };
}

// access returns the grant and the keyring of a test.
function access({ grant, keyring }) {
  if (grant === null) return {};
  const json = JSON.stringify({ token: 'hvs.token', key_id: grant.keyId });
  const vault = async ({ keyID }, idKeyID, wrapped, context) => {
    if (keyID !== idKeyID) throw new Failure('wrong-patient', 'another patient');
    const answer = keyring.find((entry) => entry.wrapped === wrapped && entry.context === context);
    if (answer?.key !== undefined) return Buffer.from(answer.key, 'hex');
    throw new Failure(answer?.error ?? 'damaged', 'refused by the keyring');
  };
  return { grant: `recvault-grant-1.${Buffer.from(json).toString('base64url')}`, keyrings: { vault } };
}

// run returns the outcome of an operation in the words of the vectors. They do not say what a range may release.
async function run(vector, { op, offset, length }) {
  const objects = { envelope: object(vector.envelope), media: object(vector.media) };
  const chunks = [];
  try {
    const recording = await (op === 'stat' ? describe : open)(vector.id, access(vector), objects);
    if (op !== 'stat') for await (const chunk of recording.read(offset, length)) chunks.push(chunk);
    const { media_size, media_header, ...metadata } = recording.metadata;
    return {
      class: 'ok',
      ...(op !== 'range' && { metadata: { ...metadata, plaintext_length: recording.length } }),
      ...(op !== 'stat' && { plaintext: digest(Buffer.concat(chunks)) }),
    };
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    const released = Buffer.concat(chunks);
    return { class: failure.outcome, ...(op === 'open' && released.length > 0 && { released: digest(released) }) };
  }
}

function agrees(actual, expected) {
  const normal = (value) => JSON.parse(JSON.stringify(value)); // objects with a prototype
  try {
    assert.deepStrictEqual(normal(actual), normal(expected));
    return true;
  } catch {
    return false;
  }
}

// alterations yields the expectation with each value changed or left out, and with each other class.
function* alterations(value, change = (altered) => altered) {
  for (const [name, inner] of Object.entries(value)) {
    const replace = (altered) => change({ ...value, [name]: altered });
    const { [name]: _, ...without } = value;
    yield change(without);
    if (typeof inner === 'object') yield* alterations(inner, replace);
    else if (typeof inner === 'number') yield replace(inner + 1);
    else if (typeof inner === 'boolean') yield replace(!inner);
    else yield replace(`${inner} `);
    if (name === 'class') for (const other of Object.keys(EXIT)) if (other !== inner) yield replace(other);
  }
}

let operations = 0, negative = 0, noticed = 0, failures = 0;
for (const vector of tests) {
  const fail = (text) => {
    failures++;
    console.error(`test ${vector.tcId} (${vector.comment}): ${text}`);
  };
  const valid = vector.operations.every((operation) => operation.class === 'ok');
  if (vector.result !== (valid ? 'valid' : 'invalid')) fail(`the result is not ${vector.result}`);
  for (const { op, offset, length, ...expected } of vector.operations) {
    operations++;
    if (expected.class !== 'ok') negative++;
    const actual = await run(vector, { op, offset, length });
    const what = op === 'range' ? `range ${offset} ${length}` : op;
    if (!agrees(actual, expected)) fail(`${what} gave ${JSON.stringify(actual)} for ${JSON.stringify(expected)}`);
    for (const altered of alterations(expected)) {
      if (agrees(actual, altered)) fail(`${what} does not notice ${JSON.stringify(altered)}`);
      else noticed++;
    }
  }
}
console.log(`vectors, in the auditor's reader: ${tests.length} tests, ${operations} operations, of which ${negative} ` +
  `must fail; ${failures} were wrong. ${noticed} altered expectations were noticed`);
process.exitCode = failures === 0 ? 0 : 1;
