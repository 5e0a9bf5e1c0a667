/** Small helpers around the document. Text always goes in as text. */

/**
 * The one element that a selector names.
 * @param {string} selector
 * @param {ParentNode} [root]
 * @returns {any}
 */
export const find = (selector, root = document) => {
  const found = root.querySelector(selector);
  if (!found) throw new Error(`the page has no ${selector}`);
  return found;
};

/**
 * A new element.
 * @param {string} tag
 * @param {Record<string, unknown>} [properties] Of the element, e.g. `className`; what has a dash is an attribute.
 * @param {...(Node | string)} children
 * @returns {any}
 */
export const element = (tag, properties = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) made.setAttribute(name, String(value));
    else made[name] = value;
  }
  made.append(...children);
  return made;
};

/**
 * One of the page's symbols.
 * @param {string} name
 */
export const icon = (name) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
};

/**
 * Shows a text, or hides its element if there is none.
 * @param {HTMLElement} node
 * @param {string} text
 */
export const say = (node, text) => {
  node.textContent = text;
  node.hidden = text === "";
};

/**
 * Says what is wrong with a field, or that nothing is any more.
 * @param {HTMLElement} input
 * @param {HTMLElement} problem Where it is said.
 * @param {string} text
 */
export const complain = (input, problem, text) => {
  say(problem, text);
  if (text) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
};

const SPOKEN_LINES = 20;

/**
 * Tells people who listen to the page.
 * @param {string} text
 */
export const announce = (text) => {
  const log = find("#announcer");
  log.append(element("p", { textContent: text }));
  while (log.children.length > SPOKEN_LINES) log.firstElementChild.remove();
};

/** Copies where the browser gives no clipboard: on pages that are neither https nor local. */
const copyBySelection = (text) => {
  const area = element("textarea", { value: text, className: "unseen" });
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (focused instanceof HTMLElement) focused.focus();
  return copied;
};

/** @param {string} text */
const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
};

const COPIED_MS = 1600;

/**
 * Makes a button copy a text and say so.
 * @param {HTMLButtonElement} button
 * @param {() => string} text
 */
export const copies = (button, text) => {
  let timer = 0;
  button.addEventListener("click", async () => {
    const done = await copy(text());
    announce(done ? "Copied" : "The browser does not let this page copy");
    button.dataset.copied = String(done);
    clearTimeout(timer);
    timer = setTimeout(() => delete button.dataset.copied, COPIED_MS);
  });
};

/**
 * A button that copies.
 * @param {string} label
 * @param {() => string} text
 */
export const copyButton = (label, text) => {
  const button = element("button", { type: "button", className: "icon-button copy", "aria-label": label, title: "Copy" });
  button.append(icon("copy"), icon("check"));
  copies(button, text);
  return button;
};

/** @param {number} value */
export const number = (value) => (Math.abs(value) < 0.0005 ? "\u2248 0" : value.toFixed(3).replace("-", "\u2212"));

/** @param {number} ms */
export const duration = (ms) => {
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return ms >= 10 ? `${Math.round(ms)} ms` : `${Number(ms.toPrecision(2))} ms`;
};

/** @param {number} bytes */
export const size = (bytes) => {
  if (bytes < 1000) return `${bytes} B`;
  return bytes < 1_000_000 ? `${Math.round(bytes / 1000)} KB` : `${(bytes / 1_000_000).toFixed(1)} MB`;
};
