// Elements out of data. Every value becomes text or an attribute, never markup.

const SVG = 'http://www.w3.org/2000/svg';
const SVG_TAGS = new Set(['svg', 'path', 'rect', 'circle', 'line', 'g']);

/** An element: `h('b.name', {title}, 'text', child, [more])`; what is null or false is left out. `key` tells it from its siblings. */
export function h(name, props, ...children) {
  const [tag, ...classes] = name.split('.');
  const made = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  if (classes.length) made.setAttribute('class', classes.join(' '));
  for (const [attribute, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (attribute === 'key') made.key = String(value);
    else if (attribute === 'class') made.setAttribute('class', [...classes, value].join(' '));
    else made.setAttribute(attribute, value === true ? '' : String(value));
  }
  made.append(...nodes(children));
  return made;
}

function nodes(children) {
  return children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false && c !== '')
    .map((c) => (c instanceof Node ? c : document.createTextNode(String(c))));
}

/** Makes the content of `parent` that of `children`; what is there already stays, with focus, selection and scroll. */
export function fill(parent, ...children) {
  sync(parent, nodes(children));
}

function sync(parent, wanted) {
  const kept = new Map();
  for (const node of parent.childNodes) if (node.key !== undefined) kept.set(node.key, node);
  let place = parent.firstChild;
  for (const next of wanted) {
    const found = next.key === undefined ? place : kept.get(next.key);
    if (!found || !alike(found, next)) {
      parent.insertBefore(next, place);
      continue;
    }
    if (found === place) place = place.nextSibling;
    else parent.insertBefore(found, place);
    merge(found, next);
  }
  while (place) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}

function alike(one, other) {
  return one.nodeName === other.nodeName && one.key === other.key;
}

function merge(mine, next) {
  if (mine.nodeType === Node.TEXT_NODE) {
    if (mine.nodeValue !== next.nodeValue) mine.nodeValue = next.nodeValue;
    return;
  }
  if (mine.hasAttribute('data-own')) return; // what a reader types in stays theirs
  for (const { name } of [...mine.attributes]) {
    if (!next.hasAttribute(name) && name !== 'open') mine.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (mine.getAttribute(name) !== value && name !== 'open') mine.setAttribute(name, value);
  }
  sync(mine, [...next.childNodes]);
}

/** One listener for all elements that carry `data-act`: `acts[name](element, event)`. */
export function listen(root, type, acts) {
  root.addEventListener(type, (event) => {
    const from = event.target instanceof Element && event.target.closest('[data-act]');
    if (from && Object.hasOwn(acts, from.dataset.act)) acts[from.dataset.act](from, event);
  });
}

const RING = 'M6 1.2a4.8 4.8 0 1 0 0 9.6 4.8 4.8 0 1 0 0-9.6zM6 2.7a3.3 3.3 0 1 1 0 6.6 3.3 3.3 0 1 1 0-6.6z';
const SHAPES = {
  good: 'M6 1.2a4.8 4.8 0 1 0 0 9.6 4.8 4.8 0 1 0 0-9.6z',
  half: `${RING}M6 2.7v6.6a3.3 3.3 0 0 1 0-6.6z`,
  rest: 'M2 1.5h3v9H2zM7 1.5h3v9H7z',
  warn: 'M6 .8 11.6 11H.4z',
  bad: 'M3 0 6 3 9 0l3 3-3 3 3 3-3 3-3-3-3 3-3-3 3-3-3-3z',
  none: RING,
};

/** A mark whose shape says what its colour says. */
export function mark(kind) {
  return h('svg.mark', { viewBox: '0 0 12 12', class: kind, 'aria-hidden': 'true' }, h('path', { d: SHAPES[kind] || RING, 'fill-rule': 'evenodd' }));
}
