/**
 * Watches a machine with an emulated KVM from outside while it applies a step: what KVM tells the processor, asks of itself,
 * does to its roots and tables, remembers and injects, in order. No tracepoint shows most of it. The machine is as it ever
 * is; its methods are covered by ones that note the call.
 */

import { hexText } from '../bits/word64.ts';
import { decodeRole } from '../formats/decode/kvm-role.ts';
import { decodeSpte } from '../formats/decode/kvm-spte.ts';
import { KvmEvent, kvmEventOf } from '../formats/kvm-event.ts';
import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import type { KvmMachine } from '../machine/kvm/machine.ts';
import type { Processor, RootState } from '../machine/kvm/processor.ts';
import { RetPf } from '../mmu/fault.ts';
import { Tag } from '../mmu/hardware.ts';
import { Inject } from '../mmu/injection.ts';
import type { Mmu } from '../mmu/mmu.ts';
import type { Root } from '../mmu/root.ts';
import { ENTRIES } from '../mmu/shadow-page.ts';
import { Request, type Vcpu } from '../mmu/vcpu.ts';
import type { KvmPageWalk } from '../paging/kvm-page-walk.ts';
import { RowLog } from '../paging/row-log.ts';
import type { ContextName, ExplainedAction } from './explanation.ts';

/** A word that an action is about, so that two actions can be told apart by its fields. */
export interface SeenWord {
  readonly format: 'role' | 'spte' | 'extended-role' | 'plain';
  readonly lo: number;
  readonly hi: number;
  /** Of an SPTE. */
  readonly level: number;
}

/** Something that was done. */
export interface Seen {
  readonly context: ContextName;
  readonly kind: ExplainedAction['kind'];
  /** A verb phrase without its words: `drops the linear mappings of vpid01`. */
  readonly does: string;
  readonly word: SeenWord | undefined;
  /** Of a change of an SPTE: the table that it stands in. */
  readonly table: { readonly gfn: number; readonly role: number } | undefined;
  /** Rows that the machine's log had by then. */
  readonly row: number;
}

/** A row that a software walk wrote: which walk. */
export interface WalkRow {
  readonly row: number;
  readonly walk: KvmPageWalk;
  readonly context: ContextName;
  /** Where a walk begins (PAGETABLE_WALK): what it was to go by. */
  readonly begun: WalkBegun | undefined;
  /** Where it failed (WALKER_ERROR): EPT qualification as it stands then. */
  readonly qualification: number;
}

export interface WalkBegun {
  readonly ac: boolean;
  readonly rootLevel: number;
  readonly hasSecond: boolean;
  readonly registers: Uint32Array;
}

/** What is told of every access that the processor makes, or is asked about. */
export type ProcessorListener = (
  processor: Processor,
  how: 'access' | 'gpa' | 'probe' | 'probe-gpa',
  op: number,
  lo: number,
  hi: number,
  outcome: number,
) => void;

const RET_PF_NAMES = Object.fromEntries(Object.entries(RetPf).map(([name, value]) => [value, `RET_PF_${name}`]));
const INJECTED: Readonly<Record<number, string>> = {
  [Inject.PAGE_FAULT]: 'a #PF',
  [Inject.PAGE_FAULT_EXIT]: "an exit for L2's #PF",
  [Inject.NPF]: 'a nested page fault',
  [Inject.EPT_VIOLATION]: 'an EPT violation',
  [Inject.EPT_MISCONFIG]: 'an EPT misconfiguration',
  [Inject.PML_FULL]: 'a full page-modification log',
};
const INFO_NAMES: Readonly<Record<number, string>> = {
  [Inject.NPF]: 'EXITINFO1',
  [Inject.EPT_VIOLATION]: 'qualification',
  [Inject.EPT_MISCONFIG]: 'qualification',
  [Inject.PML_FULL]: 'qualification',
};

export function gfnText(gfn: number): string {
  return gfn < 0 ? 'no gfn' : `gfn 0x${gfn.toString(16)}`;
}

function requestNames(bits: number): string {
  const names = Object.entries(Request).filter(([, bit]) => (bits & bit) !== 0);
  return names.map(([name]) => `KVM_REQ_${name}`).join(' and ');
}

function tagText(tag: number, vendor: string): string {
  if (vendor === 'amd') return "the VM's ASID";
  return tag === Tag.L2 ? "vpid02 (L2's)" : "vpid01 (L1's)";
}

/** Covers a method of an object; `told` is called with the call still to be made, and returns what it gave. */
function cover<Args extends unknown[], Result>(
  object: object,
  name: string,
  told: (call: () => Result, ...args: Args) => Result,
): void {
  const methods = object as Record<string, (...args: Args) => Result>;
  const original = methods[name];
  if (typeof original !== 'function') throw new Error(`nothing to watch: ${name}`);
  methods[name] = function (this: unknown, ...args: Args): Result {
    return told(() => original.apply(this ?? object, args), ...args);
  };
}

/** A walk's log: the machine's, with a note of whose row it is. */
class SignedLog extends RowLog {
  private readonly to: RowLog;
  private readonly told: (op: number) => void;

  constructor(to: RowLog, told: (op: number) => void) {
    super();
    this.to = to;
    this.told = told;
  }

  override push(op: number, addressLo: number, addressHi: number, valueLo: number, valueHi: number): void {
    this.told(op);
    this.to.push(op, addressLo, addressHi, valueLo, valueHi);
  }
}

export class Watch {
  readonly machine: KvmMachine;
  /** What was done in the step so far. */
  readonly seen: Seen[] = [];
  readonly walkRows: WalkRow[] = [];
  /** Addresses of faults that were handled, by MMU. */
  readonly addresses: { readonly mmu: Mmu; readonly lo: number; readonly hi: number }[] = [];
  /** SPTEs that were changed, with what they were before: halves by sptep. */
  readonly before = new Map<number, readonly [lo: number, hi: number]>();
  listener: ProcessorListener | null = null;
  /** Keep what walks go by; off while only sequences are compared. */
  detailed = false;
  private isOn = false;
  /** Calls inside of which nothing is noted: their outcome is. */
  private quiet = 0;
  private readonly known = new WeakSet<object>();

  constructor(machine: KvmMachine) {
    this.machine = machine;
    this.watchPages();
    this.attach();
  }

  /** Notes what happens from here on, a new step. */
  begin(): void {
    this.attach();
    this.seen.length = 0;
    this.walkRows.length = 0;
    this.addresses.length = 0;
    this.before.clear();
    this.quiet = 0;
    this.isOn = true;
  }

  end(): void {
    this.isOn = false;
    this.attach();
  }

  /** Watches the vCPU whose steps come, if it is new. */
  private attach(): void {
    const { vcpu } = this.machine;
    if (this.known.has(vcpu)) return;
    this.known.add(vcpu);
    this.watchVcpu(vcpu);
  }

  private note(context: ContextName, kind: Seen['kind'], does: string, word?: SeenWord, table?: Seen['table']): void {
    if (!this.isOn || this.quiet > 0) return;
    this.seen.push({ context, kind, does, word, table, row: this.machine.log.count });
  }

  private quietly<T>(call: () => T): T {
    this.quiet++;
    try {
      return call();
    } finally {
      this.quiet--;
    }
  }

  private get mmuName(): ContextName {
    return nameOfMmu(this.machine.vcpu, this.machine.vcpu.mmu);
  }

  private roleWord(role: number): SeenWord {
    return { format: 'role', lo: role >>> 0, hi: 0, level: 0 };
  }

  // ----------------------------------------------------------------------------------------------------------- tables

  private watchPages(): void {
    const { pages } = this.machine;
    cover(pages, 'take', (call) => this.quietly(call));
    cover(pages, 'set', (call: () => void, sptep: number, lo: number, hi: number) => {
      if (this.isOn && this.quiet === 0) this.noteSpte(sptep, lo, hi);
      call();
    });
    cover(pages, 'prepareZap', (call: () => number, sp: { gfn: number; role: number; level: number }) => {
      this.note(
        'kvm',
        'table',
        `zaps the shadow page of ${gfnText(sp.gfn)} at level ${sp.level}`,
        this.roleWord(sp.role),
      );
      return call();
    });
    cover(pages, 'unprotect', (call: () => boolean, gfn: number) => {
      this.note('kvm', 'table', `zaps whatever shadows ${gfnText(gfn)}, so that it can be written`);
      return call();
    });
    cover(pages, 'syncChildren', (call: () => void, sp: { gfn: number; level: number; unsyncChildren: number }) => {
      const what = sp.unsyncChildren > 0 ? `${sp.unsyncChildren} unsync` : 'nothing unsync';
      this.note('kvm', 'table', `synchronises what is unsync below the table of ${gfnText(sp.gfn)} (${what})`);
      call();
    });
  }

  private noteSpte(sptep: number, lo: number, hi: number): void {
    const { pages } = this.machine;
    const sp = pages.pageOf(sptep);
    const index = sptep % ENTRIES;
    const was = { lo: pages.lo(sptep) >>> 0, hi: pages.hi(sptep) >>> 0 };
    if (was.lo === lo >>> 0 && was.hi === hi >>> 0) return;
    if (!this.before.has(sptep)) this.before.set(sptep, [was.lo, was.hi]);
    const place = `the SPTE of ${gfnText(sp.direct ? sp.gfnAt(index) : -1)} at level ${sp.level}`;
    const where = sp.direct ? place : `SPTE ${index} at level ${sp.level} of the shadow of ${gfnText(sp.gfn)}`;
    const { format } = pages;
    if (lo === 0 && (hi === 0 || (hi | 0) === (format.emptyHi | 0))) {
      this.note(this.mmuName, 'table', `empties ${where}`, undefined, { gfn: sp.gfn, role: sp.role });
      return;
    }
    if (format.isPresent(lo) && !format.isLeaf(lo, sp.level)) {
      const child = pages.childOf(lo, hi);
      const does = `makes ${where} lead to the table of ${gfnText(child.gfn)}${child.unsync ? ', which is unsync' : ''}`;
      this.note(this.mmuName, 'table', does, this.roleWord(child.role), { gfn: sp.gfn, role: sp.role });
      return;
    }
    const word: SeenWord = { format: 'spte', lo: lo >>> 0, hi: hi >>> 0, level: sp.level };
    this.note(this.mmuName, 'table', `sets ${where}`, word, { gfn: sp.gfn, role: sp.role });
  }

  // ------------------------------------------------------------------------------------------------------------ vCPUs

  private watchVcpu(vcpu: Vcpu): void {
    const { machine } = this;
    const { processor, handler } = machine;
    this.watchProcessor(processor, vcpu);
    cover(vcpu, 'request', (call: () => void, what: number) => {
      if ((vcpu.requests & what) !== what) this.note('kvm', 'request', `asks for ${requestNames(what)}`);
      call();
    });
    cover(vcpu, 'serveRequests', (call: () => void) => {
      if (vcpu.requests !== 0)
        this.note('kvm', 'request', `serves ${requestNames(vcpu.requests)} before the guest runs`);
      call();
    });
    cover(vcpu, 'resetContext', (call: () => void) => {
      this.note('kvm', 'setup', 'resets the MMU context: all roots go, roles are computed anew');
      call();
    });
    cover(vcpu, 'unload', (call: () => void) => {
      this.note('kvm', 'root', 'lets go of all roots of both MMUs');
      call();
    });
    cover(vcpu, 'useNestedTdp', (call: () => void, on: boolean) => {
      if (on !== vcpu.nested)
        this.note('kvm', 'setup', on ? 'puts guestMmu into force (L2 with nested paging)' : 'puts rootMmu into force');
      call();
    });
    cover(vcpu, 'useTag', (call: () => void, tag: number) => {
      if (tag !== vcpu.tag) this.note('kvm', 'setup', `enters the guest with ${this.tag(tag)} from here on`);
      call();
    });
    cover(
      vcpu,
      'invalidateAddress',
      (call: () => void, walk: KvmPageWalk, lo: number, hi: number, current: boolean, which: unknown) => {
        const roots = [current ? 'the current root' : '', which === null ? '' : 'previous roots'].filter(
          (s) => s !== '',
        );
        const of = `of the tables that ${nameOfWalk(vcpu, walk)} reads`;
        this.note('kvm', 'flush', `invalidates the address ${hexText(lo, hi)} ${of}, in ${roots.join(' and ')}`);
        call();
      },
    );
    this.watchMmu(vcpu, vcpu.rootMmu);
    this.watchMmu(vcpu, vcpu.guestMmu);
    for (const walk of new Set([...vcpu.wiring.cpuWalks, vcpu.cpuWalk, vcpu.tdpWalk])) this.watchWalk(vcpu, walk);
    this.watchMmioCache(vcpu);
    cover(
      handler,
      'handle',
      (call: () => number, lo: number, hi: number, errorCode: number, _event: boolean, errorHi: number = 0) => {
        if (this.isOn) this.addresses.push({ mmu: vcpu.mmu, lo, hi });
        this.note(
          this.mmuName,
          'fault',
          `handles the fault at ${hexText(lo, hi)}, error code ${hexText(errorCode, errorHi)}`,
        );
        const done = call();
        this.note(this.mmuName, 'fault', `ends it with ${RET_PF_NAMES[done] ?? done}`);
        return done;
      },
    );
    cover(handler, 'injectWalkFault', (call: () => void, walk: KvmPageWalk) => {
      call();
      const { injected } = handler;
      if (injected === null) return;
      const info = INFO_NAMES[injected.kind] ?? 'error code';
      const what = INJECTED[injected.kind] ?? `injection ${injected.kind}`;
      const word: SeenWord = { format: 'plain', lo: injected.infoLo >>> 0, hi: injected.infoHi >>> 0, level: 0 };
      const to = injected.kind === Inject.PAGE_FAULT ? 'the guest' : 'L1';
      const does = `gives ${to} ${what} at ${hexText(injected.lo, injected.hi)} because ${nameOfWalk(vcpu, walk)} failed; ${info}`;
      this.note('kvm', 'injection', does, word);
    });
    if (this.known.has(vcpu.memory)) return;
    this.known.add(vcpu.memory);
    cover(vcpu.memory, 'writeEntry', (call: () => void, gfn: number, offset: number, lo: number, hi: number) => {
      const word: SeenWord = { format: 'plain', lo: lo >>> 0, hi: hi >>> 0, level: 0 };
      this.note('guest memory', 'table', `gets an entry written at gpa 0x${(gfn * 4096 + offset).toString(16)}`, word);
      call();
    });
  }

  private tag(tag: number): string {
    return tagText(tag, this.machine.config.vendor);
  }

  private watchProcessor(processor: Processor, vcpu: Vcpu): void {
    cover(processor, 'flushAll', (call: () => void) => {
      this.note('tlb', 'flush', 'drops every cached translation');
      call();
    });
    cover(processor, 'flushCurrent', (call: () => void) => {
      const ept = this.machine.config.tdp && this.machine.config.vendor === 'intel';
      const what = ept
        ? `what was translated through the root of ${this.mmuName}`
        : `the translations of ${this.tag(vcpu.tag)}`;
      this.note('tlb', 'flush', `drops ${what}`);
      call();
    });
    cover(processor, 'flushGuest', (call: () => void) => {
      this.note('tlb', 'flush', `drops the linear mappings of ${this.tag(vcpu.tag)}`);
      call();
    });
    cover(processor, 'flushAddress', (call: () => void, lo: number, hi: number) => {
      this.note('tlb', 'flush', `drops the address ${hexText(lo, hi)} of ${this.tag(vcpu.tag)}`);
      call();
    });
    cover(processor, 'setRoot', (call: () => void, root: RootState | null) => {
      if (root !== null) {
        const ad = root.ad ? 'with A and D bits' : 'without A and D bits';
        this.note('processor', 'setup', `is given a root of ${root.level} levels of ${this.mmuName}, ${ad}`);
      }
      call();
    });
    const tell =
      (how: Parameters<ProcessorListener>[1]) =>
      (call: () => number, op: number, lo: number, hi: number): number => {
        const outcome = call();
        if (this.isOn) this.listener?.(processor, how, op, lo, hi, outcome);
        return outcome;
      };
    cover(processor, 'translate', tell('access'));
    cover(processor, 'translateGpa', tell('gpa'));
    cover(processor, 'probe', tell('probe'));
    cover(processor, 'probeGpa', tell('probe-gpa'));
  }

  private watchMmu(vcpu: Vcpu, mmu: Mmu): void {
    const name = nameOfMmu(vcpu, mmu);
    cover(mmu, 'init', (call: () => boolean, kind: string, role: number) => {
      const done = call();
      if (done) this.note(name, 'setup', `is to build ${kind} tables with the root role`, this.roleWord(role));
      return done;
    });
    cover(mmu, 'load', (call: () => boolean) => {
      const done = call();
      this.note(
        name,
        'root',
        done ? `loads ${rootText(mmu.root)}` : 'finds no memslot for a table of the root: the guest cannot run',
      );
      return done;
    });
    cover(mmu, 'newPgd', (call: () => boolean, pgd: number) => {
      const hit = call();
      const what = hit ? 'finds a cached root' : 'has no cached root';
      this.note(name, 'root', `${what} for the guest's root 0x${pgd.toString(16)}`);
      return hit;
    });
    cover(mmu, 'freeCurrent', (call: () => void) => {
      if (mmu.root !== null) this.note(name, 'root', `lets go of its current root, ${rootText(mmu.root)}`);
      call();
    });
    cover(mmu, 'freePrevious', (call: () => void) => {
      const before = [...mmu.previous];
      call();
      const gone = before.filter((root, i) => root !== null && mmu.previous[i] === null);
      for (const root of gone) this.note(name, 'root', `lets go of a previous root, ${rootText(root)}`);
    });
    cover(mmu, 'syncRoots', (call: () => void) => {
      this.note(name, 'root', 'synchronises the tables of its current root with the guest');
      call();
    });
  }

  private watchWalk(vcpu: Vcpu, walk: KvmPageWalk): void {
    const context = nameOfWalk(vcpu, walk);
    cover(walk, 'setUp', (call: () => void) => {
      call();
      const word: SeenWord = { format: 'role', lo: walk.base >>> 0, hi: walk.ext >>> 0, level: 0 };
      const keys = walk.keyMask === 0 ? '' : ', judging protection keys';
      const ad = walk.haveAd ? '' : ', without A and D bits';
      this.note(context, 'setup', `walks from here on${keys}${ad} by the role`, word);
    });
    const log = new SignedLog(this.machine.log, (op) => {
      if (this.isOn) this.signRow(walk, context, op);
    });
    Object.assign(walk, { log });
  }

  private signRow(walk: KvmPageWalk, context: ContextName, op: number): void {
    if ((op & OBS_KIND_MASK) !== Obs.KVM_EVENT) return;
    const begins = this.detailed && kvmEventOf(op) === KvmEvent.PAGETABLE_WALK;
    const begun: WalkBegun | undefined = begins
      ? { ac: walk.ac, rootLevel: walk.rootLevel, hasSecond: walk.second !== null, registers: walk.registers.slice() }
      : undefined;
    const { qualification } = walk.fault;
    this.walkRows.push({ row: this.machine.log.count, walk, context, begun, qualification });
  }

  private watchMmioCache(vcpu: Vcpu): void {
    const cache = vcpu.mmioCache;
    cover(cache, 'set', (call: () => void, lo: number, hi: number, gfn: number) => {
      const page = lo === 0 && hi === 0 ? 'no linear page' : `linear page ${hexText(lo & ~0xfff, hi)}`;
      this.note('kvm', 'cache', `remembers ${gfnText(gfn)} as MMIO, with ${page}`);
      call();
    });
    for (const [name, what] of [
      ['matchesGva', 'linear'],
      ['matchesGpa', 'guest-physical'],
    ] as const) {
      cover(cache, name, (call: () => boolean, lo: number, hi: number) => {
        const hit = call();
        if (hit) this.note('kvm', 'cache', `finds the ${what} address ${hexText(lo, hi)} in the MMIO cache`);
        return hit;
      });
    }
  }
}

export function nameOfMmu(vcpu: Vcpu, mmu: Mmu): 'rootMmu' | 'guestMmu' {
  return mmu === vcpu.guestMmu ? 'guestMmu' : 'rootMmu';
}

export function nameOfWalk(vcpu: Vcpu, walk: KvmPageWalk): 'cpuWalk' | 'tdpWalk' | 'nestedCpuWalk' {
  if (walk === vcpu.tdpWalk) return 'tdpWalk';
  return walk === vcpu.cpuWalk ? 'cpuWalk' : 'nestedCpuWalk';
}

function rootText(root: Root | null): string {
  if (root === null) return 'no root';
  const pgd = `for the guest's root 0x${root.pgd.toString(16)}`;
  if (root.page === null) return `a PAE root ${pgd}`;
  return root.page.direct ? 'a direct root' : `the shadow of ${gfnText(root.page.gfn)} ${pgd}`;
}

/** The word of an action in words. */
export function seenWordText(word: SeenWord, { profile, vendor, tdp }: KvmMachine['config']): string {
  const { lo, hi, level } = word;
  switch (word.format) {
    case 'role':
      return decodeRole({ lo, hi: 0 }, profile).short;
    case 'spte':
      return decodeSpte({ lo, hi }, { profile, ept: vendor === 'intel' && tdp, level }).short;
    default:
      return hexText(lo, hi);
  }
}
