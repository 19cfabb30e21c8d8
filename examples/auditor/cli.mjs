#!/usr/bin/env node
// Describes a recording, or opens it whole or by range. See README.md.
import { rmSync } from 'node:fs';
import { link, open as openFile, readFile, rm } from 'node:fs/promises';
import { once } from 'node:events';
import { parseArgs } from 'node:util';
import { decodeBase64 } from './notation.mjs';
import { EXIT, Failure } from './outcome.mjs';
import { describe, open } from './reader.mjs';
import { fileObject, urlObject } from './store.mjs';
import { vaultKeyring } from './vault.mjs';

const USAGE = `usage: node cli.mjs describe|open|range --id ID OBJECTS ACCESS [--out FILE] [--offset N --length N]

  OBJECTS  --envelope FILE or --envelope-url FILE    an object, or a file that holds a presigned URL of it
           --media FILE    or --media-url FILE
  ACCESS   --grant FILE --vault ADDRESS [--mount recordings] [--namespace NAME]
           --recording-key FILE or --metadata-key FILE    a file that holds 32 bytes in hexadecimal or base64
  --out    a new file, or - for standard output

Exit codes: ${Object.entries(EXIT).map(([outcome, code]) => `${code} ${outcome}`).join(', ')};
1 for an error of this machine, 2 for a wrong command.
`;

class UsageError extends Error {}

const OPTIONS = ['id', 'envelope', 'envelope-url', 'media', 'media-url', 'grant', 'vault', 'mount', 'namespace',
  'recording-key', 'metadata-key', 'out', 'offset', 'length'];

async function main(args) {
  const { command, options } = parse(args);
  const access = await accessOf(options);
  const objects = { envelope: await objectOf(options, 'envelope') };
  if (command === 'describe') {
    console.log(JSON.stringify(await describe(options.id, access, objects), null, 2));
    return;
  }
  objects.media = await objectOf(options, 'media');
  const range = command === 'range' ? [natural(options, 'offset'), natural(options, 'length')] : [];
  const recording = await open(options.id, access, objects);
  await (options.out === '-' ? toStandardOutput : toNewFile)(recording.read(...range), options.out);
}

function parse(args) {
  let values, positionals;
  try {
    const options = Object.fromEntries(OPTIONS.map((name) => [name, { type: 'string' }]));
    ({ values, positionals } = parseArgs({ args, options, allowPositionals: true }));
  } catch (error) {
    throw new UsageError(error.message);
  }
  const [command] = positionals;
  if (positionals.length !== 1 || !['describe', 'open', 'range'].includes(command)) {
    throw new UsageError('name one of describe, open and range');
  }
  for (const name of command === 'describe' ? ['id'] : ['id', 'out']) {
    if (!values[name]) throw new UsageError(`--${name} is missing`);
  }
  return { command, options: values };
}

function natural(options, name) {
  if (!/^\d+$/.test(options[name] ?? '')) throw new UsageError(`--${name} must be a number of bytes`);
  return Number(options[name]);
}

async function objectOf(options, name) {
  if (options[name]) return fileObject(options[name]);
  if (options[`${name}-url`]) return urlObject(await readText(options[`${name}-url`]));
  throw new UsageError(`--${name} or --${name}-url is missing`);
}

async function accessOf(options) {
  if (options['recording-key']) return { recordingKey: await readKey(options['recording-key']) };
  if (options['metadata-key']) return { metadataKey: await readKey(options['metadata-key']) };
  if (!options.grant || !options.vault) throw new UsageError('--grant and --vault, or a key, are missing');
  const { vault: address, mount, namespace } = options;
  return { grant: await readText(options.grant), keyrings: { vault: vaultKeyring({ address, mount, namespace }) } };
}

const readText = async (path) => (await readFile(path, 'utf8')).trimEnd();

async function readKey(path) {
  const text = await readText(path);
  const key = /^[0-9A-Fa-f]{64}$/.test(text) ? Buffer.from(text, 'hex') : decodeBase64(text);
  if (key?.length !== 32) throw new UsageError('the file of the key does not hold 32 bytes in hexadecimal or base64');
  return key;
}

async function toStandardOutput(chunks) {
  for await (const chunk of chunks) {
    if (!process.stdout.write(chunk)) await once(process.stdout, 'drain');
  }
}

// toNewFile writes to a file beside the one that is asked for, which it names so only when all of it is there.
async function toNewFile(chunks, path) {
  const partial = `${path}.partial`;
  const file = await openFile(partial, 'wx', 0o600);
  const interrupt = () => {
    rmSync(partial);
    process.exit(1);
  };
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt);
  try {
    for await (const chunk of chunks) await file.writeFile(chunk);
    await file.sync();
    await link(partial, path); // fails if the file exists, which a rename would replace
  } finally {
    await file.close();
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt);
    await rm(partial);
  }
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  const [outcome, code] = error instanceof Failure ? [error.outcome, EXIT[error.outcome]]
    : error instanceof UsageError ? ['usage', 2] : ['error', 1];
  console.error(`${outcome}: ${error.message}`);
  if (code === 2) console.error(USAGE);
  process.exitCode = code;
}
