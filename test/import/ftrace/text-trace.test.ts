import { describe, expect, it } from 'vitest';
import { Problem } from '../../../src/bits/problem.ts';
import type { TraceEvent } from '../../../src/import/ftrace/event.ts';
import { readTextTrace, TextTraceParser } from '../../../src/import/ftrace/text-trace.ts';

async function read(...lines: string[]): Promise<TraceEvent[]> {
  const events: TraceEvent[] = [];
  for await (const event of readTextTrace(lines, 'trace.txt')) events.push(event);
  return events;
}

async function problemOf(...lines: string[]): Promise<Problem> {
  const problem: unknown = await read(...lines).catch((error: unknown) => error);
  expect(problem).toBeInstanceOf(Problem);
  return problem as Problem;
}

const ENTRY = ' vmm-1     [001] .....     2.000000: kvm_entry: vcpu 0, rip 0x1';

describe('a text trace', () => {
  it('counts lines from the first of the file', async () => {
    const events = await read('# tracer: nop', '#', ENTRY, '', ENTRY);
    expect(events.map(({ position }) => position)).toEqual([3, 5]);
    expect(events[0]).toEqual({
      position: 3,
      time: 2e9,
      task: 'vmm',
      pid: 1,
      cpu: 1,
      name: 'kvm_entry',
      vcpu: 0,
      rip: 1n,
    });
  });

  it('joins the lines of a mark', async () => {
    const mark = ' vmm-1     [001] .....     1.000000: tracing_mark_write: one';
    const events = await read(mark, 'two', '', ENTRY, mark);
    expect(events).toMatchObject([{ name: 'mark', text: 'one\ntwo' }, { name: 'kvm_entry' }, { text: 'one' }]);
  });

  it('tells where events were lost', async () => {
    const events = await read(
      ENTRY,
      'CPU:3 [LOST 12 EVENTS]',
      'CPU:0 [LOST EVENTS]',
      'CPU:1 [7 EVENTS DROPPED]',
      ENTRY,
    );
    expect(events.filter(({ name }) => name === 'lost')).toMatchObject([
      { cpu: 3, count: 12, time: 2e9, position: 2 },
      { cpu: 0, count: undefined },
      { cpu: 1, count: 7 },
    ]);
    expect(events).toHaveLength(5);
  });

  it('passes over what the tools say themselves, and stacks', async () => {
    const events = await read(
      'cpus=2',
      'CPU 1 is empty',
      ENTRY,
      ' vmm-1     [001] .....     2.000000: <stack trace>',
      ' => kvm_mmu_load',
      '##### CPU 1 buffer started ####',
      '\tffffffff81000000 kvm_exit ([kernel])',
      ENTRY,
    );
    expect(events.map(({ name }) => name)).toEqual(['kvm_entry', 'other', 'kvm_entry']);
  });

  it('knows what a text says of itself', () => {
    const kernel = new TextTraceParser('a');
    kernel.line('# tracer: nop');
    kernel.line('# entries-in-buffer/entries-written: 1/1   #P:8');
    expect(kernel.about).toEqual({ form: 'ftrace', kernel: undefined, cpus: 8 });
    expect(kernel.end()).toBeUndefined();
    const report = new TextTraceParser('b');
    report.line('cpus=3');
    expect(report.about).toMatchObject({ form: 'trace-cmd report', cpus: 3 });
    const perf = new TextTraceParser('c');
    perf.line('# ========');
    perf.line('# os release : 6.1.0-9-amd64');
    perf.line('# nrcpus online : 16');
    perf.line('vmm  5 [000] 1.000000: kvm:kvm_fpu: load');
    expect(perf.about).toEqual({ form: 'perf script', kernel: '6.1.0-9-amd64', cpus: 16 });
  });

  it('names file and line of what it does not understand', async () => {
    expect(await problemOf(ENTRY, 'what is this')).toMatchObject({
      code: 'E_IMPORT',
      place: { file: 'trace.txt', line: 2 },
    });
    const plugin = await problemOf(ENTRY, ENTRY, ENTRY.replace(', rip', ' rip'));
    expect(plugin).toMatchObject({ code: 'E_IMPORT', place: { file: 'trace.txt', line: 3 } });
    expect(plugin.message).toContain('kvm_entry');
    expect(plugin.remedy).toContain('report -N');
    expect(await problemOf('CPU:x [LOST EVENTS]')).toMatchObject({ place: { line: 1 } });
  });

  it('refuses what is no trace at all', async () => {
    expect(await problemOf()).toMatchObject({ code: 'E_IMPORT' });
    expect(await problemOf('', '# a shell script')).toMatchObject({ code: 'E_IMPORT' });
    expect(await problemOf('\u0000\u0001\uFFFD[[')).toMatchObject({ place: { line: 1 } });
  });

  it('does not collect lines without end behind a mark', async () => {
    const mark = ' vmm-1     [001] .....     1.000000: tracing_mark_write: one';
    const problem = await problemOf(mark, ...new Array<string>(200).fill('x'.repeat(50)));
    expect(problem.place.line).toBeLessThan(100);
  });
});
