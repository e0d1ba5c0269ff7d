/** Loading the PDPTE registers of PAE paging (SDM vol. 3A 4.4.1). */

import { Dim, elementRow, Obs } from '../formats/observation.ts';
import { Reg } from '../formats/registers.ts';
import { NO_LINEAR, OF_TABLE } from '../paging/access.ts';
import { Walk } from '../paging/page-walk.ts';
import { reservedPae } from '../paging/reserved-bits.ts';
import { walkEpt } from '../paging/walk-ept.ts';
import type { BareMachine } from './bare.ts';

/**
 * Reads the four PDPTEs at CR3 = `lo` and puts them into their registers, or leaves those alone and says so when a
 * present one has a reserved bit set. Under EPT the table's address is translated first, as a read. Returns success.
 */
export function loadPdptes(machine: BareMachine, lo: number, hi: number): boolean {
  const { log, memory, features } = machine;
  const offset = lo & 0xfe0;
  let frame = (hi & 0xf_ffff) * 0x10_0000 + (lo >>> 12);
  const second = machine.tdpWalk;
  if (second?.ept) {
    const status = walkEpt(second, frame, offset, OF_TABLE | NO_LINEAR);
    if (status !== Walk.OK) {
      if (second.qualificationValid) log.pushAt(Obs.EPT_VIOLATION, frame, offset, second.qualification, 0);
      else log.pushAt(Obs.EPT_MISCONFIG, frame, offset, 0, 0);
      return false;
    }
    frame = second.frame;
  }
  const page = memory.page(frame);
  const reserved = reservedPae({ maxphyaddr: features.maxphyaddr, nx: true, page1g: false, amd: features.amd });
  const loaded = new Uint32Array(8);
  for (let index = 0; index < 4; index++) {
    const at = offset + 8 * index;
    const entryLo = page[at >>> 2]!;
    const entryHi = page[(at >>> 2) + 1]!;
    log.pushAt(elementRow(Dim.GUEST, 3, false), frame, at, entryLo, entryHi);
    if ((entryLo & 1) !== 0 && ((entryLo & reserved.lo[3]!) | (entryHi & reserved.hi[3]!)) !== 0) {
      log.push(Obs.PDPTE_LOADED, 0, 0, 0, 0);
      return false;
    }
    loaded[2 * index] = entryLo;
    loaded[2 * index + 1] = entryHi;
  }
  log.push(Obs.PDPTE_LOADED, 0, 0, 1, 0);
  for (let index = 0; index < 4; index++) {
    machine.setRegister(Reg.PDPTE0 + index, loaded[2 * index]!, loaded[2 * index + 1]!);
  }
  return true;
}
