/** The machine recorded by itself, on random tables: replayed, it matches; with any one field changed, it does not. */

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { isFault, OBS_KIND_COUNT, OBS_KIND_MASK, Obs } from '../../src/formats/observation.ts';
import { REGISTER_COUNT, Reg } from '../../src/formats/registers.ts';
import {
  ACCESS_AC,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  ACCESS_WALKED,
  STORE_KNOWLEDGE,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../../src/formats/step.ts';
import { BareMachine } from '../../src/machine/bare.ts';
import { logRows } from '../../src/replay/align.ts';
import type { ReplayResult } from '../../src/replay/result.ts';
import { ReplaySession } from '../../src/replay/session.ts';
import { keptColumns, StepBuilder, type StepColumns } from '../../src/trace/columns.ts';
import type { TraceHeader } from '../../src/trace/header.ts';
import { HEADER } from '../trace/samples.ts';

const ALL = 2 ** OBS_KIND_COUNT - 1;
const FEATURES = ['pse', 'pae', 'pge', 'nx', 'pdpe1gb', 'smep', 'smap', 'pku'];
/** Accesses stand for themselves, so that no change can pass as staleness. */
const RECORDED: TraceHeader = {
  ...HEADER,
  processor: { ...HEADER.processor, features: FEATURES },
  observable: ALL,
  independent: true,
};

interface Case {
  readonly entries: readonly {
    readonly table: number;
    readonly index: number;
    readonly lo: number;
    readonly hi: number;
  }[];
  readonly accesses: readonly {
    readonly type: number;
    readonly flags: number;
    readonly lo: number;
    readonly hi: number;
  }[];
  readonly cr4: number;
  readonly writeProtect: boolean;
}

/** Six pages are tables, and what they link to: few enough that walks go somewhere. */
const entry = fc
  .record({
    table: fc.integer({ min: 1, max: 6 }),
    index: fc.nat({ max: 3 }),
    frame: fc.integer({ min: 1, max: 8 }),
    flags: fc.oneof(
      { weight: 3, arbitrary: fc.constantFrom(0x07, 0x67, 0x27, 0x05, 0x03) },
      { weight: 1, arbitrary: fc.nat({ max: 0xfff }) },
    ),
    hi: fc.oneof(
      { weight: 5, arbitrary: fc.constant(0) },
      { weight: 1, arbitrary: fc.constantFrom(0x8000_0000, 0x100, 0x0800_0000) },
    ),
  })
  .map(({ table, index, frame, flags, hi }) => ({ table, index, lo: ((frame << 12) | flags) >>> 0, hi }));
const access = fc
  .record({
    type: fc.nat({ max: 3 }),
    flags: fc.subarray([ACCESS_USER, ACCESS_AC]),
    indices: fc.tuple(fc.nat({ max: 3 }), fc.nat({ max: 3 }), fc.nat({ max: 3 }), fc.nat({ max: 3 })),
    offset: fc.nat({ max: 0xfff }),
  })
  .map(({ type, flags, indices: [l4, l3, l2, l1], offset }) => ({
    type,
    flags: flags.reduce((all, flag) => all | flag, 0),
    lo: (((l3 & 3) << 30) | (l2 << 21) | (l1 << 12) | offset) >>> 0,
    hi: l4 << 7,
  }));
const cases: fc.Arbitrary<Case> = fc.record({
  entries: fc.array(entry, { minLength: 8, maxLength: 30 }),
  accesses: fc.array(access, { minLength: 1, maxLength: 40 }),
  cr4: fc.subarray([1 << 20, 1 << 21]).map((bits) => bits.reduce((all, bit) => all | bit, 0x20)),
  writeProtect: fc.boolean(),
});

/** Records what the machine does. */
function recorded({ entries, accesses, cr4, writeProtect }: Case): StepColumns {
  const builder = new StepBuilder();
  const registers = new Uint32Array(2 * REGISTER_COUNT);
  registers[2 * Reg.CR0] = writeProtect ? 0x8001_0011 : 0x8000_0011;
  registers[2 * Reg.CR3] = 0x1000;
  registers[2 * Reg.CR4] = cr4;
  registers[2 * Reg.EFER] = 0xd00;
  const machine = new BareMachine(RECORDED);
  for (let register = 0; register < REGISTER_COUNT; register++) {
    machine.setRegister(register, registers[2 * register]!, registers[2 * register + 1]!);
  }
  const step = (op: number, lo: number, hi: number, valueLo: number, valueHi: number): void => {
    machine.apply(builder.stepCount, op, lo | 0, hi | 0, valueLo | 0, valueHi | 0, []);
    builder.step(op, lo, hi, valueLo, valueHi);
    for (const row of logRows(machine.log))
      builder.observe(row.op, row.addressLo, row.addressHi, row.valueLo, row.valueHi);
  };
  for (const { table, index, lo, hi } of entries) {
    step(StepKind.STORE | STORE_KNOWLEDGE | (8 << STORE_SIZE_SHIFT), (table << 12) | (index << 3), 0, lo, hi);
  }
  for (const { type, flags, lo, hi } of accesses) {
    step(StepKind.ACCESS | ACCESS_WALKED | flags | (type << ACCESS_TYPE_SHIFT), lo, hi, 0, 0);
  }
  return builder.take(registers);
}

function replayed(columns: StepColumns, header = RECORDED): ReplayResult {
  const session = new ReplaySession('own', header);
  session.run(columns);
  return session.result(undefined, 'complete');
}

test('what the machine did is what it does again, and every row is counted', () => {
  fc.assert(
    fc.property(cases, (each) => {
      const columns = recorded(each);
      const { verdict, receipt } = replayed(columns);
      expect([receipt.diverged, receipt.skipped]).toEqual([0, {}]);
      expect(verdict).toBe('match');
      expect(receipt.counts.reduce((sum, { observations }) => sum + observations, 0)).toBe(columns.observationCount);
    }),
    { numRuns: 60, seed: 20_263 },
  );
});

test('any bit of any address or value that is changed is found, in its step and its row', () => {
  const change = fc.record({ row: fc.nat(), value: fc.boolean(), high: fc.boolean(), bit: fc.nat({ max: 31 }) });
  fc.assert(
    fc.property(cases, change, (each, { row, value, high, bit }) => {
      const columns = keptColumns(recorded(each));
      const changed = row % columns.observationCount;
      const column = value ? columns.observationValue : columns.observationAddress;
      column[2 * changed + (high ? 1 : 0)]! ^= 1 << bit;
      const { verdict, divergences, receipt } = replayed(columns);
      expect([verdict, receipt.diverged]).toEqual(['diverged', 1]);
      const step = columns.observationEnd.findIndex((end) => end > changed);
      const begin = step === 0 ? 0 : columns.observationEnd[step - 1]!;
      expect([divergences[0]!.step, divergences[0]!.firstDifference]).toEqual([step, changed - begin]);
      expect(divergences[0]!.cause).not.toMatch(/nothing differs|undefined|bits {2}/);
    }),
    { numRuns: 100, seed: 20_264 },
  );
});

test('a recorder that sees less is compared in less, and still matches', () => {
  fc.assert(
    fc.property(cases, fc.nat({ max: ALL }), (each, observable) => {
      const columns = recorded(each);
      const sees = (kind: number): boolean => ((observable >>> kind) & 1) !== 0;
      const builder = new StepBuilder();
      let row = 0;
      for (let step = 0; step < columns.stepCount; step++) {
        const at = 2 * step;
        builder.step(
          columns.op[step]!,
          columns.address[at]!,
          columns.address[at + 1]!,
          columns.operand[at]!,
          columns.operand[at + 1]!,
        );
        for (; row < columns.observationEnd[step]!; row++) {
          const op = columns.observationOp[row]!;
          const kind = op & OBS_KIND_MASK;
          const ended = kind === Obs.TRANSLATED ? Obs.COMPLETED : isFault(op) ? Obs.FAULTED : Obs.NONE;
          if (!sees(kind)) {
            // Of an outcome that it cannot see it may still see that there was one.
            if (ended !== Obs.NONE && sees(ended)) builder.observe(ended, 0, 0, 0, 0);
            continue;
          }
          const [a, v] = [columns.observationAddress, columns.observationValue];
          builder.observe(op, a[2 * row]!, a[2 * row + 1]!, v[2 * row]!, v[2 * row + 1]!);
        }
      }
      const less = builder.take(columns.registers);
      const { receipt } = replayed(less, { ...RECORDED, observable });
      expect(receipt.diverged).toBe(0);
      expect(receipt.counts.reduce((sum, { observations }) => sum + observations, 0)).toBe(less.observationCount);
    }),
    { numRuns: 60, seed: 20_265 },
  );
});
