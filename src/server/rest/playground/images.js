/** Adding images: chosen, dropped, pasted, or as a URL. */

import { complain, find } from "./dom.js";

const PROTOCOLS = ["http:", "https:", "data:"];

/**
 * @param {(sources: import("./api.js").Source[]) => void} add
 * @returns {{ addUrl: () => boolean }} Adds what stands in the field of the URL; false if that is no URL.
 */
export const takeImages = (add) => {
  const addFiles = (files) => add([...files].map((file) => ({ file, name: file.name || "pasted image" })));
  choosing(addFiles);
  dropping(addFiles, add);
  pasting(addFiles, add);
  return { addUrl: enteringUrl(add) };
};

const choosing = (addFiles) => {
  const input = find("#files");
  find("#pick").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    addFiles(input.files);
    // Else choosing the same file again is no change.
    input.value = "";
  });
};

const dropping = (addFiles, add) => {
  const root = document.documentElement;
  let inside = 0;
  const isOurs = ({ dataTransfer }) => ["Files", "text/uri-list"].some((type) => dataTransfer?.types.includes(type));
  const show = (change) => {
    inside = Math.max(0, inside + change);
    root.toggleAttribute("data-dropping", inside > 0);
  };
  addEventListener("dragenter", (event) => isOurs(event) && show(1));
  addEventListener("dragleave", (event) => isOurs(event) && show(-1));
  addEventListener("dragover", (event) => isOurs(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    show(-inside);
    if (!isOurs(event)) return;
    event.preventDefault();
    const { files } = event.dataTransfer;
    if (files.length > 0) addFiles(files);
    else addUrls(event.dataTransfer.getData("text/uri-list"), add);
  });
};

const pasting = (addFiles, add) => {
  document.addEventListener("paste", (event) => {
    const { files } = event.clipboardData;
    if (files.length > 0) {
      event.preventDefault();
      addFiles(files);
    } else if (!event.target.closest?.("input, textarea, select")) {
      addUrls(event.clipboardData.getData("text/plain"), add);
    }
  });
};

const addUrls = (text, add) => {
  const sources = text.split(/\s+/).filter((word) => !word.startsWith("#")).map(sourceOfUrl).filter(Boolean);
  if (sources.length > 0) add(sources);
};

const enteringUrl = (add) => {
  const [input, problem] = [find("#url"), find("#url-problem")];
  const addUrl = () => {
    const source = sourceOfUrl(input.value.trim());
    complain(input, problem, source ? "" : "Enter a URL that begins with http://, https:// or data:.");
    if (!source) {
      input.focus();
      return false;
    }
    input.value = "";
    add([source]);
    return true;
  };
  input.addEventListener("input", () => complain(input, problem, ""));
  find("#add-url").addEventListener("click", addUrl);
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    addUrl();
  });
  return addUrl;
};

/**
 * @param {string} text
 * @returns {import("./api.js").Source | null}
 */
const sourceOfUrl = (text) => {
  if (!URL.canParse(text)) return null;
  const url = new URL(text);
  if (!PROTOCOLS.includes(url.protocol)) return null;
  const last = url.pathname.split("/").pop();
  return { url: text, name: url.protocol === "data:" ? "data: URL" : last || url.host };
};
