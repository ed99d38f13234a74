// The last hour in charts, then who took how much of it, and what client keys have used.

import { chart, meter, placeOf } from './chart.js';
import { h } from './dom.js';
import { at, count, millis, money, percent } from './format.js';
import { grid, look } from './grid.js';
import { badge, choice, panel, windowBars } from './parts.js';

const looks = { traffic: look('requests', { desc: true, page: 40 }), keys: look('name', { page: 40 }) };
let by = 'pool';
let minutes = '60';
const places = new Map(); // the minute that is read, by chart

/** What this view asks `/ops/stats` for. */
export const trafficQuery = () => `stats?by=${by}&minutes=${minutes}`;

function charts(stats) {
  const read = (name) => stats.timeline.map((minute) => minute[name]);
  const { totals, since } = stats;
  const ok = stats.timeline.map((minute) => minute.requests - minute.failed);
  const draw = (id, title, note, series) => chart({ id, title, note, since, series, place: places.get(id) });
  return h('div.charts', { key: 'charts' },
    draw('requests', 'Attempts a minute', `${count(totals.requests)} in the last hour, ${percent(totals.failed, totals.requests)} failed`,
      [{ name: 'well', values: ok, kind: 'series', format: count }, { name: 'failed', values: read('failed'), kind: 'failed', format: count }]),
    draw('latency', 'Latency, p95', `p50 ${millis(totals.p50_ms)}, p95 ${millis(totals.p95_ms)}, p99 ${millis(totals.p99_ms)}`, [{ name: 'p95', values: read('p95_ms'), kind: 'line', format: millis }]),
    draw('tokens', 'Tokens a minute', `${count(totals.tokens_in)} in, ${count(totals.tokens_out)} out`, [{ name: 'tokens', values: read('tokens'), kind: 'series', format: count }]),
    draw('cost', 'Cost a minute', `${money(totals.cost_usd)} in the last hour`, [{ name: 'cost', values: read('cost_usd'), kind: 'series', format: money }]));
}

function columns(totals) {
  const number = (id, title, by, cell) => ({ id, title, num: true, by, cell });
  return [
    { id: 'name', title: by === 'model' ? 'Model' : by === 'pool' ? 'Pool' : 'Provider', wide: true, main: true, by: (row) => row.name, cell: (row) => h('b', null, row.name || '(asked for directly)') },
    number('requests', 'Attempts', (row) => row.requests, (row) => count(row.requests)),
    { id: 'share', title: 'Share', by: (row) => row.requests, cell: (row) => meter(totals.requests ? row.requests / totals.requests : 0, percent(row.requests, totals.requests), { isLimit: false }) },
    number('failed', 'Failed', (row) => row.failed, (row) => (row.failed ? h('span.failed', null, `${count(row.failed)} (${percent(row.failed, row.requests)})`) : '0')),
    number('latency', 'p50 / p95', (row) => row.p95_ms, (row) => (row.p50_ms === null ? '–' : `${millis(row.p50_ms)} / ${millis(row.p95_ms)}`)),
    number('in', 'Tokens in', (row) => row.tokens_in, (row) => count(row.tokens_in)),
    number('out', 'Tokens out', (row) => row.tokens_out, (row) => count(row.tokens_out)),
    number('cost', 'Cost', (row) => row.cost_usd, (row) => money(row.cost_usd)),
  ];
}

const KEY_STATES = { active: 'good', revoked: 'bad', expired: 'rest' };
const KEYS = [
  { id: 'state', title: 'State', by: (key) => key.status, cell: (key) => badge({ shape: KEY_STATES[key.status] || 'none', word: key.status }) },
  { id: 'name', title: 'Key', wide: true, main: true, by: (key) => key.name, cell: (key) => [h('b', null, key.name), h('small.faint', null, key.id)] },
  { id: 'models', title: 'May use', cell: (key) => (key.models.length ? key.models.join(', ') : 'everything') },
  { id: 'usage', title: 'Used', wide: true, cell: (key) => (key.windows.length ? windowBars(key.windows, 4) : h('span.faint', null, 'no limits')) },
  { id: 'expires', title: 'Expires', num: true, by: (key) => key.expires, cell: (key) => (key.expires ? at(key.expires) : 'never') },
];

export const traffic = {
  id: 'traffic',
  title: 'Traffic',
  needs: ['pools', 'traffic', 'keys'],
  render(state) {
    const { pools: hour, traffic: stats, keys } = state;
    const asked = [choice('traffic-by', 'Summed by', [['pool', 'pool'], ['model', 'model'], ['provider', 'provider']], by),
      choice('traffic-minutes', 'How far back', [['5', '5 min'], ['15', '15 min'], ['60', '1 h']], minutes)];
    return [
      panel('hour', 'The last hour', null, hour ? charts(hour) : h('p.empty', null, 'Reading …')),
      panel('who', 'Who took it', null, h('div.controls', { key: 'controls' }, asked),
        stats ? grid({ id: 'traffic', label: 'Traffic', columns: columns(stats.totals), rows: stats.rows, view: looks.traffic, key: (row) => row.name, empty: 'No traffic.' }) : h('p.empty', null, 'Reading …')),
      panel('keys', 'Client keys', keys && h('span.faint', null, count(keys.keys.length)),
        keys ? grid({ id: 'keys', label: 'Client keys', columns: KEYS, rows: keys.keys, view: looks.keys, key: (key) => key.id, empty: 'There are no client keys; modelmesh keys create NAME makes one.' }) : h('p.empty', null, 'Reading …')),
    ];
  },
  acts: (refresh, state, again) => ({
    'traffic-by': (pressed) => {
      by = pressed.dataset.value;
      state.traffic = null;
      again('traffic');
      refresh();
    },
    'traffic-minutes': (pressed) => {
      minutes = pressed.dataset.value;
      state.traffic = null;
      again('traffic');
      refresh();
    },
  }),
  looks,
};

/** Reads charts by pointer and keys. */
export function readCharts(root, refresh) {
  const move = (event) => {
    const plot = event.target instanceof Element && event.target.closest('[data-chart]');
    if (!plot) return;
    const before = places.get(plot.dataset.chart);
    const place = placeOf(plot, event, before);
    if (place === before) return;
    if (event.type === 'keydown') event.preventDefault();
    if (place === undefined) places.delete(plot.dataset.chart);
    else places.set(plot.dataset.chart, place);
    refresh();
  };
  root.addEventListener('pointermove', move);
  root.addEventListener('keydown', move);
  root.addEventListener('pointerleave', move, true);
}
