/**
 * Which cells the processor reaches: its walks, told from the rows that they log and from where they failed, and its TLB.
 * The machine is as it ever is; its methods are covered by ones that look at what they did.
 */

import {
  Dim,
  OBS_DIM_MASK,
  OBS_DIM_SHIFT,
  OBS_KIND_MASK,
  OBS_LEVEL_MASK,
  OBS_LEVEL_SHIFT,
  Obs,
} from '../formats/observation.ts';
import { Reg } from '../formats/registers.ts';
import { ACCESS_SOFTWARE, ACCESS_WALKED } from '../formats/step.ts';
import type { BareMachine } from '../machine/bare.ts';
import { TLB_PAGE_SHIFT_SHIFT } from '../machine/tlb.ts';
import { NO_AD, OF_TABLE } from '../paging/access.ts';
import type { PageWalk } from '../paging/page-walk.ts';
import { ROW, ROW_VALUE_HI, ROW_VALUE_LO } from '../paging/row-log.ts';
import { cover } from './cover.ts';
import { ENTRY_A, ENTRY_D, ENTRY_P, Entries, formatName } from './coverage-entries.ts';
import { EPT_A, EPT_D, reachEpt } from './coverage-ept.ts';
import { Checks, type CoverageSet } from './coverage-set.ts';
import { isLeaf, reachGuest, reachNpt } from './coverage-x86.ts';

export class HardwareCoverage {
  private readonly machine: BareMachine;
  private readonly cpu: Checks;
  private readonly ept: Checks;
  private readonly npt: Checks;
  private readonly tlb: Checks;
  private readonly step: Checks;
  private readonly guest = new Entries();
  private readonly second = new Entries();

  constructor(machine: BareMachine, set: CoverageSet) {
    this.machine = machine;
    this.cpu = new Checks('cpuWalk', set);
    this.ept = new Checks('tdpWalk', set, 'ept-');
    this.npt = new Checks('tdpWalk', set, 'npt-');
    this.tlb = new Checks('tlb', set);
    this.step = new Checks('processor', set);
    this.attach();
  }

  private attach(): void {
    const { machine, tlb } = this;
    cover(machine, 'serves', (call: () => boolean) => {
      const hit = call();
      if (hit) tlb.reach('lookup', 'hit');
      return hit;
    });
    cover(machine, 'hit', (call: () => boolean) => {
      const hit = call();
      if (hit) tlb.reach('lookup', machine.staleHit ? 'hit-stale' : 'hit');
      return hit;
    });
    cover(machine, 'miss', (call: () => void, op: number, lo: number, hi: number, access: number) => {
      if ((access & NO_AD) !== 0) {
        call();
        return;
      }
      if ((op & (ACCESS_WALKED | ACCESS_SOFTWARE)) === 0) {
        const { contexts } = machine;
        const found = machine.tlb.find(lo, hi, contexts.context, contexts.space);
        tlb.reach('lookup', found ? 'hit-denied' : 'miss');
      }
      const index = machine.register(Reg.PML_INDEX);
      const from = machine.log.count;
      call();
      this.walked(from, access, false);
      if (machine.register(Reg.PML_INDEX) !== index) this.ept.reach('pml', 'logged');
    });
    cover(machine, 'gpaAccess', (call: () => void) => {
      call();
      const failed = this.walked(0, 0, true);
      this.step.reach('gpa-access', failed ? 'fail' : 'pass');
    });
    this.attachTlb();
  }

  private attachTlb(): void {
    const { tlb } = this;
    const of = this.machine.tlb;
    const sizes: Readonly<Record<number, string>> = { 12: '4k', 21: '2m', 22: '4m', 30: '1g' };
    cover(
      of,
      'insert',
      (
        call: () => void,
        _lo: number,
        _hi: number,
        _tag: object,
        global: boolean,
        shift: number,
        _to: object,
        meta: number,
      ) => {
        call();
        tlb.reach('entry', sizes[shift] ?? '4k');
        if (global) tlb.reach('entry', 'global');
        if (meta >>> TLB_PAGE_SHIFT_SHIFT !== shift) tlb.reach('entry', 'fractured');
      },
    );
    for (const [method, what] of [
      ['clear', 'all'],
      ['dropPage', 'page'],
      ['dropContext', 'context'],
    ] as const) {
      cover(of, method, (call: () => void) => {
        tlb.reach('drop', what);
        call();
      });
    }
  }

  // ------------------------------------------------------------------------------------------------------------ walks

  /** Reads the log from row `from` on. `alone`: the second stage by itself. Whether the walk failed. */
  private walked(from: number, access: number, alone: boolean): boolean {
    const { machine, guest, second } = this;
    const { log } = machine;
    const { rows } = log;
    const last = log.count - 1;
    if (last < from) return false;
    const failed = this.failedWalk(from, alone);
    guest.clear();
    second.clear();
    let nested = 0;
    let inSecond = false;
    for (let k = from; k <= last; k++) {
      const at = k * ROW;
      const op = rows[at]!;
      const kind = op & OBS_KIND_MASK;
      const dim = (op >>> OBS_DIM_SHIFT) & OBS_DIM_MASK;
      const level = (op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK;
      const [lo, hi] = [rows[at + ROW_VALUE_LO]!, rows[at + ROW_VALUE_HI]!];
      const ofSecond = dim !== Dim.GUEST && (kind === Obs.ELEMENT || kind === Obs.ENTRY_WRITE);
      if (inSecond && !ofSecond) {
        inSecond = false;
        this.closeSecond(
          nested,
          this.isLastSecond(k, last) && failed !== null && failed.dim !== Dim.GUEST ? failed : null,
          alone,
        );
      }
      if (kind === Obs.NESTED_WALK) {
        inSecond = true;
        nested = op;
        second.clear();
      } else if (kind === Obs.ELEMENT) {
        const entries = ofSecond ? second : guest;
        // A software access may walk twice.
        if (!ofSecond && guest.last !== 0 && level >= guest.last) guest.clear();
        entries.add(level, lo, hi);
      } else if (kind === Obs.ENTRY_WRITE) {
        this.written(dim, level, ofSecond ? second : guest, lo);
      } else if (kind === Obs.PDPTE) {
        this.cpu.reach('pdpte', (lo & ENTRY_P) !== 0 ? 'register-present' : 'register-absent');
      } else if (kind === Obs.EXCEPTION && k === from) {
        // Nothing was walked: the address is not canonical.
        this.cpu.reach('canonical', ((op >>> 11) & 0xff) === 12 ? 'fail-ss' : 'fail-gp');
        return true;
      } else if (kind === Obs.NOT_MODELLED) return false;
    }
    if (alone) return failed !== null;
    const { cpuWalk } = machine;
    this.cpu.reach('format', formatName(cpuWalk.rootLevel));
    reachGuest(this.cpu, machine, guest, access, failed);
    return failed !== null;
  }

  /** Whether nothing but the outcome follows row `k`. */
  private isLastSecond(k: number, last: number): boolean {
    const { log } = this.machine;
    for (let i = k; i <= last; i++) {
      const kind = log.op(i) & OBS_KIND_MASK;
      if (kind === Obs.NESTED_WALK || kind === Obs.ELEMENT || kind === Obs.ENTRY_WRITE) return false;
    }
    return true;
  }

  private failedWalk(from: number, alone: boolean): PageWalk | null {
    const { machine } = this;
    const { log } = machine;
    if (!alone) return machine.failedWalk();
    const ended = log.op(log.count - 1) & OBS_KIND_MASK;
    return ended === Obs.TRANSLATED || log.count === from ? null : machine.tdpWalk;
  }

  private written(dim: number, level: number, entries: Entries, now: number): void {
    const old = entries.lo[level]!;
    const [a, d] = dim === Dim.EPT ? [EPT_A, EPT_D] : [ENTRY_A, ENTRY_D];
    const of = dim === Dim.GUEST ? this.cpu : dim === Dim.EPT ? this.ept : this.npt;
    if ((now & ~old & a) !== 0) of.reach('accessed', 'set', level);
    if ((now & ~old & d) !== 0) of.reach('dirty', 'set', level);
  }

  // -------------------------------------------------------------------------------------------------- the second stage

  private closeSecond(nested: number, failed: PageWalk | null, alone: boolean): void {
    const { machine, second } = this;
    const walk = machine.tdpWalk;
    if (walk === null) return;
    const ofTable = (nested & OF_TABLE) !== 0;
    if (!alone) this.tellGuest(ofTable, failed === null);
    if (walk.ept) reachEpt(this.ept, machine, walk, second, nested, failed !== null);
    else reachNpt(this.npt, walk, second, nested, failed !== null);
    second.clear();
  }

  /** What its own second stage said to the walk of CR3's tables. */
  private tellGuest(ofTable: boolean, passed: boolean): void {
    const { cpu, guest, machine } = this;
    const outcome = passed ? 'pass' : 'fail';
    const { cpuWalk } = machine;
    if (!ofTable) {
      cpu.reach('second-of-final', outcome);
      return;
    }
    const { last } = guest;
    if (last !== 0 && isLeaf(cpuWalk, guest, last)) {
      cpu.reach('second-of-write-back', outcome);
      return;
    }
    const first = cpuWalk.rootLevel === 3 && !cpuWalk.pdptesInMemory ? 2 : cpuWalk.rootLevel;
    cpu.reach('second-of-table', outcome, last === 0 ? first : last - 1);
  }
}
