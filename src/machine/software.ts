/**
 * Accesses that a hypervisor's instruction emulator makes for the guest, as KVM 6.1 does (facts/kvm-mmu.md §5, its
 * notes on 6.1; recordings/README.md, "Known oddities"). The walk is the same; what differs from a processor is
 *
 * - a read-modify-write is a read, whose A bits stay, and then a write; a fault of the read is reported as a write;
 * - guest page tables are read through EPT with write intent, and every translation needs read permission;
 * - an NPF is always one of the final address (bit 32);
 * - where the guest pages, the address of NPFs and of EPT exits loses the offset in the page;
 * - bits 8:7 of an EPT qualification are left over from the last violation that the processor itself raised;
 * - an instruction fetch that faults ends in #UD.
 */

import { Dim, Obs } from '../formats/observation.ts';
import { AccessType } from '../formats/step.ts';
import { accessOfType, FETCH, TYPE_BITS, TYPE_SHIFT, WRITE } from '../paging/access.ts';
import { Check, Walk } from '../paging/page-walk.ts';
import { walkX86 } from '../paging/walk-x86.ts';
import type { BareMachine } from './bare.ts';

const UD = 6;
const PF = 14;
const QUAL_READ = 1 << 0;
/** What an EPT violation's qualification says of the guest's linear address: valid, final. */
export const QUAL_LINEAR_BITS = (1 << 7) | (1 << 8);

/** Makes the access and logs its outcome; returns the `Walk` status. `access`: bits of `paging/access.ts`. */
export function softwareAccess(machine: BareMachine, lo: number, hi: number, access: number): number {
  const { cpuWalk } = machine;
  const rmw = (access & TYPE_BITS) >>> TYPE_SHIFT === AccessType.RMW;
  let status: number = Walk.OK;
  if (rmw) {
    const read = (access & ~(WRITE | TYPE_BITS)) | accessOfType(AccessType.READ);
    status = walkX86(cpuWalk, lo, hi, read);
  }
  if (status === Walk.OK) status = walkX86(cpuWalk, lo, hi, access);
  if (status === Walk.OK) {
    machine.pushTranslated(cpuWalk, cpuWalk.pageShift);
  } else if ((access & FETCH) !== 0 && !machine.reportsFailedFetches) {
    machine.pushException(UD, 0, 0, 0);
  } else if (status === Walk.PAGE_FAULT) {
    machine.pushException(PF, lo, hi, cpuWalk.errorCode | (rmw ? WRITE : 0));
  } else {
    secondStageFault(machine, rmw);
  }
  return status;
}

function secondStageFault(machine: BareMachine, rmw: boolean): void {
  const { log, cpuWalk } = machine;
  const second = machine.tdpWalk!;
  const page = cpuWalk.rootLevel === 0 ? second.faultLo : second.faultLo & ~0xfff;
  if (second.faultCheck === Check.LOG_FULL) {
    log.push(Obs.PML_FULL, page, second.faultHi, 0, 0);
  } else if (second.dim === Dim.NPT) {
    log.push(Obs.NPF, page, second.faultHi, second.errorCode | (rmw ? WRITE : 0), 1);
  } else if (!second.qualificationValid) {
    log.push(Obs.EPT_MISCONFIG, page, second.faultHi, 0, 0);
  } else {
    const own = second.qualification & 0x7f;
    log.push(Obs.EPT_VIOLATION, page, second.faultHi, own | QUAL_READ | machine.lastLinearBits, 0);
  }
}
