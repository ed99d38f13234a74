// Pieces that several views show alike.

import { meter } from './chart.js';
import { h, mark } from './dom.js';
import { at, money, percent, until, windowAmount, windowName, words } from './format.js';

/** A state: shape, word, and why. */
export function badge(state) {
  return h('span.state', { class: state.shape }, mark(state.shape), h('span', null, state.word));
}

/** When something comes back, counting down; or what is awaited. */
export function comesBack(state) {
  if (state.until) return h('time', { 'data-until': state.until, title: at(state.until) }, until(state.until));
  return state.trigger === 'manual' ? 'until activated' : state.trigger ? words(state.trigger) : '';
}

export function shareOf(window) {
  return window.limit > 0 ? window.used / window.limit : 0;
}

/** A window: its bar, how much of it is used, and when the next has room. */
export function windowBar(window) {
  const share = shareOf(window);
  const amounts = `${windowAmount(window.name, window.used)} of ${windowAmount(window.name, window.limit)}`;
  const isFull = share >= 0.999;
  const room = window.resets && h('time', { 'data-until': window.resets, title: at(window.resets) }, until(window.resets));
  return h('div.window', { key: window.name },
    h('span.name', null, windowName(window.name)), meter(share, `${windowName(window.name)}: ${amounts}, ${percent(share)}`),
    h('span.amount', null, amounts, isFull && h('strong', null, ' full'), room && h('span.room', null, isFull ? ', room ' : ', resets ', room)));
}

/** The fullest windows first. */
export function windowBars(windows, most = Infinity) {
  const sorted = [...windows].sort((a, b) => shareOf(b) - shareOf(a));
  const rest = sorted.length - most;
  return h('div.windows', null, sorted.slice(0, most).map(windowBar), rest > 0 && h('span.more', null, `${rest} more`));
}

export function price(model) {
  if (model.price_input === null || model.price_input === undefined) return h('span.faint', null, '–');
  if (!model.price_input && !model.price_output) return 'free';
  return `${money(model.price_input)} / ${money(model.price_output)}`;
}

export function button(act, words, data = {}, kind = 'quiet') {
  const given = Object.fromEntries(Object.entries(data).map(([name, value]) => [`data-${name}`, value]));
  return h(`button.${kind}`, { type: 'button', 'data-act': act, ...given }, words);
}

/** One of several: `choices` of `[value, words]`. */
export function choice(act, label, choices, current) {
  return h('div.choice', { key: act, role: 'group', 'aria-label': label },
    choices.map(([value, words]) => h('button', { type: 'button', 'data-act': act, 'data-value': value, 'aria-pressed': value === current ? 'true' : 'false' }, words)));
}

/** A panel with a heading. */
export function panel(id, title, extra, ...content) {
  return h('section.panel', { key: id, 'aria-labelledby': `h-${id}` }, h('div.head', null, h('h2', { id: `h-${id}` }, title), extra), ...content);
}

/** A figure with its name. */
export function fact(name, value, note) {
  return h('div.fact', { key: name }, h('dt', null, name), h('dd', null, value, note && h('small', null, ' ', note)));
}

/** Requests and failures of the last minutes of a timeline, and how many a minute there are now. */
export function recent(timeline, time, minutes = 5) {
  const from = Math.floor(time / 60) * 60;
  const sum = (first, name) => timeline.filter((m) => m.time >= first).reduce((total, m) => total + m[name], 0);
  const span_s = 60 + Math.max(1, time - from);
  return { rate: (60 * sum(from - 60, 'requests')) / span_s, requests: sum(from - 60 * (minutes - 1), 'requests'), failed: sum(from - 60 * (minutes - 1), 'failed') };
}
