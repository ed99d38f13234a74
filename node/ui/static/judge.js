// What is wrong, in words, and what to do about it. Pure functions of what the operators' API says.

import { ago, now, percent, span, words } from './format.js';

const LATE_S = 5;
const ILL = new Set(['error_threshold', 'outage', 'auth', 'quota_exhausted', 'budget_exceeded']);
const RANK = { bad: 0, warn: 1, info: 2 };

/** How an entity stands: its shape, the word beside it, how grave it is for sorting. */
export function stateOf(entity, account) {
  if (account && account.status === 'standby') {
    return { ...resting(account.reason), word: 'account out', reason: account.reason, until: account.until, trigger: account.trigger };
  }
  const { reason, until, trigger } = entity;
  if (entity.status === 'standby') return { ...resting(reason), word: 'stands by', reason, until, trigger };
  if (entity.phase === 'trial' || entity.phase === 'ramp') {
    return { shape: 'half', word: entity.phase === 'trial' ? 'on trial' : 'ramps up', grade: 2, reason: '', until: null, trigger: '' };
  }
  const calm = { reason: '', until: null, trigger: '' };
  return entity.windows && fullest(entity) >= 0.999 ? { ...calm, shape: 'warn', word: 'at a limit', grade: 4 } : { ...calm, shape: 'good', word: 'serves', grade: 5 };
}

/** The share that is taken of the fullest of its windows. */
export function fullest(entity) {
  return entity.windows.reduce((most, { used, limit }) => (limit > 0 ? Math.max(most, used / limit) : most), 0);
}

function resting(reason) {
  if (ILL.has(reason)) return { shape: 'bad', grade: 0 };
  if (reason === 'rate_limited' || reason.endsWith('_limit')) return { shape: 'warn', grade: 1 };
  return { shape: 'rest', grade: 3 };
}

/** Everything that somebody should know, the gravest first: `{level, what, todo}`. */
export function judge({ status, ready, books, link, faults }) {
  const found = [...judgeLink(link, ready)];
  for (const [name, message] of Object.entries(faults)) found.push({ level: 'warn', what: `A part of this page could not be read (${name}): ${message}`, todo: 'It is asked again by itself.' });
  if (status && link.kind !== 'token') {
    const judges = [judgeMode, judgeStore, judgeScheduler, judgeNodes, judgePools, judgeProviders];
    for (const each of judges) found.push(...each(status, link));
    if (books && !books.balanced) {
      found.push({ level: 'bad', what: 'The books do not balance', todo: 'Keep the output of modelmesh audit and report it; the view Books shows where.' });
    }
  }
  return found.sort((a, b) => RANK[a.level] - RANK[b.level]);
}

function* judgeLink(link, ready) {
  if (link.kind === 'away') {
    yield { level: 'bad', what: `This node does not answer (${link.message})`,
      todo: 'It is asked again by itself. Open the page of another node, or of the load balancer; what is shown is old.' };
  } else if (link.kind === 'store') {
    const mode = ready ? ready.mode : 'unknown';
    const means = { leased: 'Requests are still answered, from allowances that were paid in advance; limits hold.', open: 'Requests are answered without shared limits.' };
    yield { level: 'bad', what: `Redis does not answer this node; it is in mode ${mode}`,
      todo: `${means[mode] || 'Some requests may be refused.'} Look at Redis; what is shown is old.` };
  } else if (link.kind === 'refused') {
    yield { level: 'warn', what: `The operators' API refuses: ${link.message}`, todo: 'It is asked again by itself.' };
  }
}

function* judgeMode(status, link) {
  if (link.kind === 'store' || status.mode === 'exact') return;
  yield { level: status.mode === 'open' ? 'bad' : 'warn', what: `This node is in mode ${status.mode}`,
    todo: 'It has lost sight of Redis, or is just finding it again; if this lasts more than a few seconds, look at Redis.' };
}

function* judgeStore(status) {
  for (const { severity, message, code } of status.store.findings) {
    if (severity === 'info') continue;
    yield { level: severity === 'error' ? 'bad' : 'warn', what: `Redis: ${message}`, todo: `Its set-up (${code}) can lose or refuse counts; the message says what is wanted.` };
  }
}

function* judgeScheduler({ scheduler }) {
  if (!scheduler.leader) {
    yield { level: 'warn', what: 'No scheduler leads', todo: 'Requests go on; probes, statistics and copies wait. Start a scheduler, or look at its log.' };
    return;
  }
  if (scheduler.config_fault) {
    yield { level: 'warn', what: `The scheduler cannot run the configuration: ${scheduler.config_fault}`, todo: 'Mend what it lacks and push again, or modelmesh config rollback.' };
  }
  for (const job of scheduler.jobs) {
    if (job.last_error) yield { level: 'warn', what: `The job ${job.name} fails: ${job.last_error}`, todo: 'The view Cluster has the timetable; the log of the scheduler says more.' };
    else if (lateness(job) > 0) yield { level: 'warn', what: `The job ${job.name} is overdue by ${span(now() - job.next_run)}`, todo: 'The scheduler is frozen or too busy; another takes the lead by itself.' };
  }
}

/** Seconds that a job is overdue by; 0 if it is in time. */
export function lateness(job) {
  const late = job.next_run === null ? 0 : now() - job.next_run;
  return late > Math.max(job.interval_s, LATE_S) ? late : 0;
}

function* judgeNodes({ nodes, config_version: version }) {
  const living = nodes.filter((node) => node.state !== 'dead');
  for (const node of nodes) {
    if (node.state === 'dead') yield { level: 'warn', what: `Node ${node.id} is dead, last seen ${span(node.seen_s)} ago`, todo: 'What was in flight on it is booked as abandoned. Start it again, or let it be forgotten.' };
    if (node.config_fault) yield { level: 'warn', what: `Node ${node.id} cannot run the configuration: ${node.config_fault.split('\n')[0]}`, todo: 'It goes on with what it has. Mend what it lacks and push again.' };
    if (node.state !== 'dead' && node.mode !== 'exact') yield { level: 'warn', what: `Node ${node.id} is in mode ${node.mode}`, todo: 'It does not reach Redis.' };
  }
  if (living.some((node) => node.config_version !== version && !node.config_fault)) {
    yield { level: 'info', what: 'Nodes run different configurations', todo: 'A change is under way; it should be over in a few seconds.' };
  }
  if (new Set(living.map((node) => node.version)).size > 1) {
    yield { level: 'info', what: 'Nodes run different releases', todo: 'That is all right while a release is rolled out.' };
  }
}

function* judgePools({ pools }) {
  const empty = pools.filter((pool) => !pool.active && !pool.panic && pool.models.length).map((pool) => pool.id);
  if (empty.length) {
    yield { level: 'bad', what: `${empty.length === 1 ? `Pool ${empty[0]} has` : `${empty.length} pools have`} nobody who serves${empty.length === 1 ? '' : `: ${empty.slice(0, 5).join(', ')}${empty.length > 5 ? ', …' : ''}`}`,
      todo: 'Requests fail or go to fallbacks. The card says who comes back when; activate somebody, or look at the providers.' };
  }
  for (const pool of pools) {
    if (pool.panic) {
      yield { level: 'bad', what: `Pool ${pool.id} is in panic since ${ago(pool.panic.since)}: ${pool.panic.answered} of ${pool.panic.asked} requests on faith were answered`, todo: 'Too few members are well, so the least ill are asked. Look at the providers.' };
    }
  }
}

const CURES = {
  auth: 'Its key was refused. Mend the key, then restart the nodes or push the configuration again.',
  quota_exhausted: 'Its credit or its day is spent. Pay or wait, then activate it.',
  budget_exceeded: 'Its budget is spent. Raise the budget, or wait for the next period.',
  outage: 'Connections fail. One request tries it again by itself; look at the provider’s status page.',
};

function* judgeProviders({ providers }) {
  for (const provider of providers) {
    if (provider.status !== 'standby') {
      if (provider.health === 'unavailable') yield { level: 'warn', what: `Provider ${provider.id} is unavailable: ${percent(provider.availability)} of late went well`, todo: 'Its traffic or its probes fail; look at its status page.' };
      continue;
    }
    const level = Object.hasOwn(CURES, provider.reason) ? 'warn' : 'info';
    yield { level, what: `Provider ${provider.id} stands by: ${words(provider.reason)}`, todo: CURES[provider.reason] || 'It comes back as the table says.' };
  }
}
