/** Traces come from strangers: whatever a reader lets through is replayed and reported, never a crash. */

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Problem } from '../../src/bits/problem.ts';
import { NESTED_NP_ENABLE, Reg } from '../../src/formats/registers.ts';
import { ReplaySession } from '../../src/replay/session.ts';
import { replayObject } from '../../src/report/replay-json.ts';
import { divergenceLines, groupLines, receiptLines, summaryLine } from '../../src/report/replay-text.ts';
import type { StepColumns } from '../../src/trace/columns.ts';
import type { TraceHeader } from '../../src/trace/header.ts';
import { chunksArbitrary, HEADER } from '../trace/samples.ts';

/** Replays and reports; returns the number of steps, or the problem that ended it. */
function replayed(header: TraceHeader, chunks: readonly StepColumns[]): number | Problem {
  const session = new ReplaySession('strange.rwt', header, { maxDiffs: 100 });
  try {
    for (const columns of chunks) session.run(columns);
  } catch (error) {
    if (error instanceof Problem) return error;
    throw error;
  }
  const result = session.result('', 'complete');
  const text = [
    ...receiptLines(result.receipt),
    summaryLine(result, (_, each) => each),
    ...result.divergences.flatMap((divergence) => divergenceLines(divergence, header, (_, each) => each)),
    ...groupLines(result.receipt),
  ].join('\n');
  expect(text).not.toMatch(/undefined(?! type)|NaN|\[object/);
  expect(JSON.stringify(replayObject(result, header))).not.toContain('"undefined');
  return result.receipt.steps;
}

const headers = fc
  .record({
    vendor: fc.constantFrom('intel' as const, 'amd' as const, 'unknown' as const),
    maxphyaddr: fc.integer({ min: 32, max: 52 }),
    features: fc.subarray(['pse', 'pse36', 'pae', 'nx', 'pdpe1gb', 'smep', 'smap', 'pcid', 'pku', 'pks', 'la57']),
    observable: fc.nat({ max: 0x1_ffff }),
    independent: fc.boolean(),
    adPolicy: fc.constantFrom('unspecified' as const, 'after-permissions' as const, 'after-translation' as const),
  })
  .map(({ vendor, maxphyaddr, features, ...fields }): TraceHeader => {
    return { ...HEADER, ...fields, processor: { ...HEADER.processor, vendor, maxphyaddr, features } };
  });

/** Chunks whose fills are short: it is not the time that is tested. */
const chunkLists = chunksArbitrary.map((chunks) =>
  chunks.map((columns) => ({
    ...columns,
    stimuli: columns.stimuli.map((each) => (each.kind === 'entry-fill' ? { ...each, count: each.count % 1000 } : each)),
  })),
);

const LAST = 600;

test('any steps that a reader accepts, under any registers', () => {
  fc.assert(
    fc.property(headers, chunkLists, (header, chunks) => {
      const steps = chunks.reduce((sum, { stepCount }) => sum + stepCount, 0);
      const outcome = replayed(header, chunks);
      if (outcome instanceof Problem) expect(outcome.code).toBe('E_LIMIT');
      else expect(outcome).toBe(steps);
    }),
    { numRuns: 60, seed: 20_266, endOnFailure: true },
  );
});

/** Registers that switch something on. */
const modes = fc.constantFrom(
  { cr0: 0x8000_0011, cr4: 0, efer: 0, mode: 0 },
  { cr0: 0x8001_0011, cr4: 0x10, efer: 0, mode: 0 },
  { cr0: 0x8001_0011, cr4: 0x30_00a0, efer: 0x800, mode: 0 },
  { cr0: 0x8001_0011, cr4: 0x17_0020, efer: 0xd00, mode: 0 },
  { cr0: 0x8001_0011, cr4: 0x41_1020, efer: 0xd00, mode: 0 },
  { cr0: 0x8001_0011, cr4: 0x20, efer: 0xd00, mode: 1 },
  { cr0: 0x8001_0011, cr4: 0x20, efer: 0x800, mode: 2 },
  { cr0: 0x11, cr4: 0, efer: 0, mode: 1 },
);

test('any steps in every mode, with tables full of anything', () => {
  fc.assert(
    fc.property(
      headers,
      modes,
      chunkLists,
      fc.infiniteStream(fc.nat({ max: 0xffff_ffff })),
      (header, mode, chunks, words) => {
        const [first, ...others] = chunks;
        if (first === undefined) return;
        const registers = first.registers.map((word) => word);
        const put = (register: number, low: number): void => {
          registers[2 * register] = low;
          registers[2 * register + 1] = 0;
        };
        put(Reg.CR0, mode.cr0);
        put(Reg.CR3, 0x1000);
        put(Reg.CR4, mode.cr4);
        put(Reg.EFER, mode.efer);
        put(Reg.GUEST_MODE, mode.mode);
        put(Reg.EPTP, 0x1005e);
        put(Reg.SECONDARY_CONTROLS, 0x40_0022);
        put(Reg.NESTED_CONTROL, NESTED_NP_ENABLE);
        put(Reg.NCR3, 0x1_0000);
        put(Reg.HOST_CR0, 0x8001_0011);
        put(Reg.HOST_CR4, 0x20);
        put(Reg.HOST_EFER, 0x1d00);
        // Every entry links to one of a few pages, with flags of any kind.
        const link = (): number => ((((words.next().value ?? 0) & 0xf_0fff) | 0x7) + 0x1000) >>> 0;
        const pages = Array.from({ length: 17 }, (_, frame) => ({
          kind: 'page-image' as const,
          address: { lo: (frame + 1) << 12, hi: 0 },
          words: Uint32Array.from({ length: 1024 }, (__, i) => (i % 2 === 0 && i < LAST ? link() : 0)),
        }));
        const filled: StepColumns = {
          ...first,
          registers,
          stimuli: pages,
          stepCount: pages.length,
          observationCount: 0,
          op: new Uint32Array(pages.length),
          address: new Uint32Array(2 * pages.length),
          operand: Uint32Array.from({ length: 2 * pages.length }, (_, i) => (i % 2 === 0 ? i / 2 : 0)),
          observationEnd: new Uint32Array(pages.length),
          firstOrdinal: 0,
        };
        const moved = [first, ...others].map((columns) => ({
          ...columns,
          registers,
          firstOrdinal: columns.firstOrdinal + pages.length,
        }));
        const outcome = replayed(header, [filled, ...moved]);
        if (outcome instanceof Problem) expect(outcome.code).toBe('E_LIMIT');
      },
    ),
    { numRuns: 60, seed: 20_267, endOnFailure: true },
  );
});
