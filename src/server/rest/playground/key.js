/** The API key: kept for this tab alone, and never shown. */

import { complain, find } from "./dom.js";

const NAME = "blip-serve-key";

const input = find("#key");

/** What was entered, if it can be a key at all. */
export const key = () => (isSound() ? input.value.trim() : "");

const isSound = () => /^[\x21-\x7e]*$/.test(input.value.trim());

/**
 * Says what is wrong with the key, or that nothing is.
 * @param {string} text
 */
export const sayKey = (text) => {
  complain(input, find("#key-problem"), text);
  if (text) find("#key-fold").open = true;
};

/** Whether the key can be one. */
export const checkKey = () => {
  sayKey(isSound() ? "" : "A key has no spaces and no letters beyond ASCII.");
  if (!isSound()) input.focus();
  return isSound();
};

/** @param {() => void} changed Another key was entered. */
export const watchKey = (changed) => {
  input.value = kept();
  const keep = () => {
    find("#key-state").textContent = key() ? "set" : "none";
    try {
      if (key()) sessionStorage.setItem(NAME, key());
      else sessionStorage.removeItem(NAME);
    } catch {
      // Then it lasts as long as the page.
    }
  };
  input.addEventListener("input", () => {
    sayKey("");
    keep();
  });
  input.addEventListener("change", changed);
  keep();
};

const kept = () => {
  try {
    return sessionStorage.getItem(NAME) ?? "";
  } catch {
    return "";
  }
};
