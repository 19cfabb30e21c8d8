// Opens many recordings in one process, for tests: each line of standard input is a JSON object with the ID, the paths
// of the two objects, RK in base64, and a range. Each line of output is what the reader made of it.
import { createHash } from 'node:crypto';
import { createInterface } from 'node:readline';
import { Failure } from './outcome.mjs';
import { open } from './reader.mjs';
import { fileObject } from './store.mjs';

async function sha256(chunks) {
  const hash = createHash('sha256');
  for await (const chunk of chunks) hash.update(chunk);
  return hash.digest('hex');
}

async function run({ id, envelope, media, key, offset, length }) {
  try {
    const objects = { envelope: fileObject(envelope), media: fileObject(media) };
    const recording = await open(id, { recordingKey: Buffer.from(key, 'base64') }, objects);
    const { metadata, length: size, read } = recording;
    return { class: 'ok', metadata, size, whole: await sha256(read()), range: await sha256(read(offset, length)) };
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    return { class: failure.outcome, reason: failure.message };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await run(JSON.parse(line))));
}
