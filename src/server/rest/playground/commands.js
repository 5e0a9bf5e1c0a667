/** The same request for a shell: curl over REST, grpcurl over gRPC. */

import { canStream, streamPath } from "./api.js";

/** Environment variable with the key, which must not appear on a screen or in a shell's history. */
const KEY_HEADER = '-H "authorization: Bearer $API_KEY"';
const NEXT_LINE = " \\\n  ";

/**
 * One word of a POSIX shell.
 * @param {string} text
 */
export const quote = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

/**
 * Commands for one image, to be run where the file is.
 * @param {import("./api.js").Source} source
 * @param {import("./api.js").Settings} settings
 * @param {URL} page
 * @returns {{ name: string, text: string }[]}
 */
export const commands = (source, settings, page) => {
  const made = [{ name: "curl", text: "file" in source ? upload(source, settings, page) : post(source, settings, page) }];
  if (settings.model && canStream(settings.parameters)) {
    made.push({ name: "curl, streaming", text: postStream(source, settings, page) });
  }
  made.push({ name: "grpcurl", text: grpc(source, settings, page) });
  return made;
};

const keyOf = ({ key }) => (key ? [KEY_HEADER] : []);

/** Fields of a request other than its image. */
const fieldsOf = ({ model, prompt, parameters }, promptName = "prompt") => ({
  ...(prompt && { [promptName]: prompt }),
  ...(model && { model }),
  ...(Object.keys(parameters).length > 0 && { parameters }),
});

/** A form with the file. */
const upload = ({ name }, settings, page) => {
  const { model, prompt, parameters } = settings;
  const words = [`curl ${quote(new URL("v1/captions", page).href)}`, ...keyOf(settings), `-F ${quote(`image=@${fileOfForm(name)}`)}`];
  // Not -F: it would take a text that begins with @ or < for the name of a file.
  const text = (field, value) => words.push(`--form-string ${quote(`${field}=${value}`)}`);
  if (prompt) text("prompt", prompt);
  if (model) text("model", model);
  for (const [field, value] of Object.entries(parameters)) {
    for (const one of [value].flat()) text(field, one);
  }
  return words.join(NEXT_LINE);
};

/** curl reads commas and semicolons in the name of a file, unless it is in quotes; - alone is its standard input. */
const fileOfForm = (name) => {
  if (name === "-") return "./-";
  return /^[\w.-]+$/.test(name) ? name : `"${name.replaceAll(/[\\"]/g, "\\$&")}"`;
};

/** JSON with the URL. */
const post = ({ url }, settings, page) => {
  const body = JSON.stringify({ image_url: url, ...fieldsOf(settings) });
  const target = quote(new URL("v1/captions", page).href);
  return [`curl ${target}`, ...keyOf(settings), "-H 'content-type: application/json'", `-d ${quote(body)}`].join(NEXT_LINE);
};

/** Server-sent events. */
const postStream = (source, settings, page) => {
  const { model, ...others } = settings;
  const fields = fieldsOf({ ...others, model: "" }, "text_input");
  const target = quote(new URL(streamPath(model), page).href);
  const words = [`curl -N ${target}`, ...keyOf(settings), "-H 'content-type: application/json'"];
  return withImage(source, fields, words.join(NEXT_LINE), "@-");
};

/** blip.v1, found through the server's reflection. */
const grpc = (source, settings, page) => {
  const { parameters } = settings;
  const fields = fieldsOf({
    ...settings,
    // A string there: "true", "false" or "never".
    parameters: "early_stopping" in parameters ? { ...parameters, early_stopping: String(parameters.early_stopping) } : parameters,
  });
  const method = canStream(parameters) ? "StreamCaption" : "Caption";
  const port = page.port || (page.protocol === "https:" ? "443" : "80");
  const plain = page.protocol === "https:" ? "" : " -plaintext";
  const words = [`grpcurl${plain}`, ...keyOf(settings)].join(NEXT_LINE);
  const target = `${quote(`${page.hostname}:${port}`)} blip.v1.CaptionService/${method}`;
  return withImage(source, fields, words, "@") + NEXT_LINE + target;
};

/**
 * A command with JSON as its data; the bytes of a file come through a pipe, as base64.
 * @param {string} input What the command calls its standard input.
 */
const withImage = (source, fields, command, input) => {
  if (!("file" in source)) {
    return `${command}${NEXT_LINE}-d ${quote(JSON.stringify({ image_url: source.url, ...fields }))}`;
  }
  const others = JSON.stringify(fields).slice(1);
  const tail = quote(`"${others === "}" ? others : `,${others}`}`);
  const body = `{ printf '{"image":"'; base64 < ${quote(source.name)} | tr -d '\\n'; printf %s ${tail}; }`;
  return `${body} |${NEXT_LINE}${command}${NEXT_LINE}-d ${input}`;
};
