/** The playground: a form, a list of cards, and a queue between them. */

import { Card } from "./card.js";
import { announce, copies, find, say } from "./dom.js";
import { takeImages } from "./images.js";
import { checkKey, key, sayKey, watchKey } from "./key.js";
import { watchServer } from "./models.js";
import { buildParameters, checkParameters, markParameter, readParameters } from "./parameters.js";
import { Queue } from "./queue.js";

/** Images that are captioned at the same time; few, as other clients use the server too. */
const AT_A_TIME = 3;

/** @type {Card[]} */
let cards = [];
const queue = new Queue(AT_A_TIME);
const form = find("#form");
const problem = find("#form-problem");

/** @returns {import("./api.js").Settings} */
const settings = () => ({
  model: find("#model").value,
  prompt: find("#prompt").value.trim(),
  parameters: readParameters(),
  key: key(),
});

/** The cards that the button runs: those without a caption, or else all of them. */
const wanted = () => {
  const open = cards.filter((card) => ["idle", "failed", "cancelled"].includes(card.state));
  return open.length > 0 ? open : cards.filter((card) => !card.isBusy);
};

const update = () => {
  const next = wanted();
  const isAgain = next.length > 0 && next.every((card) => card.state === "done");
  const what = next.length > 1 ? `${next.length} images` : "image";
  find("#run").textContent = isAgain ? "Caption again" : next.length > 0 ? `Caption ${what}` : "Caption";
  const cancelAll = find("#cancel-all");
  const isIdle = !cards.some((card) => card.isBusy);
  if (isIdle && document.activeElement === cancelAll) find("#run").focus();
  cancelAll.hidden = isIdle;
  find("#empty").hidden = cards.length > 0;
  find("#results-tools").hidden = cards.length === 0;
  find("#copy-all").hidden = !cards.some((card) => card.texts.length > 0);
};

const run = (chosen) => {
  say(problem, "");
  if (!checkKey() || !checkParameters()) return;
  for (const card of chosen) card.enqueue(queue);
};

/** Runs the cards of the button, and scrolls to the captions where they are below the form. */
const runAll = () => {
  const chosen = wanted();
  run(chosen);
  const isNarrow = find("#results").offsetTop > form.offsetTop + form.offsetHeight;
  if (isNarrow && chosen.some((card) => card.isBusy)) chosen[0].node.scrollIntoView({ block: "center" });
};

const page = {
  settings,
  run: (card) => run([card]),
  removed(card) {
    const at = cards.indexOf(card);
    cards = cards.filter((other) => other !== card);
    update();
    // Move the focus to the next card; else it falls back to the top of the page.
    const neighbour = cards[Math.min(at, cards.length - 1)];
    (neighbour ? find("[data-do=remove]", neighbour.node) : find("#pick")).focus();
  },
  changed: update,
  failed(error) {
    markParameter(error.field, error.message.replace(/^[^:]*: /, ""));
    if (error.status === 401) sayKey(key() ? "The server refuses this key." : "The server requires a key.");
    if (error.status === 0 || error.status === 401) server.reload();
  },
};

const add = (sources) => {
  const added = sources.map((source) => new Card(source, page));
  cards.push(...added);
  find("#cards").append(...added.map((card) => card.node));
  say(problem, "");
  update();
  announce(added.length === 1 ? `${added[0].source.name} added` : `${added.length} images added`);
};

const images = takeImages(add);

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (find("#url").value.trim() && !images.addUrl()) return;
  if (cards.length === 0) {
    say(problem, "Add an image first.");
    find("#pick").focus();
    return;
  }
  runAll();
});

form.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  form.requestSubmit();
});

find("#cancel-all").addEventListener("click", () => cards.forEach((card) => card.cancel()));
find("#clear").addEventListener("click", () => [...cards].forEach((card) => card.remove()));
copies(find("#copy-all"), () => cards.flatMap((card) => card.texts).join("\n"));

find("#sample").addEventListener("click", async () => {
  const response = await fetch("playground/sample.jpg");
  add([{ file: new File([await response.blob()], "sample.jpg", { type: "image/jpeg" }), name: "sample.jpg" }]);
  find("#run").focus();
  runAll();
});

// Cards that were not run show the commands of the current form.
const refresh = () => cards.forEach((card) => card.refresh());
form.addEventListener("input", refresh);
buildParameters(refresh);

watchKey(() => server.reload());
const server = watchServer(key);
update();
