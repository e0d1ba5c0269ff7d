import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, describe, expect, it } from 'vitest';
import { Problem } from '../../../src/bits/problem.ts';
import type { TraceEvent } from '../../../src/import/ftrace/event.ts';
import { openKvmTrace } from '../../../src/import/ftrace/open-kvm-trace.ts';
import { format, page, record, u16, u32, version6 } from './trace-dat-writer.ts';

const folder = mkdtempSync(join(tmpdir(), 'rewalk-ftrace-'));
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

async function readAll(path: string): Promise<TraceEvent[]> {
  const events: TraceEvent[] = [];
  for await (const event of (await openKvmTrace(path)).events) events.push(event);
  return events;
}

async function problemOf(path: string): Promise<Problem> {
  const problem: unknown = await readAll(path).catch((error: unknown) => error);
  expect(problem).toBeInstanceOf(Problem);
  return problem as Problem;
}

const TEXT = `# tracer: nop
#
# entries-in-buffer/entries-written: 2/2   #P:2
             vmm-147     [000] .....    21.632575: kvm_fpu: load
             vmm-147     [001] .....    21.632576: kvm_entry: vcpu 0, rip 0x100000
`;

const DAT = version6({
  ftrace: [],
  kvm: [format('kvm_fpu', 9, [])],
  kallsyms: '',
  tasks: '147 vmm\n',
  uname: 'Linux host 6.1.0-9-amd64 x86_64',
  cpus: [[page(1000, [record(0, Buffer.concat([u16(9), u16(0), u32(147)]))])]],
});

describe('openKvmTrace', () => {
  it.each([
    ['plain text', TEXT],
    ['text in gzip', gzipSync(TEXT)],
    ['text with carriage returns', TEXT.replaceAll('\n', '\r\n')],
  ])('knows %s', async (name, content) => {
    const path = file(`${name}.x`, content);
    expect(await openKvmTrace(path)).toMatchObject({ form: 'ftrace', kernel: undefined, cpus: 2 });
    expect(await readAll(path)).toMatchObject([
      { position: 4, name: 'other', event: 'kvm_fpu' },
      { position: 5, name: 'kvm_entry' },
    ]);
  });

  it.each([
    ['trace.dat', DAT],
    ['trace.dat in gzip', gzipSync(DAT)],
  ])('knows %s', async (name, content) => {
    const path = file(name, content);
    expect(await openKvmTrace(path)).toMatchObject({ form: 'trace.dat 6', kernel: '6.1.0-9-amd64', cpus: 1 });
    expect(await readAll(path)).toMatchObject([{ time: 1000, task: 'vmm', name: 'other', event: 'kvm_fpu' }]);
  });

  it('needs only as much as it is asked for', async () => {
    const { events } = await openKvmTrace(file('long.txt', `${TEXT}garbage\n`));
    for await (const event of events) {
      expect(event.position).toBe(4);
      break;
    }
  });

  it('an empty trace of the kernel is one', async () => {
    expect(await readAll(file('empty-trace.txt', '# tracer: nop\n#\n'))).toEqual([]);
  });

  it.each([
    ['nothing', ''],
    ['zeros', new Uint8Array(300000)],
    ['binary', Uint8Array.from({ length: 5000 }, (_, i) => (i * 7919) & 0xff)],
    ['one endless line', 'x'.repeat(2000000)],
    ['gzip of nothing', gzipSync('')],
    ['half of gzip', gzipSync(TEXT.repeat(100)).subarray(0, 150)],
    ['the head of gzip', gzipSync(TEXT).subarray(0, 6)],
    ['half of a trace.dat', DAT.subarray(0, 500)],
    ['the first bytes of a trace.dat', DAT.subarray(0, 11)],
    ['text cut within a line', TEXT.slice(0, -20)],
    ['another kind of text', '{"a": 1}\n'],
  ])('refuses %s with one problem', async (name, content) => {
    const problem = await problemOf(file(`bad ${name}`, content));
    expect(['E_IMPORT', 'E_LIMIT']).toContain(problem.code);
    expect(problem.place.file).toContain(folder);
  });

  it('a missing file and a folder', async () => {
    expect(await problemOf(join(folder, 'missing'))).toMatchObject({ code: 'E_NO_SUCH_FILE' });
    expect(await problemOf(folder)).toMatchObject({ code: 'E_IO' });
  });
});
