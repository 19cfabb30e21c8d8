// Grants, and unwrapping a key with HashiCorp Vault: section 6 of format.md.
import { decodeBase64 } from './notation.mjs';
import { damaged, Failure, unavailable } from './outcome.mjs';

const MAX_ANSWER = 8 * 1024 * 1024;
const MAX_TOKEN = 2_048;
const MAX_GRANT = 16_384;
const PREFIX = 'recvault-grant-1.';
const TIMEOUT_MS = 60_000;

// parseGrant reads the text form of a grant.
export function parseGrant(text) {
  const invalid = () => new Failure('invalid-grant', 'the text is not a grant');
  if (text.length > MAX_GRANT || !text.startsWith(PREFIX)) throw invalid();
  const bytes = decodeBase64(text.slice(PREFIX.length), 'base64url');
  let fields;
  try {
    fields = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    throw invalid();
  }
  const { token, key_id: keyID } = fields ?? {};
  if (typeof token !== 'string' || typeof keyID !== 'string' || !/^[a-z2-7]{32}$/.test(keyID)) throw invalid();
  return { token, keyID };
}

// checkToken makes check 7 of section 9.
export function checkToken({ token }) {
  if (token.length > MAX_TOKEN || !/^(hvs|s)\.[A-Za-z0-9_.-]+$/.test(token)) {
    throw new Failure('invalid-grant', 'the token of the grant has another form than a token of Vault');
  }
}

// vaultKeyring returns the keyring `vault`: a function that unwraps a key for a context with a grant.
export function vaultKeyring({ address, mount = 'recordings', namespace }, fetch = globalThis.fetch) {
  const base = `${address.replace(/\/+$/, '')}/v1/${mount.replace(/^\/+|\/+$/g, '')}`;

  async function request(grant, path, body) {
    const headers = { 'X-Vault-Token': grant.token, 'X-Vault-Request': 'true' };
    if (namespace) headers['X-Vault-Namespace'] = namespace;
    if (body) headers['Content-Type'] = 'application/json';
    try {
      const answer = await fetch(`${base}/${path}`, {
        method: body ? 'POST' : 'GET',
        headers,
        body: body && JSON.stringify(body),
        redirect: 'error', // or the token would go to another host
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      return { status: answer.status, body: await readAnswer(answer.body) };
    } catch { // the cause could name the request
      throw unavailable('Vault did not answer');
    }
  }

  return async function unwrap(grant, keyID, wrapped, context) {
    const body = { ciphertext: wrapped, context: Buffer.from(context).toString('base64') };
    const answer = readDecrypt(await request(grant, `decrypt/${keyID}-kek`, body), grant.keyID !== keyID);
    if (answer !== 'no key') return answer;
    throw readMark(await request(grant, `keys/erased-${keyID}-kek?type=hmac`));
  };
}

// readDecrypt returns the key in an answer to decrypt, which may have any length, or 'no key' if the mark must be asked
// for. It throws the failure of any other answer. foreign is whether the grant names another KeyID than the ID.
export function readDecrypt({ status, body }, foreign) {
  const errors = errorsOf(body);
  const says = (text) => errors?.some((error) => error.includes(text));
  if (status === 200) {
    const plaintext = isObject(body) && isObject(body.data ?? {}) ? body.data?.plaintext ?? '' : null;
    const key = typeof plaintext === 'string' ? decodeBase64(plaintext) : null;
    if (!key) throw unavailable('Vault answered with something else than a key');
    return key;
  }
  if (status === 403 && says('invalid token')) throw new Failure('invalid-grant', 'Vault does not know the grant');
  if ((status === 403 || status === 500) && says('namespace from the token')) {
    throw new Failure('invalid-grant', 'the grant is of another namespace');
  }
  if (status === 403) {
    throw foreign ? new Failure('wrong-patient', 'the grant is for another patient')
      : new Failure('denied', 'Vault does not allow this to the grant');
  }
  if (status === 400 && errors !== null) {
    if (says('key not found')) return 'no key';
    if (says('disallowed by policy (too old)')) throw new Failure('retired', 'the key is of a retired version');
    throw damaged('the wrapped key does not authenticate');
  }
  throw unavailable(`Vault answered with status ${status}`);
}

// readMark returns the failure that the answer to a request for the mark stands for.
export function readMark({ status, body }) {
  if (status === 200 && body?.data?.type === 'hmac') return new Failure('erased', "the patient's key was destroyed");
  if (status === 200 || status === 403 || (status === 404 && errorsOf(body)?.length === 0)) {
    return new Failure('not-enrolled', 'the patient has no key');
  }
  return unavailable(`Vault answered with status ${status}`);
}

const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

// errorsOf returns the texts of a failure, of which there may be none, or null if body has another form.
function errorsOf(body) {
  const errors = isObject(body) ? body.errors ?? [] : null;
  return Array.isArray(errors) && errors.every((error) => typeof error === 'string') ? errors : null;
}

// readAnswer returns the JSON of a bounded answer, or null if it is none.
async function readAnswer(stream) {
  const chunks = [];
  let size = 0;
  for await (const chunk of stream ?? []) {
    size += chunk.length;
    if (size > MAX_ANSWER) throw new RangeError('too long');
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString());
  } catch {
    return null;
  }
}
