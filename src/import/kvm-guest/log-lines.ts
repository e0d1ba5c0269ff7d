/** Gzipped text files of a recording, line by line, with the digest that the trace's header keeps of each source. */

import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { basename } from 'node:path';
import { createInterface } from 'node:readline';
import { Transform } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { Problem } from '../../bits/problem.ts';
import type { Source } from '../../trace/header.ts';

/** Calls `line` for every line of a gzipped file (numbers from 1); resolves to what the file was. */
export async function readGzipLines(path: string, line: (text: string, number: number) => void): Promise<Source> {
  const hash = createHash('sha256');
  let size = 0;
  const measure = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      size += chunk.length;
      done(null, chunk);
    },
  });
  const file = createReadStream(path);
  const text = createGunzip();
  const failed = new Promise<never>((_resolve, reject) => {
    for (const stream of [file, measure, text]) {
      stream.once('error', (error: NodeJS.ErrnoException) => reject(readProblem(path, error)));
    }
  });
  file.pipe(measure).pipe(text);
  const all = (async () => {
    let number = 0;
    try {
      for await (const content of createInterface({ input: text, crlfDelay: Number.POSITIVE_INFINITY })) {
        number++;
        line(content, number);
      }
    } catch (error) {
      throw error instanceof Problem ? error.at({ file: path, line: number }) : error;
    }
  })();
  await Promise.race([all, failed]);
  return { name: basename(path), size, sha256: hash.digest() };
}

function readProblem(path: string, error: NodeJS.ErrnoException): Problem {
  if (error.code === 'ENOENT') return new Problem('E_NO_SUCH_FILE', 'no such file', { file: path });
  if (error.code?.startsWith('Z') === true)
    return new Problem('E_IMPORT', `not a sound gzip file: ${error.message}`, { file: path });
  return new Problem('E_IO', error.message, { file: path });
}
