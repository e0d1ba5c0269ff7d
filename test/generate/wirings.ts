/** Runs a program on the emulated KVM in all wirings at once: they must log the same, event by event and outcome by outcome. */

import { configOf, type Host } from '../../src/generate/differential.ts';
import { applyStep, loadRegisters, type Program } from '../../src/generate/program.ts';
import { KvmMachine, type KvmMachineOptions } from '../../src/machine/kvm/machine.ts';
import { WIRING_NAMES } from '../../src/mmu/wiring.ts';
import { ROW, type RowLog } from '../../src/paging/row-log.ts';

export interface WiringsResult {
  readonly steps: number;
  /** Rows that each machine has logged. */
  readonly rows: number;
  /** The first step after which they differ, in words; undefined: none. */
  readonly difference: string | undefined;
}

/** `options`: of the machine with the last of the wirings. */
export function compareWirings(program: Program, host: Host, options: KvmMachineOptions = {}): WiringsResult {
  const config = configOf(program, host);
  const machines = WIRING_NAMES.map((wiring, i) => {
    const more = i === WIRING_NAMES.length - 1 ? options : {};
    return new KvmMachine(program.header, config, { wiring, ...more });
  });
  let steps = 0;
  let rows = 0;
  let difference: string | undefined;
  try {
    for (const machine of machines) loadRegisters(machine, program.registers);
    for (const each of program.units.flat()) {
      for (const machine of machines) applyStep(machine, steps, each);
      const [first, ...others] = machines;
      rows += first!.log.count;
      const other = others.findIndex((machine) => !isSame(first!, machine));
      if (other >= 0) {
        difference = `step ${steps}: ${WIRING_NAMES[0]} and ${WIRING_NAMES[other + 1]} differ`;
        break;
      }
      steps++;
    }
  } finally {
    for (const machine of machines) machine.host.memory.release();
  }
  return { steps, rows, difference };
}

function isSame(a: KvmMachine, b: KvmMachine): boolean {
  return sameLog(a.log, b.log) && a.registers.every((word, i) => word === b.registers[i]);
}

function sameLog(a: RowLog, b: RowLog): boolean {
  if (a.count !== b.count) return false;
  for (let i = 0; i < a.count * ROW; i++) if (a.rows[i] !== b.rows[i]) return false;
  return true;
}
