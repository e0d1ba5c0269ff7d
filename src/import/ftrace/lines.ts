/** Lines of a text file, plain or compressed with gzip, of bounded length. */

import { createReadStream } from 'node:fs';
import { StringDecoder } from 'node:string_decoder';
import { createGunzip } from 'node:zlib';
import { Problem } from '../../bits/problem.ts';
import { ioProblem } from '../../trace/input.ts';

/** Bytes: a line of a trace is an event, the longest a mark of a page. */
const MAX_LINE = 64 * 1024;

/**
 * Lines without their newlines. Throws E_NO_SUCH_FILE, E_IO; E_IMPORT for unsound gzip data and for a file that ends
 * within a line; E_LIMIT for a line that is too long.
 */
export async function* linesOfFile(path: string, gzip: boolean): AsyncGenerator<string, void, void> {
  const file = createReadStream(path, { highWaterMark: 1 << 18 });
  const stream = gzip ? file.pipe(createGunzip({ chunkSize: 1 << 18 })) : file;
  file.on('error', (error) => stream.destroy(error));
  const decoder = new StringDecoder('utf8');
  let rest = '';
  let line = 0;
  try {
    for await (const chunk of stream) {
      const lines = (rest + decoder.write(chunk as Buffer)).split('\n');
      rest = lines.pop()!;
      for (const text of lines) {
        line++;
        yield text.endsWith('\r') ? text.slice(0, -1) : text;
      }
      if (rest.length > MAX_LINE) {
        throw new Problem('E_LIMIT', 'a line is too long for a trace', { file: path, line: line + 1 });
      }
    }
  } catch (error) {
    throw error instanceof Problem ? error : readProblem(path, error, line);
  } finally {
    file.destroy();
    stream.destroy();
  }
  if (rest !== '') {
    const place = { file: path, line: line + 1 };
    throw new Problem('E_IMPORT', 'the last line is cut short', place, 'if it is whole, end it with a newline');
  }
}

function readProblem(path: string, error: unknown, line: number): unknown {
  if (!(error instanceof Error) || !('code' in error)) return error;
  if (String(error.code).startsWith('Z_')) {
    return new Problem('E_IMPORT', `the gzip data are unsound: ${error.message}`, { file: path, line: line + 1 });
  }
  return ioProblem(error, path, 'read it');
}
