// Small charts in SVG: bars and lines over minutes, drawn as few paths, read by pointer or arrow keys.

import { h } from './dom.js';
import { minuteAt } from './format.js';

const WIDTH = 600;
const HEIGHT = 100;

/** Values of every minute, for a timeline that leaves out those in which nothing happened. */
export function everyMinute(timeline, since, minutes, read) {
  const found = new Map(timeline.map((minute) => [minute.time, read(minute)]));
  return Array.from({ length: minutes }, (_, i) => found.get(since + 60 * i) ?? 0);
}

/** A nice upper end of the scale: 1, 2 or 5 times a power of ten. */
export function niceTop(most) {
  if (!(most > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((step) => step * power).find((top) => top >= most * 0.999);
}

function bars(values, top, base = []) {
  const step = WIDTH / values.length;
  const gap = Math.min(step * 0.2, 2);
  return values.map((value, i) => {
    if (!value) return '';
    const low = HEIGHT * (1 - (base[i] || 0) / top);
    const tall = Math.max((HEIGHT * value) / top, 1.5);
    return `M${(i * step).toFixed(1)} ${low.toFixed(1)}h${(step - gap).toFixed(1)}v${(-tall).toFixed(1)}h${(gap - step).toFixed(1)}z`;
  }).join('');
}

function line(values, top) {
  const step = WIDTH / values.length;
  let isDrawn = false;
  return values.map((value, i) => {
    if (value === null) {
      isDrawn = false;
      return '';
    }
    const point = `${isDrawn ? 'L' : 'M'}${((i + 0.5) * step).toFixed(1)} ${(HEIGHT * (1 - value / top)).toFixed(1)}h.1`;
    isDrawn = true;
    return point;
  }).join('');
}

function drawing(...shapes) {
  return h('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', 'aria-hidden': 'true', focusable: 'false' }, ...shapes);
}

/** A word-sized chart: all requests as an area of bars, those that failed on top of the base in another colour. */
export function spark(values, failed, label) {
  const top = Math.max(...values) || 1;
  return h('div.spark', { role: 'img', 'aria-label': label },
    drawing(h('path.series', { d: bars(values, top) }), failed && h('path.failed', { d: bars(failed, top) })));
}

/** Parts of a whole as one bar, with words for those who do not see it. */
export function meter(share, label, { isLimit = true } = {}) {
  const part = Math.min(1, Math.max(0, share));
  const grade = !isLimit ? 'free' : part >= 0.999 ? 'full' : part >= 0.8 ? 'near' : 'free';
  return h('svg.meter', { role: 'img', 'aria-label': label, class: grade, preserveAspectRatio: 'none', viewBox: '0 0 100 6' },
    h('rect.track', { width: 100, height: 6 }), part > 0 && h('rect.taken', { width: Math.max(100 * part, 1.5).toFixed(1), height: 6 }));
}

/**
 * A chart of minutes. `series`: `{name, values, kind: 'series' | 'failed' | 'line', format}`; bars stand on one another in their order.
 * `place` is the minute that is read, if any.
 */
export function chart({ id, title, note, since, series, place }) {
  const stacked = series.filter((each) => each.kind !== 'line');
  const sums = series[0].values.map((_, i) => stacked.reduce((sum, each) => sum + (each.values[i] || 0), 0));
  const lines = series.filter((each) => each.kind === 'line').flatMap((each) => each.values);
  const top = niceTop(Math.max(0, ...sums, ...lines));
  const count = series[0].values.length;
  const base = new Array(count).fill(0);
  const shapes = series.map((each) => {
    const d = each.kind === 'line' ? line(each.values, top) : bars(each.values, top, base);
    if (each.kind !== 'line') each.values.forEach((value, i) => { base[i] += value || 0; });
    return h(`path.${each.kind}`, { d });
  });
  const shown = place === undefined || place >= count ? null : place;
  const read = shown === null ? note
    : `${minuteAt(since + 60 * shown)}  ${series.map((each) => `${each.name} ${each.format(each.values[shown])}`).join(', ')}`;
  return h('figure.chart', { key: id },
    h('figcaption', null, h('span.title', null, title), h('output', null, read)),
    h('div.plot', { 'data-chart': id, 'data-count': count, tabindex: 0, role: 'img', 'aria-label': `${title}: ${read}. Arrow keys read each minute.` },
      h('span.top', { 'aria-hidden': 'true' }, series[0].format(top)),
      drawing(
        h('line.grid', { x1: 0, x2: WIDTH, y1: HEIGHT / 2, y2: HEIGHT / 2 }),
        shown !== null && h('rect.cursor', { x: (shown * WIDTH) / count, width: WIDTH / count, y: 0, height: HEIGHT }),
        ...shapes,
      )),
    h('div.axis', { 'aria-hidden': 'true' }, h('span', null, minuteAt(since)), h('span', null, 'now')));
}

/** Which minute of a chart a pointer or key means; undefined for none. `current` is the one that is read. */
export function placeOf(plot, event, current) {
  const count = Number(plot.dataset.count);
  if (event.type === 'keydown') {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    return step === undefined ? current : Math.min(count - 1, Math.max(0, (current ?? count) + step));
  }
  if (event.type === 'pointerleave') return undefined;
  const { left, width } = plot.getBoundingClientRect();
  return Math.min(count - 1, Math.max(0, Math.floor(((event.clientX - left) / width) * count)));
}
