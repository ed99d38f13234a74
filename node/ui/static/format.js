// Numbers, times and money as people read them.

const KINDS = ['', 'k', 'M', 'G', 'T'];
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const shortClock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const dayClock = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });

let ahead = 0; // the server's clock minus ours, in seconds

/** Takes the server's time of an answer; countdowns go by it. */
export function setServerTime(seconds) {
  ahead = seconds - Date.now() / 1000;
}

/** Server time, in seconds. */
export function now() {
  return Date.now() / 1000 + ahead;
}

export function count(value) {
  if (value === null || value === undefined) return '–';
  let size = Math.abs(value);
  let step = 0;
  while (size >= (step ? 999.5 : 9999.5) && step < KINDS.length - 1) { // 9,999 is still read at a glance
    size /= 1000;
    step += 1;
  }
  const digits = step && size < 100 ? 1 : size < 10 && !Number.isInteger(value) ? 1 : 0;
  return `${value < 0 ? '−' : ''}${size.toLocaleString('en', { maximumFractionDigits: digits })}${KINDS[step]}`;
}

export function money(value) {
  if (value === null || value === undefined) return '–';
  if (value === 0) return '$0';
  const digits = value >= 100 ? 0 : value >= 1 ? 2 : value >= 0.01 ? 3 : 5;
  return `$${value.toLocaleString('en', { minimumFractionDigits: Math.min(2, digits), maximumFractionDigits: digits })}`;
}

export function millis(value) {
  if (value === null || value === undefined) return '–';
  if (value >= 10000) return `${(value / 1000).toFixed(0)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return `${value < 10 && value > 0 ? value.toFixed(1) : Math.round(value)} ms`;
}

export function percent(part, whole = 1) {
  if (part === null || part === undefined || !whole) return '–';
  const share = (100 * part) / whole;
  return `${share > 0 && share < 10 ? share.toFixed(1) : Math.round(share)} %`;
}

export function span(seconds) {
  const s = Math.max(0, seconds);
  if (s < 1) return 'a moment';
  if (s < 100) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.floor(s / 60)} min${s < 600 && Math.floor(s % 60) ? ` ${Math.floor(s % 60)} s` : ''}`;
  if (s < 172800) return `${Math.floor(s / 3600)} h${s < 36000 && Math.floor((s % 3600) / 60) ? ` ${Math.floor((s % 3600) / 60)} min` : ''}`;
  return `${Math.floor(s / 86400)} d`;
}

export function ago(seconds) {
  return `${span(now() - seconds)} ago`;
}

/** "in 12 s", or that it is due. */
export function until(seconds) {
  const left = seconds - now();
  return left > 0.5 ? `in ${span(left)}` : 'now';
}

export function at(seconds) {
  const when = new Date(seconds * 1000);
  return Math.abs(seconds - now()) > 64800 ? dayClock.format(when) : clock.format(when);
}

export function minuteAt(seconds) {
  return shortClock.format(new Date(seconds * 1000));
}

const WORDS = {
  manual: 'by an operator', error_threshold: 'too many errors', quota_exhausted: 'quota spent', budget_exceeded: 'budget spent',
  token_limit: 'token cap reached', request_limit: 'request cap reached', maintenance_window: 'maintenance', rate_limited: 'rate limited',
  auth: 'credentials refused', outage: 'does not answer', cooldown_expired: 'after its cooldown', quota_reset: 'when the quota resets',
  probe_success: 'when a probe succeeds', startup_probe: 'when a probe succeeds', limit_raised: 'when the limit is raised',
};

/** A reason or trigger in words; an operator's own text as it is. */
export function words(code) {
  return Object.hasOwn(WORDS, code) ? WORDS[code] : code;
}

/** "modelmesh.round-robin.v1" -> "round-robin". */
export function strategyName(id) {
  return id.replace(/^modelmesh\./, '').replace(/\.v1$/, '');
}

/** "account.rpm" -> "account: requests / min". */
export function windowName(name) {
  const parts = { rpm: 'req/min', rph: 'req/h', rpd: 'req/day', rpw: 'req/week', tpm: 'tokens/min', tph: 'tokens/h', tpd: 'tokens/day',
    concurrency: 'in flight', usd_per_day: '$/day', usd_per_month: '$/month', usd_per_request: '$/request', min_delta: 'spacing' };
  const isShared = name.startsWith('account.');
  const own = isShared ? name.slice(8) : name;
  return (isShared ? 'account ' : '') + (Object.hasOwn(parts, own) ? parts[own] : own.replaceAll('_', ' '));
}

export function windowAmount(name, value) {
  return name.includes('usd') || name.includes('budget') ? money(value) : count(value);
}
