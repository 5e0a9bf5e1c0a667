/** Runs jobs in order, some at a time. */
export class Queue {
  #waiting = [];
  #running = 0;
  #width;

  /** @param {number} width Jobs that run at the same time. */
  constructor(width) {
    this.#width = width;
  }

  /**
   * Adds a job. One whose signal is aborted before its turn is never run.
   * @param {AbortSignal} signal
   * @param {() => Promise<void>} run Must not fail.
   */
  add(signal, run) {
    this.#waiting.push({ signal, run });
    this.#next();
  }

  #next() {
    while (this.#running < this.#width && this.#waiting.length > 0) {
      const { signal, run } = this.#waiting.shift();
      if (signal.aborted) continue;
      this.#running += 1;
      run().finally(() => {
        this.#running -= 1;
        this.#next();
      });
    }
  }
}
