/**
 * Which fields of KVM's events are no prediction, because the step itself tells them (input), and which the MMU has no
 * part in at all, so that they are not compared either: what a nested exit says of an event under delivery
 * (recordings/README.md, "Inputs, predictions, and what may be learned").
 */

import { KvmEvent } from '../formats/kvm-event.ts';
import type { KvmField } from '../formats/kvm-event-fields.ts';
import { StepKind } from '../formats/step.ts';

/** Exit reasons and codes whose `info1` is an error code or qualification, which tells what the tables hold. */
const TELLS_OF_TABLES: ReadonlySet<number> = new Set([
  // VMX: EPT violation (SDM vol. 3D, appendix C). SVM: #PF, nested page fault (APM vol. 2, appendix C).
  48, 0x4e, 0x400,
]);

/** Interruption information: valid, error code valid, type, vector (SDM vol. 3C table 25-18). Bit 12 is NMI unblocking. */
const INTERRUPTION_OF_FAULT = 0x8000_0fff | 0;
const INTERRUPTION_HAS_ERROR = 1 << 11;

/** Exit reason of VMX: an exception, of which the qualification is CR2 (SDM vol. 3C 28.2.1). */
const VMX_EXCEPTION = 0;

/**
 * Whether the stimulus holds the field: operands of the step, or registers that were given for it. `step`: a `StepKind`;
 * `reason`: of NESTED_VMEXIT and NESTED_VMEXIT_INJECT, their exit reason or code.
 */
export function isInput(event: number, field: KvmField, step: number, reason: number): boolean {
  switch (event) {
    case KvmEvent.PAGE_FAULT:
      return step === StepKind.FAULT_EXIT;
    case KvmEvent.NESTED_VMEXIT_INJECT:
      return step === StepKind.NESTED_EXIT || (step === StepKind.FAULT_EXIT && isFaultAddress(field, reason));
    // What VMRUN or VM entry loads; why L2 has left, which the kind of the step says; what INVLPGA is about.
    case KvmEvent.NESTED_VMENTER:
    case KvmEvent.NESTED_INTERCEPTS:
    case KvmEvent.NESTED_VMEXIT:
    case KvmEvent.INVLPGA:
      return true;
    default:
      return false;
  }
}

/** Of an exit to L1 because of a fault of the processor's: the address, as the processor told it. */
function isFaultAddress(field: KvmField, reason: number): boolean {
  return field.name === 'exit_info2' || (field.name === 'exit_info1' && reason === VMX_EXCEPTION);
}

/** Whether the field is an error code or the like, of which some bits are the machine's own finding. */
export function hasFinding(event: number, field: KvmField): boolean {
  return (
    (event === KvmEvent.PAGE_FAULT && field.name === 'error_code') ||
    (event === KvmEvent.NESTED_VMEXIT && field.name === 'info1')
  );
}

/** Whether it is that in an event with this exit reason; events without one: 0. */
export function isFinding(event: number, field: KvmField, reason: number): boolean {
  return hasFinding(event, field) && (event !== KvmEvent.NESTED_VMEXIT || TELLS_OF_TABLES.has(reason));
}

/**
 * The bits of a field's low half (of `exit_int_info_err` the high half of its column) that are compared; -1: all.
 * `interruption`: the event's `exit_int_info`, 0 for events without.
 */
export function comparedBits(
  event: number,
  field: KvmField,
  step: number,
  vendor: 'amd' | 'intel',
  interruption: number,
): number {
  if (event !== KvmEvent.NESTED_VMEXIT && event !== KvmEvent.NESTED_VMEXIT_INJECT) return -1;
  const vmx = vendor === 'intel';
  switch (field.name) {
    case 'info2':
    case 'exit_info2':
      // VMX: IDT vectoring information. A step holds no second operand of an exit that the MMU did not raise.
      return vmx || step === StepKind.NESTED_EXIT ? 0 : -1;
    case 'exit_int_info':
      // SVM: EXITINTINFO, the event that was under delivery.
      return !vmx || step === StepKind.NESTED_EXIT ? 0 : INTERRUPTION_OF_FAULT;
    case 'exit_int_info_err':
      // Left over from an earlier exit unless it is valid.
      return !vmx || step === StepKind.NESTED_EXIT || (interruption & INTERRUPTION_HAS_ERROR) === 0 ? 0 : -1;
    default:
      return -1;
  }
}
