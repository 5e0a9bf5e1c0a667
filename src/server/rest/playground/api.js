/**
 * The calls to the server that this page came from. Paths are relative to the page, so a prefix of a proxy stays.
 *
 * @typedef {object} Settings What the form says.
 * @property {string} model Empty: the server's default.
 * @property {string} prompt
 * @property {Record<string, unknown>} parameters Those that are set.
 * @property {string} key
 *
 * @typedef {{ file: File, name: string } | { url: string, name: string }} Source An image.
 *
 * @typedef {{ text: string, score: number, finish_reason: string }} Caption
 *
 * @typedef {object} Answer
 * @property {Caption[]} captions
 * @property {string} model
 * @property {string} version
 * @property {{ name: string, ms?: number, text?: string }[]} timings A time, or a word such as whether a cache had it.
 */

import { ApiError } from "./errors.js";

/**
 * Sends a request; an ApiError unless the server is pleased. An abort is passed on as it is.
 * @param {string} path
 * @param {RequestInit} [request]
 * @param {string} [key]
 */
export const call = async (path, request = {}, key = "") => {
  const headers = new Headers(request.headers);
  if (key) headers.set("authorization", `Bearer ${key}`);
  let response;
  try {
    response = await fetch(path, { ...request, headers, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    throw unreachable(error);
  }
  if (response.ok) return response;
  throw await refusal(response);
};

/** @param {unknown} error Error of fetch, or of a reader of its body. */
const unreachable = (error) => {
  if (!(error instanceof TypeError)) return error;
  const reason = navigator.onLine ? "The server cannot be reached." : "You are offline.";
  return new ApiError(`${reason} Try again when the connection is back.`);
};

const fail = (error) => {
  throw unreachable(error);
};

/** @param {Response} response */
const refusal = async (response) => {
  const { status } = response;
  const body = await response.json().catch(() => null);
  // A proxy between may answer without JSON.
  const text = typeof body?.error === "string" ? body.error : `The server answered ${status} ${response.statusText}`;
  const retryAfter = Number(response.headers.get("retry-after")) || 0;
  return new ApiError(text, { status, retryAfter, requestId: body?.request_id ?? "" });
};

/**
 * Whether the text can be read while it is decided: with beams or several captions nothing is, before the end.
 * @param {Record<string, unknown>} parameters
 */
export const canStream = ({ num_beams = 1, num_return_sequences = 1 }) => num_beams === 1 && num_return_sequences === 1;

/** @param {string} model */
export const streamPath = (model) => `v2/models/${encodeURIComponent(model)}/generate_stream`;

/**
 * Captions an image.
 * @param {Source} source
 * @param {Settings} settings
 * @param {{ signal: AbortSignal, onPiece: (piece: string) => void }} options
 * @returns {Promise<Answer>}
 */
export const caption = (source, settings, options) => {
  const work = settings.model && canStream(settings.parameters) ? stream : all;
  return work(source, settings, options);
};

/** @param {Record<string, unknown>} parameters */
const ifAny = (parameters) => (Object.keys(parameters).length > 0 ? { parameters } : {});

const JSON_HEADERS = { "content-type": "application/json" };

/** POST /v1/captions: all at once. */
const all = async (source, { model, prompt, parameters, key }, { signal }) => {
  const fields = { ...(model && { model }), ...(prompt && { prompt }), ...ifAny(parameters) };
  const started = performance.now();
  const request = "file" in source ? form(source.file, fields) : json({ image_url: source.url, ...fields });
  const response = await call("v1/captions", { method: "POST", signal, ...request }, key);
  const { captions, model: name, model_version: version } = await response.json().catch(fail);
  const timings = [{ name: "Total", ms: performance.now() - started }, ...serverTimings(response.headers)];
  return { captions, model: name, version, timings };
};

/** @param {object} body */
const json = (body) => ({ headers: JSON_HEADERS, body: JSON.stringify(body) });

/**
 * @param {File} file
 * @param {Record<string, unknown>} fields
 */
const form = (file, fields) => {
  const body = new FormData();
  body.append("image", file);
  for (const [name, value] of Object.entries(fields)) {
    body.append(name, typeof value === "string" ? value : JSON.stringify(value));
  }
  return { body };
};

/** POST generate_stream: pieces as they are generated. */
const stream = async (source, { model, prompt, parameters, key }, { signal, onPiece }) => {
  const image = "file" in source ? { image: await base64(source.file) } : { image_url: source.url };
  signal.throwIfAborted();
  const request = json({ ...image, ...(prompt && { text_input: prompt }), ...ifAny(parameters) });
  const started = performance.now();
  const response = await call(streamPath(model), { method: "POST", signal, ...request }, key);
  let first = 0;
  for await (const event of events(response.body)) {
    if (event.error) throw new ApiError(event.error, { requestId: event.request_id });
    first ||= performance.now() - started;
    if (event.caption === undefined) {
      onPiece(event.text_output);
      continue;
    }
    const timings = [{ name: "First text", ms: first }, { name: "Total", ms: performance.now() - started }];
    timings.push(...serverTimings(response.headers));
    return { captions: captionsOf(event), model: event.model_name, version: event.model_version, timings };
  }
  throw new ApiError("The server ended the caption too early. Try again.");
};

/** The captions of the last event: one, or a list in each field. */
const captionsOf = ({ caption, score, finish_reason: reason }) =>
  [caption].flat().map((text, at) => ({ text, score: [score].flat()[at], finish_reason: [reason].flat()[at] }));

/** @param {File} file */
const base64 = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).replace(/^[^,]*,/, ""));
    reader.onerror = () => reject(new ApiError("The file cannot be read. Was it moved or changed?"));
    reader.readAsDataURL(file);
  });

/**
 * The JSON of server-sent events.
 * @param {ReadableStream<Uint8Array>} body
 */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch(fail);
      if (done) return;
      const blocks = (text + value).split(/\r?\n\r?\n/);
      text = blocks.pop() ?? "";
      for (const block of blocks) {
        const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5));
        if (data.length > 0) yield JSON.parse(data.join("\n"));
      }
    }
  } finally {
    // Stop the response if the caller stops reading.
    reader.cancel().catch(() => {});
  }
}

/** Timings of the response: `server-timing`, and headers such as `x-queue-time-ms`. */
const serverTimings = (headers) => {
  const timings = [];
  for (const part of (headers.get("server-timing") ?? "").split(",")) {
    const [name, ...more] = part.split(";").map((word) => word.trim());
    const value = (of) => more.map((word) => new RegExp(`^${of}="?([^"]+)`).exec(word)?.[1]).find(Boolean);
    const [time, text] = [Number(value("dur")), value("desc")];
    if (name && time >= 0) timings.push({ name: label(name), ms: time });
    else if (name && text) timings.push({ name: label(name), text });
  }
  for (const [header, value] of headers) {
    const name = /^x-(.+)-time-ms$/.exec(header)?.[1];
    if (name && Number.isFinite(Number(value))) timings.push({ name: label(name), ms: Number(value) });
  }
  return timings.filter(({ name }, at) => timings.findIndex((other) => other.name === name) === at);
};

/** @param {string} name e.g. `queue-wait` */
const label = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll(/[-_]/g, " ");
