// Why a request went where it did, as a story; and what would become of one that is sent now.

import { ops, part } from './api.js';
import { h, mark } from './dom.js';
import { at, count, millis, money, strategyName, words } from './format.js';
import { badge, button, panel } from './parts.js';

const APIS = ['chat/completions', 'completions', 'embeddings', 'responses', 'moderations', 'rerank', 'images/generations', 'audio/speech'];
const MOST_NAMES = 40;
const lately = [];
let shown = null; // {kind: 'record' | 'explain' | 'fault' | 'asking', ...}

const list = (names, className) => h(`ul.${className}`, null, names.slice(0, MOST_NAMES).map((name) => h('li', { key: name }, name)), names.length > MOST_NAMES && h('li.faint', null, `and ${names.length - MOST_NAMES} more`));

function stage(each) {
  return h('li', { key: each.name }, h('div.step', null, h('b', null, each.name.replaceAll('_', ' ')), h('span.faint', null, `${each.left.length} left`)),
    each.skipped.length > 0 && h('ul.skipped', null, each.skipped.slice(0, MOST_NAMES).map((skip) => h('li', { key: skip.model }, mark('warn'), h('b', null, skip.model), ' ', h('span', null, words(skip.reason)))),
      each.skipped.length > MOST_NAMES && h('li.faint', null, `and ${each.skipped.length - MOST_NAMES} more`)));
}

function ranking(each) {
  const notes = [each.held && `the session belongs to ${each.held}`, each.current && `the pool points at ${each.current}`, each.draw !== null && `chance ${each.draw.toFixed(3)}`].filter(Boolean);
  return h('li', { key: `rank ${each.pool}` }, h('div.step', null, h('b', null, `pool ${each.pool}`), h('span.faint', null, `${strategyName(each.strategy)}${notes.length ? `; ${notes.join(', ')}` : ''}`)), list(each.order, 'order'));
}

function plan(each, number) {
  const role = (target) => (target.role === 'ranked' ? '' : ` (${target.role})`);
  return h('section.plan', { key: `plan ${number}` }, h('h3', null, each.because ? `Fallback to ${each.asked}, because of ${each.because}` : `How ${each.asked} was understood`),
    each.needs.features.length > 0 && h('p.faint', null, `The request needs ${each.needs.features.join(', ')}.`),
    h('ol.stages', null, each.stages.map(stage), each.rankings.map(ranking)),
    each.targets.length > 0 && h('div', null, h('p.faint', null, 'The order of trying'), list(each.targets.map((target) => target.model + role(target)), 'order')),
    each.error && h('p.note.bad', null, `The plan ended: ${each.error}`));
}

function attempt(step, total) {
  const isGood = step.outcome === 'success' || step.outcome === 'ok';
  const shape = step.verdict !== 'admitted' ? 'warn' : isGood ? 'good' : step.outcome === 'neutral' ? 'half' : 'bad';
  const word = step.verdict === 'admitted' ? step.outcome || 'under way' : step.verdict.replaceAll('_', ' ');
  const width = Math.max(0.8, (100 * (step.ms || 0)) / total);
  const said = [step.window && `window ${step.window}`, step.at && `room ${at(step.at)}`, step.error && words(step.error), step.status && `HTTP ${step.status}`,
    step.ms !== null && `took ${millis(step.ms)}`, step.first_content_ms !== null && `first content after ${millis(step.first_content_ms)}`,
    step.tokens_in + step.tokens_out > 0 && `${count(step.tokens_in)} + ${count(step.tokens_out)} tokens`, step.cost_usd > 0 && money(step.cost_usd)].filter(Boolean);
  return h('li', { key: step.reservation || `${step.model} ${step.asked_ms}` }, h('div.step', null, badge({ shape, word }), h('b', null, step.model), h('span.faint', null, `${step.provider}, after ${millis(step.asked_ms)}`)),
    h('svg.gantt', { viewBox: '0 0 100 4', preserveAspectRatio: 'none', 'aria-hidden': 'true', class: shape }, h('rect.track', { width: 100, height: 4 }),
      h('rect.taken', { x: Math.min(99, (100 * step.asked_ms) / total).toFixed(2), width: width.toFixed(2), height: 4 })),
    h('p', null, said.join(', ') || 'nothing was taken'), step.reservation && h('small.faint', null, `reservation ${step.reservation}`));
}

function record(decision) {
  const total = Math.max(1, decision.ms, ...decision.steps.map((step) => step.asked_ms + (step.ms || 0)));
  const isGood = decision.outcome === 'ok';
  return h('article.story', null,
    h('p.lead', null, mark(isGood ? 'good' : 'bad'), ' ', h('b', null, decision.asked), isGood ? ' was answered by ' : ' ended with ', h('b', null, isGood ? decision.served || 'nobody' : decision.outcome),
      `, status ${decision.status}, after ${millis(decision.ms)}`),
    h('p.faint', null, [at(decision.time), `node ${decision.node}`, decision.api, decision.is_stream && 'stream', `mode ${decision.mode}`, `configuration ${decision.config_version}`,
      decision.session && `session ${decision.session}`, decision.key && `client key ${decision.key.id}`, decision.provider && `prefers ${decision.provider}`].filter(Boolean).join(' · ')),
    h('h3', null, 'Attempts'), decision.steps.length ? h('ol.attempts', null, decision.steps.map((step) => attempt(step, total))) : h('p.empty', null, 'Nobody was asked.'),
    decision.plans.map(plan));
}

function room(each) {
  const word = each.admits ? 'would admit it' : each.never ? 'never' : each.opens ? `not before ${at(each.opens)}` : 'not now';
  return h('li', { key: each.model }, h('div.step', null, badge({ shape: each.admits ? 'good' : each.never ? 'bad' : 'warn', word }), h('b', null, each.model),
    h('span.faint', null, each.place === null ? 'would not be tried' : `place ${each.place + 1}`)),
  h('p', null, `${count(each.tokens_in)} + at most ${count(each.tokens_out)} tokens${each.cost_usd === null ? '' : `, at most ${money(each.cost_usd)}`}`),
  each.windows.filter((window) => !window.fits).map((window) => h('small.failed', { key: window.name }, `${window.name}: ${count(window.remaining)} of ${count(window.limit)} left, it takes ${count(window.takes)}`)));
}

function explained(view) {
  return h('article.story', null,
    h('p.lead', null, mark(view.picked ? 'good' : 'bad'), ' ', h('b', null, view.asked), view.picked ? ' would go to ' : ' would be refused: ', h('b', null, view.picked || view.error || 'nobody has room')),
    view.message && h('p.note.bad', null, view.message),
    view.waiting && h('p.note', null, `Pool ${view.waiting.pool} rather waits (${view.waiting.action.replaceAll('_', ' ')}): ${view.waiting.waits ? `it would be held for at most ${view.waiting.max_wait_s} s` : 'it would not be held now'}.`),
    view.headroom.length > 0 && [h('h3', null, 'Room'), h('ol.attempts', null, view.headroom.slice(0, MOST_NAMES).map(room))],
    view.plans.map(plan));
}

function answer() {
  if (!shown) return h('p.empty', null, 'Paste the x-request-id of an answer or of a log line. Those that failed or moved on to another model are recorded, and a sample of the others.');
  if (shown.kind === 'asking') return h('p.empty', null, 'Reading …');
  if (shown.kind === 'fault') return h('p.note.bad', null, shown.message);
  return shown.kind === 'record' ? record(shown.view) : explained(shown.view);
}

function forms(state) {
  const names = [...state.status.pools, ...state.status.models].slice(0, 500).map((each) => each.id);
  const field = (label, control) => h('label', null, h('span', null, label), control);
  return h('div.forms', { key: 'forms' },
    h('form', { 'data-act': 'find', key: 'find' }, h('h3', null, 'A request of the past'),
      field('x-request-id', h('input', { name: 'id', required: true, maxlength: 200, autocomplete: 'off', spellcheck: 'false', 'data-own': true, 'data-filter': true })),
      h('button.primary', { type: 'submit' }, 'Tell its story'),
      lately.length > 0 && h('p.recent', null, lately.map((id) => button('again', id, { id }, 'plain')))),
    h('form', { 'data-act': 'explain-form', key: 'explain' }, h('h3', null, 'A request of now; nothing is sent'),
      field('Model, pool or capability', h('input', { name: 'model', required: true, maxlength: 256, list: 'names', autocomplete: 'off', spellcheck: 'false', 'data-own': true })),
      h('datalist', { id: 'names' }, names.map((name) => h('option', { value: name, key: name }))),
      field('API', h('select', { name: 'api', 'data-own': true }, APIS.map((api) => h('option', { value: api }, api)))),
      field('Body, as it would be sent (JSON)', h('textarea', { name: 'body', rows: 3, spellcheck: 'false', placeholder: '{"messages": [...]}', 'data-own': true })),
      field('Client key (its id)', h('input', { name: 'key', maxlength: 256, autocomplete: 'off', 'data-own': true })),
      h('button.primary', { type: 'submit' }, 'Explain')));
}

async function show(load, refresh, kind) {
  shown = { kind: 'asking' };
  refresh();
  try {
    shown = { kind, view: await load() };
  } catch (error) {
    shown = { kind: 'fault', message: error.message };
  }
  refresh();
  requestAnimationFrame(() => document.querySelector('.answer')?.scrollIntoView({ block: 'nearest' }));
}

/** Looks a request up. */
export function findRequest(id, refresh) {
  const wanted = id.trim();
  if (!wanted) return Promise.resolve();
  if (!lately.includes(wanted)) lately.unshift(wanted);
  lately.splice(8);
  return show(() => ops(`requests/${part(wanted)}`), refresh, 'record');
}

function readBody(text) {
  if (!text.trim()) return {};
  const body = JSON.parse(text);
  if (typeof body !== 'object' || body === null || Array.isArray(body)) throw new Error('an object is wanted');
  return body;
}

function explain(form, refresh) {
  const { model, api, body, key } = Object.fromEntries(new FormData(form));
  return show(async () => {
    let parsed;
    try {
      parsed = readBody(body);
    } catch (error) {
      throw new Error(`The body is not JSON: ${error.message}`);
    }
    if (!parsed.messages && api === 'chat/completions') parsed.messages = [{ role: 'user', content: 'hello' }];
    return ops('explain', { method: 'POST', body: { model, api, body: parsed, ...(key.trim() ? { key: key.trim() } : {}) } });
  }, refresh, 'explain');
}

export const request = {
  id: 'request',
  title: 'Request',
  needs: [],
  render: (state) => panel('request', 'A request', null, h('div.asking', { key: 'asking' }, forms(state), h('div.answer', { key: 'answer', 'aria-live': 'polite' }, answer()))),
  acts: (refresh) => ({ again: (pressed) => findRequest(pressed.dataset.id, refresh) }),
  submits: (refresh) => ({
    find: (form) => { location.hash = `request/${part(new FormData(form).get('id').trim())}`; },
    'explain-form': (form) => explain(form, refresh),
  }),
};
