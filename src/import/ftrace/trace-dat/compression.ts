/** Compressed parts of a trace.dat of version 7: zstd, zlib or none, of a size that is announced and bounded. */

import { inflateSync } from 'node:zlib';
import { Problem } from '../../../bits/problem.ts';
import { decompressZstd, ZstdError } from '../zstd/decompress.ts';
import type { ByteSource } from './byte-source.ts';

/** More than any part of a sound file: symbols are some MB, pages come in chunks of less. */
const MAX_PART = 128 * 1024 * 1024;

export type Decompress = (bytes: Uint8Array, size: number, offset: number) => Uint8Array;

/**
 * The decompressor by the name in the file. It returns exactly `size` bytes; `offset` is for problems: E_IMPORT for what
 * is unsound, E_LIMIT for what is too large.
 */
export function decompressor(name: string, source: ByteSource): Decompress {
  const decode = name === 'zstd' ? decompressZstd : name === 'zlib' ? inflate : undefined;
  return (bytes, size, offset) => {
    const place = { file: source.name, offset };
    if (decode === undefined) {
      throw new Problem(
        'E_IMPORT',
        `the file is compressed with ${JSON.stringify(name.slice(0, 20))}`,
        place,
        'convert it: trace-cmd convert --compression none',
      );
    }
    if (size > MAX_PART) throw new Problem('E_LIMIT', `a part of the file announces ${size} bytes`, place);
    try {
      return decode(bytes, size);
    } catch (error) {
      if (!(error instanceof ZstdError) && !isZlibError(error)) throw error;
      throw new Problem('E_IMPORT', `a compressed part of the file is unsound: ${(error as Error).message}`, place);
    }
  };
}

function inflate(bytes: Uint8Array, size: number): Uint8Array {
  const out = inflateSync(bytes, { maxOutputLength: Math.max(size, 1) });
  if (out.length !== size) throw new ZstdError('the content is shorter than announced');
  return out;
}

/** Unsound data, or content that is longer than announced. */
function isZlibError(error: unknown): boolean {
  if (!(error instanceof Error) || !('code' in error)) return false;
  return String(error.code).startsWith('Z_') || error.code === 'ERR_BUFFER_TOO_LARGE';
}
