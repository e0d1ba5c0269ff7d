/**
 * Zstandard frames (RFC 8878) into bytes: trace-cmd compresses with it, and the oldest Node that rewalk runs on does not
 * know it. Without dictionaries; a checksum of the content is passed over.
 */

import { BackwardBits, ZstdError } from './bits.ts';
import { constantTable, type FseTable, readTable } from './fse.ts';
import { decodeHuffman, type HuffmanTable, readHuffman } from './huffman.ts';
import { type CodeKind, LITERAL_KIND, LITERAL_LENGTHS, MATCH_KIND, MATCH_LENGTHS, OFFSET_KIND } from './sequences.ts';

export { ZstdError } from './bits.ts';

const MAX_BLOCK = 128 * 1024;

/**
 * The content of the frame in `bytes`, with or without its magic number (trace-cmd leaves it out), which must be `size`
 * bytes. Throws ZstdError; never writes or keeps more than `size` bytes.
 */
export function decompressZstd(bytes: Uint8Array, size: number): Uint8Array {
  const frame = new Frame(bytes, size);
  return frame.decode();
}

class Frame {
  readonly #in: Uint8Array;
  readonly #out: Uint8Array;
  #at = 0;
  #filled = 0;
  /** What later blocks may use again. */
  #huffman: HuffmanTable | undefined;
  #literalTable: FseTable | undefined;
  #offsetTable: FseTable | undefined;
  #matchTable: FseTable | undefined;
  readonly #recent = [1, 4, 8];
  readonly #literals = new Uint8Array(MAX_BLOCK);

  constructor(bytes: Uint8Array, size: number) {
    this.#in = bytes;
    this.#out = new Uint8Array(size);
  }

  decode(): Uint8Array {
    this.#header();
    let last = false;
    while (!last) {
      const head = this.#number(3);
      last = (head & 1) === 1;
      this.#block((head >>> 1) & 3, head >>> 3);
    }
    if (this.#filled !== this.#out.length) throw new ZstdError('the content is shorter than announced');
    return this.#out;
  }

  #header(): void {
    if (this.#in.length >= 4 && this.#in[0] === 0x28 && this.#in[1] === 0xb5) this.#at = 4;
    const descriptor = this.#number(1);
    if ((descriptor & 8) !== 0) throw new ZstdError('no Zstandard frame');
    const single = (descriptor & 0x20) !== 0;
    if (!single) this.#number(1);
    if ((descriptor & 3) !== 0) throw new ZstdError('the frame needs a dictionary');
    const width = [single ? 1 : 0, 2, 4, 8][descriptor >>> 6]!;
    this.#skip(width);
  }

  #skip(count: number): number {
    const from = this.#at;
    this.#at += count;
    if (this.#at > this.#in.length) throw new ZstdError('the frame is cut short');
    return from;
  }

  /** Little-endian, at most 3 bytes. */
  #number(width: number): number {
    const from = this.#skip(width);
    let value = 0;
    for (let i = 0; i < width; i++) value |= this.#in[from + i]! << (8 * i);
    return value;
  }

  #room(count: number): number {
    const from = this.#filled;
    this.#filled += count;
    if (this.#filled > this.#out.length) throw new ZstdError('the content is longer than announced');
    return from;
  }

  #block(type: number, size: number): void {
    if (size > MAX_BLOCK) throw new ZstdError('a block is too large');
    if (type === 0) {
      const from = this.#skip(size);
      this.#out.set(this.#in.subarray(from, from + size), this.#room(size));
    } else if (type === 1) {
      const value = this.#number(1);
      const to = this.#room(size);
      this.#out.fill(value, to, to + size);
    } else if (type === 2) {
      const start = this.#skip(size);
      const end = start + size;
      const literals = this.#readLiterals(start, end);
      this.#sequences(literals.end, end, literals.size);
    } else {
      throw new ZstdError('a block of no known type');
    }
  }

  /** Fills `#literals`. */
  #readLiterals(start: number, end: number): { readonly end: number; readonly size: number } {
    const bytes = this.#in;
    if (end - start < 1) throw new ZstdError('a block is cut short');
    const head = bytes[start]!;
    const type = head & 3;
    const format = (head >>> 2) & 3;
    const wide = type >= 2;
    const headSize = wide ? [3, 3, 4, 5][format]! : [1, 2, 1, 3][format]!;
    if (end - start < headSize) throw new ZstdError('a block is cut short');
    let value = 0;
    for (let i = 0; i < headSize; i++) value += bytes[start + i]! * 2 ** (8 * i);
    let from = start + headSize;
    if (!wide) {
      const size = Math.floor(value / ((format & 1) === 0 ? 8 : 16));
      if (size > MAX_BLOCK || from + (type === 0 ? size : 1) > end) throw new ZstdError('literals are cut short');
      if (type === 0) this.#literals.set(bytes.subarray(from, from + size));
      else this.#literals.fill(bytes[from]!, 0, size);
      return { end: from + (type === 0 ? size : 1), size };
    }
    const width = [10, 10, 14, 18][format]!;
    const sizes = Math.floor(value / 16);
    const size = sizes % 2 ** width;
    const to = from + Math.floor(sizes / 2 ** width);
    if (size > MAX_BLOCK || to > end) throw new ZstdError('literals are cut short');
    if (type === 2) {
      const tree = readHuffman(bytes, from, to);
      this.#huffman = tree.table;
      from = tree.end;
    }
    const table = this.#huffman;
    if (table === undefined) throw new ZstdError('literals without a Huffman tree');
    if (format === 0) decodeHuffman(table, bytes, from, to, this.#literals, 0, size);
    else this.#fourStreams(table, from, to, size);
    return { end: to, size };
  }

  #fourStreams(table: HuffmanTable, from: number, to: number, size: number): void {
    const bytes = this.#in;
    if (from + 6 > to) throw new ZstdError('literals are cut short');
    const quarter = (size + 3) >>> 2;
    let at = from + 6;
    for (let i = 0; i < 4; i++) {
      const end = i === 3 ? to : at + bytes[from + 2 * i]! + bytes[from + 2 * i + 1]! * 256;
      const out = Math.min(i * quarter, size);
      if (end > to) throw new ZstdError('literals are cut short');
      decodeHuffman(table, bytes, at, end, this.#literals, out, i === 3 ? size : Math.min(out + quarter, size));
      at = end;
    }
  }

  #sequences(start: number, end: number, literals: number): void {
    const bytes = this.#in;
    let at = start;
    const byte = (): number => {
      if (at >= end) throw new ZstdError('a block is cut short');
      return bytes[at++]!;
    };
    let count = byte();
    if (count >= 128) count = count < 255 ? (count - 128) * 256 + byte() : byte() + byte() * 256 + 0x7f00;
    if (count === 0) {
      this.#out.set(this.#literals.subarray(0, literals), this.#room(literals));
      return;
    }
    const modes = byte();
    const table = (mode: number, kind: CodeKind, before: FseTable | undefined): FseTable => {
      if (mode === 0) return kind.predefined;
      if (mode === 1) {
        const symbol = byte();
        if (symbol >= kind.symbols) throw new ZstdError('a code of no meaning');
        return constantTable(symbol);
      }
      if (mode === 2) {
        const described = readTable(bytes, at, end, kind);
        at = described.end;
        return described.table;
      }
      if (before === undefined) throw new ZstdError('a block repeats a table that there is not');
      return before;
    };
    this.#literalTable = table(modes >>> 6, LITERAL_KIND, this.#literalTable);
    this.#offsetTable = table((modes >>> 4) & 3, OFFSET_KIND, this.#offsetTable);
    this.#matchTable = table((modes >>> 2) & 3, MATCH_KIND, this.#matchTable);
    this.#execute(new BackwardBits(bytes, at, end), count, literals);
  }

  #execute(stream: BackwardBits, count: number, literals: number): void {
    const literalTable = this.#literalTable!;
    const offsetTable = this.#offsetTable!;
    const matchTable = this.#matchTable!;
    let literalState = stream.take(literalTable.log);
    let offsetState = stream.take(offsetTable.log);
    let matchState = stream.take(matchTable.log);
    let used = 0;
    for (let i = 0; i < count; i++) {
      const offsetCode = offsetTable.symbol[offsetState]!;
      const matchCode = matchTable.symbol[matchState]!;
      const literalCode = literalTable.symbol[literalState]!;
      const offsetValue = 2 ** offsetCode + stream.takeLong(offsetCode);
      const matchLength = MATCH_LENGTHS.base[matchCode]! + stream.take(MATCH_LENGTHS.bits[matchCode]!);
      const literalLength = LITERAL_LENGTHS.base[literalCode]! + stream.take(LITERAL_LENGTHS.bits[literalCode]!);
      if (i + 1 < count) {
        literalState = literalTable.base[literalState]! + stream.take(literalTable.bits[literalState]!);
        matchState = matchTable.base[matchState]! + stream.take(matchTable.bits[matchState]!);
        offsetState = offsetTable.base[offsetState]! + stream.take(offsetTable.bits[offsetState]!);
      }
      if (stream.left < 0 || used + literalLength > literals) throw new ZstdError('sequences are cut short');
      this.#copyLiterals(used, literalLength);
      used += literalLength;
      this.#copyMatch(this.#offset(offsetValue, literalLength === 0), matchLength);
    }
    if (stream.left !== 0) throw new ZstdError('sequences have another length than announced');
    this.#copyLiterals(used, literals - used);
  }

  /** An offset value may name one of the three offsets used last. */
  #offset(value: number, noLiterals: boolean): number {
    const recent = this.#recent;
    const which = value > 3 ? 3 : value - 1 + (noLiterals ? 1 : 0);
    let offset = value - 3;
    if (value <= 3) offset = which === 3 ? recent[0]! - 1 : recent[which]!;
    if (which > 0) {
      if (which > 1) recent[2] = recent[1]!;
      recent[1] = recent[0]!;
      recent[0] = offset;
    }
    return offset;
  }

  #copyLiterals(from: number, count: number): void {
    const to = this.#room(count);
    this.#out.set(this.#literals.subarray(from, from + count), to);
  }

  #copyMatch(offset: number, count: number): void {
    if (offset <= 0 || offset > this.#filled) throw new ZstdError('a match begins before the content');
    const to = this.#room(count);
    const out = this.#out;
    if (offset >= count) {
      out.copyWithin(to, to - offset, to - offset + count);
    } else {
      for (let i = to; i < to + count; i++) out[i] = out[i - offset]!;
    }
  }
}
