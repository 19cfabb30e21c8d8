// The file of docs/vectors.
import { readFileSync } from 'node:fs';

const { testGroups, numberOfTests } = JSON.parse(
  readFileSync(new URL('../../docs/vectors/recording_v1_test.json', import.meta.url), 'utf8'));

export const tests = testGroups.flatMap((group) => group.tests);
if (tests.length !== numberOfTests) throw new Error(`the file has ${tests.length} tests, and says ${numberOfTests}`);

// bytesOf puts an object of a test together.
export function bytesOf({ parts }) {
  return Buffer.concat(parts.flatMap(({ text, hex, times = 1 }) =>
    Array(times).fill(hex === undefined ? Buffer.from(text) : Buffer.from(hex, 'hex'))));
}
