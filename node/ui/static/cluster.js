// The machine room: nodes, the store, the scheduler's timetable, the configuration; and the books.

import { h, mark } from './dom.js';
import { ago, at, count, millis, span, until } from './format.js';
import { choice, badge, panel } from './parts.js';
import { filterBox, grid, look, matches } from './grid.js';
import { lateness } from './judge.js';

const looks = { nodes: look('name', { page: 40 }), jobs: look('name'), balances: look('difference', { desc: true, page: 40 }) };
const number = (id, title, by, cell) => ({ id, title, num: true, by, cell: cell || ((row) => count(by(row))) });
let by = 'models';
let filter = '';

const NODES = [
  { id: 'state', title: 'State', by: (node) => node.state, cell: (node) => badge({ shape: node.state === 'alive' ? 'good' : node.state === 'dead' ? 'bad' : 'half', word: node.state }) },
  { id: 'name', title: 'Node', wide: true, main: true, by: (node) => node.id, cell: (node) => [h('b', null, node.id), h('small.faint', null, `${node.host}:${node.port}, pid ${node.pid}`)] },
  { id: 'mode', title: 'Mode', by: (node) => node.mode, cell: (node) => badge({ shape: node.mode === 'exact' ? 'good' : node.mode === 'leased' ? 'warn' : 'bad', word: node.mode }) },
  number('flight', 'In flight', (node) => node.in_flight),
  number('up', 'Up for', (node) => -node.started, (node) => span(Date.now() / 1000 - node.started)),
  number('seen', 'Seen', (node) => node.seen_s, (node) => `${span(node.seen_s)} ago`),
  { id: 'release', title: 'Release', by: (node) => node.version, cell: (node) => node.version },
  { id: 'config', title: 'Configuration', by: (node) => node.config_version, cell: (node) => [h('code', null, node.config_number ? `${node.config_number} · ` : '', node.config_version), node.config_fault && h('small.failed', null, `refuses: ${node.config_fault}`)] },
];

function due(job) {
  if (job.next_run === null) return '–';
  return lateness(job) ? badge({ shape: 'bad', word: `overdue by ${span(lateness(job))}` }) : h('time', { 'data-until': job.next_run }, until(job.next_run));
}

const JOBS = [
  { id: 'name', title: 'Job', by: (job) => job.name, wide: true, main: true, cell: (job) => [mark(job.last_error || lateness(job) ? 'bad' : job.overruns || job.missed ? 'warn' : 'good'), ' ', h('b', null, job.name), job.last_error && h('small.failed', null, job.last_error)] },
  number('every', 'Every', (job) => job.interval_s, (job) => (job.interval_s < 1 ? millis(1000 * job.interval_s) : span(job.interval_s))),
  number('last', 'Last run', (job) => job.last_run, (job) => (job.last_run ? ago(job.last_run) : 'never')),
  number('took', 'Took', (job) => job.duration_ms, (job) => millis(job.duration_ms)),
  number('next', 'Next', (job) => job.next_run, due),
  number('runs', 'Runs', (job) => job.runs),
  ...['failures', 'missed', 'overruns'].map((name) => number(name, { failures: 'Failed', missed: 'Missed', overruns: 'Overran' }[name], (job) => job[name], (job) => (job[name] ? h('span.failed', null, count(job[name])) : '0'))),
];

function store({ store: found }) {
  return panel('store', 'Redis', badge(found.connected ? { shape: 'good', word: 'connected' } : { shape: 'bad', word: 'away' }),
    h('p.about', null, h('code', null, found.url), h('span', null, `round trip ${millis(found.round_trip_ms)}`), h('span', null, found.checked ? `looked over ${ago(found.checked)}` : 'not looked over yet')),
    found.findings.length ? h('ul.findings', null, found.findings.map((each) => h('li', { key: each.code + each.message }, badge({ shape: { error: 'bad', warning: 'warn' }[each.severity] || 'half', word: each.severity }), ' ', each.message)))
      : found.checked ? h('p.faint', null, 'The self-test found nothing to mend.') : null);
}

function scheduler({ scheduler: lead }) {
  return panel('jobs', 'Timetable', lead.leader ? h('span.faint', null, `${lead.leader} leads since ${at(lead.since)}`) : badge({ shape: 'bad', word: 'nobody leads' }),
    grid({ id: 'jobs', label: 'Jobs of the scheduler', columns: JOBS, rows: lead.jobs, view: looks.jobs, key: (job) => job.name, empty: 'No scheduler has reported yet.' }));
}

export const cluster = {
  id: 'cluster',
  title: 'Cluster',
  needs: [],
  render: ({ status }) => [
    panel('nodes', 'Nodes', h('span.faint', null, count(status.nodes.length)),
      grid({ id: 'nodes', label: 'Nodes', columns: NODES, rows: status.nodes, view: looks.nodes, key: (node) => node.id, empty: 'No node is registered.' })),
    store(status),
    scheduler(status),
  ],
  acts: () => ({}),
  looks,
};

const BALANCES = [
  { id: 'name', title: 'Account of the books', wide: true, main: true, by: (row) => row.name, cell: (row) => h('b', null, row.name || '(none)') },
  ...[['admitted', 'Admitted'], ['settled', 'Settled'], ['abandoned', 'Abandoned'], ['in_flight', 'In flight']].map(([id, title]) => number(id, title, (row) => row[id])),
  number('difference', 'Difference', (row) => Math.abs(row.difference), (row) => (row.difference ? badge({ shape: 'bad', word: count(row.difference) }) : badge({ shape: 'good', word: '0' }))),
];

function equation(found) {
  const { totals } = found;
  const term = (name, sign) => h('div', { key: name }, h('dt', null, sign, name.replaceAll('_', ' ')), h('dd', null, (totals[name] ?? 0).toLocaleString('en')));
  return h('dl.equation', { key: 'equation' }, term('admitted', ''), term('settled', '= '), term('abandoned', '+ '), term('in_flight', '+ '));
}

function differences(found) {
  if (!found.differences.length) return null;
  return h('ul.findings', { key: 'differences' }, found.differences.map((each) => h('li', { key: `${each.cause} ${each.domain} ${each.where}` }, badge({ shape: 'bad', word: count(each.amount) }), ' ', each.cause.replaceAll('_', ' '), ': ', h('b', null, `${each.domain} ${each.where}`))));
}

function leftovers(found) {
  if (!found.leftovers.length) return null;
  return panel('leftovers', 'No longer configured', null, h('ul.findings', null, found.leftovers.map((each) => h('li', { key: `${each.kind} ${each.domain} ${each.id}` }, each.kind, ' ', h('b', null, each.id), h('span.faint', null, ` goes ${each.goes ? at(each.goes) : 'never'}${each.in_flight ? `, ${each.in_flight} in flight` : ''}`)))));
}

export const books = {
  id: 'books',
  title: 'Books',
  needs: ['books'],
  render({ books: found }) {
    if (!found) return panel('books', 'Books', null, h('p.empty', null, 'Reading …'));
    const rows = found.balances[by].filter((row) => !filter || matches(filter, row.name));
    return [panel('books', 'Books', badge(found.balanced ? { shape: 'good', word: 'they balance' } : { shape: 'bad', word: 'they do not balance' }),
      h('p.faint', { key: 'time' }, `Every request that was admitted is settled, abandoned or in flight. Read ${ago(found.time)}.`),
      equation(found), differences(found),
      h('div.controls', { key: 'controls' }, filterBox('filter-books', 'Filter', filter), choice('books-by', 'Summed by', ['models', 'providers', 'pools', 'keys', 'domains'].map((name) => [name, name]), by)),
      grid({ id: 'balances', label: `Books by ${by}`, columns: BALANCES, rows, view: looks.balances, key: (row) => row.name, empty: 'Nothing is booked here.' })),
    leftovers(found)];
  },
  acts: (refresh) => ({
    'books-by': (pressed) => {
      by = pressed.dataset.value;
      refresh();
    },
    'filter-books': (input) => {
      filter = input.value.trim();
      refresh();
    },
  }),
  looks,
};
