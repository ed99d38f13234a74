// What happens, as it happens; and the feed that brings it.

import { follow } from './api.js';
import { h, mark } from './dom.js';
import { at, now, span, words } from './format.js';
import { filterBox, matches } from './grid.js';
import { panel } from './parts.js';

const KEPT = 1000;
const SHOWN = 200;
const PAUSES_S = [1, 2, 4, 8, 15];
let filter = '';
let held = null; // what was there when the reader paused

const CALM = new Set(['manual', 'maintenance_window']);
const KINDS = [[/deactivated|panic$|deprecated/, 'bad'], [/activated|ready|over$|restored/, 'good'], [/trial|ramp|changed|rotated|discovered|corrected/, 'half']];

function subject(event) {
  return event.model || event.provider || event.pool || event.domain;
}

function details(event) {
  const numbers = Object.entries(event.numbers || {}).map(([name, value]) => `${name.replaceAll('_', ' ')} ${value}`);
  return [event.reason && words(event.reason), event.until && event.until > event.time && `for ${span(event.until - event.time)}`, event.node && `by ${event.node}`, ...numbers].filter(Boolean).join(', ');
}

/** One event in a line. */
export function eventLine({ event, key }, when) {
  const [, found] = KINDS.find(([pattern]) => pattern.test(event.type)) || [null, 'none'];
  const kind = found === 'bad' && CALM.has(event.reason) ? 'rest' : found;
  return h('li', { key }, h('time', { title: new Date(event.time * 1000).toISOString() }, when), mark(kind),
    h('span.type', null, event.type.replaceAll('_', ' ')), h('b', null, subject(event)), h('span.why', null, details(event)));
}

function feedWords(feed) {
  if (feed.state === 'open') return [mark('good'), 'live'];
  if (feed.state === 'waiting') return [mark('warn'), `broken off; again in ${span(feed.again - now())}`];
  return [mark('none'), 'connecting'];
}

export const events = {
  id: 'events',
  title: 'Events',
  needs: [],
  render(state) {
    const all = held || state.events;
    const found = filter ? all.filter(({ event }) => matches(filter, event.type.replaceAll('_', ' '), event.type, subject(event), details(event), event.domain)) : all;
    const shown = found.slice(-SHOWN).reverse();
    const missed = held ? state.events.length - held.length : 0;
    return panel('events', 'Events', [h('span.feed', { role: 'status' }, feedWords(state.feed))],
      h('div.controls', { key: 'controls' }, filterBox('filter-events', 'Filter events', filter),
        h('button.quiet', { type: 'button', 'data-act': 'pause', 'aria-pressed': held ? 'true' : 'false' }, held ? `Go on${missed > 0 ? ` (${missed} new)` : ''}` : 'Pause')),
      shown.length ? h('ol.events.long', { key: 'list' }, shown.map((each) => eventLine(each, at(each.event.time)))) : h('p.empty', { key: 'none' }, filter ? 'No event matches.' : 'Nothing has happened yet.'),
      found.length > SHOWN && h('p.faint', null, `The latest ${SHOWN} of ${found.length}`));
  },
  acts: (refresh, state) => ({
    'filter-events': (input) => {
      filter = input.value.trim();
      refresh();
    },
    pause: () => {
      held = held ? null : [...state.events];
      refresh();
    },
  }),
};

/** Keeps `state.events` fed while the page is looked at. */
export class Feed {
  constructor(state, { onEvent, onChange }) {
    Object.assign(this, { state, onEvent, onChange, place: '', seen: new Set(), stopper: null });
    state.events = [];
    state.feed = { state: 'closed', again: 0 };
  }

  stop() {
    this.stopper?.abort();
    this.stopper = null;
  }

  async start() {
    if (this.stopper) return;
    const { signal } = (this.stopper = new AbortController());
    for (let failures = 0; !signal.aborted;) {
      const began = now();
      await follow({ place: this.place, last: 100, signal, onOpen: () => this.tell('open'), onEvent: (event, place) => this.take(event, place) }).catch(() => {});
      failures = now() - began > 30 ? 0 : failures + 1;
      const pause = PAUSES_S[Math.min(failures, PAUSES_S.length - 1)];
      if (!signal.aborted) this.tell('waiting', now() + pause);
      await new Promise((resume) => { setTimeout(resume, 1000 * pause); signal.addEventListener('abort', resume); });
    }
  }

  tell(state, again = 0) {
    this.state.feed = { state, again };
    this.onChange();
  }

  take(event, place) {
    const key = `${place} ${event.type} ${subject(event)}`;
    this.place = place;
    if (this.seen.has(key)) return;
    this.seen.add(key);
    const { events: all } = this.state;
    all.push({ event, key });
    if (all.length > KEPT) for (const { key: old } of all.splice(0, all.length - KEPT)) this.seen.delete(old);
    this.onEvent(event);
  }
}

