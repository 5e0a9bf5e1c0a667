/** Failures, and what they mean for people. */

/** A request that got no answer, or a refusal. */
export class ApiError extends Error {
  /**
   * @param {string} message For people.
   * @param {{ status?: number, retryAfter?: number, requestId?: string }} [more]
   */
  constructor(message, { status = 0, retryAfter = 0, requestId = "" } = {}) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
    this.requestId = requestId;
  }

  /** The field that the server complains about, if it names one. */
  get field() {
    return this.status === 400 ? (/^([\w.[\]]+): /.exec(this.message)?.[1] ?? "") : "";
  }
}

/**
 * What a failure means, for people.
 * @param {unknown} error
 */
export const explain = (error) => {
  if (!(error instanceof ApiError)) return `Something went wrong on this page: ${error}`;
  switch (error.status) {
    case 401:
      return "This server wants an API key. Enter a valid one under “API key” and try again.";
    case 429:
      return `The server is busy: ${error.message}. Try again ${error.retryAfter > 1 ? `in ${error.retryAfter} seconds` : "in a moment"}.`;
    case 503:
      return `Not available: ${error.message}. Try again in a moment.`;
    case 500:
      return `The server failed (${error.message}). Its log has the cause${error.requestId && ` under request ${error.requestId}`}.`;
    default:
      return sentence(error.message);
  }
};

/** What is wrong with the image needs no name of a field: there is one image. */
const sentence = (text) => {
  const plain = text.replace(/^(?:image|img_url|image_url): /, "");
  return plain === text ? text : `${plain.charAt(0).toUpperCase()}${plain.slice(1)}.`;
};
