/** State of the server, and its models. */

import { call } from "./api.js";
import { element, find, say } from "./dom.js";
import { ApiError, explain } from "./errors.js";

const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 15_000;

/**
 * Watches the server until it is ready, then lists its models.
 * @param {() => string} key
 * @returns {{ reload: () => Promise<void> }} Asks again at once: with another key, or after a failure.
 */
export const watchServer = (key) => {
  let timer = 0;
  let wait = FIRST_WAIT_MS;
  const reload = async () => {
    clearTimeout(timer);
    try {
      await call("v2/health/ready");
      await list(key());
      wait = FIRST_WAIT_MS;
    } catch (error) {
      if (show(error)) return;
      timer = setTimeout(reload, wait);
      wait = Math.min(2 * wait, LONGEST_WAIT_MS);
    }
  };
  addEventListener("online", reload);
  addEventListener("offline", () => state("failed", "Offline"));
  reload();
  return { reload };
};

const state = (name, text) => {
  find("#state").dataset.state = name;
  find("#state-text").textContent = text;
};

/** Shows why there are no models. Returns true if a retry would not help. */
const show = (error) => {
  const status = error instanceof ApiError ? error.status : 0;
  say(find("#model-problem"), "");
  if (status === 401) {
    state("waiting", "API key needed");
    say(find("#model-problem"), "The list of models needs an API key.");
    find("#key-fold").open = true;
    return true;
  }
  if (status === 503) state("waiting", "Loading models…");
  else if (status === 0) state("failed", navigator.onLine ? "Not reachable" : "Offline");
  else state("failed", explain(error));
  return false;
};

/** Fills the select element and keeps its value. */
const list = async (key) => {
  const index = await call("v2/repository/index", { method: "POST", body: "{}" }, key);
  const models = await index.json();
  const server = await (await call("v2", {}, key)).json();
  const picker = find("#model");
  const wanted = [picker.value, server.name].find((name) => models.some((model) => model.name === name));
  const options = models.map((model) => {
    const isReady = model.state === "READY";
    const label = `${model.name} · version ${model.version}${isReady ? "" : ` (${model.state.toLowerCase()})`}`;
    return element("option", { value: model.name, textContent: label, disabled: !isReady });
  });
  picker.replaceChildren(...(options.length > 0 ? options : [element("option", { value: "", textContent: "Default" })]));
  if (wanted) picker.value = wanted;
  say(find("#model-problem"), "");
  state("ready", "Ready");
};
