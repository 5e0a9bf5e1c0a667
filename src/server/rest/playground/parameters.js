/** The generation parameters: their fields, bounds and help. */

import { complain, element, find } from "./dom.js";

/**
 * @typedef {object} Field
 * @property {string} name As the server knows it.
 * @property {"integer" | "number" | "choice" | "lines"} type
 * @property {string} help
 * @property {number} [min]
 * @property {number} [max]
 * @property {number} [step] Step of the arrow keys.
 * @property {string[]} [choices] JSON values.
 */

/** @type {{ title: string, fields: Field[] }[]} */
const GROUPS = [
  {
    title: "Length",
    fields: [
      { name: "max_new_tokens", type: "integer", min: 1, max: 512, help: "Maximum number of new tokens; the prompt does not count." },
      { name: "min_new_tokens", type: "integer", min: 0, max: 512, help: "Minimum number of new tokens." },
      { name: "min_length", type: "integer", min: 0, max: 512, help: "Minimum number of tokens, prompt and start token counted." },
    ],
  },
  {
    title: "Search",
    fields: [
      { name: "num_beams", type: "integer", min: 1, max: 32, help: "1 is greedy search; more beams search wider and slower." },
      { name: "num_return_sequences", type: "integer", min: 1, max: 32, help: "Captions per image. Requires as many beams, or sampling." },
      { name: "length_penalty", type: "number", min: -10, max: 10, step: 0.1, help: "Beams: above 0 favours long captions, below 0 short ones." },
      { name: "early_stopping", type: "choice", choices: ["false", "true", '"never"'], help: "Beams: stop when enough captions have ended." },
    ],
  },
  {
    title: "Repetition",
    fields: [
      { name: "repetition_penalty", type: "number", min: 0.01, max: 10, step: 0.1, help: "Above 1 makes tokens less likely to occur twice." },
      { name: "no_repeat_ngram_size", type: "integer", min: 0, max: 20, help: "Size of n-grams that may not occur twice; 0 is off." },
      { name: "bad_words", type: "lines", help: "Words that may not be generated, one per line." },
    ],
  },
  {
    title: "Sampling",
    fields: [
      { name: "do_sample", type: "choice", choices: ["false", "true"], help: "Draw tokens at random. The fields below require it." },
      { name: "temperature", type: "number", min: 0.01, max: 10, step: 0.1, help: "Below 1 prefers probable tokens, above 1 evens them out." },
      { name: "top_k", type: "integer", min: 0, max: 100_000, help: "Draw from the k most probable tokens; 0 is off." },
      { name: "top_p", type: "number", min: 0, max: 1, step: 0.05, help: "Draw from the most probable tokens up to this total probability." },
      { name: "seed", type: "integer", min: 0, max: Number.MAX_SAFE_INTEGER, help: "The same seed draws the same caption." },
    ],
  },
];

const FIELDS = GROUPS.flatMap(({ fields }) => fields);

const input = (name) => find(`#p-${name}`);
const problem = (name, text) => complain(input(name), find(`#p-${name}-problem`), text);

/**
 * Builds the fields.
 * @param {() => void} changed
 */
export const buildParameters = (changed) => {
  const update = () => {
    count();
    changed();
  };
  find("#parameter-groups").append(...GROUPS.map(group));
  for (const { name } of FIELDS) {
    input(name).addEventListener("input", () => {
      problem(name, "");
      update();
    });
  }
  find("#reset").addEventListener("click", () => {
    for (const { name } of FIELDS) {
      input(name).value = "";
      problem(name, "");
    }
    update();
  });
};

const group = ({ title, fields }) =>
  element("fieldset", {}, element("legend", { textContent: title }), element("div", { className: "grid" }, ...fields.map(field)));

/** @param {Field} field */
const field = ({ name, type, min, max, step = 1, choices = [], help }) => {
  const id = `p-${name}`;
  const common = { id, "aria-describedby": `${id}-problem ${id}-help` };
  let control;
  if (type === "choice") {
    const options = choices.map((value) => element("option", { value, textContent: String(JSON.parse(value)) }));
    control = element("select", common, element("option", { value: "", textContent: "default" }), ...options);
  } else if (type === "lines") {
    control = element("textarea", { ...common, rows: 2, spellcheck: false, placeholder: "none" });
  } else {
    const inputMode = type === "integer" ? "numeric" : "decimal";
    control = element("input", { ...common, type: "number", min, max, step, inputMode, placeholder: "default", autocomplete: "off" });
  }
  return element(
    "div",
    { className: `parameter ${type}` },
    element("label", { htmlFor: id, textContent: name }),
    control,
    element("p", { id: `${id}-problem`, className: "field-problem", hidden: true }),
    element("p", { id: `${id}-help`, className: "hint", textContent: help }),
  );
};

const count = () => {
  const set = FIELDS.filter(({ name }) => input(name).value.trim() !== "").length;
  find("#parameters-count").textContent = set === 0 ? "model's defaults" : `${set} set`;
};

/**
 * Marks the field that an error of the server names.
 * @param {string} name
 * @param {string} text
 */
export const markParameter = (name, text) => {
  if (!FIELDS.some((known) => known.name === name)) return;
  problem(name, text);
  find("#parameters").open = true;
};

/** The parameters that are set and valid. */
export const readParameters = () => {
  const entries = FIELDS.map((known) => [known.name, valueOf(known).value]);
  return Object.fromEntries(entries.filter(([, value]) => value !== undefined));
};

/** Whether every field is valid; else the first invalid one gets the focus. */
export const checkParameters = () => {
  const wrong = FIELDS.filter((known) => {
    const text = valueOf(known).problem ?? "";
    problem(known.name, text);
    return text !== "";
  });
  if (wrong.length === 0) return true;
  find("#parameters").open = true;
  input(wrong[0].name).focus();
  return false;
};

/**
 * @param {Field} field
 * @returns {{ value?: unknown, problem?: string }} Neither if it is empty.
 */
const valueOf = ({ name, type, min, max }) => {
  const control = input(name);
  const text = control.value.trim();
  // A number that a browser cannot read is an empty value.
  if (control.validity.badInput) return { problem: "Enter a number." };
  if (text === "") return {};
  if (type === "choice") return { value: JSON.parse(text) };
  if (type === "lines") return { value: text.split("\n").map((line) => line.trim()).filter(Boolean) };
  const value = Number(text);
  if (type === "integer" && !Number.isInteger(value)) return { problem: "Enter a whole number." };
  if (value < min || value > max) return { problem: `Enter a number from ${min} to ${max}.` };
  return { value };
};
