// Elements are made here alone, and text is only ever text: no name can become markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// Writes only what changed, so that nothing flickers and no selection is lost.
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Children by key: those that stay are kept as they are, with their focus.
export function keyed(parent, items, key, make, update) {
  parent.known ??= new Map();
  const seen = new Set();
  let place = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    seen.add(name);
    let child = parent.known.get(name);
    if (!child) parent.known.set(name, (child = make(item)));
    update(child, item);
    if (child === place) place = place.nextSibling;
    else parent.insertBefore(child, place);
  }
  for (const [name, child] of parent.known) {
    if (seen.has(name)) continue;
    child.remove();
    parent.known.delete(name);
  }
}

// What a screen reader says, once.
export function announce(text) {
  put(document.getElementById("news"), text);
}

export function heading(title) {
  document.title = `${title} · kythera`;
}
