import { describe, expect, it } from 'vitest';
import { Problem } from '../../../src/bits/problem.ts';
import type { TraceEvent } from '../../../src/import/ftrace/event.ts';
import { memorySource } from '../../../src/import/ftrace/trace-dat/byte-source.ts';
import { readTraceDat, type TraceDatContent } from '../../../src/import/ftrace/trace-dat/read-trace-dat.ts';
import {
  discarded,
  endOfPage,
  format,
  longRecord,
  page,
  record,
  timeExtend,
  timeStamp,
  u16,
  u32,
  u64,
  version6,
  version7,
  type WrittenTrace,
} from './trace-dat-writer.ts';

const PRINT = format('print', 5, [
  'field:unsigned long ip;\toffset:8;\tsize:8;\tsigned:0;',
  'field:char buf[];\toffset:16;\tsize:0;\tsigned:1;',
]);
const ENTRY = format('kvm_entry', 300, [
  'field:unsigned int vcpu_id;\toffset:8;\tsize:4;\tsigned:0;',
  'field:unsigned long rip;\toffset:16;\tsize:8;\tsigned:0;',
]);
const EXIT = format(
  'kvm_exit',
  301,
  [
    'field:unsigned int exit_reason;\toffset:8;\tsize:4;\tsigned:0;',
    'field:unsigned long guest_rip;\toffset:16;\tsize:8;\tsigned:0;',
    'field:u32 isa;\toffset:24;\tsize:4;\tsigned:0;',
    'field:u64 info1;\toffset:32;\tsize:8;\tsigned:0;',
    'field:u64 info2;\toffset:40;\tsize:8;\tsigned:0;',
    'field:u32 intr_info;\toffset:48;\tsize:4;\tsigned:0;',
    'field:u32 error_code;\toffset:52;\tsize:4;\tsigned:0;',
    'field:unsigned int vcpu_id;\toffset:56;\tsize:4;\tsigned:0;',
  ],
  '"%s", (REC->isa == 1) ? __print_symbolic(REC->exit_reason & 0xffff, { 48, "EPT_VIOLATION" }) : ' +
    '__print_symbolic(REC->exit_reason, { 0x040 + 14, "PF excp" }, { (1 << 10), "npf" }, { NOT_EXPORTED, "x" }, { -1, "no" }), ' +
    '__print_flags(REC->exit_reason & ~0xffff, " ", { 0x80000000, "FAILED_VMENTRY" }, { (1U << 27), "ENCLAVE" })',
);
const FAST = format(
  'fast_page_fault',
  302,
  [
    'field:int vcpu_id;\toffset:8;\tsize:4;\tsigned:1;',
    'field:gpa_t cr2_or_gpa;\toffset:16;\tsize:8;\tsigned:0;',
    'field:u32 error_code;\toffset:24;\tsize:4;\tsigned:0;',
    'field:u64 * sptep;\toffset:32;\tsize:8;\tsigned:0;',
    'field:u64 old_spte;\toffset:40;\tsize:8;\tsigned:0;',
    'field:u64 new_spte;\toffset:48;\tsize:8;\tsigned:0;',
    'field:int ret;\toffset:56;\tsize:4;\tsigned:1;',
  ],
  '"%d %d", REC->ret == 6, REC->ret == 5',
);

const start = (id: number, pid: number): Buffer => Buffer.concat([u16(id), u16(0), u32(pid)]);
const entry = (pid: number, rip: bigint): Buffer => Buffer.concat([start(300, pid), u32(2), u32(0), u64(rip)]);
const exit = (reason: number, isa: number): Buffer =>
  Buffer.concat([start(301, 7), u32(reason), u32(0), u64(9), u32(isa), u32(0), u64(1), u64(2), u32(3), u32(4), u32(5)]);
const fast = (ret: number): Buffer =>
  Buffer.concat([start(302, 7), u32(1), u32(0), u64(2), u32(7), u32(0), u64(3), u64(4), u64(5), u32(ret)]);
const print = (ip: number, text: string): Buffer => Buffer.concat([start(5, 7), u64(ip), Buffer.from(`${text}\0`)]);

function trace(...cpus: (readonly Buffer[])[]): WrittenTrace {
  return {
    ftrace: [PRINT],
    kvm: [ENTRY, EXIT, FAST],
    kallsyms:
      '0000000000002000 t tracing_mark_write.isra.0\n0000000000001000 T first\n0000000000003000 t last\t[kvm]\n',
    tasks: '7 vmm\n12 CPU 0/KVM\n',
    uname: 'Linux host 6.1.0-9-amd64 x86_64',
    cpus,
  };
}

const open = (bytes: Uint8Array): TraceDatContent => readTraceDat(memorySource(bytes, 'trace.dat'));
const events = (bytes: Uint8Array): TraceEvent[] => [...open(bytes).events];

const VERSIONS: readonly (readonly [name: string, write: (trace: WrittenTrace) => Buffer])[] = [
  ['version 6', version6],
  ['version 7', (written) => version7(written, 'none')],
  ['version 7 with zlib', (written) => version7(written, 'zlib')],
];

describe.each(VERSIONS)('trace.dat of %s', (name, write) => {
  it('merges the buffers by time', () => {
    const bytes = write(
      trace(
        [page(1000, [record(0, entry(12, 1n)), record(500, entry(0, 2n))]), page(3000, [record(0, entry(12, 3n))])],
        [],
        [page(900, [record(600, entry(99, 0xffffffff81000000n)), longRecord(1000, entry(12, 5n))])],
      ),
    );
    expect(open(bytes)).toMatchObject({
      kernel: '6.1.0-9-amd64',
      cpus: 3,
      version: name.startsWith('version 6') ? 6 : 7,
    });
    expect(events(bytes)).toEqual([
      { position: 1, time: 1000, task: 'CPU 0/KVM', pid: 12, cpu: 0, name: 'kvm_entry', vcpu: 2, rip: 1n },
      { position: 2, time: 1500, task: '<idle>', pid: 0, cpu: 0, name: 'kvm_entry', vcpu: 2, rip: 2n },
      { position: 3, time: 1500, task: '<...>', pid: 99, cpu: 2, name: 'kvm_entry', vcpu: 2, rip: 0xffffffff81000000n },
      { position: 4, time: 2500, task: 'CPU 0/KVM', pid: 12, cpu: 2, name: 'kvm_entry', vcpu: 2, rip: 5n },
      { position: 5, time: 3000, task: 'CPU 0/KVM', pid: 12, cpu: 0, name: 'kvm_entry', vcpu: 2, rip: 3n },
    ]);
  });

  it('keeps time over extensions, stamps and what was discarded', () => {
    const base = 2 ** 60 + 2 ** 20;
    const pages = [
      page(5, [
        timeExtend(2 ** 30),
        record(3, entry(7, 1n)),
        discarded(10, 24),
        record(1, entry(7, 2n)),
        timeStamp(2 ** 31),
        record(0, entry(7, 3n)),
        endOfPage(),
        Buffer.alloc(40),
      ]),
      page(base, [timeStamp(2 ** 21), record(0, entry(7, 4n))]),
    ];
    expect(events(write(trace(pages))).map(({ time }) => time)).toEqual([
      2 ** 30 + 8,
      2 ** 30 + 19,
      2 ** 31,
      2 ** 60 + 2 ** 21,
    ]);
  });

  it('tells where events were lost', () => {
    const pages = [
      page(1, [record(0, entry(7, 1n))]),
      page(2, [record(0, entry(7, 2n))], 0xc0000000, u64(17)),
      page(3, [record(0, entry(7, 3n))], 0x80000000),
    ];
    expect(events(write(trace(pages)))).toMatchObject([
      { rip: 1n },
      { name: 'lost', count: 17, time: 2, cpu: 0, pid: -1 },
      { rip: 2n },
      { name: 'lost', count: undefined, time: 3 },
      { rip: 3n },
    ]);
  });

  it('names numbers as the recording kernel does', () => {
    const reasons = [
      [0x4e, 2],
      [0x400, 2],
      [0x77, 2],
      [0xffffffff, 2],
      [48, 1],
      [0x80000030, 1],
      [0x88010031, 1],
    ].map(([reason, isa]) => record(0, exit(reason!, isa!)));
    const got = events(write(trace([page(1, reasons)])));
    expect(got[0]).toMatchObject({ vcpu: 5, rip: 9n, info1: 1n, info2: 2n, intrInfo: 3, errorCode: 4 });
    expect(got.map((event) => (event.name === 'kvm_exit' ? event.reason : ''))).toEqual([
      'PF excp',
      'npf',
      '0x77',
      '0xffffffff',
      'EPT_VIOLATION',
      'EPT_VIOLATION FAILED_VMENTRY',
      '0x31 FAILED_VMENTRY ENCLAVE 0x10000',
    ]);
    const results = [5, 6, 1].map((ret) => record(0, fast(ret)));
    expect(events(write(trace([page(1, results)])))).toMatchObject([
      { fixed: true, spurious: false, errorCode: 7n, sptep: 3n, oldSpte: 4n, newSpte: 5n },
      { fixed: false, spurious: true },
      { fixed: false, spurious: false },
    ]);
  });

  it('knows marks from what the kernel prints', () => {
    const pages = [page(1, [record(0, print(0x2010, 'T 1\n')), longRecord(0, print(0x3004, 'hello'))])];
    expect(events(write(trace(pages)))).toMatchObject([
      { name: 'mark', text: 'T 1' },
      { name: 'other', event: 'last', text: 'hello' },
    ]);
    const hidden = { ...trace(pages), kallsyms: '0000000000000000 t tracing_mark_write\n' };
    expect(events(write(hidden))).toMatchObject([{ name: 'mark' }, { name: 'mark' }]);
  });

  it.each([
    ['an event without a format', [record(0, Buffer.concat([start(77, 1), u64(0)]))], 0],
    ['a record that is shorter than its fields', [record(0, start(300, 1))], 0],
    ['a record that leaves its page', [longRecord(0, entry(1, 1n)).fill(0xff, 4, 8)], 0],
    ['a record without room for its number', [Buffer.concat([u32(0), u32(5), u32(0)])], 0],
    ['a page that uses more than it has', [], 5000],
    ['half a head', [Buffer.alloc(2)], 0],
  ])('refuses %s', (_what, records, flags) => {
    const bytes = write(trace([page(1, records, flags)]));
    expect(() => events(bytes)).toThrow(Problem);
    expect(() => events(bytes)).toThrow(expect.objectContaining({ code: 'E_IMPORT' }));
  });

  it('throws nothing but a Problem, wherever the file is cut or changed', () => {
    const cpu = [page(1, [record(0, exit(48, 1)), record(1, print(0x2000, 'T')), timeExtend(5), record(2, fast(5))])];
    const whole = write(trace(cpu, cpu));
    let seed = 1;
    const next = (n: number): number => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return Math.floor((seed / 2 ** 32) * n);
    };
    const codes = new Map<string, number>();
    for (let i = 0; i < 3000; i++) {
      let bytes = Buffer.from(whole);
      if (i % 3 === 0) bytes = bytes.subarray(0, next(bytes.length));
      else if (i % 3 === 1) bytes[next(bytes.length)] = next(256);
      else bytes.writeUInt32LE(next(2) === 0 ? 0xffffffff : next(2 ** 32), next(bytes.length - 4));
      try {
        events(bytes);
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        expect(error.place.file).toBe('trace.dat');
        codes.set(error.code, (codes.get(error.code) ?? 0) + 1);
      }
    }
    expect(codes.get('E_IMPORT')).toBeGreaterThan(500);
    for (const code of codes.keys()) expect(['E_IMPORT', 'E_LIMIT', 'E_NEWER_VERSION']).toContain(code);
  });
});

describe('trace.dat', () => {
  const whole = version7(trace([page(1, [record(0, entry(7, 1n))])]), 'none');

  it('of a compression that is not known is refused with a remedy', () => {
    const bytes = version7(trace([]), 'lzo');
    expect(() => open(bytes)).toThrow(
      expect.objectContaining({ code: 'E_IMPORT', remedy: expect.stringMatching(/none/) }),
    );
  });

  it('of a later version, of another byte order, or none at all', () => {
    const change = (at: number, value: number): Buffer => {
      const bytes = Buffer.from(whole);
      bytes[at] = value;
      return bytes;
    };
    expect(() => open(change(10, 0x39))).toThrow(expect.objectContaining({ code: 'E_NEWER_VERSION' }));
    expect(() => open(change(10, 0x35))).toThrow(expect.objectContaining({ code: 'E_IMPORT' }));
    expect(() => open(change(12, 1))).toThrow(/big-endian/);
    expect(() => open(change(0, 0))).toThrow(/no trace.dat/);
    expect(() => open(new Uint8Array(0))).toThrow(Problem);
  });

  it('whose options go round in a circle', () => {
    const bytes = Buffer.from(whole);
    const first = bytes.readUInt32LE(bytes.indexOf('none\0') + 7);
    bytes.writeUInt32LE(first, bytes.length - 8);
    expect(() => open(bytes)).toThrow(Problem);
  });

  it('that announces a huge part', () => {
    const bytes = version7(trace([page(1, [])]), 'zlib');
    const at = bytes.indexOf(Buffer.concat([u16(16), u16(1)]));
    bytes.writeUInt32LE(0xf0000000, at + 20);
    expect(() => open(bytes)).toThrow(expect.objectContaining({ code: 'E_LIMIT' }));
  });
});
