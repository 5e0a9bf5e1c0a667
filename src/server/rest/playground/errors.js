/** Errors, and how they are explained to users. */

/** A request without a response, or one that was refused. */
export class ApiError extends Error {
  /**
   * @param {string} message Text for users.
   * @param {{ status?: number, retryAfter?: number, requestId?: string }} [more]
   */
  constructor(message, { status = 0, retryAfter = 0, requestId = "" } = {}) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
    this.requestId = requestId;
  }

  /** The field that the error names, if it names one. */
  get field() {
    return this.status === 400 ? (/^([\w.[\]]+): /.exec(this.message)?.[1] ?? "") : "";
  }
}

/**
 * Explains an error to users.
 * @param {unknown} error
 */
export const explain = (error) => {
  if (!(error instanceof ApiError)) return `Something went wrong on this page: ${error}`;
  switch (error.status) {
    case 401:
      return "This server requires an API key. Enter a valid one under “API key” and try again.";
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

/** An error about the image needs no field name, as a card has one image. */
const sentence = (text) => {
  const plain = text.replace(/^(?:image|img_url|image_url): /, "");
  return plain === text ? text : `${plain.charAt(0).toUpperCase()}${plain.slice(1)}.`;
};
