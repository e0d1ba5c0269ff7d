/** The options and the report of commands that write a trace. */

import type { WriterOptions } from '../trace/writer.ts';
import type { Context } from './command.ts';

export type CodecName = NonNullable<WriterOptions['codec']>;
const CODECS: readonly CodecName[] = ['none', 'deflate'];

export const codecOption = {
  codec: { choices: CODECS, default: 'none', describe: 'Packing of chunks' },
} as const;

/**
 * Tells what was written to `output`: on standard output, but on standard error if the trace itself went there.
 */
export function reportWritten(context: Context, output: string, json: object, lines: readonly string[]): void {
  const text = context.json ? [JSON.stringify(json)] : lines;
  if (output !== '-') context.out.lines(text);
  else for (const line of text) context.io.stderr.write(`${line}\n`);
}
