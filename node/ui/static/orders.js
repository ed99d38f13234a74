// Orders to models, accounts and pools: a question first, then what came of it. And the other dialogs.

import { ops, part, token } from './api.js';
import { fill, h, mark } from './dom.js';
import { at, millis } from './format.js';
import { button } from './parts.js';

const TOAST_MS = 15000;
const PROBE_MS = 120000;
const FOR = [['', 'until somebody activates it'], ['300', '5 minutes'], ['900', '15 minutes'], ['3600', '1 hour'], ['14400', '4 hours'], ['86400', '1 day']];
let number = 0;

/** A dialog that is drawn again as long as it is open, and submits to one function. */
export class Dialog {
  constructor(element) {
    this.element = element;
    this.content = null;
    this.onSubmit = null;
    element.addEventListener('close', () => { this.content = null; });
    element.addEventListener('submit', (event) => {
      event.preventDefault();
      this.onSubmit?.(event.target);
    });
    element.addEventListener('click', (event) => {
      if (event.target === element) this.close();
    });
  }

  get isOpen() {
    return this.element.open;
  }

  open(title, content, onSubmit = null, name = 'dialog') {
    Object.assign(this, { title, content, onSubmit, name });
    fill(this.element); // nothing of the one before stays
    this.draw();
    if (!this.isOpen) this.element.showModal();
    this.element.querySelector('[data-first]')?.focus();
  }

  draw() {
    if (!this.content) return;
    fill(this.element, h('header', null, h('h2', { id: 'dialog-title' }, this.title), button('close', '×', {}, 'quiet round close')), h('div.body', null, this.content()));
    this.element.setAttribute('aria-labelledby', 'dialog-title');
    this.element.querySelector('.close')?.setAttribute('aria-label', 'Close');
  }

  close() {
    if (this.isOpen) this.element.close();
  }
}

/** Says for a while what came of an order. */
export function toast(shape, text) {
  const box = document.getElementById('toasts');
  const made = h('p.toast', { class: shape, key: `toast ${(number += 1)}` }, mark(shape), h('span', null, text), button('dismiss', '×', {}, 'quiet round'));
  made.querySelector('button').setAttribute('aria-label', 'Dismiss');
  box.append(made);
  while (box.children.length > 4) box.firstChild.remove();
  setTimeout(() => made.remove(), TOAST_MS);
}

const FIELDS = {
  reason: (value) => h('label', null, h('span', null, 'Reason, for those who come after you'), h('input', { name: 'reason', maxlength: 200, value, autocomplete: 'off', 'data-own': true, 'data-first': true })),
  for_s: () => h('label', null, h('span', null, 'For how long'), h('select', { name: 'for_s', 'data-own': true }, FOR.map(([value, words]) => h('option', { value }, words)))),
};

/** The orders: what is asked, which fields, where it goes, what the answer means. */
const ORDERS = {
  deactivate: {
    title: (name, kind) => `Deactivate ${kind === 'providers' ? 'account ' : ''}${name}`,
    text: (name, kind) => `No node sends it new requests from then on; what runs is finished.${kind === 'providers' ? ' All its models rest with it.' : ''}`,
    verb: 'Deactivate', danger: true, fields: ['reason', 'for_s'], path: (name, kind) => `${kind}/${part(name)}/deactivate`,
    said: (view) => ['rest', `${view.id} stands by${view.until ? ` until ${at(view.until)}` : ' until somebody activates it'}.`],
  },
  activate: {
    title: (name) => `Activate ${name}`, text: () => 'It takes its share of the traffic at once, whatever it was deactivated for.',
    verb: 'Activate', fields: [], path: (name, kind) => `${kind}/${part(name)}/activate`, said: (view) => [view.status === 'active' ? 'good' : 'warn', `${view.id} is ${view.status} again.`],
  },
  probe: {
    title: (name) => `Probe ${name}`, text: () => 'One tiny request goes to the provider; it may cost a fraction of a cent.', verb: 'Probe', fields: [],
    path: (name) => `models/${part(name)}/probe`, timeout: PROBE_MS,
    said: (view) => [view.verdict === 'well' ? 'good' : 'warn', `${view.id}: ${view.verdict.replaceAll('_', ' ')}${view.latency_ms === null ? '' : `, ${millis(view.latency_ms)}`}${view.message ? `: ${view.message}` : ''}`],
  },
  rotate: {
    title: (name) => `Rotate pool ${name}`, text: () => 'The pool moves on to its next active model. A pool with a preferred model moves its pointer; elsewhere the first active member is put on standby.',
    verb: 'Rotate', danger: true, fields: ['reason', 'for_s'], path: (name) => `pools/${part(name)}/rotate`,
    said: (view) => ['good', `${view.pool} has moved${view.was ? ` from ${view.was}` : ''} on to ${view.now}${view.by === 'standby' ? `; ${view.was} stands by` : ''}.`],
  },
};

/** Asks whether an order is meant, gives it, says what came of it; `done` is called after it was given. */
export function give(dialog, act, { name, kind = 'models' }, done) {
  const order = ORDERS[act];
  const state = { isBusy: false, fault: '' };
  const content = () => h('form', null, h('p', null, order.text(name, kind)), order.fields.map((field) => FIELDS[field]('')),
    state.fault && h('p.note.bad', { role: 'alert' }, state.fault),
    h('p.actions', null, button('close', 'Cancel'), h(order.danger ? 'button.danger' : 'button.primary', { type: 'submit', disabled: state.isBusy, 'data-first': !order.fields.length }, state.isBusy ? 'Asking …' : order.verb)));
  dialog.open(order.title(name, kind), content, async (form) => {
    if (state.isBusy) return;
    const given = Object.fromEntries([...new FormData(form)].filter(([, value]) => value.trim()));
    Object.assign(state, { isBusy: true, fault: '' });
    dialog.draw();
    try {
      const view = await ops(order.path(name, kind), { method: 'POST', body: bodyOf(given), timeout: order.timeout });
      toast(...order.said(view));
      if (dialog.content === content) dialog.close();
      done();
    } catch (error) {
      Object.assign(state, { isBusy: false, fault: `${error.message}${error.id ? ` (request ${error.id})` : ''}` });
      if (dialog.content === content) dialog.draw();
      else toast('bad', `${order.title(name, kind)}: ${state.fault}`);
    }
  });
}

function bodyOf({ reason, for_s: seconds }) {
  return { ...(reason ? { reason: reason.trim() } : {}), ...(seconds ? { for_s: Number(seconds) } : {}) };
}

/** Asks for the admin token. */
export function askToken(dialog, isWrong, done) {
  const content = () => h('form', null,
    h('p', null, 'Everything on this page comes from the operators’ API, which wants the admin token (MODELMESH_ADMIN_TOKEN of the nodes). It stays in this tab and is forgotten when the tab is closed.'),
    h('label', null, h('span', null, 'Admin token'), h('input', { type: 'password', name: 'token', required: true, autocomplete: 'off', spellcheck: 'false', 'data-own': true, 'data-first': true })),
    isWrong && h('p.note.bad', { role: 'alert' }, 'The node does not know this token.'),
    h('p.actions', null, h('button.primary', { type: 'submit' }, 'Go on')));
  dialog.open('Admin token', content, (form) => {
    const text = new FormData(form).get('token').trim();
    if (!text || !/^[\x21-\x7e]+$/.test(text)) return;
    token.set(text);
    dialog.close();
    done();
  }, 'token');
}

const KEYS = [['1 … 7', 'the views'], ['/', 'the filter of the view'], ['← →', 'in a chart: minute by minute; on the views: the next one'], ['r', 'ask again now'], ['Esc', 'close'], ['?', 'this list']];
const SHAPES = [['good', 'serves, well'], ['half', 'comes back: on trial, or its share ramps up'], ['warn', 'at a limit, or worth a look'], ['rest', 'rests by order, calendar or budget'], ['bad', 'ill: errors, outage, refused key, spent quota']];

export function help(dialog) {
  const rows = (all, term) => h('dl.details', null, all.map(([key, words]) => h('div', null, h('dt', null, term(key)), h('dd', null, words))));
  dialog.open('Help', () => h('div', null, h('h3', null, 'Keys'), rows(KEYS, (key) => h('kbd', null, key)), h('h3', null, 'Marks'), rows(SHAPES, mark),
    h('p.faint', null, 'Attempts are calls to providers: a request that failed over counts once for each. In a terminal, modelmesh status and its sisters show the same.')));
}
