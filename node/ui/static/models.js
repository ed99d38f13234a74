// All models and provider accounts: how they stand, what is left of their limits, and orders to them.

import { meter } from './chart.js';
import { h } from './dom.js';
import { ago, count, millis, percent, strategyName, words } from './format.js';
import { filterBox, grid, look, matches, turnGrid } from './grid.js';
import { fullest, stateOf } from './judge.js';
import { statesOf } from './overview.js';
import { badge, button, choice, comesBack, panel, price, windowBars } from './parts.js';

const looks = { models: look('state'), providers: look('state', { page: 20 }) };
let filter = '';
let shows = 'all';

const SHOWS = {
  all: () => true,
  serving: (row) => row.grade >= 4,
  away: (row) => row.grade === 0 || row.grade === 1 || row.grade === 3,
  recovering: (row) => row.grade === 2,
  'near a limit': (row) => row.fullest >= 0.8,
};

function rowsOf(state) {
  const stats = new Map((state.models ? state.models.rows : []).map((row) => [row.name, row]));
  return [...statesOf(state.status).values()].map((row) => ({
    ...row, stats: stats.get(row.model.id), fullest: fullest(row.model),
  }));
}

function why(row) {
  if (!row.reason && !row.trigger && !row.until) return null;
  return h('small.why', null, row.reason && words(row.reason), row.reason && (row.until || row.trigger) && ' · ', comesBack(row));
}

function order(kind, name, isAway) {
  return isAway ? button('activate', 'Activate', { kind, name }) : button('deactivate', 'Deactivate', { kind, name });
}

const COLUMNS = [
  { id: 'state', title: 'State', by: (row) => row.grade, cell: (row) => [badge(row), why(row)] },
  { id: 'name', title: 'Model', by: (row) => row.model.id, wide: true, main: true,
    cell: (row) => [button('model', row.model.id, { name: row.model.id }, 'plain'), h('small.faint', null, row.model.provider)] },
  { id: 'flight', title: 'In flight', num: true, by: (row) => row.model.in_flight, cell: (row) => count(row.model.in_flight) },
  { id: 'calls', title: 'Attempts, 5 min', num: true, by: (row) => row.stats?.requests ?? 0,
    cell: (row) => [count(row.stats?.requests ?? 0), row.stats?.failed ? h('small.failed', null, `${count(row.stats.failed)} failed`) : null] },
  { id: 'latency', title: 'p50 / p95', num: true, by: (row) => row.stats?.p95_ms ?? null, cell: (row) => (row.stats?.p50_ms ? `${millis(row.stats.p50_ms)} / ${millis(row.stats.p95_ms)}` : '–') },
  { id: 'well', title: 'Availability', num: true, by: (row) => row.model.availability, cell: (row) => percent(row.model.availability) },
  { id: 'limits', title: 'Limits', by: (row) => -row.fullest, wide: true, cell: (row) => (row.model.windows.length ? windowBars(row.model.windows, 2) : h('span.faint', null, 'none')) },
  { id: 'price', title: '$ in / out per M', num: true, by: (row) => row.model.price_input, cell: (row) => price(row.model) },
  { id: 'orders', title: 'Orders', cell: (row) => order('models', row.model.id, row.model.status === 'standby') },
];

const ACCOUNTS = [
  { id: 'state', title: 'State', by: (row) => row.grade, cell: (row) => [badge(row), why(row)] },
  { id: 'name', title: 'Account', by: (row) => row.provider.id, wide: true, main: true, cell: (row) => [h('b', null, row.provider.id), h('small.faint', null, row.provider.connector)] },
  { id: 'models', title: 'Models', num: true, by: (row) => row.provider.models, cell: (row) => count(row.provider.models) },
  { id: 'health', title: 'Health', by: (row) => row.provider.availability, cell: (row) => health(row.provider) },
  { id: 'domain', title: 'Quota domain', by: (row) => row.provider.domain, cell: (row) => row.provider.domain },
  { id: 'orders', title: 'Orders', cell: (row) => order('providers', row.provider.id, row.provider.status === 'standby') },
];

function health(provider) {
  if (!provider.health) return h('span.faint', null, 'not watched');
  const shape = { healthy: 'good', degraded: 'warn' }[provider.health] || 'bad';
  return [badge({ shape, word: `${provider.health} ${percent(provider.availability)}` }), provider.probed && h('small.faint', null, `probed ${ago(provider.probed)}`)];
}

function controls(rows) {
  const counted = Object.entries(SHOWS).map(([name, test]) => [name, `${name} ${rows.filter(test).length.toLocaleString('en')}`]);
  return h('div.controls', { key: 'controls' }, filterBox('filter-models', 'Filter models', filter), choice('show-models', 'Which models', counted, shows));
}

/** Everything about one model, for its dialog. */
export function modelDetails(state, name) {
  const row = rowsOf(state).find((each) => each.model.id === name);
  if (!row) return h('p.empty', null, 'This node knows no model of that name.');
  const { model, stats } = row;
  const pools = state.status.pools.filter((pool) => pool.models.includes(name)).map((pool) => pool.id);
  const facts = [
    ['State', [badge(row), why(row)]], ['Since', model.since ? ago(model.since) : '–'], ['Account', `${model.provider} (quota domain ${model.domain})`],
    ['Pools', pools.join(', ') || 'none'], ['In flight', count(model.in_flight)], ['Failures in a row', count(model.fails)],
    ['Attempts, 5 min', stats ? `${count(stats.requests)}, ${count(stats.failed)} failed, ${count(stats.neutral)} nobody’s fault` : '0'],
    ['Latency, 5 min', stats?.latency_ms ? `mean ${millis(stats.latency_ms)}, p50 ${millis(stats.p50_ms)}, p95 ${millis(stats.p95_ms)}, p99 ${millis(stats.p99_ms)}` : '–'],
    ['First content', millis(stats?.first_content_ms)], ['Availability', percent(model.availability)], ['$ in / out per M tokens', price(model)],
    ['Admitted since the beginning', count(model.requests)],
  ];
  return h('div', null, h('dl.details', null, facts.map(([term, value]) => h('div', null, h('dt', null, term), h('dd', null, value)))),
    h('h3', null, 'Limits'), model.windows.length ? windowBars(model.windows) : h('p.faint', null, 'Neither the model nor its account is limited.'),
    h('p.actions', null, button('probe', 'Probe', { name }, 'quiet'), button('explain', 'Explain a request', { name }, 'quiet'), order('models', name, model.status === 'standby')));
}

/** A pool with its members, for its dialog. */
export function poolDetails(state, name) {
  const pool = state.status.pools.find((each) => each.id === name);
  if (!pool) return h('p.empty', null, 'This node knows no pool of that name.');
  const members = rowsOf(state).filter((row) => pool.models.includes(row.model.id));
  members.sort((a, b) => pool.models.indexOf(a.model.id) - pool.models.indexOf(b.model.id));
  const most = Math.max(1, ...members.map((row) => row.stats?.requests ?? 0));
  return h('div', null,
    h('p.about', null, h('span', null, strategyName(pool.strategy)), pool.capability && h('span', null, pool.capability), pool.current && h('span', null, 'prefers ', h('b', null, pool.current))),
    pool.panic && h('p.note.bad', null, `In panic since ${ago(pool.panic.since)}: ${pool.panic.asked} requests on faith, ${pool.panic.answered} answered.`),
    pool.windows.length > 0 && windowBars(pool.windows),
    h('ol.members', null, members.slice(0, 200).map((row) => h('li', { key: row.model.id },
      h('div', null, button('model', row.model.id, { name: row.model.id }, 'plain'), badge(row), why(row)),
      h('div.load', null, meter((row.stats?.requests ?? 0) / most, `${row.stats?.requests ?? 0} attempts in 5 minutes`, { isLimit: false }), h('span.amount', null, `${count(row.stats?.requests ?? 0)} in 5 min`)),
      order('models', row.model.id, row.model.status === 'standby')))),
    h('p.actions', null, button('rotate', 'Rotate to the next model', { name }, 'quiet'), button('explain', 'Explain a request', { name }, 'quiet')));
}

export const models = {
  id: 'models',
  title: 'Models',
  needs: ['models'],
  render(state) {
    const rows = rowsOf(state);
    const texts = (row) => [row.model.id, row.model.provider, row.word, row.reason, words(row.reason)];
    const found = rows.filter((row) => SHOWS[shows](row) && (!filter || matches(filter, ...texts(row))));
    const accounts = state.status.providers.map((provider) => ({ provider, ...stateOf(provider, null) }));
    return [
      panel('models', 'Models', h('span.faint', null, count(rows.length)), controls(rows),
        grid({ id: 'models', label: 'Models', columns: COLUMNS, rows: found, view: looks.models, key: (row) => row.model.id, empty: rows.length ? 'No model matches.' : 'No model is configured.' })),
      panel('providers', 'Provider accounts', h('span.faint', null, count(accounts.length)),
        grid({ id: 'providers', label: 'Provider accounts', columns: ACCOUNTS, rows: accounts, view: looks.providers, key: (row) => row.provider.id, empty: 'No provider is configured.' })),
    ];
  },
  acts: (refresh) => ({
    'filter-models': (input) => {
      filter = input.value.trim();
      looks.models.first = 0;
      refresh();
    },
    'show-models': (pressed) => {
      shows = pressed.dataset.value;
      looks.models.first = 0;
      refresh();
    },
  }),
  looks,
  turn: turnGrid,
};
