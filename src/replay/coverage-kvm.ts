/** Which cells an emulated KVM reaches: what its MMUs build and drop, its requests, flushes, injections, and nesting. */

import { KvmEvent } from '../formats/kvm-event.ts';
import type { KvmMachine } from '../machine/kvm/machine.ts';
import type { Processor } from '../machine/kvm/processor.ts';
import { type Fault, PFERR_F, PFERR_P, PFERR_RSVD, PFERR_W, RetPf } from '../mmu/fault.ts';
import { Tag } from '../mmu/hardware.ts';
import { Inject } from '../mmu/injection.ts';
import type { Mmu } from '../mmu/mmu.ts';
import type { ShadowPage } from '../mmu/shadow-page.ts';
import { ENTRIES } from '../mmu/shadow-page.ts';
import { SPTE_W } from '../mmu/spte.ts';
import { Request, type Vcpu } from '../mmu/vcpu.ts';
import type { KvmPageWalk } from '../paging/kvm-page-walk.ts';
import { cover } from './cover.ts';
import { HardwareCoverage } from './coverage-hardware.ts';
import { Checks, type CoverageSet } from './coverage-set.ts';
import { SoftwareCoverage } from './coverage-software.ts';

const REQUESTS: readonly (readonly [bit: number, name: string])[] = [
  [Request.FREE_OBSOLETE_ROOTS, 'free-obsolete-roots'],
  [Request.MMU_SYNC, 'mmu-sync'],
  [Request.LOAD_MMU_PGD, 'load-mmu-pgd'],
  [Request.TLB_FLUSH, 'tlb-flush'],
  [Request.TLB_FLUSH_CURRENT, 'tlb-flush-current'],
  [Request.TLB_FLUSH_GUEST, 'tlb-flush-guest'],
];

const ENDED: Readonly<Record<number, string>> = {
  [RetPf.RETRY]: 'retry',
  [RetPf.EMULATE]: 'emulate',
  [RetPf.FIXED]: 'fixed',
  [RetPf.SPURIOUS]: 'spurious',
};

const INJECTED: Readonly<Record<number, string>> = {
  [Inject.PAGE_FAULT]: 'page-fault',
  [Inject.PAGE_FAULT_EXIT]: 'page-fault-exit',
  [Inject.NPF]: 'npf',
  [Inject.EPT_VIOLATION]: 'ept-violation',
  [Inject.EPT_MISCONFIG]: 'ept-misconfig',
  [Inject.PML_FULL]: 'pml-full',
};

const NOTIFIERS: Readonly<Record<number, string>> = {
  [KvmEvent.UNMAP_HVA_RANGE]: 'unmap',
  [KvmEvent.SET_SPTE_HVA]: 'set-pte',
  [KvmEvent.AGE_HVA]: 'age',
  [KvmEvent.TEST_AGE_HVA]: 'test-age',
};

const INVVPID = ['address', 'vpid', 'all', 'vpid-but-global'];

function errorText(errorCode: number): string {
  if ((errorCode & PFERR_RSVD) !== 0) return 'reserved';
  const access = (errorCode & PFERR_W) !== 0 ? 'write' : (errorCode & PFERR_F) !== 0 ? 'fetch' : 'read';
  return `${(errorCode & PFERR_P) !== 0 ? 'rights' : 'absent'}-${access}`;
}

export class KvmCoverage {
  private readonly machine: KvmMachine;
  private readonly set: CoverageSet;
  private readonly kvm: Checks;
  private readonly tlb: Checks;
  private readonly software: SoftwareCoverage;
  private readonly tdp: Checks;
  private readonly direct: Checks;
  private readonly shadow: Checks;
  private readonly guest: Checks;
  private readonly known = new WeakSet<Vcpu>();

  constructor(machine: KvmMachine, set: CoverageSet) {
    this.machine = machine;
    this.set = set;
    this.kvm = new Checks('kvm', set);
    this.tlb = new Checks('tlb', set);
    this.software = new SoftwareCoverage(set);
    this.tdp = new Checks('rootMmu.tdp', set);
    this.direct = new Checks('rootMmu.direct', set);
    this.shadow = new Checks('rootMmu.shadow', set);
    this.guest = new Checks('guestMmu', set);
    this.coverTrace();
    this.coverPages();
    this.coverVm();
    this.attach();
    cover(machine, 'apply', (call: () => void) => {
      call();
      this.software.endStep();
      this.attach();
    });
  }

  /** Looks at the vCPU whose steps come, if it is new. */
  private attach(): void {
    const { vcpu, processor } = this.machine;
    if (this.known.has(vcpu)) return;
    this.known.add(vcpu);
    new HardwareCoverage(processor.hardware, this.set);
    this.software.attach(vcpu);
    this.coverVcpu(vcpu);
    this.coverProcessor(processor);
    this.coverHandler(vcpu);
    this.coverMmu(vcpu, vcpu.rootMmu);
    this.coverMmu(vcpu, vcpu.guestMmu);
  }

  private of(mmu: Mmu): Checks {
    if (mmu === this.machine.vcpu.guestMmu) return this.guest;
    if (mmu.kind === 'paging') return this.shadow;
    return mmu.kind === 'tdp' && this.machine.tdpMmu !== null ? this.tdp : this.direct;
  }

  /** Whose table it is; direct tables of the older MMU and of guest_mmu are taken to be those of the MMU in force. */
  private ofPage(sp: ShadowPage): Checks {
    if (sp.tdp) return this.tdp;
    const { config, tdpMmu, vcpu } = this.machine;
    if (config.tdp) return sp.direct && tdpMmu === null ? this.of(vcpu.mmu) : this.guest;
    return sp.direct && vcpu.rootMmu.kind !== 'paging' ? this.direct : this.shadow;
  }

  private get inForce(): Checks {
    return this.of(this.machine.vcpu.mmu);
  }

  // ----------------------------------------------------------------------------------------------- tables and events

  private coverTrace(): void {
    const { trace } = this.machine.pages;
    const { kvm } = this;
    cover(trace, 'getPage', (call: () => void, sp: ShadowPage, created: boolean) => {
      this.ofPage(sp).reach(sp.level === 5 ? 'page-5' : 'page', created ? 'created' : 'found', sp.level);
      call();
    });
    cover(trace, 'syncPage', (call: () => void, sp: ShadowPage) => {
      this.ofPage(sp).reach('sync', 'synchronised', sp.level);
      call();
    });
    cover(trace, 'unsyncPage', (call: () => void, sp: ShadowPage) => {
      this.ofPage(sp).reach('unsync', 'marked', sp.level);
      call();
    });
    cover(trace, 'prepareZapPage', (call: () => void, sp: ShadowPage) => {
      this.ofPage(sp).reach('zap', sp.unsync ? 'zapped-unsync' : 'zapped', sp.level);
      call();
    });
    cover(trace, 'spteRequested', (call: () => void, level: number) => {
      this.inForce.reach('spte', 'requested', level);
      call();
    });
    cover(trace, 'splitHugePage', (call: () => void, _gfn: number, _lo: number, _hi: number, level: number) => {
      this.tdp.reach('split', 'split', level);
      call();
    });
    cover(trace, 'markMmioSpte', (call: () => void, sp: ShadowPage) => {
      this.ofPage(sp).reach('mmio', 'marked');
      call();
    });
    cover(trace, 'checkMmioSpte', (call: () => void, _lo: number, _hi: number, now: number, then: number) => {
      this.inForce.reach('mmio', now === then ? 'current' : 'stale');
      call();
    });
    cover(trace, 'handleMmioPageFault', (call: () => void) => {
      this.inForce.reach('mmio', 'handled');
      call();
    });
    cover(trace, 'fastPageFault', (call: () => void, ...args: unknown[]) => {
      const ended = args[9] === 'other' ? 'refused' : String(args[9]);
      this.inForce.reach('fast-fault', args[3] === null ? 'no-table' : ended);
      call();
    });
    cover(trace, 'notifier', (call: () => void, event: number) => {
      kvm.reach('notifier', NOTIFIERS[event]!);
      call();
    });
    cover(trace, 'mmio', (call: () => void, type: number) => {
      kvm.reach('mmio', ['read-unsatisfied', 'read', 'write'][type]!);
      call();
    });
    cover(trace, 'matchMmio', (call: () => void, ...args: unknown[]) => {
      kvm.reach('mmio', args[5] === true ? 'match-gpa' : 'match-gva');
      call();
    });
    cover(trace, 'nestedVmenter', (call: () => void, tdp: boolean) => {
      kvm.reach('nested-entry', tdp ? 'with-tdp' : 'without-tdp');
      call();
    });
    cover(trace, 'nestedVmexit', (call: () => void) => {
      kvm.reach('nested-exit', 'to-kvm');
      call();
    });
    cover(trace, 'nestedVmexitInject', (call: () => void) => {
      kvm.reach('nested-exit', 'to-l1');
      call();
    });
    cover(trace, 'invlpga', (call: () => void) => {
      kvm.reach('invlpga', 'done');
      call();
    });
  }

  private coverPages(): void {
    const { pages } = this.machine;
    let quiet = false;
    // A new table's entries are made empty.
    cover(pages, 'take', (call) => {
      quiet = true;
      try {
        return call();
      } finally {
        quiet = false;
      }
    });
    cover(pages, 'set', (call: () => void, sptep: number, lo: number, hi: number) => {
      if (!quiet) this.spte(sptep, lo, hi);
      call();
    });
    cover(pages, 'writeProtect', (call: () => boolean) => {
      const any = call();
      this.kvm.reach('write-protect', any ? 'protected' : 'nothing');
      return any;
    });
    cover(pages, 'unprotect', (call: () => boolean) => {
      const any = call();
      this.kvm.reach('unprotect', any ? 'zapped' : 'nothing');
      return any;
    });
  }

  private spte(sptep: number, lo: number, hi: number): void {
    const { pages } = this.machine;
    const { format } = pages;
    const [oldLo, oldHi] = [pages.lo(sptep), pages.hi(sptep)];
    if (oldLo === (lo | 0) && oldHi === (hi | 0)) return;
    const sp = pages.pageOf(Math.floor(sptep / ENTRIES) * ENTRIES);
    const of = this.ofPage(sp);
    const { level } = sp;
    const was = format.isPresent(oldLo);
    const is = format.isPresent(lo);
    const wasTable = was && !format.isLeaf(oldLo, level);
    const isTable = is && !format.isLeaf(lo, level);
    if (wasTable && !isTable) of.reach('spte-table', 'removed', level);
    if (isTable && !wasTable) of.reach('spte-table', 'made', level);
    if (was && !wasTable && !is) of.reach('spte', 'removed', level);
    if (!is || isTable) return;
    if (was && !wasTable) {
      of.reach('spte', 'changed', level);
      return;
    }
    of.reach('spte', 'made', level);
    if ((lo & SPTE_W) === 0) of.reach('spte', 'made-read-only', level);
    if (!format.isExecutable(lo, hi)) of.reach('spte', 'made-no-execute', level);
  }

  private coverVm(): void {
    const { vm } = this.machine;
    const { kvm } = this;
    for (const [method, check, outcome] of [
      ['zapAllFast', 'zap-all', 'fast'],
      ['zapAll', 'zap-all', 'everything'],
      ['startDirtyLog', 'dirty-log', 'started'],
      ['stopDirtyLog', 'dirty-log', 'stopped'],
      ['collectHardwareDirty', 'dirty-log', 'collected'],
    ] as const) {
      cover(vm, method, (call: () => void) => {
        kvm.reach(check, outcome);
        call();
      });
    }
  }

  // ------------------------------------------------------------------------------------------------------------ vCPUs

  private bits(check: string, bits: number): void {
    for (const [bit, name] of REQUESTS) if ((bits & bit) !== 0) this.kvm.reach(check, name);
  }

  private coverVcpu(vcpu: Vcpu): void {
    const { kvm } = this;
    cover(vcpu, 'request', (call: () => void, what: number) => {
      this.bits('request', what);
      call();
    });
    cover(vcpu, 'take', (call: () => boolean, what: number) => {
      const taken = call();
      if (taken) this.bits('served', what);
      return taken;
    });
    cover(vcpu, 'useNestedTdp', (call: () => void, on: boolean) => {
      kvm.reach('in-force', on ? 'guestMmu' : 'rootMmu');
      call();
    });
    cover(vcpu, 'useTag', (call: () => void, tag: number) => {
      kvm.reach('tag', tag === Tag.L2 ? 'l2' : 'l1');
      call();
    });
    for (const [method, outcome] of [
      ['resetContext', 'context'],
      ['unload', 'unload'],
    ] as const) {
      cover(vcpu, method, (call: () => void) => {
        kvm.reach('reset', outcome);
        call();
      });
    }
    for (const method of ['matchesGva', 'matchesGpa']) {
      cover(vcpu.mmioCache, method, (call: () => boolean) => {
        const hit = call();
        if (hit) this.inForce.reach('mmio', 'cached');
        return hit;
      });
    }
  }

  private coverProcessor(processor: Processor): void {
    const { tlb } = this;
    for (const [method, what] of [
      ['flushAll', 'all'],
      ['flushCurrent', 'current'],
      ['flushGuest', 'guest'],
      ['flushAddress', 'address'],
    ] as const) {
      cover(processor, method, (call: () => void) => {
        tlb.reach('kvm-flush', what);
        call();
      });
    }
  }

  private coverHandler(vcpu: Vcpu): void {
    const { handler } = this.machine;
    const { kvm } = this;
    const inside = handler as unknown as { readonly fault: Fault; readonly nested: object | null };
    cover(handler, 'handle', (call: () => number, _lo: number, _hi: number, errorCode: number) => {
      const of = this.inForce;
      of.reach('error-code', errorText(errorCode));
      const done = call();
      of.reach('fault', ENDED[done] ?? `ret-pf-${done}`);
      const { hugePageDisallowed, reqLevel, errorCode: handled } = inside.fault;
      if (hugePageDisallowed && reqLevel > 1 && handled === errorCode) of.reach('nx-huge', 'kept-small', reqLevel);
      return done;
    });
    cover(handler, 'injectWalkFault', (call: () => void, walk: KvmPageWalk) => {
      call();
      kvm.reach('injected-for', this.software.nameOf(vcpu, walk));
      const { injected } = handler;
      if (injected !== null) kvm.reach('injection', INJECTED[injected.kind] ?? `kind-${injected.kind}`);
    });
    if (inside.nested !== null) this.coverNested(inside.nested);
  }

  private coverNested(nested: object): void {
    const { kvm } = this;
    cover(nested, 'enter', (call: () => boolean) => {
      const entered = call();
      if (!entered) kvm.reach('nested-entry', 'failed');
      return entered;
    });
    cover(nested, 'invept', (call: () => boolean, type: number) => {
      const done = call();
      kvm.reach('invept', !done ? 'refused' : type === 1 ? 'eptp' : 'all');
      return done;
    });
    cover(nested, 'invvpid', (call: () => boolean, type: number) => {
      const done = call();
      kvm.reach('invvpid', done ? INVVPID[type]! : 'refused');
      return done;
    });
    for (const method of ['vmfunc', 'switchEptp']) {
      cover(nested, method, (call: () => boolean) => {
        const done = call();
        kvm.reach('eptp-switch', done ? 'done' : 'refused');
        return done;
      });
    }
  }

  private coverMmu(vcpu: Vcpu, mmu: Mmu): void {
    const of = (): Checks => (mmu === vcpu.guestMmu ? this.guest : this.of(mmu));
    cover(mmu, 'load', (call: () => boolean) => {
      const done = call();
      of().reach('root', done ? 'loaded' : 'refused');
      return done;
    });
    cover(mmu, 'newPgd', (call: () => boolean) => {
      const hit = call();
      of().reach('root', hit ? 'new-pgd-hit' : 'new-pgd-miss');
      return hit;
    });
    cover(mmu, 'freeCurrent', (call: () => void) => {
      if (mmu.root !== null) of().reach('root', 'current-freed');
      call();
    });
    cover(mmu, 'freePrevious', (call: () => void) => {
      const before = [...mmu.previous];
      call();
      if (before.some((root, i) => root !== null && mmu.previous[i] === null)) of().reach('root', 'previous-freed');
    });
    cover(mmu, 'syncRoots', (call: () => void) => {
      if (!mmu.direct) of().reach('root', 'synchronised');
      call();
    });
  }
}
