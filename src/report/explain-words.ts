/** Rows, steps and registers in words, as explanations want them (`replay/explain-step.ts`). */

import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import type { Words } from '../replay/explain-step.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { kvmEventText } from './kvm-events.ts';
import { ContextTracker, translationName } from './row-context.ts';
import { type RowContext, registerWords, rowText } from './rows.ts';
import { stepText } from './steps.ts';

/** The words for a trace. */
export function explainWords(header: TraceHeader): Words {
  const contextOf = (registers: Uint32Array): RowContext => new ContextTracker(header, registers).context;
  return {
    rows: (rows, registers) => {
      const first = rows[0];
      if (first === undefined) return '';
      if ((first.op & OBS_KIND_MASK) === Obs.KVM_EVENT) return kvmEventText(rows, header.hypervisor?.mmu);
      return rowText(first.op, first.addressLo, first.addressHi, first.valueLo, first.valueHi, contextOf(registers));
    },
    step: ({ op, address, operand, stimuli }: StepColumns, index, registers) => {
      const at = 2 * index;
      const context = contextOf(registers);
      return stepText(op[index]!, address[at]!, address[at + 1]!, operand[at]!, operand[at + 1]!, stimuli, context);
    },
    register: (register, lo, hi, registers) => registerWords(register, lo, hi, contextOf(registers)),
    mode: translationName,
  };
}
