/** One image and its results: thumbnail, caption, timings, commands. */

import { caption } from "./api.js";
import { commands } from "./commands.js";
import { announce, copyButton, duration, element, find, number, say, size } from "./dom.js";
import { ApiError, explain } from "./errors.js";

/**
 * @typedef {object} Page What a card needs of the page.
 * @property {() => import("./api.js").Settings} settings Of the form, now.
 * @property {(card: Card) => void} run
 * @property {(card: Card) => void} removed
 * @property {(card: Card) => void} changed
 * @property {(error: ApiError) => void} failed
 */

const STATES = {
  idle: "Not captioned yet",
  waiting: "Waiting…",
  running: "Captioning…",
  done: "",
  failed: "",
  cancelled: "Cancelled",
};

let count = 0;

export class Card {
  #abort = new AbortController();
  /** Settings of the last run. */
  #settings = null;
  #page;
  #preview = "";

  /**
   * @param {import("./api.js").Source} source
   * @param {Page} page
   */
  constructor(source, page) {
    this.source = source;
    this.state = "idle";
    /** @type {string[]} */
    this.texts = [];
    this.#page = page;
    this.node = find("#card-template").content.cloneNode(true).firstElementChild;
    this.#title();
    this.#showThumbnail();
    this.#buttons();
    this.#become("idle");
    this.#part(".commands").addEventListener("toggle", () => this.refresh());
  }

  get isBusy() {
    return this.state === "waiting" || this.state === "running";
  }

  /** @param {import("./queue.js").Queue} queue */
  enqueue(queue) {
    if (this.isBusy) return;
    this.#abort = new AbortController();
    this.#settings = this.#page.settings();
    this.#clear();
    this.#become("waiting");
    queue.add(this.#abort.signal, () => this.#work());
  }

  cancel() {
    if (!this.isBusy) return;
    this.#abort.abort();
    this.#become("cancelled");
    announce(`${this.source.name}: cancelled`);
  }

  remove() {
    this.#abort.abort();
    URL.revokeObjectURL(this.#preview);
    this.node.remove();
    this.#page.removed(this);
  }

  /** Updates the commands if they are visible. */
  refresh() {
    const fold = this.#part(".commands");
    if (!fold.open) return;
    const shown = commands(this.source, this.#settings ?? this.#page.settings(), new URL(location.href));
    const blocks = shown.map(({ name, text }) =>
      element("div", { className: "command" },
        element("div", { className: "command-head" }, element("h4", { textContent: name }), copyButton(`Copy the ${name} command`, () => text)),
        element("pre", {}, element("code", { textContent: text }))));
    this.#part(".commands .fold-body").replaceChildren(...blocks);
  }

  #part(selector) {
    return find(selector, this.node);
  }

  #title() {
    const id = `card-${(count += 1)}`;
    const title = this.#part("h3");
    title.id = id;
    title.textContent = this.source.name;
    title.title = "file" in this.source ? this.source.name : this.source.url;
    this.#part("article").setAttribute("aria-labelledby", id);
    this.#facts();
  }

  /** @param {string} [dimensions] */
  #facts(dimensions = "") {
    const origin = "file" in this.source ? size(this.source.file.size) : new URL(this.source.url).host || "in the URL itself";
    this.#part(".facts").textContent = [dimensions, origin].filter(Boolean).join(" · ");
  }

  /** Images of other servers are not shown: this page loads only from its own server. */
  #showThumbnail() {
    const image = this.#part("img");
    const mark = this.#part(".thumb-mark");
    find("span", mark).textContent = "file" in this.source ? (/\.(\w{1,5})$/.exec(this.source.name)?.[1] ?? "") : "URL";
    if ("file" in this.source) this.#preview = URL.createObjectURL(this.source.file);
    const address = this.#preview || (this.source.url.startsWith("data:image/") ? this.source.url : "");
    if (!address) return;
    image.addEventListener("load", () => {
      image.hidden = false;
      mark.hidden = true;
      this.#facts(`${image.naturalWidth} × ${image.naturalHeight}`);
    });
    image.src = address;
  }

  #buttons() {
    const { name } = this.source;
    const actions = { cancel: () => this.cancel(), run: () => this.#page.run(this), remove: () => this.remove(), retry: () => this.#page.run(this) };
    const labels = { cancel: `Cancel ${name}`, run: `Caption ${name}`, remove: `Remove ${name}` };
    for (const [action, act] of Object.entries(actions)) {
      const button = this.#part(`[data-do=${action}]`);
      button.addEventListener("click", act);
      if (labels[action]) Object.assign(button, { ariaLabel: labels[action], title: labels[action].split(" ")[0] });
    }
  }

  #become(state) {
    const focused = document.activeElement;
    this.state = state;
    this.node.dataset.state = state;
    say(this.#part(".card-state"), STATES[state]);
    const [cancel, run] = [this.#part("[data-do=cancel]"), this.#part("[data-do=run]")];
    cancel.hidden = !this.isBusy;
    run.hidden = this.isBusy;
    // Keep the focus when one button replaces the other.
    if (focused === cancel && cancel.hidden) run.focus();
    if (focused === run && run.hidden) cancel.focus();
    this.#page.changed(this);
  }

  #clear() {
    this.texts = [];
    this.#part(".captions").replaceChildren();
    this.#part(".timings").replaceChildren();
    this.#part(".problem").hidden = true;
    this.refresh();
  }

  async #work() {
    const { signal } = this.#abort;
    this.#become("running");
    try {
      const answer = await caption(this.source, this.#settings, { signal, onPiece: (piece) => this.#piece(piece, signal) });
      if (!signal.aborted) this.#finish(answer);
    } catch (error) {
      if (!signal.aborted) this.#fail(error);
    }
  }

  /** Drops a piece that arrives after the run it belongs to. */
  #piece(piece, signal) {
    if (signal.aborted) return;
    const list = this.#part(".captions");
    if (list.children.length === 0) list.append(element("li", {}, element("p", { className: "caption" })));
    find(".caption", list).append(piece);
    say(this.#part(".card-state"), "");
  }

  #finish({ captions, model, version, timings }) {
    this.texts = captions.map(({ text }) => text);
    this.#part(".captions").replaceChildren(...captions.map(line));
    const times = timings.map(({ name, ms, text }) => [name, text ?? duration(ms)]);
    const rows = [...times, ["Model", `${model} v${version}`]].map(([name, value]) =>
      element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value })));
    this.#part(".timings").replaceChildren(...rows);
    this.#become("done");
    announce(`${this.source.name}: ${this.texts.join("; ")}`);
  }

  #fail(error) {
    const text = explain(error);
    find("p", this.#part(".problem")).textContent = text;
    this.#part(".problem").hidden = false;
    this.#become("failed");
    announce(`${this.source.name}: ${text}`);
    if (error instanceof ApiError) this.#page.failed(error);
  }
}

/** @param {import("./api.js").Caption} caption */
const line = ({ text, score, finish_reason: reason }) => {
  const facts = [typeof score === "number" ? `score ${number(score)}` : "", reason === "length" ? "cut at the greatest length" : ""].filter(Boolean).join(" · ");
  return element("li", {},
    element("p", { className: "caption", textContent: text }),
    element("p", { className: "facts", textContent: facts }),
    copyButton("Copy the caption", () => text));
};
