// Media: section 8 of format.md.
import { hkdf, openGCM } from './notation.mjs';
import { damaged, unavailable } from './outcome.mjs';

export const HEADER_SIZE = 40;
const SEGMENT = 65_536;
const TAG = 16;
const PLAIN_SEGMENT = SEGMENT - TAG;
const MAX_SEGMENTS = 2 ** 32;

const segmentCount = (size) => Math.ceil(size / SEGMENT);

// isMediaSize reports whether media can have this size.
export function isMediaSize(size) {
  return size >= HEADER_SIZE + TAG && segmentCount(size) <= MAX_SEGMENTS &&
    (size <= SEGMENT || (size - 1) % SEGMENT >= TAG);
}

// plaintextLength returns the length of the plaintext of media of a valid size.
export function plaintextLength(size) {
  return size - HEADER_SIZE - TAG * segmentCount(size);
}

// Where the plaintext of segment i starts.
const plainStart = (i) => (i === 0 ? 0 : i * PLAIN_SEGMENT - HEADER_SIZE);

// planRange returns the range [from, to) of the plaintext after it was cut at the end, and the segments [first, past)
// that must authenticate for it.
export function planRange(size, offset, length) {
  const total = plaintextLength(size);
  const from = Math.min(offset, total);
  const to = Math.min(offset + length, total);
  const segmentOf = (p) => Math.floor((p + HEADER_SIZE) / PLAIN_SEGMENT);
  const first = Math.min(segmentOf(offset), segmentCount(size));
  const past = to > from ? segmentOf(to - 1) + 1 : Math.min(first + 1, segmentCount(size));
  return { from, to, first, past };
}

// mediaBytes returns the positions [start, end) in the media of the segments [first, past), and of the header if
// segment 0 is one of them.
export function mediaBytes(size, { first, past }) {
  return first === past ? { start: 0, end: 0 } : { start: first * SEGMENT, end: Math.min(past * SEGMENT, size) };
}

// decrypt makes check 16 as far as it concerns the media, and check 17. It yields the plaintext of a range, each
// segment after it has authenticated. The stream has the media's bytes of mediaBytes.
export async function* decrypt({ mediaKey, rec, size, header, range, stream }) {
  const segmentKey = hkdf(mediaKey, `recvault/v1/${rec}`, header.subarray(1, 33));
  const take = cutter(stream);
  if (range.first === 0 && range.past > 0 && !header.equals(await take(HEADER_SIZE))) {
    throw damaged('the header of the media is not the one in the metadata');
  }
  for (let i = range.first; i < range.past; i++) {
    const start = i === 0 ? HEADER_SIZE : i * SEGMENT;
    const sealed = await take(Math.min((i + 1) * SEGMENT, size) - start);
    const nonce = Buffer.alloc(12);
    header.copy(nonce, 0, 33);
    nonce.writeUInt32BE(i, 7);
    nonce[11] = i === segmentCount(size) - 1 ? 1 : 0;
    const plaintext = openGCM(segmentKey, nonce, Buffer.alloc(0), sealed);
    if (!plaintext) throw damaged(`segment ${i} of the media does not authenticate`);
    const wanted = plaintext.subarray(Math.max(range.from - plainStart(i), 0), Math.max(range.to - plainStart(i), 0));
    if (wanted.length > 0) yield wanted;
  }
}

// cutter returns a function that takes the next n bytes of a stream, whatever pieces they come in.
function cutter(stream) {
  const iterator = stream[Symbol.asyncIterator]();
  let rest = Buffer.alloc(0);

  async function next() {
    try {
      return await iterator.next();
    } catch {
      throw unavailable('the store broke off');
    }
  }

  return async function take(n) {
    const bytes = Buffer.alloc(n);
    for (let filled = 0; filled < n;) {
      if (rest.length === 0) {
        const { done, value } = await next();
        if (done) throw damaged('the media is shorter than its size');
        rest = value;
      }
      bytes.set(rest.subarray(0, n - filled), filled);
      const copied = Math.min(n - filled, rest.length);
      rest = rest.subarray(copied);
      filled += copied;
    }
    return bytes;
  };
}
