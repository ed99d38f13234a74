// The first view: what goes through, every pool, who is away, what happened.

import { everyMinute, spark } from './chart.js';
import { h, mark } from './dom.js';
import { eventLine } from './events.js';
import { ago, count, millis, money, percent, strategyName, words } from './format.js';
import { stateOf } from './judge.js';
import { badge, button, comesBack, fact, panel, recent, windowBars } from './parts.js';

const MOST_CARDS = 48;
const MOST_DOTS = 40;
const EVENTS = 8;
const AWAY = 8;
const MANY = 0.05; // of all attempts: worth a colour
let showsAll = false;

/** Each model's state, its account's taken into account. */
export function statesOf(status) {
  const accounts = new Map(status.providers.map((provider) => [provider.id, provider]));
  return new Map(status.models.map((model) => [model.id, { model, account: accounts.get(model.provider), ...stateOf(model, accounts.get(model.provider)) }]));
}

/** Members of a pool with their states; one that this node does not know is left out. */
export function membersOf(pool, states) {
  return pool.models.map((id) => states.get(id)).filter(Boolean);
}

function totals(state) {
  const stats = state.pools;
  const inFlight = state.status.models.reduce((sum, model) => sum + model.in_flight, 0);
  if (!stats) return h('dl.figures', null, fact('In flight', count(inFlight)));
  const { rate, requests, failed } = recent(stats.timeline, stats.time);
  const values = stats.timeline.map((minute) => minute.requests);
  return h('dl.figures', null,
    fact('Attempts a minute', count(rate), null),
    fact('Failed, 5 min', failed > MANY * requests ? h('span.failed', null, percent(failed, requests)) : percent(failed, requests), requests ? `${count(failed)} of ${count(requests)}` : 'no traffic'),
    fact('p95, last hour', millis(stats.totals.p95_ms)),
    fact('In flight', count(inFlight)),
    fact('Tokens, last hour', count(stats.totals.tokens_in + stats.totals.tokens_out)),
    fact('Cost, last hour', money(stats.totals.cost_usd)),
    h('div.trend', { key: 'trend' }, h('dt.visually', null, 'Attempts, last hour'),
      h('dd', null, spark(values, stats.timeline.map((minute) => minute.failed), `Attempts a minute over the last hour, at most ${count(Math.max(...values))}`))));
}

function dots(members) {
  if (members.length > MOST_DOTS) return null;
  return h('span.dots', { 'aria-hidden': 'true' }, members.map((member) => h('span', { key: member.model.id, title: `${member.model.id}: ${member.word}` }, mark(member.shape))));
}

function poolState(pool) {
  if (pool.panic) return { shape: 'bad', word: 'panic' };
  if (!pool.active) return { shape: 'bad', word: 'nobody serves' };
  return pool.standby ? { shape: 'warn', word: `${pool.active} of ${pool.active + pool.standby} serve` } : { shape: 'good', word: pool.active === 1 ? 'serves' : `all ${pool.active} serve` };
}

function traffic(pool, stats) {
  if (!stats) return h('p.faint.calls', { key: 'calls' }, 'Reading …');
  const row = stats.rows.find((each) => each.name === pool.id);
  if (!row) return h('p.faint.calls', { key: 'calls' }, 'No traffic in the last hour');
  const values = everyMinute(row.timeline, stats.since, stats.minutes, (minute) => minute.requests);
  const failed = everyMinute(row.timeline, stats.since, stats.minutes, (minute) => minute.failed);
  const slow = everyMinute(row.timeline, stats.since, stats.minutes, (minute) => minute.p95_ms || 0);
  const last = recent(row.timeline, stats.time);
  const figure = (name, value, chart) => h('div', { key: name }, h('dt', null, name), h('dd', null, value), chart);
  return h('dl.calls', { key: 'calls' },
    figure('a minute', count(last.rate), spark(values, null, `Attempts on ${pool.id} over the last hour, at most ${count(Math.max(...values))} a minute`)),
    figure('failed', percent(last.failed, last.requests), spark(failed, failed, `Failed attempts on ${pool.id} over the last hour, at most ${count(Math.max(...failed))} a minute`)),
    figure('p95', millis([...row.timeline].reverse().find((minute) => minute.p95_ms)?.p95_ms), spark(slow, null, `95th percentile of latency on ${pool.id} over the last hour`)));
}

function away(members) {
  const out = members.filter((member) => member.grade <= 3).sort((a, b) => a.grade - b.grade);
  if (!out.length) return null;
  return h('ul.away', { key: 'away' }, out.slice(0, 4).map((member) => h('li', { key: member.model.id },
    mark(member.shape), h('span.said', null, h('b', null, member.model.id), ' ', member.reason ? words(member.reason) : member.word), h('span.back', null, comesBack(member)))),
  out.length > 4 && h('li.faint.whole', null, `and ${out.length - 4} more`));
}

function card(pool, states, stats) {
  const members = membersOf(pool, states);
  const state = poolState(pool);
  return h('article.card', { key: pool.id, class: state.shape },
    h('header', null, h('h3', null, button('pool', pool.id, { name: pool.id }, 'plain')), badge(state)),
    h('p.about', { key: 'about' }, dots(members), h('span', null, strategyName(pool.strategy)), pool.current && h('span', null, 'prefers ', h('b', null, pool.current))),
    traffic(pool, stats), pool.windows.length > 0 && windowBars(pool.windows, 3), away(members));
}

function gravity(pool) {
  return pool.panic || !pool.active ? 0 : pool.standby ? 1 : 2;
}

function pools(state, states) {
  const all = [...state.status.pools].sort((a, b) => gravity(a) - gravity(b));
  const shown = showsAll ? all : all.slice(0, MOST_CARDS);
  return panel('pools', 'Pools', all.length > shown.length && button('all-pools', `All ${all.length}`),
    all.length ? h('div.cards', null, shown.map((pool) => card(pool, states, state.pools))) : h('p.empty', null, 'No pool is configured; models are asked for by their names.'));
}

function absent(states) {
  const out = [...states.values()].filter((each) => each.grade <= 2).sort((a, b) => a.grade - b.grade);
  const rest = [...states.values()].filter((each) => each.grade === 3);
  const all = [...out, ...rest];
  return panel('away', 'Away from the traffic', h('span.faint', null, all.length ? count(all.length) : ''),
    all.length ? h('ul.away', null, all.slice(0, AWAY).map((each) => h('li', { key: each.model.id }, mark(each.shape), h('span.said', null, button('model', each.model.id, { name: each.model.id }, 'plain'), ' ', each.reason ? words(each.reason) : each.word), h('span.back', null, comesBack(each)))))
      : h('p.empty', null, 'Nobody: every model serves.'),
    all.length > AWAY && h('p.faint', null, `and ${count(all.length - AWAY)} more in the view Models`));
}

function lately(events) {
  const shown = events.slice(-EVENTS).reverse();
  return panel('lately', 'Lately', null, shown.length ? h('ol.events', null, shown.map((each) => eventLine(each, ago(each.event.time)))) : h('p.empty', null, 'Nothing has happened yet.'));
}

export const overview = {
  id: 'overview',
  title: 'Overview',
  needs: ['pools'],
  render(state) {
    const states = statesOf(state.status);
    return [totals(state), pools(state, states), h('div.pair', { key: 'pair' }, absent(states), lately(state.events))];
  },
  acts: (refresh) => ({
    'all-pools': () => {
      showsAll = true;
      refresh();
    },
  }),
};
