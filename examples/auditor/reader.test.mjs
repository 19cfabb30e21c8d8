// What the vectors do not cover: the command, grants, and Vault's answers. Run them with `node --test`.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe as suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parseMetadata } from './metadata.mjs';
import { decodeBase64 } from './notation.mjs';
import { EXIT, Failure } from './outcome.mjs';
import { describe, open } from './reader.mjs';
import { fileObject } from './store.mjs';
import { checkToken, parseGrant, readDecrypt, readMark } from './vault.mjs';
import { bytesOf, tests } from './vectorfile.mjs';

const CLI = fileURLToPath(new URL('cli.mjs', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'auditor-'));
after(() => rmSync(dir, { recursive: true }));

const save = (name, bytes) => {
  writeFileSync(join(dir, name), bytes);
  return join(dir, name);
};

// filesOf writes the objects of a test of the vectors, which it finds by its comment.
let files = 0;
function filesOf(comment) {
  files++;
  const vector = tests.find((candidate) => candidate.comment === comment);
  const keyOf = (start) => vector.keyring.find(({ context }) => context.startsWith(start)).key;
  return {
    id: vector.id,
    envelope: save(`envelope-${files}`, bytesOf(vector.envelope)),
    media: save(`media-${files}`, bytesOf(vector.media)),
    recordingKey: keyOf(`recvault/v1/${vector.id.slice(0, 32)}`),
    metadataKey: keyOf('recvault/v1/metadata/'),
  };
}

suite('command', () => {
  const files = filesOf('recording: the worked example');
  const rk = save('rk', `${files.recordingKey}\n`);
  const mk = save('mk', Buffer.from(files.metadataKey, 'hex').toString('base64'));
  const out = join(dir, 'out');
  function run(command, ...args) {
    const objects = ['--id', files.id, '--envelope', files.envelope];
    return spawnSync(process.execPath, [CLI, command, ...objects, ...args], { encoding: 'utf8' });
  }

  test('describes with either key', () => {
    for (const args of [['--recording-key', rk], ['--metadata-key', mk]]) {
      const { status, stdout, stderr } = run('describe', ...args);
      assert.equal(status, 0, stderr);
      assert.equal(JSON.parse(stdout).length, 15);
      assert.equal(JSON.parse(stdout).metadata.content_type, 'video/webm');
    }
  });

  test('opens to a new file, and replaces none', () => {
    const args = ['--media', files.media, '--recording-key', rk, '--out', out];
    assert.equal(run('open', ...args).status, 0);
    assert.equal(run('open', ...args).status, 1);
    assert.equal(readFileSync(out, 'utf8'), 'A consultation.');
    rmSync(out);
  });

  test('writes a range to standard output', () => {
    const args = ['--media', files.media, '--recording-key', rk, '--offset', '2', '--length', '12', '--out', '-'];
    assert.equal(run('range', ...args).stdout, 'consultation');
  });

  const failures = [
    ['MK alone', 'invalid-grant', ['--media', files.media, '--metadata-key', mk]],
    ['MK as RK', 'damaged', ['--media', files.media, '--recording-key', mk]],
    ['no media', 'damaged', ['--media', join(dir, 'missing'), '--recording-key', rk]],
    ['no envelope', 'not-found', ['--media', files.media, '--recording-key', rk, '--envelope', join(dir, 'missing')]],
    ['an unreadable envelope', 'unavailable', ['--media', files.media, '--recording-key', rk, '--envelope', dir]],
    ['a text that is no grant', 'invalid-grant', ['--media', files.media, '--grant', rk, '--vault', 'http://[::1]:1']],
    ['no access', 'usage', ['--media', files.media]],
    ['a file that holds no key', 'usage', ['--media', files.media, '--recording-key', files.envelope]],
    ['an unknown option', 'usage', ['--medium', files.media]],
  ];
  for (const [name, outcome, args] of failures) {
    test(`fails, and writes nothing, with ${name}`, () => {
      const { status, stdout, stderr } = run('open', '--out', out, ...args);
      assert.equal(status, EXIT[outcome] ?? 2, stderr);
      assert(stderr.startsWith(`${outcome}: `) && stdout === '', stderr);
      assert(!stderr.includes(files.recordingKey) && !stderr.includes(files.metadataKey), stderr);
      assert(readdirSync(dir).every((file) => !file.startsWith('out')));
    });
  }

  test('removes what it wrote when it is interrupted', async () => {
    const silent = createServer().listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const url = save('url', `http://127.0.0.1:${silent.address().port}/`);
    const reader = spawn(process.execPath, [CLI, 'open', '--id', files.id, '--envelope', files.envelope,
      '--media-url', url, '--recording-key', rk, '--out', out]);
    const [connection] = await once(silent, 'connection');
    assert(existsSync(`${out}.partial`));
    reader.kill('SIGINT');
    const [status] = await once(reader, 'exit');
    connection.destroy();
    silent.close();
    assert.equal(status, 1);
    assert(readdirSync(dir).every((file) => !file.startsWith('out')));
  });

  test('removes what it wrote before a damaged segment', () => {
    const { id, envelope, media, recordingKey } = filesOf('media: a bit flipped in the last byte');
    const args = ['--id', id, '--envelope', envelope, '--media', media, '--recording-key', save('rk2', recordingKey)];
    const { status, stderr } = run('open', ...args, '--out', out);
    assert.equal(status, EXIT.damaged, stderr);
    assert(readdirSync(dir).every((file) => !file.startsWith('out')));
  });
});

test('a range reads the segments that it needs, and no other byte', async () => {
  const { id, envelope, media, recordingKey } = filesOf('recording: a plaintext of 196521 bytes');
  const reads = [];
  const watched = { read: (start, end) => reads.push(`${start}-${end}`) && fileObject(media).read(start, end) };
  const access = { recordingKey: Buffer.from(recordingKey, 'hex') };
  const recording = await open(id, access, { envelope: fileObject(envelope), media: watched });
  for (const range of [[0, 1], [65_480, 1], [65_479, 2], [196_520, 9], [70_000, 0], [196_521, 1], [2 ** 53, 1]]) {
    for await (const _ of recording.read(...range));
  }
  const last = 196_521 + 40 + 4 * 16;
  assert.deepEqual(reads,
    ['0-65536', '65536-131072', '0-131072', `196608-${last}`, '65536-131072', `196608-${last}`, '0-0']);
});

test('media that disappears with its envelope was deleted', async () => {
  const { id, envelope, media, recordingKey } = filesOf('recording: the worked example');
  const objects = { envelope: fileObject(envelope), media: fileObject(media) };
  const recording = await open(id, { recordingKey: Buffer.from(recordingKey, 'hex') }, objects);
  rmSync(media);
  await assert.rejects(recording.read().next(), failure('damaged'));
  rmSync(envelope);
  await assert.rejects(recording.read().next(), failure('not-found'));
});

test('only recorded_at can be the time that stands for an unknown one', () => {
  const zero = '0001-01-01T00:00:00.00Z';
  const fields = {
    created_at: zero, media_size: 56, media_header: Buffer.alloc(40).toString('base64'), revision: 0,
    title: zero, recorded_at: zero,
  };
  const { metadata } = parseMetadata(Buffer.from(JSON.stringify(fields)));
  assert.deepEqual(Object.keys(metadata), ['created_at', 'media_size', 'media_header', 'revision', 'title']);
});

const failure = (outcome) => (thrown) => thrown instanceof Failure && thrown.outcome === outcome;

suite('grants', () => {
  const grant = (fields) => `recvault-grant-1.${Buffer.from(JSON.stringify(fields)).toString('base64url')}`;
  const fields = { token: 'hvs.a-b_C.9', key_id: 'a'.repeat(32), subject: 'dr-lee', describe_only: true };

  test('have a token and a KeyID', () => {
    assert.deepEqual(parseGrant(grant(fields)), { token: fields.token, keyID: fields.key_id });
  });

  test('of another form are invalid', () => {
    const { token, ...tokenless } = fields;
    const valid = grant(fields);
    for (const text of ['', 'recvault-grant-1.', token, valid.replace('1', '2'), `${valid}=`, `${valid}\n`, grant(null),
      grant(tokenless), grant({ token }), grant({ ...fields, token: 1 }), grant({ ...fields, key_id: 'a' }),
      grant({ ...fields, key_id: [fields.key_id] }), grant({ ...fields, x: 'x'.repeat(16_384) })]) {
      assert.throws(() => parseGrant(text), failure('invalid-grant'), text);
    }
  });

  test('with a token of another form are not sent', () => {
    checkToken({ token: 's.x' });
    checkToken({ token: `hvs.${'x'.repeat(2_044)}` });
    for (const token of ['', 'hvs.', 'hvb.x', 'x', 'hvs.x y', 'hvs.x\n', 'hvs.é', `hvs.${'x'.repeat(2_045)}`]) {
      assert.throws(() => checkToken({ token }), failure('invalid-grant'), token);
    }
  });
});

suite('order of checks', () => {
  const { id, envelope } = filesOf('recording: the worked example');
  const missing = join(dir, 'missing');
  const grant = (token, keyID) =>
    `recvault-grant-1.${Buffer.from(JSON.stringify({ token, key_id: keyID })).toString('base64url')}`;
  const malformed = grant('x', id.slice(0, 32));
  const foreign = grant('hvs.x', 'a'.repeat(32));
  const cases = [
    ['a malformed token is not sent', malformed, envelope, 'invalid-grant'],
    ['a missing envelope comes before a malformed token', malformed, missing, 'not-found'],
    ["another patient's grant does not show what is missing", foreign, missing, 'wrong-patient'],
    ['a store that fails is unavailable to any grant', foreign, dir, 'unavailable'],
  ];
  for (const [name, text, path, outcome] of cases) {
    test(name, async () => {
      const keyrings = { vault: () => assert.fail('the grant was sent') };
      await assert.rejects(describe(id, { grant: text, keyrings }, { envelope: fileObject(path) }), failure(outcome));
    });
  }
});

suite("Vault's answers", () => {
  const errors = (...texts) => ({ errors: texts });
  const cases = [
    [200, { data: { plaintext: 7 } }, 'unavailable'],
    [200, { data: { plaintext: 'AB==' } }, 'unavailable'],
    [200, { data: 'x' }, 'unavailable'],
    [200, null, 'unavailable'],
    [403, errors('permission denied', 'invalid token'), 'invalid-grant'],
    [403, errors('x namespace from the token x'), 'invalid-grant'],
    [500, errors('x namespace from the token x'), 'invalid-grant'],
    [403, errors('permission denied'), 'denied', 'wrong-patient'],
    [403, null, 'denied', 'wrong-patient'],
    [400, errors('ciphertext or signature version is disallowed by policy (too old)'), 'retired'],
    [400, errors('cipher: message authentication failed'), 'damaged'],
    [400, errors(), 'damaged'],
    [400, null, 'unavailable'],
    [400, { errors: 'x' }, 'unavailable'],
    [404, errors('no handler for route'), 'unavailable'],
    [500, errors('x'), 'unavailable'],
    [503, errors('Vault is sealed'), 'unavailable'],
    [307, null, 'unavailable'],
  ];
  for (const [status, body, own, foreign = own] of cases) {
    test(`${status} ${JSON.stringify(body)} is ${own}`, () => {
      assert.throws(() => readDecrypt({ status, body }, false), failure(own));
      assert.throws(() => readDecrypt({ status, body }, true), failure(foreign));
    });
  }

  test('200 with a key, and 400 without one', () => {
    const plaintext = Buffer.alloc(32, 7).toString('base64');
    assert.deepEqual(readDecrypt({ status: 200, body: { data: { plaintext } } }), decodeBase64(plaintext));
    for (const body of [{ data: { plaintext: '' } }, { data: {} }, {}]) { // the reader refuses a key of this size
      assert.equal(readDecrypt({ status: 200, body }).length, 0);
    }
    assert.equal(readDecrypt({ status: 400, body: errors('encryption key not found') }), 'no key');
  });

  test('to the question for the mark', () => {
    for (const [status, body, outcome] of [
      [200, { data: { type: 'hmac' } }, 'erased'], [200, { data: { type: 'aes256-gcm96' } }, 'not-enrolled'],
      [404, errors(), 'not-enrolled'], [403, errors('permission denied'), 'not-enrolled'],
      [404, errors('no handler for route'), 'unavailable'], [404, null, 'unavailable'], [503, null, 'unavailable'],
    ]) assert.equal(readMark({ status, body }).outcome, outcome);
  });
});
