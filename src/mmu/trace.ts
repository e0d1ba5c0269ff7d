/** KVM's tracepoints, as rows of the log: one method per event, in the kernel's names. */

import {
  FPF_FIXED,
  FPF_SPURIOUS,
  INJ_HAS_ERROR,
  INJ_VECTOR_SHIFT,
  KVM_EVENT_SHIFT,
  KvmEvent,
  MATCH_GPA,
  MATCH_WRITE,
  MMIO_TYPE_SHIFT,
  SET_SPTE_R,
  SET_SPTE_U,
  SET_SPTE_X,
  SP_CREATED,
  SP_GENERATION_SHIFT,
  SP_UNSYNC,
  TDP_SMM,
  VMENTER_TDP,
} from '../formats/kvm-event.ts';
import { OBS_LEVEL_SHIFT, Obs } from '../formats/observation.ts';
import type { RowLog } from '../paging/row-log.ts';
import type { ShadowPage } from './shadow-page.ts';
import { frameHi, frameLo, type SpteFormat } from './spte.ts';

const MORE = Obs.KVM_MORE;

function row(event: number, level = 0): number {
  return Obs.KVM_EVENT | (event << KVM_EVENT_SHIFT) | (level << OBS_LEVEL_SHIFT);
}

/** A whole number below 2^53 as halves: frame numbers. */
function high(value: number): number {
  return Math.floor(value / 0x1_0000_0000) | 0;
}

export class MmuTrace {
  readonly log: RowLog;
  private readonly format: SpteFormat;

  constructor(log: RowLog, format: SpteFormat) {
    this.log = log;
    this.format = format;
  }

  private page(event: number, sp: ShadowPage, flags: number): void {
    const op = row(event) | flags | (sp.unsync ? SP_UNSYNC : 0) | ((sp.tdp ? 0 : sp.generation) << SP_GENERATION_SHIFT);
    this.log.push(op, sp.gfn | 0, high(sp.gfn), sp.role | 0, sp.tdp ? 0 : sp.rootCount);
  }

  getPage(sp: ShadowPage, created: boolean): void {
    this.page(KvmEvent.GET_PAGE, sp, created ? SP_CREATED : 0);
  }

  syncPage(sp: ShadowPage): void {
    this.page(KvmEvent.SYNC_PAGE, sp, 0);
  }

  unsyncPage(sp: ShadowPage): void {
    this.page(KvmEvent.UNSYNC_PAGE, sp, 0);
  }

  prepareZapPage(sp: ShadowPage): void {
    this.page(KvmEvent.PREPARE_ZAP_PAGE, sp, 0);
  }

  /** `at` and `index`: the table and the entry in it. */
  setSpte(level: number, gfn: number, lo: number, hi: number, at: ShadowPage, index: number): void {
    const { format } = this;
    const readable = !format.ept || (lo & 1) !== 0 || format.profile === '6.1';
    let flags = readable ? SET_SPTE_R : 0;
    if (format.isExecutable(lo, hi)) flags |= SET_SPTE_X;
    if (format.userExecute(lo)) flags |= SET_SPTE_U;
    if (format.ept && format.profile === '6.1') {
      // 6.1 takes EPT's R for the user bit.
      flags &= ~(SET_SPTE_U | SET_SPTE_R);
      flags |= (lo & 1) !== 0 ? SET_SPTE_U | SET_SPTE_R : 0;
    }
    this.log.push(row(KvmEvent.SET_SPTE, level) | flags, gfn | 0, high(gfn), lo, hi);
    this.log.push(MORE, frameLo(at.frame) | (index << 3), frameHi(at.frame), 0, 0);
  }

  spteRequested(level: number, gfn: number, pfn: number): void {
    if (pfn < 0) this.log.push(row(KvmEvent.SPTE_REQUESTED, level), gfn | 0, high(gfn), 0, 0x8000_0000 | 0);
    else this.log.push(row(KvmEvent.SPTE_REQUESTED, level), gfn | 0, high(gfn), pfn | 0, high(pfn));
  }

  tdpSpteChanged(
    sp: ShadowPage,
    gfn: number,
    level: number,
    oldLo: number,
    oldHi: number,
    newLo: number,
    newHi: number,
  ): void {
    const smm = sp.role >>> 24 !== 0 ? TDP_SMM : 0;
    this.log.push(row(KvmEvent.TDP_SPTE_CHANGED, level) | smm, gfn | 0, high(gfn), oldLo, oldHi);
    this.log.push(MORE, 0, 0, newLo, newHi);
  }

  splitHugePage(gfn: number, lo: number, hi: number, level: number, errno: number): void {
    this.log.push(row(KvmEvent.SPLIT_HUGE_PAGE, level), gfn | 0, high(gfn), lo, hi);
    this.log.push(MORE, 0, 0, errno | 0, errno < 0 ? -1 : 0);
  }

  markMmioSpte(at: ShadowPage, index: number, gfn: number, access: number, generation: number): void {
    this.log.push(
      row(KvmEvent.MARK_MMIO_SPTE),
      gfn | 0,
      high(gfn),
      frameLo(at.frame) | (index << 3),
      frameHi(at.frame),
    );
    this.log.push(MORE, access, 0, generation, 0);
  }

  handleMmioPageFault(lo: number, hi: number, gfn: number, access: number): void {
    this.log.push(row(KvmEvent.HANDLE_MMIO_PAGE_FAULT), lo, hi, gfn | 0, high(gfn));
    this.log.push(MORE, access, 0, 0, 0);
  }

  checkMmioSpte(lo: number, hi: number, kvmGeneration: number, spteGeneration: number): void {
    this.log.push(row(KvmEvent.CHECK_MMIO_SPTE), 0, 0, lo, hi);
    this.log.push(MORE, kvmGeneration, 0, spteGeneration, 0);
  }

  /** `at` is null where no table holds an SPTE for the address. */
  fastPageFault(
    lo: number,
    hi: number,
    errorCode: number,
    at: ShadowPage | null,
    index: number,
    oldLo: number,
    oldHi: number,
    newLo: number,
    newHi: number,
    ended: 'spurious' | 'fixed' | 'other',
  ): void {
    const flags = ended === 'spurious' ? FPF_SPURIOUS : ended === 'fixed' ? FPF_FIXED : 0;
    this.log.push(row(KvmEvent.FAST_PAGE_FAULT) | flags, lo, hi, oldLo, oldHi);
    if (at === null) this.log.push(MORE, 0, 0, newLo, newHi);
    else this.log.push(MORE, frameLo(at.frame) | (index << 3), frameHi(at.frame), newLo, newHi);
    this.log.push(MORE, errorCode, 0, 0, 0);
  }

  zapAllFast(generation: number, usedPages: number): void {
    this.log.push(row(KvmEvent.ZAP_ALL_FAST), 0, 0, generation, usedPages);
  }

  pageFault(lo: number, hi: number, errorLo: number, errorHi: number): void {
    this.log.push(row(KvmEvent.PAGE_FAULT), lo, hi, errorLo, errorHi);
  }

  injectException(vector: number, errorCode: number): void {
    this.log.push(row(KvmEvent.INJ_EXCEPTION) | (vector << INJ_VECTOR_SHIFT) | INJ_HAS_ERROR, 0, 0, errorCode, 0);
  }

  // Nested virtualisation.

  /** L1 enters L2. `tdp`: with nested paging, of which `pgdLo`, `pgdHi` is the root; else L2's CR3. */
  nestedVmenter(tdp: boolean, pgdLo: number, pgdHi: number): void {
    this.log.push(row(KvmEvent.NESTED_VMENTER) | (tdp ? VMENTER_TDP : 0), 0, 0, pgdLo, pgdHi);
  }

  /** L2 exits to KVM, with what the processor says of it. */
  nestedVmexit(reason: number, info1Lo: number, info1Hi: number, info2Lo: number, info2Hi: number): void {
    this.log.push(row(KvmEvent.NESTED_VMEXIT), info2Lo, info2Hi, info1Lo, info1Hi);
    this.log.push(MORE, reason, 0, 0, 0);
  }

  /** L1 gets an exit of L2's: with `intErr`, what the field holds, of account or not. */
  nestedVmexitInject(
    code: number,
    info1Lo: number,
    info1Hi: number,
    info2Lo: number,
    info2Hi: number,
    intInfo: number,
    intErr: number,
  ): void {
    this.log.push(row(KvmEvent.NESTED_VMEXIT_INJECT), info2Lo, info2Hi, info1Lo, info1Hi);
    this.log.push(MORE, code, 0, intInfo, intErr);
  }

  /** `exceptions`: bitmap of those that L1 intercepts. */
  nestedIntercepts(exceptions: number): void {
    this.log.push(row(KvmEvent.NESTED_INTERCEPTS), 0, 0, exceptions, 0);
  }

  invlpga(lo: number, hi: number, asid: number): void {
    this.log.push(row(KvmEvent.INVLPGA), lo, hi, asid, 0);
  }

  /** `type`: 0 read that nobody satisfied, 1 read, 2 write. */
  mmio(type: number, lo: number, hi: number): void {
    this.log.push(row(KvmEvent.MMIO) | (type << MMIO_TYPE_SHIFT), lo, hi, 0, 0);
  }

  matchMmio(lo: number, hi: number, gpaLo: number, gpaHi: number, write: boolean, gpaMatch: boolean): void {
    const flags = (write ? MATCH_WRITE : 0) | (gpaMatch ? MATCH_GPA : 0);
    this.log.push(row(KvmEvent.MATCH_MMIO) | flags, lo, hi, gpaLo, gpaHi);
  }

  /** A notifier call: `event` one of the four; addresses are host-virtual, exact as doubles. */
  notifier(event: number, start: number, end: number): void {
    this.log.push(row(event), start | 0, high(start), end | 0, high(end));
  }
}
