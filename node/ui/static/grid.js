// Tables that sort, filter and page: however many rows there are, one page of them is in the document.

import { h } from './dom.js';

const PAGE = 60;

/** How a table is looked at; one of them outlives all its renderings. */
export function look(sort, { desc = false, page = PAGE } = {}) {
  return { sort, desc, size: page, first: 0 };
}

/**
 * A table. `columns`: `{id, title, cell(row), by(row)?, num?, wide?}`; with `by` a column can be sorted by. `key(row)` tells rows apart.
 * Head buttons carry `data-act="sort"`, pagers `data-act="page"`, both with `data-grid` = `id`.
 */
export function grid({ id, label, columns, rows, view, key, empty, rowClass }) {
  const sorted = sortRows(rows, columns, view);
  view.first = Math.min(view.first, Math.max(0, Math.floor((sorted.length - 1) / view.size) * view.size));
  const shown = sorted.slice(view.first, view.first + view.size);
  if (!rows.length) return h('p.empty', { key: id }, empty);
  return h('div.grid', { key: id },
    h('table', { 'aria-label': label },
      h('thead', null, h('tr', null, columns.map((column) => head(id, column, view)))),
      h('tbody', null, shown.map((row) => h('tr', { key: key(row), class: rowClass ? rowClass(row) : null },
        columns.map((column) => h('td', { 'data-label': column.title, class: classes(column) }, column.cell(row))))))),
    pager(id, view, sorted.length));
}

function classes(column) {
  return [column.num && 'num', column.wide && 'wide', column.main && 'main'].filter(Boolean).join(' ') || null;
}

function sortRows(rows, columns, view) {
  const column = columns.find((each) => each.id === view.sort && each.by);
  if (!column) return rows;
  const sign = view.desc ? -1 : 1;
  const read = rows.map((row, place) => [column.by(row), place, row]);
  read.sort(([a, i], [b, j]) => {
    if (a === b) return i - j;
    if (a === null || a === undefined) return 1; // what is not known stands last, whichever way
    if (b === null || b === undefined) return -1;
    return a < b ? -sign : sign;
  });
  return read.map(([, , row]) => row);
}

function head(id, column, view) {
  const isSorted = view.sort === column.id && column.by;
  const sort = isSorted ? (view.desc ? 'descending' : 'ascending') : null;
  const title = column.by
    ? h('button', { type: 'button', 'data-act': 'sort', 'data-grid': id, 'data-column': column.id }, column.title, isSorted && h('span', { 'aria-hidden': 'true' }, view.desc ? ' ↓' : ' ↑'))
    : column.title;
  return h('th', { scope: 'col', class: classes(column), 'aria-sort': sort }, title);
}

function pager(id, view, total) {
  if (total <= view.size) return null;
  const last = Math.min(total, view.first + view.size);
  const turn = (first, words, isOff) => h('button', { type: 'button', 'data-act': 'page', 'data-grid': id, 'data-first': first, disabled: isOff }, words);
  return h('p.pager', null,
    turn(Math.max(0, view.first - view.size), '← Before', view.first === 0),
    h('span', null, `${view.first + 1} to ${last} of ${total.toLocaleString('en')}`),
    turn(view.first + view.size, 'After →', last === total));
}

/** What its buttons do to a look. */
export function turnGrid(view, button) {
  if (button.dataset.act === 'page') view.first = Number(button.dataset.first);
  else if (view.sort === button.dataset.column) view.desc = !view.desc;
  else Object.assign(view, { sort: button.dataset.column, desc: false });
}

/** A filter box; what is typed goes to `data-act`. */
export function filterBox(act, label, value) {
  return h('label.filter', { key: act }, h('span.visually', null, label),
    h('input', { type: 'search', 'data-act': act, 'data-filter': true, 'data-own': true, placeholder: `${label}  ( / )`, value, autocomplete: 'off', spellcheck: 'false' }));
}

/** Whether all words of a filter are somewhere in these texts. */
export function matches(filter, ...texts) {
  const whole = texts.join(' ').toLowerCase();
  return filter.toLowerCase().split(/\s+/).every((word) => whole.includes(word));
}
