/** Which cells KVM's walks in software reach: told from the events that they fire, whose walk it is from whose log. */

import { KvmEvent, kvmEventOf } from '../formats/kvm-event.ts';
import { OBS_KIND_MASK, OBS_LEVEL_MASK, OBS_LEVEL_SHIFT, Obs } from '../formats/observation.ts';
import type { Vcpu } from '../mmu/vcpu.ts';
import { FETCH, PFEC_P, PFEC_PK, PFEC_RSVD, USER, WRITE } from '../paging/access.ts';
import { accessedBit, dirtyBit, isLastGpte, isPresentGpte } from '../paging/guest-entry.ts';
import { type KvmPageWalk, PteFormat } from '../paging/kvm-page-walk.ts';
import { cr0Wp, EXT_CR4_SMAP, eferNx } from '../paging/kvm-roles.ts';
import { coverLog } from './cover.ts';
import { formatName } from './coverage-entries.ts';
import { Checks, type CoverageSet } from './coverage-set.ts';

const ENTRY_W = 1 << 1;
const ENTRY_U = 1 << 2;
const EPT_USER_EXECUTE = 1 << 10;

/** A walk that has begun and of which it is not known how it ends. */
interface Pending {
  readonly of: Checks;
  readonly access: number;
  readonly ac: boolean;
  readonly smep: boolean;
  readonly smap: boolean;
  readonly wp: boolean;
  readonly nx: boolean;
  readonly levels: { readonly level: number; readonly at: number; readonly lo: number; readonly hi: number }[];
}

export class SoftwareCoverage {
  private readonly cpu: Checks;
  private readonly nested: Checks;
  private readonly tdp: Checks;
  private readonly pending = new Map<KvmPageWalk, Pending>();

  constructor(set: CoverageSet) {
    this.cpu = new Checks('kvm.cpuWalk', set);
    this.nested = new Checks('kvm.nestedCpuWalk', set);
    this.tdp = new Checks('kvm.tdpWalk', set);
  }

  /** Looks at the walks of a vCPU. */
  attach(vcpu: Vcpu): void {
    for (const walk of new Set([...vcpu.wiring.cpuWalks, vcpu.cpuWalk, vcpu.tdpWalk])) {
      coverLog(walk, (op, addressLo, valueLo, valueHi) => {
        if ((op & OBS_KIND_MASK) === Obs.KVM_EVENT) this.event(vcpu, walk, op, addressLo, valueLo, valueHi);
      });
    }
  }

  /** Whose walk: since 7.3 one walk of CR3's tables is L1's and, with a second stage, that of its guest. */
  nameOf(vcpu: Vcpu, walk: KvmPageWalk): 'cpuWalk' | 'nestedCpuWalk' | 'tdpWalk' {
    if (walk === vcpu.tdpWalk) return 'tdpWalk';
    return walk === vcpu.cpuWalk && walk.second === null ? 'cpuWalk' : 'nestedCpuWalk';
  }

  /** The step is over: what has not failed has passed. */
  endStep(): void {
    if (this.pending.size === 0) return;
    for (const [walk, pending] of [...this.pending]) this.passed(walk, pending);
    this.pending.clear();
  }

  private event(vcpu: Vcpu, walk: KvmPageWalk, op: number, addressLo: number, lo: number, hi: number): void {
    const pending = this.pending.get(walk);
    const level = (op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK;
    switch (kvmEventOf(op)) {
      case KvmEvent.PAGETABLE_WALK:
        if (pending !== undefined) this.passed(walk, pending);
        this.pending.set(walk, this.begin(vcpu, walk, lo));
        break;
      case KvmEvent.PAGING_ELEMENT:
        if (pending === undefined) break;
        // An entry that changed under the walk is walked to once more.
        if ((pending.levels.at(-1)?.level ?? 6) <= level) pending.levels.length = 0;
        pending.levels.push({ level, at: addressLo, lo, hi });
        if (walk.second !== null && !(level === 3 && walk.rootLevel === 3))
          pending.of.reach('second-of-table', 'pass', level);
        break;
      case KvmEvent.SET_ACCESSED_BIT:
      case KvmEvent.SET_DIRTY_BIT: {
        const entry = pending?.levels.find(({ at }) => at === addressLo);
        const check = kvmEventOf(op) === KvmEvent.SET_DIRTY_BIT ? 'dirty' : 'accessed';
        if (entry !== undefined) pending!.of.reach(check, 'set', entry.level);
        break;
      }
      case KvmEvent.WALKER_ERROR:
        if (pending !== undefined) this.failed(walk, pending, lo);
        this.pending.delete(walk);
        this.secondFailed(walk);
    }
  }

  private begin(vcpu: Vcpu, walk: KvmPageWalk, access: number): Pending {
    const name = this.nameOf(vcpu, walk);
    const of = name === 'cpuWalk' ? this.cpu : name === 'tdpWalk' ? this.tdp : this.nested;
    const ept = walk.format === PteFormat.EPT;
    of.reach('format', ept ? `ept-${walk.rootLevel}` : formatName(walk.rootLevel));
    const { profile, base, ext } = walk;
    return {
      of,
      access,
      ac: walk.ac,
      smep: walk.smep,
      smap: (ext & EXT_CR4_SMAP) !== 0,
      wp: ept || cr0Wp(base, profile),
      nx: ept || eferNx(base, profile),
      levels: [],
    };
  }

  /** Walks that wanted an address of the second stage's end with it. */
  private secondFailed(second: KvmPageWalk): void {
    for (const [walk, pending] of [...this.pending]) {
      if (walk.second !== second) continue;
      const last = pending.levels.at(-1);
      this.entries(pending, pending.levels.length);
      if (last !== undefined && isLastGpte(walk, last.level, last.lo)) pending.of.reach('second-of-final', 'fail');
      else pending.of.reach('second-of-table', 'fail', walk.level);
      this.pending.delete(walk);
    }
  }

  /** The first `count` entries read were present and in order. */
  private entries({ of, levels }: Pending, count: number): void {
    for (let i = 0; i < count; i++) {
      const { level } = levels[i]!;
      of.reach('present', 'pass', level);
      of.reach('reserved', 'pass', level);
    }
  }

  private failed(walk: KvmPageWalk, pending: Pending, errorCode: number): void {
    const { of, levels } = pending;
    const last = levels.at(-1);
    const before = Math.max(0, levels.length - 1);
    if (last === undefined) {
      of.reach('memslot', 'fail', walk.level);
      return;
    }
    const present = last.level === 3 && walk.rootLevel === 3 ? (last.lo & 1) !== 0 : isPresentGpte(walk, last.lo);
    if (!present) {
      this.entries(pending, before);
      of.reach('present', 'fail', last.level);
      return;
    }
    if ((errorCode & PFEC_RSVD) !== 0) {
      this.entries(pending, before);
      of.reach('present', 'pass', last.level);
      of.reach('reserved', 'fail', last.level);
      return;
    }
    this.entries(pending, levels.length);
    if ((errorCode & PFEC_P) !== 0) this.rights(walk, pending, (errorCode & PFEC_PK) !== 0, true);
    else if (walk.level !== last.level) of.reach('memslot', 'fail', walk.level);
  }

  private passed(walk: KvmPageWalk, pending: Pending): void {
    const { of, levels, access } = pending;
    const last = levels.at(-1);
    if (last === undefined) return;
    this.entries(pending, levels.length);
    if (!isLastGpte(walk, last.level, last.lo)) return;
    this.rights(walk, pending, false, false);
    if (walk.second !== null) of.reach('second-of-final', 'pass');
    if (!walk.haveAd) return;
    for (const { level, lo } of levels) {
      if (walk.rootLevel === 3 && level === 3) continue;
      if ((lo & accessedBit(walk)) !== 0) of.reach('accessed', 'was-set', level);
    }
    if ((access & WRITE) !== 0 && (last.lo & dirtyBit(walk)) !== 0) of.reach('dirty', 'was-set', last.level);
  }

  private rights(walk: KvmPageWalk, pending: Pending, key: boolean, failed: boolean): void {
    const { of, levels, access, smep, smap, wp, nx, ac } = pending;
    const leaf = levels.at(-1)!.level;
    const ofTables = levels.filter(({ level }) => !(walk.rootLevel === 3 && level === 3));
    const all = ofTables.reduce((and, { lo }) => and & lo, -1);
    const noExecute = ofTables.some(({ hi }) => hi < 0);
    const [write, user, fetch] = [(access & WRITE) !== 0, (access & USER) !== 0, (access & FETCH) !== 0];
    of.reach('rights', failed ? 'fail' : 'pass', leaf);
    if (walk.format === PteFormat.EPT) {
      const execute = smep && user ? EPT_USER_EXECUTE : 4;
      const broken: string[] = [];
      if (write && (all & 2) === 0) broken.push('write');
      if (fetch && (all & execute) === 0) broken.push('fetch');
      if ((all & 1) === 0 && (!fetch || walk.profile === '6.1')) broken.push('read');
      if (failed) {
        if (broken.length === 1) of.reach(`rights-${broken[0]}`, 'fail', leaf);
      } else of.reach(`rights-${write ? 'write' : fetch ? 'fetch' : 'read'}`, 'pass', leaf);
      return;
    }
    const userPage = (all & ENTRY_U) !== 0;
    const writable = (all & ENTRY_W) !== 0;
    if (failed) {
      const broken: [check: string, outcome: string][] = [];
      if (user && !userPage && !(walk.ngpa && smep)) broken.push(['user', 'fail']);
      if (write && !writable && (user || wp)) broken.push(['write', user ? 'fail' : 'fail-wp']);
      if (fetch && noExecute && nx) broken.push(['fetch', 'fail']);
      if (fetch && !user && userPage && smep) broken.push(['smep', 'fail']);
      if (!fetch && !user && userPage && smap && !ac) broken.push(['smap', 'fail']);
      if (key) broken.push(['key', 'fail']);
      if (broken.length === 1) of.reach(`rights-${broken[0]![0]}`, broken[0]![1], leaf);
      return;
    }
    if (user && userPage) of.reach('rights-user', 'pass', leaf);
    if (write) of.reach('rights-write', writable ? 'pass' : 'pass-wp0', leaf);
    if (fetch) of.reach('rights-fetch', 'pass', leaf);
    if (!user && userPage && fetch && !walk.ngpa) of.reach('rights-smep', 'pass-off', leaf);
    if (!user && userPage && !fetch && !walk.ngpa) of.reach('rights-smap', smap ? 'pass-ac' : 'pass-off', leaf);
    if (!fetch && walk.keyMask !== 0 && userPage) of.reach('rights-key', 'pass', leaf);
    if (walk.ngpa && !write && !fetch) of.reach('rights-read', 'pass', leaf);
  }
}
