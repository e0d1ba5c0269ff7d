/** Strangers' traces: what is concluded of a VM that nobody describes, and how far a replay can judge it. */

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import type { TraceEvent, TraceEventFields } from '../../../src/import/ftrace/event.ts';
import { importEvents, importKvm } from '../../../src/import/kvm/import-kvm.ts';
import { Surveyor } from '../../../src/import/kvm/survey.ts';
import type { ReplayResult } from '../../../src/replay/result.ts';
import { ReplaySession } from '../../../src/replay/session.ts';
import type { StepColumns } from '../../../src/trace/columns.ts';
import type { TraceHeader } from '../../../src/trace/header.ts';
import { element, entry, exit, fault, told, trace, walk } from './events.ts';

const WRITABLE = 0xe67n;
const TABLE = 0x827n;
const NO_SLOT = 1n << 63n;

const page = (level: number, gfn = 0n, created = true): TraceEventFields => ({
  ...{ name: 'kvm_mmu_get_page', gen: 0, gfn, rootCount: 0, unsync: false, created },
  // Direct, all rights, NX, CR0.WP: what the root of a second stage has.
  ...{ role: level | (1 << 7) | (7 << 8) | (1 << 12) | (1 << 13), roleMask: 0xffff_ffff },
});
const requested = (gfn: bigint, pfn: bigint, level = 1): TraceEventFields => ({
  ...{ name: 'kvm_mmu_spte_requested', gfn, pfn, level },
});
const changed = (gfn: bigint, level: number, oldSpte: bigint, newSpte: bigint): TraceEventFields => ({
  ...{ name: 'kvm_tdp_mmu_spte_changed', asId: 0, gfn, level, oldSpte, newSpte },
});
const set = (gfn: bigint, spte: bigint, sptep: bigint): TraceEventFields => ({
  ...{ name: 'kvm_mmu_set_spte', gfn, spte, sptep, level: 1, r: true, x: true, u: true },
});
const failed = (pferr: number): TraceEventFields => ({ name: 'kvm_mmu_walker_error', pferr });
const accessed = (gpa: bigint): TraceEventFields => ({ name: 'kvm_mmu_set_accessed_bit', gpa });

/** The first fault of a guest with NPT, which builds all levels, and further pages in the same table. */
function mapped(first: bigint, ...others: readonly bigint[]): TraceEventFields[] {
  const frame = (gfn: bigint): bigint => 0x2900n + gfn;
  const leaf = (gfn: bigint): bigint => (frame(gfn) << 12n) | WRITABLE;
  const place = (gfn: bigint): bigint => 0x8003000n + 8n * (gfn & 0x1ffn);
  return [
    page(4),
    requested(first, frame(first)),
    ...[3, 2, 1].flatMap((level) => [
      page(level),
      changed(0n, level + 1, 0n, (BigInt(0x8000 + 4 - level) << 12n) | TABLE),
    ]),
    changed(first, 1, 0n, leaf(first)),
    set(first, leaf(first), place(first)),
    ...others.flatMap((gfn) => [
      requested(gfn, frame(gfn)),
      changed(gfn, 1, 0n, leaf(gfn)),
      set(gfn, leaf(gfn), place(gfn)),
    ]),
  ];
}

/** A walk of 0x40000040 through tables at 0x201000, 0x202000, 0x203000. */
const walked = (leaf: bigint, pferr = 0): TraceEventFields[] => [
  walk(0x40000040n, pferr),
  element(4, 0x201027n),
  element(3, 0x202027n),
  element(2, 0x203027n),
  element(1, leaf),
];

async function replayed(events: readonly TraceEvent[]): Promise<ReplayResult> {
  const headers: TraceHeader[] = [];
  const runs: StepColumns[] = [];
  await importEvents(events, undefined, 'made', {
    header: (header) => {
      headers.push(header);
    },
    steps: (run) => {
      runs.push(run);
    },
  });
  return replayOf(headers[0]!, runs);
}

function replayOf(header: TraceHeader, runs: readonly StepColumns[]): ReplayResult {
  const session = new ReplaySession('made', header);
  for (const run of runs) session.run(run);
  return session.result(undefined, 'complete');
}

const notJudged = ({ receipt }: ReplayResult): number =>
  receipt.events.reduce((sum, count) => sum + (count.notJudged ?? 0), 0);

describe('the survey', () => {
  const survey = (...fields: readonly TraceEventFields[]): ReturnType<Surveyor['survey']> => {
    const surveyor = new Surveyor();
    for (const event of trace(...fields)) surveyor.add(event);
    return surveyor.survey();
  };

  it('joins frames that are backed to slots, and leaves out those that are not', () => {
    const { slots } = survey(requested(0x10n, 5n), requested(0x30n, 6n), requested(0x20n, NO_SLOT));
    expect(slots.map(({ first, end }) => [first, end])).toEqual([
      [0x10, 0x11],
      [0x30, 0x31],
    ]);
  });

  it('lets a slot go where everything is zapped, if it is not there afterwards', () => {
    const { slots } = survey(
      requested(0x10n, 5n),
      { name: 'kvm_mmu_zap_all_fast', gen: 1, usedPages: 0 },
      requested(0x10n, NO_SLOT),
      requested(0x10n, 5n),
    );
    expect(slots).toMatchObject([
      { first: 0x10, from: 0, to: 2 },
      { first: 0x10, from: 4, to: Number.POSITIVE_INFINITY },
    ]);
  });

  it('tells read-only memory by writes that end in MMIO', () => {
    const mmio = { name: 'kvm_mmio', type: 'write', length: 8, gpa: 0x10008n } as const;
    expect(survey(requested(0x10n, 5n), requested(0x11n, 6n), mmio).slots.map(({ readOnly }) => readOnly)).toEqual([
      true,
      false,
    ]);
  });

  it('finds the root by a bit that is set there', () => {
    const { roots } = survey(...walked(0x5027n), accessed(0x203000n), ...walked(0x5027n), accessed(0x777000n));
    expect([...roots]).toEqual([[7, 0x777000n]]);
  });

  it('knows the format by the entries', () => {
    expect(survey(set(1n, 0x5000877n, 0x8000n)).ept).toBe(true);
    expect(survey(set(1n, 0x5000e67n, 0x8000n)).ept).toBe(false);
  });
});

describe('a trace with the events of the MMU only', () => {
  it('gets the exits and faults that it shows, marked as concluded, and says what it does not tell', async () => {
    const { steps, header, result } = await told(trace(...mapped(0x100n, 0x105n)), undefined);
    expect(steps.filter((step) => step.startsWith('fault-exit'))).toHaveLength(2);
    expect(header.unknown).toEqual(['memory', 'memslots', 'registers', 'host pages', 'stimuli', 'tables', 'exits']);
    expect(header.hypervisor?.parameters[0]).toMatch(/^events-not-recorded=.*page-fault/);
    expect(header.hypervisor?.mmu).toMatchObject({ tdp: true, tdpMmu: true, tdpLevel: 4 });
    expect(result.receipt.uses.has('kvm_page_fault')).toBe(false);
    expect(header.omissions).toContainEqual({ what: 'kvm_page_fault concluded', count: 2 });
  });

  it('is predicted but for what it is concluded from', async () => {
    const result = await replayed(trace(...mapped(0x100n, 0x105n)));
    expect([result.verdict, result.receipt.diverged, notJudged(result)]).toEqual(['match', 0, 0]);
    const fields = result.receipt.events.find(({ event }) => event === 'spte-requested')!.fields;
    expect(fields.find(({ field }) => field === 'gfn')).toMatchObject({ predicted: 0, input: 2 });
    expect(result.receipt.partial).toEqual({ unknown: expect.arrayContaining(['memory']), undetermined: {} });
  });

  it.each([
    ['a bit that every present entry has', 1n << 11n],
    ['the bit of PCD', 1n << 4n],
    ['the present bit', 1n],
  ])('diverges at an entry that no state explains: %s', async (_, bit) => {
    const events = mapped(0x100n, 0x105n).map((event) =>
      event.name === 'kvm_mmu_set_spte' && event.gfn === 0x105n ? { ...event, spte: event.spte ^ bit } : event,
    );
    const result = await replayed(trace(...events));
    expect([result.verdict, result.receipt.diverged]).toEqual(['diverged', 1]);
  });

  it('is not judged where a slot may explain it', async () => {
    const read = WRITABLE & ~0x642n;
    const events = mapped(0x100n, 0x105n).map((event) =>
      event.name === 'kvm_tdp_mmu_spte_changed' && event.gfn === 0x105n
        ? { ...event, newSpte: (event.newSpte & ~0xfffn) | read }
        : event,
    );
    const result = await replayed(trace(...events));
    expect([result.verdict, result.receipt.diverged, result.receipt.undetermined]).toEqual(['match', 0, 1]);
    expect(result.receipt.partial!.undetermined).toEqual({ 'host pages': 1 });
  });
});

describe('walks of a partial trace', () => {
  const guest = mapped(0x100n, 0x101n);

  it('learn the entries once and predict them then', async () => {
    const result = await replayed(trace(...guest, ...walked(0x5027n), ...walked(0x5027n)));
    const elements = result.receipt.events.find(({ event }) => event === 'paging-element');
    expect([result.verdict, notJudged(result)]).toEqual(['match', 0]);
    expect(elements).toMatchObject({ events: 8, whollyPredicted: 4, learned: 8 });
  });

  it('are undetermined by registers once, which are known from then on', async () => {
    // A supervisor's write to a page that may only be read goes through without CR0.WP.
    const protect = [...walked(0x5025n, 2), failed(3)];
    const result = await replayed(trace(...guest, ...protect, ...protect));
    expect([result.verdict, result.receipt.undetermined]).toEqual(['match', 1]);
    expect(result.receipt.partial!.undetermined).toEqual({ registers: 1 });
  });

  it('diverge if they go on behind an entry that is not present, or fail with another access', async () => {
    const through = await replayed(trace(...guest, ...walked(0n), accessed(0x203000n)));
    expect(through.receipt.diverged).toBe(1);
    const other = await replayed(trace(...guest, ...walked(0n), failed(2)));
    expect(other.receipt.diverged).toBe(1);
    const right = await replayed(trace(...guest, ...walked(0n), failed(0)));
    expect([right.verdict, right.receipt.undetermined]).toEqual(['match', 0]);
  });
});

describe('a trace with exits', () => {
  it('takes addresses of the host from pages that are copied under a fault', async () => {
    const surveyor = new Surveyor();
    const events = trace(
      entry(),
      exit('npf'),
      fault(0x100008n, 6n),
      { name: 'kvm_unmap_hva_range', start: 0x7f0000100000n, end: 0x7f0000101000n },
      requested(0x100n, 5n),
    );
    for (const event of events) surveyor.add(event);
    expect(surveyor.survey().slots).toMatchObject([{ first: 0x100, offset: 0x7f0000000000n }]);
  });
});

const RECORDINGS = fileURLToPath(new URL('../../../../shared/recordings/', import.meta.url));

/**
 * At least so much of the events is predicted, in per cent; at most so much is not judged (among them faults that tables
 * as far as they are known would let through).
 */
const SCENARIOS = [
  ['kvm/a_npt1_notdpmmu', 88, 2],
  ['kvm/b_pae_npt0', 85, 6],
  ['kvm-intel/ept0_pse', 80, 4],
  ['kvm-intel/ept1_g64', 88, 8],
] as const;

describe.runIf(existsSync(RECORDINGS))('trace.dat alone (only where ../shared/recordings exists)', () => {
  it.each(SCENARIOS)('%s', async (folder, predicted, unjudged) => {
    const headers: TraceHeader[] = [];
    const runs: StepColumns[] = [];
    const sink = {
      header: (header: TraceHeader) => void headers.push(header),
      steps: (run: StepColumns) => void runs.push(run),
    };
    await importKvm(`${RECORDINGS}${folder}/trace.dat`, sink);
    const result = replayOf(headers[0]!, runs);
    const { events, diverged } = result.receipt;
    const all = events.reduce((sum, { events: equal, unanswered }) => sum + equal + unanswered, notJudged(result));
    expect([result.verdict, diverged]).toEqual(['match', 0]);
    expect((100 * result.receipt.observationsPredicted) / all).toBeGreaterThan(predicted);
    expect((100 * notJudged(result)) / all).toBeLessThan(unjudged);
  });
});
