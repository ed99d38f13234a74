// The page: asks the operators' API while somebody looks, and draws what it says.

import { ops, ready, token } from './api.js';
import { books, cluster } from './cluster.js';
import { fill, h, listen, mark } from './dom.js';
import { Feed, events } from './events.js';
import { count, millis, now, setServerTime, span, until } from './format.js';
import { turnGrid } from './grid.js';
import { judge } from './judge.js';
import { modelDetails, models, poolDetails } from './models.js';
import { Dialog, askToken, give, help } from './orders.js';
import { overview } from './overview.js';
import { fact } from './parts.js';
import { findRequest, request } from './request.js';
import { readCharts, traffic, trafficQuery } from './traffic.js';

const EVERY_MS = 2000;
const FRESH_S = 5; // older events are history: the status knows them
const LIGHT = 8; // at most an eighth of the time is spent answering us
const PAUSES_S = [1, 2, 4, 8, 15, 30];
const VIEWS = [overview, models, traffic, events, request, cluster, books];
/** Beside the status: what else is read, and how often. */
const READS = {
  pools: { every: 10000, path: () => 'stats?by=pool&minutes=60&each=true' },
  models: { every: 8000, path: () => 'stats?by=model&minutes=5' },
  traffic: { every: 10000, path: trafficQuery },
  keys: { every: 15000, path: () => 'keys' },
  books: { every: 20000, always: 60000, path: () => 'books' },
};

const state = { status: null, ready: null, pools: null, models: null, traffic: null, keys: null, books: null, faults: {}, link: { kind: 'first', message: '', again: 0 } };
const readAt = {};
const $ = (id) => document.getElementById(id);
const narrow = matchMedia('(max-width: 760px)');
const dialog = new Dialog($('dialog'));
let view = overview;
let timer = 0;
let failures = 0;
let isAsking = false;
let isQueued = false;

// -- asking

async function look() {
  clearTimeout(timer);
  if (isAsking || document.hidden) return;
  isAsking = true;
  const began = performance.now();
  try {
    state.status = await ops('status');
    state.seen = now();
    draw();
    await readDue();
    failures = 0;
    state.link = { kind: 'ok', message: '', again: 0 };
  } catch (error) {
    await fail(error);
  }
  isAsking = false;
  const took = performance.now() - began;
  const pause = failures ? 1000 * PAUSES_S[Math.min(failures - 1, PAUSES_S.length - 1)] : Math.max(EVERY_MS, LIGHT * took);
  if (failures) state.link.again = now() + pause / 1000;
  if (state.link.kind !== 'token') timer = setTimeout(look, pause);
  draw();
}

async function readDue() {
  for (const [name, read] of Object.entries(READS)) {
    const every = view.needs.includes(name) ? read.every : read.always;
    if (!every || performance.now() - (readAt[name] ?? -Infinity) < every) continue;
    const path = read.path();
    readAt[name] = performance.now();
    delete state.faults[name];
    try {
      const found = await ops(path);
      if (read.path() === path) state[name] = found;
      if (found.time) setServerTime(found.time);
    } catch (error) {
      if (error.kind !== 'refused') throw error;
      state.faults[name] = error.message; // the rest of the page has no part in it
    }
  }
}

async function fail(error) {
  failures += 1;
  const kind = error.kind || 'refused';
  if (kind === 'token') {
    feed.stop();
    askToken(dialog, Boolean(token.get()), start);
    token.forget();
  }
  state.ready = kind === 'store' ? await ready() : null;
  state.link = { kind, message: error.message, again: 0 };
  if (!error.kind) console.error(error);
}

function again(name) {
  if (name) delete readAt[name];
  clearTimeout(timer);
  timer = setTimeout(look, 0);
}

/** What an event says is shown at once; the next look confirms it. */
function heed(event) {
  const all = state.status && (event.model ? state.status.models : event.provider ? state.status.providers : null);
  const entity = all?.find((each) => each.id === (event.model || event.provider));
  const [, verb] = event.type.match(/^(?:model|provider)_(deactivated|activated|trial|ramp)$/) || [];
  if (entity && verb && event.time > now() - FRESH_S) {
    const isOut = verb === 'deactivated';
    if (event.model && isOut === (entity.status === 'active')) moveMember(event.model, isOut);
    Object.assign(entity, { status: isOut ? 'standby' : 'active', reason: isOut ? event.reason : '', until: isOut ? event.until : null, phase: ['trial', 'ramp'].includes(verb) ? verb : '' });
    if (!isOut) entity.trigger = '';
  }
  draw();
}

function moveMember(id, isOut) {
  for (const pool of state.status.pools.filter(({ models: members }) => members.includes(id))) {
    pool.active += isOut ? -1 : 1;
    pool.standby += isOut ? 1 : -1;
  }
}

const feed = new Feed(state, { onEvent: heed, onChange: draw });

function start() {
  failures = 0;
  clearTimeout(timer);
  look();
  feed.start();
}

// -- drawing

/** Draws with the next frame, once for however many ask for it. */
function draw() {
  if (isQueued) return;
  isQueued = true;
  requestAnimationFrame(() => {
    isQueued = false;
    drawNow();
  });
}

const VERDICTS = { bad: ['bad', 'Trouble'], warn: ['warn', 'Worth a look'], info: ['good', 'All is well'], first: ['none', 'Reading …'], token: ['none', 'Token needed'] };

function drawNow() {
  const found = judge(state);
  const key = state.link.kind === 'token' ? 'token' : found[0] ? found[0].level : state.status ? 'info' : 'first';
  const [shape, word] = VERDICTS[key];
  $('verdict').className = `verdict ${shape}`;
  fill($('verdict'), mark(shape), h('strong', null, word));
  document.title = `${{ bad: '✖ ', warn: '▲ ' }[shape] || ''}${key === 'info' ? 'ModelMesh' : `${word} · ModelMesh`}`;
  $('token').hidden = !token.get();
  fill($('link'), linkWords());
  fill($('facts'), state.status ? facts() : null);
  fill($('banner'), banners(found));
  fill($('tabs'), VIEWS.map(tab));
  document.body.classList.toggle('old', ['away', 'store', 'token'].includes(state.link.kind));
  fill($('main'), h('div', { key: view.id, id: 'panel', role: 'tabpanel', 'aria-labelledby': `tab-${view.id}` }, state.status ? view.render(state) : h('p.empty', null, state.link.kind === 'token' ? 'Nothing is shown without the admin token.' : 'Reading …')));
  if (dialog.isOpen && dialog.name === 'details') dialog.draw();
}

function linkWords() {
  const { kind, again: when } = state.link;
  if (kind === 'ok' || kind === 'first') return null;
  return [state.seen && h('span', null, `as of ${span(now() - state.seen)} ago`), when > now() && h('button.quiet', { type: 'button', 'data-act': 'retry' }, 'again ', h('time', { 'data-until': when }, until(when)))];
}

function facts() {
  const { mode, config_version: version, nodes, scheduler, store } = state.status;
  const living = nodes.filter((node) => node.state !== 'dead');
  const releases = [...new Set(living.map((node) => node.version))];
  const number = Math.max(0, ...living.map((node) => node.config_number));
  return [
    fact('Mode', mode), fact('Configuration', number ? `${number}` : version.slice(0, 8), number ? version.slice(0, 8) : 'own file'),
    fact('Nodes', living.length === nodes.length ? count(living.length) : `${living.length} of ${nodes.length}`, releases.join(', ')),
    fact('Scheduler', scheduler.leader || 'nobody leads'), fact('Redis', store.connected ? millis(store.round_trip_ms) : 'away'),
  ];
}

function banners(found) {
  const shown = found.filter(({ level }) => level !== 'info');
  const most = view === overview ? (narrow.matches ? 2 : 3) : 1;
  const rest = shown.slice(most);
  const banner = ({ level, what, todo }) => h('div.banner', { key: what.replace(/[\d.]+/g, '#'), class: level }, mark(level), h('p', null, h('strong', null, what), ' ', h('span', null, todo)));
  return [shown.slice(0, most).map(banner), rest.length > 0 && h('details.banner.warn', { key: 'rest' }, h('summary', null, `and ${rest.length} more`), rest.map(banner)),
    shown.length === 0 && found.map(({ what, todo }) => h('div.banner.info', { key: what }, mark('half'), h('p', null, h('strong', null, what), ' ', h('span', null, todo))))];
}

function tab(each) {
  const isShown = each === view;
  return h('a', { key: each.id, id: `tab-${each.id}`, role: 'tab', href: `#${each.id}`, 'aria-selected': isShown ? 'true' : 'false', 'aria-controls': 'panel', tabindex: isShown ? '0' : '-1' }, each.title);
}

/** Counts down without drawing everything again. */
function tick() {
  if (document.hidden) return;
  for (const time of document.querySelectorAll('time[data-until]')) {
    const text = until(Number(time.dataset.until));
    if (time.textContent !== text) time.textContent = text;
  }
}

// -- what people do

function go() {
  const [name, ...rest] = location.hash.slice(1).split('/');
  const next = VIEWS.find((each) => each.id === name) || overview;
  const hasMoved = next !== view;
  view = next;
  if (hasMoved) {
    dialog.close();
    again();
  }
  if (next === request && rest.length) findRequest(decode(rest.join('/')), draw);
  drawNow();
  $(`tab-${view.id}`).scrollIntoView({ inline: 'nearest', block: 'nearest' });
}

/** Goes to a view without waiting for the browser to tell. */
function showNow(next) {
  view = next;
  location.hash = next.id;
  drawNow();
  again();
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

const details = (build) => (pressed) => dialog.open(pressed.dataset.name, () => build(state, pressed.dataset.name), null, 'details');
const order = (act) => (pressed) => give(dialog, act, { name: pressed.dataset.name, kind: pressed.dataset.kind }, () => again('models'));
const turn = (pressed) => {
  turnGrid(VIEWS.map((each) => each.looks?.[pressed.dataset.grid]).find(Boolean), pressed);
  draw();
};

const acts = {
  model: details(modelDetails), pool: details(poolDetails), sort: turn, page: turn, retry: () => again(), help: () => help(dialog), close: () => dialog.close(),
  dismiss: (pressed) => pressed.parentElement.remove(),
  explain: (pressed) => {
    const { name } = pressed.dataset;
    dialog.close();
    showNow(request);
    const form = document.querySelector('form[data-act="explain-form"]');
    form.elements.model.value = name;
    form.requestSubmit();
  },
  token: () => {
    token.forget();
    location.reload();
  },
  ...Object.fromEntries(['deactivate', 'activate', 'probe', 'rotate'].map((act) => [act, order(act)])),
  ...Object.assign({}, ...VIEWS.map((each) => each.acts(draw, state, again))),
};
const isFilter = ([name]) => name.startsWith('filter-');
listen(document, 'click', Object.fromEntries(Object.entries(acts).filter((each) => !isFilter(each))));
listen(document, 'input', Object.fromEntries(Object.entries(acts).filter(isFilter)));
const submits = request.submits(draw);
$('main').addEventListener('submit', (event) => {
  event.preventDefault();
  submits[event.target.dataset.act]?.(event.target);
});

function onKey(event) {
  const isTyping = event.target.closest('input, textarea, select');
  if (event.target.closest('[role=tab]') && ['ArrowLeft', 'ArrowRight'].includes(event.key)) {
    const step = event.key === 'ArrowRight' ? 1 : VIEWS.length - 1;
    const next = VIEWS[(VIEWS.indexOf(view) + step) % VIEWS.length];
    location.hash = next.id;
    $(`tab-${next.id}`).focus();
  } else if (event.key === 'Escape' && isTyping && !dialog.isOpen) event.target.blur();
  else if (isTyping || dialog.isOpen || event.ctrlKey || event.metaKey || event.altKey) return;
  else if (event.key === '/') jumpToFilter(event);
  else if (event.key === '?') help(dialog);
  else if (event.key === 'r') again();
  else if (VIEWS[Number(event.key) - 1]) location.hash = VIEWS[Number(event.key) - 1].id;
}

function jumpToFilter(event) {
  event.preventDefault();
  if (!document.querySelector('main [data-filter]')) showNow(models);
  document.querySelector('main [data-filter]')?.focus();
}

document.addEventListener('keydown', onKey);
document.addEventListener('visibilitychange', () => {
  if (document.hidden) feed.stop();
  else if (state.link.kind !== 'token') start();
});
window.addEventListener('hashchange', go);
window.addEventListener('online', () => again());
readCharts($('main'), draw);
setInterval(tick, 1000);
go();
start();
