/** Progress for people: a line on standard error while something takes long, only where that is a terminal. */

import type { TextStream } from './io.ts';

/** Updates per second are few: drawing must not cost what it tells of. */
const INTERVAL_MS = 100;

export interface Progress {
  /** `text` is asked for only if it is going to be shown. */
  update(text: () => string): void;
  /** Clears the line. */
  done(): void;
}

const SILENT: Progress = { update: () => {}, done: () => {} };

/** ora is loaded only where it will be seen. It leaves standard input alone: traces come from there. */
export async function showProgress(stream: TextStream, silent: boolean, text: string): Promise<Progress> {
  // A pseudo-terminal that nobody gave a size has 0 columns, by which ora divides and then clears lines for ever.
  if (silent || stream.isTTY !== true || stream.columns === 0) return SILENT;
  const { default: ora } = await import('ora');
  const spinner = ora({
    text,
    stream: stream as unknown as NodeJS.WritableStream,
    isSilent: silent,
    discardStdin: false,
  }).start();
  let last = 0;
  return {
    update: (next) => {
      const now = performance.now();
      if (now - last < INTERVAL_MS) return;
      last = now;
      spinner.text = next();
      // The work is synchronous, so the spinner's own timer seldom comes to draw.
      spinner.render();
    },
    done: () => {
      spinner.stop();
    },
  };
}
