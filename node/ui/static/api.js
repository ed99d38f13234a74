// The operators' API. The token lives in this tab alone: never in an address, never in a message.

const BASE = new URL('../../', import.meta.url);
const KEEP = 'modelmesh.token';
const TIMEOUT_MS = 10000;
const SILENCE_MS = 25000; // a living feed beats every 10 s

export class Refusal extends Error {
  /** kind: token (none, or a wrong one), store (the node lives, Redis is away), away (nobody answers), refused (anything else). */
  constructor(kind, message, status = 0, id = '') {
    super(message);
    Object.assign(this, { kind, status, id });
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEEP),
  set: (text) => sessionStorage.setItem(KEEP, text),
  forget: () => sessionStorage.removeItem(KEEP),
};

async function ask(path, { method = 'GET', body, headers = {}, signal } = {}) {
  const given = token.get();
  const all = { ...headers };
  if (given) all.authorization = `Bearer ${given}`;
  if (body !== undefined) all['content-type'] = 'application/json';
  let answer;
  try {
    answer = await fetch(new URL(path, BASE), {
      method, signal, headers: all, body: body === undefined ? undefined : JSON.stringify(body),
      cache: 'no-store', credentials: 'omit', redirect: 'error',
    });
  } catch (error) {
    throw new Refusal('away', error.name === 'TimeoutError' ? 'no answer within 10 s' : 'no connection');
  }
  return answer;
}

async function refusal(answer) {
  const said = await answer.json().then((json) => json.error || {}, () => ({}));
  const kind = answer.status === 401 ? 'token' : said.code === 'state_unavailable' ? 'store' : answer.status < 502 ? 'refused' : 'away';
  return new Refusal(kind, said.message || `HTTP ${answer.status}`, answer.status, said.request_id || '');
}

/** The answer of the operators' API, parsed. */
export async function ops(path, { timeout = TIMEOUT_MS, ...options } = {}) {
  const answer = await ask(`ops/${path}`, { ...options, signal: AbortSignal.timeout(timeout) });
  if (!answer.ok) throw await refusal(answer);
  try {
    return await answer.json();
  } catch {
    throw new Refusal('away', 'the answer broke off');
  }
}

/** What `/ready` says, which needs no token; null if nobody answers. */
export async function ready() {
  try {
    return await (await ask('ready', { signal: AbortSignal.timeout(TIMEOUT_MS) })).json();
  } catch {
    return null;
  }
}

/** A name as a part of a path. */
export const part = (name) => encodeURIComponent(name);

/** Reads events until `signal` aborts or the feed ends; goes on after `place`. Throws a Refusal. */
export async function follow({ place, last, signal, onOpen, onEvent }) {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENCE_MS);
  const headers = place ? { 'last-event-id': place } : {};
  try {
    const answer = await ask(`ops/events?last=${last}`, { headers, signal: AbortSignal.any([signal, silence.signal]) });
    if (!answer.ok) throw await refusal(answer);
    onOpen();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
      const blocks = (rest + value).split('\n\n');
      rest = blocks.pop();
      for (const block of blocks) tell(block, onEvent);
    }
  } catch (error) {
    if (error instanceof Refusal) throw error;
    throw new Refusal('away', 'the feed broke off');
  } finally {
    clearTimeout(timer);
  }
}

function tell(block, onEvent) {
  const fields = {};
  for (const line of block.split('\n')) {
    const colon = line.indexOf(': ');
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 2);
  }
  if (!fields.data) return;
  try {
    onEvent(JSON.parse(fields.data), fields.id || '');
  } catch {
    // of a release that we do not understand
  }
}
