/** Standard output: lines, gathered into large writes, at the pace of whoever reads them. */

import { ioProblem } from '../trace/input.ts';
import { ClosedOutput, type TextStream } from './io.ts';

/** Characters after which it is time to flush. */
const ENOUGH = 0x1_0000;

export class ResultOutput {
  private readonly stream: TextStream;
  private buffer = '';
  private failure: Error | undefined;
  private wake: (() => void) | undefined;

  constructor(stream: TextStream) {
    this.stream = stream;
    stream.on('error', (error) => {
      this.failure =
        error.code === 'EPIPE'
          ? new ClosedOutput('standard output was closed')
          : ioProblem(error, '<stdout>', 'write it');
      this.wake?.();
    });
  }

  line(text = ''): void {
    this.buffer += `${text}\n`;
  }

  lines(texts: readonly string[]): void {
    for (const text of texts) this.line(text);
  }

  json(value: unknown): void {
    this.line(JSON.stringify(value));
  }

  /** Whether so much has gathered that the caller should `await flush()`. */
  get full(): boolean {
    return this.buffer.length >= ENOUGH;
  }

  /** Hands over what has gathered and waits until the stream wants more. Throws ClosedOutput or E_IO. */
  async flush(): Promise<void> {
    const text = this.buffer;
    this.buffer = '';
    if (this.failure === undefined && text !== '' && !this.stream.write(text)) {
      await new Promise<void>((resolve) => {
        this.wake = resolve;
        this.stream.once('drain', resolve);
      });
      this.wake = undefined;
    }
    if (this.failure !== undefined) throw this.failure;
  }
}
