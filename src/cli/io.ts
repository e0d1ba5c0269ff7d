/** What the command line has of the world: streams, environment, the wish to stop. Tests put their own here. */

/** As much of `process.stdout` and `process.stderr` as is used. */
export interface TextStream {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  /** False if the stream wants its `drain` event to be waited for. */
  write(text: string): boolean;
  once(event: 'drain', listener: () => void): unknown;
  on(event: 'error', listener: (error: Error & { code?: string }) => void): unknown;
}

export interface Io {
  readonly stdout: TextStream;
  readonly stderr: TextStream;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Aborted when the user wants to stop (SIGINT, SIGTERM). */
  readonly signal: AbortSignal;
}

/** Thrown when the reader of standard output has gone away: there is nobody left to work for. */
export class ClosedOutput extends Error {
  override readonly name = 'ClosedOutput';
}

/** Thrown when the user wants to stop. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
}
