/** Loading the PDPTE registers of PAE paging (SDM vol. 3A 4.4.1). */

import { Dim, elementRow, Obs } from '../formats/observation.ts';
import { Reg } from '../formats/registers.ts';
import { AS_READ, NO_LINEAR, OF_TABLE } from '../paging/access.ts';
import { Check, Walk } from '../paging/page-walk.ts';
import { reservedPae } from '../paging/reserved-bits.ts';
import { walkEpt } from '../paging/walk-ept.ts';
import type { BareMachine } from './bare.ts';

/**
 * Reads the four PDPTEs at CR3 = `lo` and puts them into their registers, or leaves those alone and says so when a
 * present one has a reserved bit set. Under EPT the table's address is translated first, as a read. Returns success.
 * `extra`: `NO_AD` sets no flag in EPT.
 */
export function loadPdptes(machine: BareMachine, lo: number, hi: number, extra = 0): boolean {
  const { log, memory, features } = machine;
  let tableLo = lo & ~0x1f;
  let tableHi = hi & 0xf_ffff;
  const second = machine.tdpWalk;
  if (second?.ept) {
    if (walkEpt(second, tableLo, tableHi, OF_TABLE | NO_LINEAR | AS_READ | extra) !== Walk.OK) {
      if (second.faultCheck === Check.LOG_FULL) log.push(Obs.PML_FULL, tableLo, tableHi, 0, 0);
      else if (second.qualificationValid) log.push(Obs.EPT_VIOLATION, tableLo, tableHi, second.qualification, 0);
      else log.push(Obs.EPT_MISCONFIG, tableLo, tableHi, 0, 0);
      return false;
    }
    tableLo = second.lo;
    tableHi = second.hi;
  }
  const page = memory.pageIndex(tableLo, tableHi);
  const reserved = reservedPae({ maxphyaddr: features.maxphyaddr, nx: true, page1g: false, amd: features.amd });
  const loaded = new Uint32Array(8);
  for (let index = 0; index < 4; index++) {
    const at = tableLo + 8 * index;
    const entryLo = memory.words[page + ((at & 0xff8) >>> 2)]!;
    const entryHi = memory.words[page + ((at & 0xff8) >>> 2) + 1]!;
    log.push(elementRow(Dim.GUEST, 3, false), at, tableHi, entryLo, entryHi);
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
