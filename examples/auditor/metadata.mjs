// Sealed metadata: section 7 of format.md.
import { decodeBase64 } from './notation.mjs';
import { parseObject } from './json.mjs';
import { damaged } from './outcome.mjs';
import { HEADER_SIZE, isMediaSize } from './stream.mjs';

const MAX_TEXT = 41_984;
const TIME = /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d{1,9})?Z$/;

const isText = (value) => typeof value === 'string';
const isNumber = (value) => typeof value === 'number';
const isObject = (value) => typeof value === 'object' && !Array.isArray(value);

// What the value of each known field must be. An optional field may be empty, see isEmpty.
const REQUIRED = {
  created_at: isTime,
  media_size: isNumber,
  media_header: (value) => isText(value) && decodeBase64(value)?.length === HEADER_SIZE,
  revision: isNumber,
};
const OPTIONAL = {
  content_type: (value) => isText(value) && /^[ -~]*$/.test(value),
  title: isText,
  recorded_at: isTime,
  duration_ms: (value) => isNumber(value) && value <= 9_223_372_036_854,
  attributes: (value) => isObject(value) && Object.values(value).every(isText),
  truncated: (value) => typeof value === 'boolean',
};

// parseMetadata makes checks 12 and 13 of section 9. It returns the known fields, without those that are empty, and the
// fields that this version of the format does not define.
export function parseMetadata(bytes) {
  if (bytes.length > MAX_TEXT) throw damaged('the metadata is too long');
  const fields = parseObject(bytes);
  for (const [name, valid] of Object.entries(REQUIRED)) {
    if (!Object.hasOwn(fields, name) || !valid(fields[name])) throw damaged(`${name} in the metadata is not valid`);
  }
  for (const [name, valid] of Object.entries(OPTIONAL)) {
    if (Object.hasOwn(fields, name) && !valid(fields[name])) throw damaged(`${name} in the metadata is not valid`);
  }
  if (!isMediaSize(fields.media_size)) throw damaged('no media has the size in the metadata');
  const metadata = {};
  for (const name of [...Object.keys(REQUIRED), ...Object.keys(OPTIONAL)]) {
    if (name in REQUIRED || !isEmpty(name, fields[name])) metadata[name] = fields[name];
    delete fields[name];
  }
  return { metadata, unknown: fields };
}

// isEmpty reports whether the value of an optional field stands for an unknown one.
function isEmpty(name, value) {
  if (isObject(value)) return Object.keys(value).length === 0;
  return !value || (name === 'recorded_at' && /^0001-01-01T00:00:00(\.0+)?Z$/.test(value));
}

// isTime reports whether value is a time in UTC on a day that exists.
function isTime(value) {
  const match = isText(value) && TIME.exec(value);
  if (!match) return false;
  const [year, month, day, hour, minute, second] = match.slice(1).map(Number);
  const leap = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
  const days = [31, leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1];
  return year >= 1 && day >= 1 && day <= days && hour <= 23 && minute <= 59 && second <= 59;
}
