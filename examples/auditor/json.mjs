// A strict JSON parser for sealed metadata: section 7 of format.md, rules 1 to 7. JSON.parse keeps the last of two
// equal names, and accepts lone surrogates, null, signs, fractions and exponents.
import { damaged } from './outcome.mjs';

const MAX_DEPTH = 16;
const SPACE = /[ \t\n\r]*/y;
const STRING = /"([^"\\\u0000-\u001f]*(?:\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})[^"\\\u0000-\u001f]*)*)"/y;
const NUMBER = /0|[1-9][0-9]{0,15}/y;
const LITERAL = /true|false/y;
const ESCAPES = { b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' };

// parseObject returns the object in bytes. The objects in it have no prototype, so every name is an ordinary one.
export function parseObject(bytes) {
  let text;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes); // keeps a byte order mark
  } catch {
    throw damaged('the metadata is not UTF-8');
  }
  const parser = new Parser(text);
  parser.space();
  const object = parser.object(1);
  parser.space();
  if (parser.position !== text.length) throw damaged('something follows the metadata');
  return object;
}

class Parser {
  constructor(text) {
    this.text = text;
    this.position = 0;
  }

  // match returns the match of a sticky pattern at the position, after which it moves, or null.
  match(pattern) {
    pattern.lastIndex = this.position;
    const match = pattern.exec(this.text);
    if (match) this.position = pattern.lastIndex;
    return match;
  }

  space() {
    this.match(SPACE);
  }

  // take reports whether the next character is c, and moves past it if so.
  take(c) {
    if (this.text[this.position] !== c) return false;
    this.position++;
    return true;
  }

  expect(c) {
    if (!this.take(c)) throw damaged('the metadata is not valid JSON');
  }

  value(depth) {
    const next = this.text[this.position];
    if (next === '{') return this.object(depth + 1);
    if (next === '[') return this.array(depth + 1);
    if (next === '"') return this.string();
    const literal = this.match(LITERAL);
    if (literal) return literal[0] === 'true';
    const number = this.match(NUMBER); // a digit, sign, point or exponent after it is no separator, and fails there
    if (!number || Number(number[0]) > Number.MAX_SAFE_INTEGER) throw damaged('the metadata has an invalid value');
    return Number(number[0]);
  }

  string() {
    const match = this.match(STRING);
    if (!match) throw damaged('the metadata has an invalid text');
    const text = match[1].replace(/\\(?:u(.{4})|(.))/g, (_, hex, c) =>
      hex ? String.fromCharCode(parseInt(hex, 16)) : (ESCAPES[c] ?? c));
    if (/\p{Surrogate}/u.test(text)) throw damaged('the metadata has half of a surrogate pair');
    return text;
  }

  object(depth) {
    const object = Object.create(null);
    this.list('{', '}', depth, () => {
      const name = this.string();
      if (Object.hasOwn(object, name)) throw damaged('the metadata has a name twice');
      this.space();
      this.expect(':');
      this.space();
      object[name] = this.value(depth);
    });
    return object;
  }

  array(depth) {
    const array = [];
    this.list('[', ']', depth, () => array.push(this.value(depth)));
    return array;
  }

  // list reads elements between commas.
  list(start, end, depth, element) {
    if (depth > MAX_DEPTH) throw damaged('the metadata is nested too deep');
    this.expect(start);
    this.space();
    if (this.take(end)) return;
    do {
      this.space();
      element();
      this.space();
    } while (this.take(','));
    this.expect(end);
  }
}
