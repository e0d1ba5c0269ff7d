/** Writes small trace.dat files of both versions, as trace-cmd.dat.v6(5) and trace-cmd.dat.v7(5) describe them. */

import { deflateSync } from 'node:zlib';

export const PAGE = 4096;

const COMMON = `\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

`;

export function format(name: string, id: number, fields: readonly string[], print = '""'): string {
  const lines = fields.map((field) => `\t${field}\n`).join('');
  return `name: ${name}\nID: ${id}\nformat:\n${COMMON}${lines}\nprint fmt: ${print}\n`;
}

const HEADER_PAGE = `\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;
\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;
\tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;
`;

export interface WrittenTrace {
  /** Formats of system `ftrace`, then those of `kvm`. */
  readonly ftrace: readonly string[];
  readonly kvm: readonly string[];
  readonly kallsyms: string;
  readonly tasks: string;
  readonly uname: string;
  /** Pages by CPU. */
  readonly cpus: readonly (readonly Buffer[])[];
}

export const u16 = (value: number): Buffer => Buffer.from([value & 0xff, value >>> 8]);

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)));
  return bytes;
}

const text = (value: string): Buffer => Buffer.from(`${value}\0`);
const counted = (value: string): Buffer => Buffer.concat([u64(value.length), Buffer.from(value)]);

/** A page of the ring buffer. `flags`: of the word that counts the bytes in use. */
export function page(time: number, records: readonly Buffer[], flags = 0, behind: Buffer = Buffer.alloc(0)): Buffer {
  const data = Buffer.concat(records);
  const bytes = Buffer.concat([u64(time), u32(data.length + flags), u32(0), data, behind]);
  return Buffer.concat([bytes, Buffer.alloc(PAGE - bytes.length)]);
}

/** A record with its length in the type: whole words, up to 28. */
export function record(delta: number, data: Buffer): Buffer {
  const padded = Buffer.concat([data, Buffer.alloc(-data.length & 3)]);
  return Buffer.concat([u32(delta * 32 + padded.length / 4), padded]);
}

/** A record with its length in a word of its own. */
export function longRecord(delta: number, data: Buffer): Buffer {
  const padded = Buffer.concat([data, Buffer.alloc(-data.length & 3)]);
  return Buffer.concat([u32(delta * 32), u32(padded.length + 4), padded]);
}

export const timeExtend = (time: number): Buffer =>
  Buffer.concat([u32((time % 2 ** 27) * 32 + 30), u32(Math.floor(time / 2 ** 27))]);
export const timeStamp = (time: number): Buffer =>
  Buffer.concat([u32((time % 2 ** 27) * 32 + 31), u32(Math.floor(time / 2 ** 27))]);
/** `length` bytes in all that hold nothing. */
export const discarded = (delta: number, length: number): Buffer =>
  Buffer.concat([u32(delta * 32 + 29), u32(length - 4), Buffer.alloc(length - 8)]);
export const endOfPage = (): Buffer => u32(29);

const headerInfo = (): Buffer =>
  Buffer.concat([text('header_page'), counted(HEADER_PAGE), text('header_event'), counted('# nothing of use\n')]);
const formats = (list: readonly string[]): Buffer => Buffer.concat([u32(list.length), ...list.map(counted)]);
const systems = (list: readonly string[]): Buffer => Buffer.concat([u32(1), text('kvm'), formats(list)]);
const sized = (value: string): Buffer => Buffer.concat([u32(value.length), Buffer.from(value)]);

function initial(version: string): Buffer {
  const magic = Buffer.concat([Buffer.from([0x17, 0x08, 0x44]), Buffer.from('tracing'), text(version)]);
  return Buffer.concat([magic, Buffer.from([0, 8]), u32(PAGE)]);
}

export function version6(trace: WrittenTrace): Buffer {
  const uname = text(trace.uname);
  const head = Buffer.concat([
    initial('6'),
    headerInfo(),
    formats(trace.ftrace),
    systems(trace.kvm),
    sized(trace.kallsyms),
    sized(''),
    counted(trace.tasks),
    u32(trace.cpus.length),
    text('options  '),
    ...[u16(5), u32(uname.length), uname, u16(0)],
    text('flyrecord'),
  ]);
  let offset = Math.ceil((head.length + 16 * trace.cpus.length) / PAGE) * PAGE;
  const table: Buffer[] = [];
  for (const pages of trace.cpus) {
    table.push(u64(offset), u64(pages.length * PAGE));
    offset += pages.length * PAGE;
  }
  const start = Buffer.concat([head, ...table]);
  return Buffer.concat([start, Buffer.alloc(-start.length & (PAGE - 1)), ...trace.cpus.flat()]);
}

export function version7(trace: WrittenTrace, compression: 'none' | 'zlib' | 'lzo'): Buffer {
  const packed = compression !== 'none';
  const parts: Buffer[] = [Buffer.concat([initial('7'), text(compression), text('1'), u64(0)])];
  let at = parts[0]!.length;
  const optionsPointer = at - 8;
  const add = (bytes: Buffer): number => {
    parts.push(bytes);
    at += bytes.length;
    return at - bytes.length;
  };
  const compressed = (content: Buffer): Buffer => {
    const data = deflateSync(content);
    return Buffer.concat([u32(data.length), u32(content.length), data]);
  };
  const section = (id: number, content: Buffer, compress = packed): number => {
    const stored = compress ? compressed(content) : content;
    return add(Buffer.concat([u16(id), u16(compress ? 1 : 0), u32(0), u64(stored.length), stored]));
  };
  const option = (id: number, data: Buffer): Buffer => Buffer.concat([u16(id), u32(data.length), data]);
  const options = [
    option(16, u64(section(16, headerInfo()))),
    option(17, u64(section(17, formats(trace.ftrace)))),
    option(18, u64(section(18, systems(trace.kvm)))),
    option(19, u64(section(19, sized(trace.kallsyms)))),
    option(21, u64(section(21, counted(trace.tasks)))),
    option(5, text(trace.uname)),
    option(8, u32(trace.cpus.length)),
    option(99, Buffer.from('of a later trace-cmd')),
  ];
  const buffer = add(Buffer.concat([u16(3), u16(packed ? 1 : 0), u32(0), u64(0)]));
  const cpus = trace.cpus.map((pages, cpu) => {
    // A chunk to a page.
    const data = packed ? Buffer.concat([u32(pages.length), ...pages.map(compressed)]) : Buffer.concat(pages);
    return Buffer.concat([u32(cpu), u64(add(data)), u64(pages.length === 0 ? 0 : data.length)]);
  });
  const description = [u64(buffer), text(''), text('local'), u32(PAGE), u32(cpus.length), ...cpus];
  const second = section(0, Buffer.concat([option(3, Buffer.concat(description)), option(0, u64(0))]), false);
  const first = section(0, Buffer.concat([...options, option(0, u64(second))]), false);
  const file = Buffer.concat(parts);
  file.writeBigUInt64LE(BigInt(first), optionsPointer);
  return file;
}
