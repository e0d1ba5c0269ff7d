/** Rows for what a guest, or the hypervisor that it is, gets because KVM's software walk failed. */

import { OBS_EXCEPTION_EXITS, OBS_VECTOR_SHIFT, Obs } from '../../formats/observation.ts';
import { Inject, type Injection } from '../../mmu/injection.ts';
import type { RowLog } from '../../paging/row-log.ts';

const PAGE_FAULT_ROW = Obs.EXCEPTION | (14 << OBS_VECTOR_SHIFT);

/** `linear`: the linear address that the processor reported with its exit; null: none. */
export function pushInjected(
  log: RowLog,
  { kind, lo, hi, infoLo, infoHi }: Injection,
  linear: { readonly lo: number; readonly hi: number } | null,
): void {
  switch (kind) {
    case Inject.PAGE_FAULT:
      log.push(PAGE_FAULT_ROW, lo, hi, infoLo, 0);
      return;
    case Inject.PAGE_FAULT_EXIT:
      log.push(PAGE_FAULT_ROW | OBS_EXCEPTION_EXITS, lo, hi, infoLo, 0);
      return;
    case Inject.NPF:
      log.push(Obs.NPF, lo, hi, infoLo, infoHi);
      return;
    case Inject.EPT_VIOLATION:
      log.push(Obs.EPT_VIOLATION, lo, hi, infoLo, infoHi);
      break;
    case Inject.EPT_MISCONFIG:
      log.push(Obs.EPT_MISCONFIG, lo, hi, 0, 0);
      break;
    case Inject.PML_FULL:
      log.push(Obs.PML_FULL, lo, hi, 0, 0);
      return;
    default:
      throw new Error(`no such injection: ${kind}`);
  }
  if (linear !== null) log.push(Obs.EXIT_LINEAR, linear.lo, linear.hi, 0, 0);
}
