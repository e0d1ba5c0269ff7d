/** trace.dat of version 7: sections anywhere in the file, found through options, perhaps compressed (trace-cmd.dat.v7(5)). */

import { ByteCursor, type ByteSource, corrupt, textOf } from './byte-source.ts';
import { type Decompress, decompressor } from './compression.ts';
import type { EventFormat } from './event-format.ts';
import { readFtraceFormats, readHeaderInfo, readSystemFormats } from './metadata.ts';
import { type CpuBuffer, Option, type Pages, plainPages, type TraceDat, taskNamesOf } from './sections.ts';

const SECTION_HEAD = 16;
const COMPRESSED = 1;
/** Sound files have two or three sections of options. */
const MAX_OPTION_SECTIONS = 1000;
const MAX_PAGE = 16 * 1024 * 1024;

/** `start`: behind the page size of the initial format, where the name of the compression stands. */
export function readVersion7(source: ByteSource, start: number): TraceDat {
  const head = cursorAt(source, start, Math.min(256, source.size - start));
  const compression = head.string();
  head.string();
  return new Version7(source, decompressor(compression, source)).read(head.u64());
}

function cursorAt(source: ByteSource, offset: number, length: number): ByteCursor {
  return new ByteCursor(source.read(offset, length), (message) => corrupt(source, message, offset));
}

class Version7 {
  readonly #source: ByteSource;
  readonly #decompress: Decompress;
  #headerPage: string | undefined;
  readonly #formats = new Map<number, EventFormat>();
  #taskNames: ReadonlyMap<number, string> = new Map();
  #kallsymsAt: number | undefined;
  readonly #buffers: CpuBuffer[] = [];
  #uname: string | undefined;
  #cpuCount: number | undefined;
  #textBuffer = false;

  constructor(source: ByteSource, decompress: Decompress) {
    this.#source = source;
    this.#decompress = decompress;
  }

  read(options: number): TraceDat {
    let next = options;
    for (let i = 0; next !== 0; i++) {
      if (i === MAX_OPTION_SECTIONS) throw corrupt(this.#source, 'the sections of options do not end', next);
      next = this.#options(next);
    }
    if (this.#headerPage === undefined) throw corrupt(this.#source, 'the file does not describe its pages');
    if (this.#buffers.length === 0 && this.#textBuffer) {
      throw corrupt(this.#source, 'the file has no recorded buffer but the text of one');
    }
    return {
      version: 7,
      headerPage: this.#headerPage,
      formats: this.#formats,
      taskNames: this.#taskNames,
      kallsyms: () => this.#kallsyms(),
      buffers: this.#buffers,
      uname: this.#uname,
      cpuCount: this.#cpuCount,
    };
  }

  /** Reads a section of options; returns where the next one is, 0 if it was the last. */
  #options(offset: number): number {
    const cursor = this.#section(offset);
    for (;;) {
      const id = cursor.u16();
      const data = new ByteCursor(cursor.take(cursor.u32()), (message) => corrupt(this.#source, message, offset));
      switch (id) {
        case Option.DONE:
          return data.u64();
        case Option.HEADER_INFO:
          this.#headerPage = readHeaderInfo(this.#section(data.u64()));
          break;
        case Option.FTRACE_EVENTS:
          readFtraceFormats(this.#section(data.u64()), this.#formats);
          break;
        case Option.EVENT_FORMATS:
          readSystemFormats(this.#section(data.u64()), this.#formats);
          break;
        case Option.KALLSYMS:
          this.#kallsymsAt = data.u64();
          break;
        case Option.CMDLINES: {
          const names = this.#section(data.u64());
          this.#taskNames = taskNamesOf(textOf(names.take(names.u64())));
          break;
        }
        case Option.UNAME:
          this.#uname = data.string();
          break;
        case Option.CPUCOUNT:
          this.#cpuCount = data.u32();
          break;
        case Option.BUFFER:
          this.#buffer(data);
          break;
        case Option.BUFFER_TEXT:
          this.#textBuffer = true;
          break;
        default:
          break;
      }
    }
  }

  /** The content of a section that is not a buffer. */
  #section(offset: number): ByteCursor {
    const head = cursorAt(this.#source, offset, SECTION_HEAD);
    head.u16();
    const compressed = (head.u16() & COMPRESSED) !== 0;
    head.u32();
    const size = head.u64();
    const at = offset + SECTION_HEAD;
    if (!compressed) return cursorAt(this.#source, at, size);
    const sizes = cursorAt(this.#source, at, 8);
    const stored = sizes.u32();
    const bytes = this.#decompress(this.#source.read(at + 8, stored), sizes.u32(), at);
    return new ByteCursor(bytes, (message) => corrupt(this.#source, message, offset));
  }

  #kallsyms(): Uint8Array {
    if (this.#kallsymsAt === undefined) return new Uint8Array(0);
    const cursor = this.#section(this.#kallsymsAt);
    return cursor.take(cursor.u32());
  }

  #buffer(data: ByteCursor): void {
    const section = data.u64();
    const head = cursorAt(this.#source, section, SECTION_HEAD);
    head.u16();
    const compressed = (head.u16() & COMPRESSED) !== 0;
    data.string();
    data.string();
    const pageSize = data.u32();
    if (pageSize < 64 || pageSize > MAX_PAGE) throw corrupt(this.#source, `pages of ${pageSize} bytes`, section);
    const count = data.u32();
    for (let i = 0; i < count; i++) {
      const cpu = data.u32();
      const offset = data.u64();
      const size = data.u64();
      if (offset + size > this.#source.size) {
        throw corrupt(this.#source, `the buffer of CPU ${cpu} is cut short`, Math.min(offset, this.#source.size));
      }
      const pages = compressed
        ? this.#compressedPages(offset, size, pageSize)
        : plainPages(this.#source, offset, size, pageSize);
      this.#buffers.push({ cpu, pageSize, pages });
    }
  }

  /** One chunk of pages is in memory at a time. Places are those of the chunks. */
  *#compressedPages(offset: number, size: number, pageSize: number): Pages {
    if (size === 0) return;
    const chunks = cursorAt(this.#source, offset, 4).u32();
    let at = offset + 4;
    for (let i = 0; i < chunks; i++) {
      const sizes = cursorAt(this.#source, at, 8);
      const stored = sizes.u32();
      const pages = this.#decompress(this.#source.read(at + 8, stored), sizes.u32(), at);
      for (let page = 0; page + pageSize <= pages.length; page += pageSize) {
        yield { page: pages.subarray(page, page + pageSize), offset: at };
      }
      at += 8 + stored;
    }
  }
}
