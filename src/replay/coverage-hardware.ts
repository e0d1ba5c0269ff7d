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
import { CR0_WP, CR4_PKE, CR4_PKS, CR4_SMAP, CR4_SMEP, EFER_NXE, Reg } from '../formats/registers.ts';
import { ACCESS_SOFTWARE, ACCESS_WALKED, AccessType } from '../formats/step.ts';
import type { BareMachine } from '../machine/bare.ts';
import { TLB_PAGE_SHIFT_SHIFT } from '../machine/tlb.ts';
import {
  FETCH,
  NO_AD,
  NOT_SMAP,
  OF_TABLE,
  PFEC_PK,
  SHADOW_STACK,
  TYPE_BITS,
  TYPE_SHIFT,
  USER,
  WRITE,
} from '../paging/access.ts';
import { Check, type PageWalk } from '../paging/page-walk.ts';
import { ROW, ROW_VALUE_HI, ROW_VALUE_LO } from '../paging/row-log.ts';
import { Checks, type CoverageSet, cover } from './coverage-set.ts';

const ENTRY_P = 1 << 0;
const ENTRY_W = 1 << 1;
const ENTRY_U = 1 << 2;
const ENTRY_A = 1 << 5;
const ENTRY_D = 1 << 6;
const ENTRY_PS = 1 << 7;
const EPT_A = 1 << 8;
const EPT_D = 1 << 9;
const EPT_USER_EXECUTE = 1 << 10;

/** A rule of a check, and whether it was broken. */
type Rule = readonly [name: string, broken: boolean];

/** The one rule that was broken; undefined if there were several. */
function soleOf(rules: readonly Rule[]): string | undefined {
  const broken = rules.filter(([, is]) => is);
  return broken.length === 1 ? broken[0]![0] : undefined;
}

const FORMATS: Readonly<Record<number, string>> = { 0: 'none', 2: '32-bit', 3: 'pae', 4: '4-level', 5: '5-level' };

export function formatName(rootLevel: number): string {
  return FORMATS[rootLevel] ?? 'none';
}

/** Entries that a walk has read, by level. */
class Entries {
  readonly lo = new Int32Array(6);
  readonly hi = new Int32Array(6);
  /** Levels read, the root's first. */
  levels: number[] = [];

  clear(): void {
    this.levels = [];
  }

  add(level: number, lo: number, hi: number): void {
    this.lo[level] = lo;
    this.hi[level] = hi;
    this.levels.push(level);
  }

  get last(): number {
    return this.levels[this.levels.length - 1] ?? 0;
  }

  /** Low halves ANDed. */
  get all(): number {
    return this.levels.reduce((all, level) => all & this.lo[level]!, -1);
  }

  get noExecute(): boolean {
    return this.levels.some((level) => this.hi[level]! < 0);
  }

  /** The only level whose entry has not the bit, or 0. */
  withholds(bit: number): number {
    const levels = this.levels.filter((level) => (this.lo[level]! & bit) === 0);
    return levels.length === 1 ? levels[0]! : 0;
  }

  get noExecuteAt(): number {
    const levels = this.levels.filter((level) => this.hi[level]! < 0);
    return levels.length === 1 ? levels[0]! : 0;
  }
}

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
    this.closeGuest(access, failed);
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
    const type = (nested & TYPE_BITS) >>> TYPE_SHIFT;
    if (!alone) this.tellGuest(ofTable, failed === null);
    if (walk.ept) this.closeEpt(walk, nested, type, ofTable, failed);
    else this.closeNpt(walk, type, ofTable, failed);
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
    if (last !== 0 && this.isLeaf(cpuWalk, last)) {
      cpu.reach('second-of-write-back', outcome);
      return;
    }
    const first = cpuWalk.rootLevel === 3 && !cpuWalk.pdptesInMemory ? 2 : cpuWalk.rootLevel;
    cpu.reach('second-of-table', outcome, last === 0 ? first : last - 1);
  }

  private isLeaf(walk: PageWalk, level: number): boolean {
    return level === 1 || ((this.guest.lo[level]! & ENTRY_PS) !== 0 && level <= 3 && (!walk.fourByte || walk.pse));
  }

  private closeEpt(walk: PageWalk, nested: number, type: number, ofTable: boolean, failed: PageWalk | null): void {
    const { ept, second } = this;
    const check = failed === null ? Check.NONE : walk.faultCheck;
    const leaf = second.last;
    for (const level of second.levels) {
      const here = level === leaf;
      const absent = here && check === Check.PRESENT;
      ept.reach('present', absent ? 'fail' : 'pass', level);
      if (absent) continue;
      const bad = here && check === Check.RESERVED;
      ept.reach('misconfig', bad ? 'fail' : 'pass', level);
      if (bad) this.misconfigured(walk, level);
    }
    if (check === Check.LOG_FULL) ept.reach('pml', 'full');
    if (check === Check.PRESENT || check === Check.RESERVED) return;
    const { all } = second;
    const write = type === AccessType.WRITE || type === AccessType.RMW || (ofTable && walk.ad);
    const fetch = type === AccessType.FETCH;
    const outcome = check === Check.PERMISSION ? 'fail' : 'pass';
    if (ofTable) ept.reach('of-table', outcome, leaf);
    const userPage = walk.mbec && (nested & (1 << 17)) !== 0;
    const execute = userPage ? EPT_USER_EXECUTE : 4;
    const rules: Rule[] = [
      ['read', !fetch && !write && (all & 1) === 0],
      ['write', write && (all & 2) === 0],
      ['fetch', fetch && (all & execute) === 0],
    ];
    if (outcome === 'fail') {
      const sole = soleOf(rules);
      if (sole === undefined) return;
      ept.reach(sole, sole === 'fetch' && userPage ? 'fail-user-page' : 'fail', leaf);
      const bit = sole === 'read' ? 1 : sole === 'write' ? 2 : execute;
      const at = second.withholds(bit);
      if (at !== 0) ept.reach(`withheld-${sole === 'fetch' ? 'execute' : sole}`, 'fail', at);
      return;
    }
    ept.reach(fetch ? 'fetch' : write ? 'write' : 'read', fetch && userPage ? 'pass-user-page' : 'pass', leaf);
    for (const level of second.levels) {
      if (!walk.ad) ept.reach('accessed', 'off', level);
      else if ((second.lo[level]! & EPT_A) !== 0) ept.reach('accessed', 'was-set', level);
    }
    if (!write) return;
    if (!walk.ad) ept.reach('dirty', 'off', leaf);
    else if ((second.lo[leaf]! & EPT_D) !== 0) ept.reach('dirty', 'was-set', leaf);
  }

  private misconfigured(walk: PageWalk, level: number): void {
    const { second, ept } = this;
    const [lo, hi] = [second.lo[level]!, second.hi[level]!];
    const executable = 4 | (walk.mbec ? EPT_USER_EXECUTE : 0);
    const large = level === 1 || ((lo & ENTRY_PS) !== 0 && level <= 3);
    const type = (lo >>> 3) & 7;
    const { features } = this.machine;
    const bare = level === 2 ? !features.ept2m : level === 3 ? !features.ept1g : true;
    const sole = soleOf([
      ['misconfig-write-only', (lo & 3) === 2],
      ['misconfig-execute-only', (lo & 3) === 0 && (lo & executable) !== 0 && !features.eptExecuteOnly],
      ['misconfig-memory-type', large && (type === 2 || type === 3 || type === 7)],
      ['misconfig-low-bits', (!large && (lo & 0x78) !== 0) || (level >= 2 && (lo & ENTRY_PS) !== 0 && bare)],
      ['misconfig-address', (hi & walk.format.reservedHi) !== 0],
      ['misconfig-large-page', large && level > 1 && (lo & ((1 << (3 + 9 * level)) - 1) & ~0xfff) !== 0],
    ]);
    if (sole !== undefined) ept.reach(sole, 'fail', level);
  }

  private closeNpt(walk: PageWalk, type: number, ofTable: boolean, failed: PageWalk | null): void {
    const { npt, second } = this;
    npt.reach('format', formatName(walk.rootLevel));
    const check = failed === null ? Check.NONE : walk.faultCheck;
    const leaf = second.last;
    if (leaf === 0) return;
    this.entriesX86(npt, walk, second, check);
    if (check === Check.PRESENT || check === Check.RESERVED) return;
    const { all, noExecute } = second;
    const write = type === AccessType.WRITE || type === AccessType.RMW || ofTable;
    const fetch = type === AccessType.FETCH;
    if (ofTable) npt.reach('of-table', check === Check.NONE ? 'pass' : 'fail', leaf);
    const supervisorPage = (all & ENTRY_U) === 0;
    if (check === Check.PERMISSION) {
      const gmet = walk.gmet && fetch;
      const sole = soleOf([
        ['user', supervisorPage && !walk.gmet],
        ['write', write && (all & ENTRY_W) === 0],
        ['fetch', fetch && noExecute],
        ['gmet', gmet && !supervisorPage],
      ]);
      if (sole === undefined) return;
      npt.reach(sole, 'fail', leaf);
      this.tellWithheld(npt, sole, second);
      return;
    }
    if (!supervisorPage) npt.reach('user', 'pass', leaf);
    else if (walk.gmet) npt.reach('gmet', 'pass-supervisor-page', leaf);
    if (write) npt.reach('write', 'pass', leaf);
    if (fetch) npt.reach('fetch', 'pass', leaf);
    this.adX86(npt, second, leaf, write);
  }

  // ----------------------------------------------------------------------------------------------------- x86 formats

  private tellWithheld(of: Checks, rule: string, entries: Entries): void {
    const at =
      rule === 'user'
        ? entries.withholds(ENTRY_U)
        : rule === 'write'
          ? entries.withholds(ENTRY_W)
          : rule === 'fetch'
            ? entries.noExecuteAt
            : 0;
    if (at !== 0) of.reach(`withheld-${rule === 'fetch' ? 'execute' : rule}`, 'fail', at);
  }

  private adX86(of: Checks, entries: Entries, leaf: number, write: boolean): void {
    const pae = entries.levels[0] === 3;
    for (const level of entries.levels) {
      if (pae && level === 3) continue;
      if ((entries.lo[level]! & ENTRY_A) !== 0) of.reach('accessed', 'was-set', level);
    }
    if (write && (entries.lo[leaf]! & ENTRY_D) !== 0) of.reach('dirty', 'was-set', leaf);
  }

  private entriesX86(of: Checks, walk: PageWalk, entries: Entries, check: number): void {
    for (const level of entries.levels) {
      const here = level === entries.last;
      const absent = here && check === Check.PRESENT;
      of.reach('present', absent ? 'fail' : 'pass', level);
      if (absent) continue;
      const bad = here && check === Check.RESERVED;
      of.reach('reserved', bad ? 'fail' : 'pass', level);
      if (bad) this.reservedX86(of, walk, level, entries.lo[level]!, entries.hi[level]!);
    }
  }

  private reservedX86(of: Checks, walk: PageWalk, level: number, lo: number, hi: number): void {
    const { reserved } = walk.format;
    const index = level + ((lo >>> 7) & 1) * 6;
    const badLo = lo & reserved.lo[index]!;
    const badHi = hi & reserved.hi[index]!;
    const pae = walk.rootLevel === 3;
    const sole = soleOf([
      ['reserved-nx', badHi < 0 && !(pae && level === 3)],
      ['reserved-address', (badHi & 0xf_ffff) !== 0],
      ['reserved-pae-high', pae && level < 3 && (badHi & 0x7ff0_0000) !== 0],
      ['reserved-page-size', !(pae && level === 3) && level >= 3 && (badLo & ENTRY_PS) !== 0],
      ['reserved-bit-8', !pae && level >= 4 && (badLo & 0x100) !== 0],
      ['reserved-large-page', (badLo & 0x3fff_f000) !== 0],
      ['reserved-pdpte', pae && level === 3 && (badLo !== 0 || (badHi & ~0xf_ffff) !== 0)],
    ]);
    if (sole === undefined || (of === this.npt && (sole === 'reserved-pae-high' || sole === 'reserved-pdpte'))) return;
    of.reach(sole, 'fail', level);
  }

  private closeGuest(access: number, failed: PageWalk | null): void {
    const { cpu, guest, machine } = this;
    const walk = machine.cpuWalk;
    const leaf = guest.last;
    if (leaf === 0) return;
    const check = failed === walk ? walk.faultCheck : Check.NONE;
    this.entriesX86(cpu, walk, guest, check);
    if (walk.rootLevel === 3 && guest.levels[0] === 3)
      cpu.reach('pdpte', check === Check.PRESENT && leaf === 3 ? 'memory-absent' : 'memory-present');
    if (check === Check.PRESENT || check === Check.RESERVED) return;
    // Where the second stage ended it before its leaf was read, rights were never judged.
    if (!this.isLeaf(walk, leaf)) return;
    this.rightsX86(walk, access, leaf, check === Check.PERMISSION);
    if (failed === null) this.adX86(cpu, guest, leaf, (access & WRITE) !== 0);
  }

  private rightsX86(walk: PageWalk, access: number, leaf: number, failed: boolean): void {
    const { cpu, guest, machine } = this;
    const { all, noExecute } = guest;
    const [cr0, cr4, efer] = [machine.register(Reg.CR0), machine.register(Reg.CR4), machine.register(Reg.EFER)];
    const has = (bit: number): boolean => (access & bit) !== 0;
    const [write, user, fetch] = [has(WRITE), has(USER), has(FETCH)];
    const userPage = (all & ENTRY_U) !== 0;
    const writable = (all & ENTRY_W) !== 0;
    const [smep, smap] = [(cr4 & CR4_SMEP) !== 0, (cr4 & CR4_SMAP) !== 0];
    cpu.reach('rights', failed ? 'fail' : 'pass', leaf);
    if (has(SHADOW_STACK)) {
      cpu.reach('rights-shadow-stack', failed ? 'fail' : 'pass', leaf);
      return;
    }
    const key = (walk.errorCode & PFEC_PK) !== 0;
    if (failed) {
      const sole = soleOf([
        ['user', user && !userPage],
        ['write', write && !writable && (user || (cr0 & CR0_WP) !== 0)],
        ['fetch', fetch && noExecute && (efer & EFER_NXE) !== 0],
        ['smep', fetch && !user && userPage && smep],
        ['smap', !fetch && !user && userPage && smap && !has(NOT_SMAP)],
        ['key', key && userPage],
        ['supervisor-key', key && !userPage],
      ]);
      if (sole === undefined) return;
      cpu.reach(`rights-${sole}`, sole === 'write' && !user ? 'fail-wp' : 'fail', leaf);
      this.tellWithheld(cpu, sole, guest);
      return;
    }
    if (user) cpu.reach('rights-user', 'pass', leaf);
    if (write) cpu.reach('rights-write', writable ? 'pass' : 'pass-wp0', leaf);
    if (fetch) cpu.reach('rights-fetch', 'pass', leaf);
    if (!user && userPage && fetch) cpu.reach('rights-smep', 'pass-off', leaf);
    if (!user && userPage && !fetch) cpu.reach('rights-smap', smap ? 'pass-ac' : 'pass-off', leaf);
    if (fetch || walk.format.keyMask === 0) return;
    if (userPage && (cr4 & CR4_PKE) !== 0) cpu.reach('rights-key', 'pass', leaf);
    if (!userPage && (cr4 & CR4_PKS) !== 0) cpu.reach('rights-supervisor-key', 'pass', leaf);
  }
}
