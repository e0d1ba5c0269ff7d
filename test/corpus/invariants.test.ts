/**
 * After each of the first steps of every trace the tables that an emulated KVM has built for the guest are in order
 * (`mmu/invariants.ts`), whichever tables it builds. REWALK_STEPS=100000000 looks at all steps.
 */

import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { defaultKvmConfig, type KvmConfig } from '../../src/formats/kvm-config.ts';
import { type InvariantFinding, KvmMachine } from '../../src/machine/kvm/machine.ts';
import { Mutant } from '../../src/mmu/mutants.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';

const DEFAULT_STEPS = 800;
const STEPS = Number(process.env['REWALK_STEPS'] ?? DEFAULT_STEPS);
const TRACES = new URL('../../traces/', import.meta.url).pathname;
const MACHINES: readonly [string, Partial<KvmConfig>][] = [
  ['the TDP MMU', { tdp: true, tdpMmu: true }],
  ['legacy direct tables', { tdp: true, tdpMmu: false }],
  ['shadow tables', { tdp: false }],
];

function findings(
  file: string,
  config: Partial<KvmConfig>,
  steps: number,
  mutants: readonly number[] = [],
): InvariantFinding[] {
  let machine: KvmMachine | undefined;
  for (const item of openTrace(file)) {
    if (item.kind === 'header') {
      const { vendor } = item.header.processor;
      const host = vendor === 'intel' ? ({ vendor: 'intel' } as const) : ({ vendor: 'amd', tdpLevel: 5 } as const);
      const options = { checkInvariants: true, mutants };
      machine = new KvmMachine(item.header, defaultKvmConfig({ ...host, hostMaxphyaddr: 46, ...config }), options);
    }
    if (item.kind !== 'steps' || machine === undefined) continue;
    const { columns } = item;
    if (columns.firstOrdinal === 0) {
      for (let r = 0; 2 * r < columns.registers.length; r++) {
        machine.setRegister(r, columns.registers[2 * r]!, columns.registers[2 * r + 1]!);
      }
    }
    const count = Math.min(columns.stepCount, steps - columns.firstOrdinal);
    for (let i = 0; i < count; i++) {
      const { address, operand } = columns;
      machine.apply(
        columns.firstOrdinal + i,
        columns.op[i]!,
        address[2 * i]! | 0,
        address[2 * i + 1]! | 0,
        operand[2 * i]! | 0,
        operand[2 * i + 1]! | 0,
        columns.stimuli,
      );
    }
    if (columns.firstOrdinal + columns.stepCount >= steps) break;
  }
  return machine!.invariantFindings;
}

const files = ['walklog', 'hand', 'kvm', 'kvm-intel'].flatMap((folder) =>
  readdirSync(join(TRACES, folder))
    .filter((name) => name.endsWith('.rwt'))
    .map((name) => join(folder, name)),
);

describe.each(MACHINES)('%s', (_, config) => {
  test.each(files)('%s', (name) => {
    expect(findings(join(TRACES, name), config, STEPS)).toEqual([]);
  });
});

test('a mutant breaks them, and the step says where', () => {
  const file = join(TRACES, 'walklog', 'access-4level.rwt');
  const found = findings(file, { tdp: false }, 1500, [Mutant.INHERITED_PERMISSIONS]);
  expect(found.length).toBeGreaterThan(0);
  expect(found[0]!.sentence).toContain('leads to a table with other rights');
  expect(found[0]!.step).toBeGreaterThan(0);
});
