/** The API key, which is kept for this tab and never shown. */

import { complain, find } from "./dom.js";

const NAME = "blip-serve-key";

const input = find("#key");

/** The entered key, or nothing if it is not a valid key. */
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

/** Whether the entered key is valid. */
export const checkKey = () => {
  sayKey(isSound() ? "" : "A key has no spaces and no letters beyond ASCII.");
  if (!isSound()) input.focus();
  return isSound();
};

/** @param {() => void} changed Called when the key changes. */
export const watchKey = (changed) => {
  input.value = kept();
  const keep = () => {
    find("#key-state").textContent = key() ? "set" : "none";
    try {
      if (key()) sessionStorage.setItem(NAME, key());
      else sessionStorage.removeItem(NAME);
    } catch {
      // Without storage the key lasts as long as the page.
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
