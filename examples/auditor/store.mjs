// Where the two objects are: in files, or behind presigned URLs of S3. An object has one method, read(start, end). It
// returns null if the object does not exist, else { size, stream }: the size of the object, and a Readable of its bytes
// from start to end, or to its own end if that comes first. Whoever reads destroys the stream.
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { unavailable } from './outcome.mjs';

export function fileObject(path) {
  return {
    async read(start, end) {
      let size;
      try {
        ({ size } = await stat(path));
      } catch (error) {
        if (error.code === 'ENOENT') return null;
        throw unavailable(`a file cannot be read: ${error.code}`);
      }
      return { size, stream: quiet(start < end ? createReadStream(path, { start, end: end - 1 }) : Readable.from([])) };
    },
  };
}

export function urlObject(url) {
  return {
    async read(start, end) {
      const headers = { Range: `bytes=${start}-${Math.max(end, start + 1) - 1}` };
      let answer;
      try {
        answer = await fetch(url, { headers, redirect: 'error' });
      } catch { // the cause could show the URL, which is a secret
        throw unavailable('the store did not answer');
      }
      if (answer.status !== 206) await answer.body?.cancel();
      if (answer.status === 404) return null;
      if (answer.status === 416) return { size: start, stream: Readable.from([]) }; // the object ends before start
      const total = /^bytes \d+-\d+\/(\d+)$/.exec(answer.headers.get('Content-Range') ?? '');
      if (answer.status !== 206 || !total) throw unavailable(`the store answered with status ${answer.status}`);
      return { size: Number(total[1]), stream: quiet(Readable.fromWeb(answer.body)) };
    },
  };
}

// quiet keeps an error of a stream for the one who reads it.
function quiet(stream) {
  return stream.on('error', () => {});
}
