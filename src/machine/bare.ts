/**
 * The bare machine: a processor without a hypervisor under it. Registers, memory, `cpuWalk`, `tdpWalk` (EPT or NPT)
 * and a TLB; the specification that recordings of processors and emulators are held against. With several vCPUs
 * (`vcpus.ts`) registers and TLB are those of the one whose steps come now.
 *
 * What register writes and invalidations do to cached translations is in `invalidate.ts`.
 */

import {
  Dim,
  NotModelled,
  OBS_EXCEPTION_EXITS,
  OBS_FOUR_BYTES,
  OBS_KIND_MASK,
  OBS_NOT_MODELLED_SHIFT,
  OBS_PAGE_SHIFT_SHIFT,
  OBS_VECTOR_SHIFT,
  Obs,
} from '../formats/observation.ts';
import { CR4_LA57, EFER_LMA, GuestMode, REGISTER_COUNT, Reg } from '../formats/registers.ts';
import {
  ACCESS_OF_TABLE,
  ACCESS_SOFTWARE,
  ACCESS_STACK,
  ACCESS_TYPE_MASK,
  ACCESS_TYPE_SHIFT,
  ACCESS_WALKED,
  AccessType,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  STORE_SIZE_MASK,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../formats/step.ts';
import {
  accessOfType,
  FETCH,
  NO_AD,
  NO_LINEAR,
  OF_TABLE,
  PERMISSION_BITS,
  PFEC_P,
  PFEC_RSVD,
  SHADOW_STACK,
  USER,
  WRITE,
} from '../paging/access.ts';
import { configureWalks, type PagingFeatures } from '../paging/configure.ts';
import { Check, PageWalk, Walk } from '../paging/page-walk.ts';
import { ACC_EXEC, ACC_READ, ACC_USER, ACC_WRITE } from '../paging/permissions.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_OP, ROW_VALUE_HI, ROW_VALUE_LO, RowLog } from '../paging/row-log.ts';
import { secondStage, walkX86 } from '../paging/walk-x86.ts';
import type { TraceHeader } from '../trace/header.ts';
import type { Stimulus } from '../trace/stimulus.ts';
import { accessBits } from './access-bits.ts';
import { Contexts } from './context.ts';
import { pagingFeatures } from './features.ts';
import { type EarlierRoot, History } from './history.ts';
import { interceptsException } from './intercepted.ts';
import { invalidate, nestedTransition, writeRegister } from './invalidate.ts';
import type { Machine } from './machine.ts';
import { Memory } from './memory.ts';
import { loadPdptes } from './pdpte.ts';
import { RareStimuli } from './rare.ts';
import { RefusedEntries } from './refused-entry.ts';
import { QUAL_LINEAR_BITS, softwareAccess } from './software.ts';
import { TLB_DIRTY, TLB_PAGE_SHIFT_SHIFT, TLB_RIGHTS_MASK, TLB_SECOND_SHIFT, Tlb } from './tlb.ts';
import { unmodelledFeature } from './unmodelled.ts';
import { Vcpus } from './vcpus.ts';

// V8 folds a module's own constants into the code but loads and checks imported ones at each use: copies for `hit`.
const INDEX_BITS = PERMISSION_BITS;
const BYPASSES_TLB = ACCESS_WALKED | ACCESS_SOFTWARE;
const WRITES = WRITE;
const FETCHES = FETCH;
const OF_SHADOW_STACK = SHADOW_STACK;
const DIRTY = TLB_DIRTY;
const RIGHTS_MASK = TLB_RIGHTS_MASK;
const SECOND_SHIFT = TLB_SECOND_SHIFT;
const ENTRY_PAGE_SHIFT = TLB_PAGE_SHIFT_SHIFT;
const TRANSLATED_ROW = Obs.TRANSLATED;
const ROW_PAGE_SHIFT = OBS_PAGE_SHIFT_SHIFT;
const KIND_MASK = STEP_KIND_MASK;

/** What a probe has to put back. */
interface Trial {
  readonly index: number;
  readonly logPage: Int32Array;
  readonly watcher: Memory['watcher'];
}

const PAGE_WORDS = 1024;
const LEAF_DIRTY = 1 << 6;
const LEAF_GLOBAL = 1 << 8;
const CR4_PGE = 1 << 7;
const GENERAL_PROTECTION = 13;

export class BareMachine implements Machine {
  readonly kvm = null;
  readonly features: PagingFeatures;
  /** Low half of IA32_VMX_EPT_VPID_CAP. */
  readonly eptCapabilities: number;
  readonly log = new RowLog();
  readonly registers = new Uint32Array(2 * REGISTER_COUNT);
  readonly memory: Memory;
  readonly cpuWalk: PageWalk;
  readonly eptWalk: PageWalk;
  readonly nptWalk: PageWalk;
  /** The second stage in force, or null. */
  tdpWalk: PageWalk | null = null;
  readonly tlb = new Tlb();
  readonly contexts = new Contexts();
  readonly history: History;
  private readonly vcpus = new Vcpus();
  private readonly refusedEntries = new RefusedEntries();
  private readonly rare: RareStimuli;
  /** Registers changed since the walks were set up. */
  protected stale = true;
  /** One of `NotModelled` that is in force, or 0. */
  private unmodelled = 0;
  /** The last access was served by a TLB entry that memory does not support any more. */
  staleHit = false;
  /** The last access was served by a TLB entry. */
  servedByTlb = false;
  /** Bits 8:7 of the last EPT violation's qualification. */
  lastLinearBits = QUAL_LINEAR_BITS;
  /** A fetch by software that fails is reported as it would be of the processor, and not as #UD. */
  reportsFailedFetches = false;
  /** How the last walk ended, a `Walk` status. */
  private status: number = Walk.OK;
  private readonly adAfterTranslation: boolean;

  /** `memory`: physical memory, and what is known of its past; its own unless somebody else's are given. */
  constructor(header: TraceHeader, memory = new Memory(), history = new History()) {
    this.features = pagingFeatures(header);
    this.eptCapabilities = header.processor.eptVpidCap.lo;
    this.memory = memory;
    this.history = history;
    this.cpuWalk = new PageWalk(Dim.GUEST, memory, this.log);
    this.eptWalk = new PageWalk(Dim.EPT, memory, this.log);
    this.nptWalk = new PageWalk(Dim.NPT, memory, this.log);
    this.rare = new RareStimuli(memory);
    this.adAfterTranslation = header.adPolicy === 'after-translation';
    // Independent accesses have no history that could make one stale.
    if (!header.independent) memory.watcher = this.history;
  }

  apply(
    ordinal: number,
    op: number,
    addressLo: number,
    addressHi: number,
    operandLo: number,
    operandHi: number,
    stimuli: readonly Stimulus[],
  ): void {
    this.log.count = 0;
    this.staleHit = false;
    this.servedByTlb = false;
    this.history.now = ordinal;
    switch (op & KIND_MASK) {
      case StepKind.ACCESS:
        this.access(op, addressLo, addressHi);
        break;
      case StepKind.STORE:
        this.memory.store(
          addressLo,
          addressHi & 0xf_ffff,
          operandLo,
          operandHi,
          (op >>> STORE_SIZE_SHIFT) & STORE_SIZE_MASK,
        );
        break;
      case StepKind.CLEAR_PAGE:
        this.memory.setPage(addressLo, addressHi & 0xf_ffff, null);
        break;
      case StepKind.REGISTER_SET:
        this.give((op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK, operandLo, operandHi);
        break;
      case StepKind.REGISTER_WRITE:
        writeRegister(this, op, operandLo, operandHi);
        break;
      case StepKind.INVALIDATE:
        invalidate(this, op, addressLo, addressHi, operandLo, operandHi);
        break;
      case StepKind.NESTED_ENTRY:
      case StepKind.NESTED_EXIT:
        nestedTransition(this, op);
        this.noteTransition(op, operandLo);
        break;
      case StepKind.GPA_ACCESS:
        this.gpaAccess(op, addressLo, addressHi);
        break;
      case StepKind.PDPTE_LOAD:
        this.configure();
        loadPdptes(this, addressLo, addressHi);
        break;
      case StepKind.RARE:
        this.rare.apply(stimuli[operandLo]!);
        break;
      case StepKind.VCPU:
        this.useVcpu(operandLo >>> 0);
        break;
      case StepKind.FAULT_EXIT:
      case StepKind.VM_ENTRY:
      case StepKind.SOFTWARE_WALK:
      case StepKind.HOST_PAGES:
        // A hypervisor's doing, and there is none.
        break;
      default:
        throw new Error(`step ${ordinal}: kind ${op & STEP_KIND_MASK} passed the reader unchecked`);
    }
  }

  private noteTransition(op: number, reason: number): void {
    const { refusedEntries } = this;
    const { current } = this.vcpus;
    if ((op & KIND_MASK) === StepKind.NESTED_ENTRY) refusedEntries.enter(current);
    else if (!refusedEntries.exit(current)) return;
    // The trace knows it (VMX: bit 31 of the reason; SVM: code -1), or has had its guest run.
    else if (reason >>> 31 === 0) this.pushNotModelled(NotModelled.REFUSED_ENTRY);
    this.stale = true;
    this.configure();
  }

  private useVcpu(vcpu: number): void {
    if (vcpu === this.vcpus.current) return;
    const linearBits = this.vcpus.use(vcpu, this.registers, this.tlb, this.lastLinearBits);
    this.lastLinearBits = linearBits ?? QUAL_LINEAR_BITS;
    this.history.useVcpu(vcpu);
    this.stale = true;
  }

  /** A REGISTER_SET step. */
  private give(register: number, lo: number, hi: number): void {
    const enters = register === Reg.GUEST_MODE && this.register(Reg.GUEST_MODE) === GuestMode.NONE;
    if (enters && lo !== GuestMode.NONE) {
      // A guest's registers follow: what its hypervisor has now it may come back without.
      this.configure();
      this.history.rootChanges(this.root());
    }
    this.setRegister(register, lo, hi);
  }

  /** The root in force, as `configure` has seen it. */
  root(): Omit<EarlierRoot, 'until'> {
    const { registers, contexts } = this;
    const { asid, ep4ta } = contexts;
    const pdptes = registers.slice(2 * Reg.PDPTE0, 2 * Reg.PDPTE0 + 8);
    return { asid, ep4ta, lo: registers[2 * Reg.CR3]!, hi: registers[2 * Reg.CR3 + 1]!, pdptes };
  }

  setRegister(register: number, lo: number, hi: number): void {
    this.registers[2 * register] = lo;
    this.registers[2 * register + 1] = hi;
    this.stale = true;
  }

  register(register: number): number {
    return this.registers[2 * register]!;
  }

  /** The entry at a physical address as memory stands now; `row`: the observation word that gives its size. */
  readEntry(row: number, addressLo: number, addressHi: number): readonly [lo: number, hi: number] {
    const word = this.memory.pageIndex(addressLo, addressHi & 0xf_ffff) + ((addressLo & 0xffc) >>> 2);
    const { words } = this.memory;
    return [words[word]! >>> 0, (row & OBS_FOUR_BYTES) !== 0 ? 0 : words[word + 1]! >>> 0];
  }

  /** Takes an entry's value over from a recording. */
  adoptEntry(row: number, addressLo: number, addressHi: number, lo: number, hi: number): void {
    this.memory.store(addressLo, addressHi & 0xf_ffff, lo, hi, (row & OBS_FOUR_BYTES) !== 0 ? 4 : 8);
  }

  /** Brings walks and tags up to date with the registers. */
  configure(): void {
    if (!this.stale) return;
    this.stale = false;
    this.tdpWalk = configureWalks(this.registers, this.features, this.cpuWalk, this.eptWalk, this.nptWalk);
    if (!this.contexts.update(this.registers)) {
      this.tlb.clear();
      this.vcpus.forgetTranslations();
    }
    if (this.eptWalk.modificationLog !== null) this.logAt();
    this.unmodelled = unmodelledFeature(this.registers, this.tdpWalk);
    if (this.refusedEntries.has(this.vcpus.current, this)) this.unmodelled = NotModelled.REFUSED_ENTRY;
    if (this.unmodelled !== 0) this.tlb.clear();
  }

  private access(op: number, lo: number, hi: number): void {
    if (this.stale) this.configure();
    const access = accessBits(op);
    if ((op & BYPASSES_TLB) === 0 && this.hit(lo, hi, access)) return;
    this.miss(op, lo, hi, access);
  }

  /** Walks for an access without any effect but on the log: what would happen with memory as it stands. */
  probe(op: number, lo: number, hi: number): void {
    this.log.count = 0;
    this.miss(op, lo, hi, accessBits(op) | NO_AD);
  }

  /** Walks for an access that the TLB had served, as if it had not. */
  rewalk(op: number, lo: number, hi: number): void {
    this.log.count = 0;
    this.tlb.dropPage(lo, hi);
    this.miss(op, lo, hi, accessBits(op));
  }

  /** The walk that faulted in the last walk made, or null. */
  failedWalk(): PageWalk | null {
    if (this.status === Walk.OK) return null;
    return this.status === Walk.PAGE_FAULT ? this.cpuWalk : this.tdpWalk;
  }

  /**
   * Whether the TLB serves the access by an entry that agrees with the tables as they are; the translation is then in
   * `tlb`. A question without any effect: most steps of a long trace need no more than its answer.
   */
  serves(op: number, lo: number, hi: number): boolean {
    if (this.stale || (op & BYPASSES_TLB) !== 0) return false;
    return this.findAllowed(lo, hi, accessBits(op)) && this.tlb.epoch === this.history.epoch;
  }

  /** Serves the access from the TLB if an entry there allows it. */
  private hit(lo: number, hi: number, access: number): boolean {
    if (!this.findAllowed(lo, hi, access)) return false;
    const { tlb } = this;
    if (tlb.epoch !== this.history.epoch) this.verifyHit(lo, hi, access);
    this.servedByTlb = true;
    this.pushTranslated(tlb, tlb.meta >>> ENTRY_PAGE_SHIFT);
    return true;
  }

  /** Finds a TLB entry for the address that allows the access. */
  private findAllowed(lo: number, hi: number, access: number): boolean {
    const { tlb, contexts, cpuWalk } = this;
    if (!tlb.find(lo, hi, contexts.context, contexts.space)) return false;
    const meta = tlb.meta;
    const rights = meta & RIGHTS_MASK;
    if (((cpuWalk.format.permissions[(access & INDEX_BITS) >>> 1]! >>> rights) & 1) !== 0) return false;
    if ((access & WRITES) !== 0 && (meta & DIRTY) === 0) return false;
    if ((access & OF_SHADOW_STACK) !== 0 || cpuWalk.format.keyMask !== 0) return false;
    const second = this.tdpWalk;
    if (second !== null) {
      if (second.gmet && (access & FETCHES) !== 0) return false;
      const secondRights = (meta >>> SECOND_SHIFT) & RIGHTS_MASK;
      if ((access & FETCHES) === 0 && (secondRights & ACC_READ) === 0) return false;
      if ((access & WRITES) !== 0 && (secondRights & ACC_WRITE) === 0) return false;
      if ((access & FETCHES) !== 0 && (secondRights & (ACC_EXEC | ACC_USER)) !== (ACC_EXEC | ACC_USER)) return false;
    }
    return true;
  }

  /** Tables changed since the entry just found was last known to agree with them: does it still? */
  private verifyHit(lo: number, hi: number, access: number): void {
    const { tlb, cpuWalk, log } = this;
    cpuWalk.software = false;
    const same = walkX86(cpuWalk, lo, hi, access | NO_AD) === Walk.OK && cpuWalk.lo === tlb.lo && cpuWalk.hi === tlb.hi;
    log.count = 0;
    if (same) tlb.refresh(this.history.epoch);
    else this.staleHit = true;
  }

  private miss(op: number, lo: number, hi: number, access: number): void {
    const { cpuWalk } = this;
    if (this.unmodelled !== 0) {
      this.pushNotModelled(this.unmodelled);
      return;
    }
    const efer = this.register(Reg.EFER);
    if ((efer & EFER_LMA) !== 0 && !isCanonical(lo, hi, (this.register(Reg.CR4) & CR4_LA57) !== 0)) {
      this.pushException((op & ACCESS_STACK) !== 0 ? 12 : 13, 0, 0, 0);
      return;
    }
    cpuWalk.software = (op & ACCESS_SOFTWARE) !== 0;
    if (cpuWalk.software) {
      this.softwareMiss(lo, hi, access);
      return;
    }
    cpuWalk.adAfterTranslation = this.adAfterTranslation;
    const trial = this.trialOf(access);
    this.status = walkX86(cpuWalk, lo, hi, trial === null ? access : access & ~NO_AD);
    if (trial !== null) this.takeBack(trial);
    const { status } = this;
    if (status === Walk.OK) {
      this.pushTranslated(cpuWalk, cpuWalk.pageShift);
      if ((access & NO_AD) === 0) this.remember(lo, hi, access);
    } else if (status === Walk.PAGE_FAULT) {
      if ((access & NO_AD) === 0) this.forgetFaulting(lo, hi);
      this.pushException(14, lo, hi, cpuWalk.errorCode);
    } else {
      this.pushSecondStageFault(lo, hi);
    }
  }

  private pushNotModelled(what: number): void {
    this.log.push(Obs.NOT_MODELLED | (what << OBS_NOT_MODELLED_SHIFT), 0, 0, 0, 0);
  }

  private softwareMiss(lo: number, hi: number, access: number): void {
    const { cpuWalk } = this;
    const trial = this.trialOf(access);
    this.status = softwareAccess(this, lo, hi, trial === null ? access : access & ~NO_AD);
    if (trial !== null) this.takeBack(trial);
    // Who injects the fault drops what could translate the address (facts/kvm-mmu.md §5.6), if that was it.
    if (this.status !== Walk.PAGE_FAULT || (access & (NO_AD | FETCH)) !== 0) return;
    if ((cpuWalk.errorCode & (PFEC_P | PFEC_RSVD)) === PFEC_P) this.forgetFaulting(lo, hi);
  }

  /**
   * With a page-modification log it depends on how many flags an access sets whether that becomes full: a probe sets
   * them, and takes them back. Null: not such a probe.
   */
  private trialOf(access: number): Trial | null {
    if ((access & NO_AD) === 0 || this.tdpWalk?.ept !== true || this.tdpWalk.modificationLog === null) return null;
    const { memory, registers } = this;
    const trial = {
      index: registers[2 * Reg.PML_INDEX]!,
      logPage: memory.words.slice(this.logAt(), this.logAt() + PAGE_WORDS),
      watcher: memory.watcher,
    };
    memory.watcher = null;
    return trial;
  }

  private takeBack({ index, logPage, watcher }: Trial): void {
    const { memory, log } = this;
    const { rows } = log;
    for (let at = (log.count - 1) * ROW; at >= 0; at -= ROW) {
      const op = rows[at + ROW_OP]!;
      if ((op & OBS_KIND_MASK) !== Obs.ELEMENT) continue;
      const size = (op & OBS_FOUR_BYTES) !== 0 ? 4 : 8;
      const [addressLo, addressHi] = [rows[at + ROW_ADDRESS_LO]!, rows[at + ROW_ADDRESS_HI]!];
      // Nobody has written a page that reads as zeros: it was not written now, either.
      if (memory.pageIndex(addressLo, addressHi) === 0) continue;
      memory.store(addressLo, addressHi, rows[at + ROW_VALUE_LO]!, rows[at + ROW_VALUE_HI]!, size);
    }
    memory.words.set(logPage, this.logAt());
    this.registers[2 * Reg.PML_INDEX] = index;
    memory.watcher = watcher;
  }

  /** Index in `memory.words` of the page-modification log. */
  private logAt(): number {
    const { registers } = this;
    return this.memory.pageOf(
      (registers[2 * Reg.PML_ADDRESS + 1]! & 0xf_ffff) * 0x10_0000 + (registers[2 * Reg.PML_ADDRESS]! >>> 12),
    );
  }

  pushTranslated(
    to: { readonly lo: number; readonly hi: number; readonly gpaLo: number; readonly gpaHi: number },
    pageShift: number,
  ): void {
    this.log.push(TRANSLATED_ROW | (pageShift << ROW_PAGE_SHIFT), to.lo, to.hi, to.gpaLo, to.gpaHi);
  }

  /** An exception, which may be a VM exit. `lo`:`hi`: CR2 of #PF. */
  pushException(vector: number, lo: number, hi: number, errorCode: number): void {
    const exits = interceptsException(this.registers, vector, errorCode) ? OBS_EXCEPTION_EXITS : 0;
    this.log.push(Obs.EXCEPTION | (vector << OBS_VECTOR_SHIFT) | exits, lo, hi, errorCode, 0);
  }

  private remember(lo: number, hi: number, access: number): void {
    const { cpuWalk, contexts } = this;
    if ((access & SHADOW_STACK) !== 0) return;
    const second = this.tdpWalk;
    const unpaged = cpuWalk.rootLevel === 0;
    const dirty = unpaged || (cpuWalk.leafLo & LEAF_DIRTY) !== 0 || (access & WRITE) !== 0;
    let meta = cpuWalk.rights | (dirty ? TLB_DIRTY : 0) | (cpuWalk.pageShift << TLB_PAGE_SHIFT_SHIFT);
    let shift = cpuWalk.pageShift;
    if (second !== null) {
      meta |= cpuWalk.secondRights << TLB_SECOND_SHIFT;
      // A second-stage D bit still to be set: let a write walk again.
      if (second.ad && (access & WRITE) === 0) meta &= ~TLB_DIRTY;
      if (cpuWalk.secondPageShift < shift) {
        // A part of a guest page only: invalidating the page will have to drop all parts.
        shift = 12;
        this.tlb.fractured = true;
      }
    }
    const global = !unpaged && (cpuWalk.leafLo & LEAF_GLOBAL) !== 0 && (this.register(Reg.CR4) & CR4_PGE) !== 0;
    this.tlb.insert(lo, hi, contexts, global, shift, cpuWalk, meta, this.history.epoch);
  }

  /** A page fault drops what could translate its address (SDM vol. 3A 4.10.4.1). */
  forgetFaulting(lo: number, hi: number): void {
    const { asid, pcid } = this.contexts;
    this.tlb.dropPage(lo, hi);
    this.history.invalidate({ what: 'address', asid, pcid, lo, hi });
  }

  private pushSecondStageFault(lo: number, hi: number): void {
    const { log } = this;
    const second = this.tdpWalk!;
    const { faultLo, faultHi } = second;
    const ofTable = (second.faultAccess & OF_TABLE) !== 0;
    if (second.dim === Dim.NPT) {
      // EXITINFO1 bit 33: a guest page-table page, bit 32: the final address (APM vol. 2 15.25.6).
      log.push(Obs.NPF, faultLo, faultHi, second.errorCode, ofTable ? 2 : 1);
      return;
    }
    if (second.faultCheck === Check.LOG_FULL) {
      log.push(Obs.PML_FULL, faultLo, faultHi, 0, 0);
      return;
    }
    if (second.qualificationValid) {
      this.lastLinearBits = second.qualification & QUAL_LINEAR_BITS;
      log.push(Obs.EPT_VIOLATION, faultLo, faultHi, second.qualification, 0);
    } else {
      log.push(Obs.EPT_MISCONFIG, faultLo, faultHi, 0, 0);
    }
    if ((second.faultAccess & NO_LINEAR) === 0) log.push(Obs.EXIT_LINEAR, lo, hi, 0, 0);
  }

  /** The second stage for a guest-physical address, without any effect but on the log. `access`: W, F as in error codes. */
  probeGpa(access: number, lo: number, hi: number): void {
    this.log.count = 0;
    const second = this.tdpWalk;
    if (second === null) return;
    const asked =
      (access & FETCH) !== 0 ? AccessType.FETCH : (access & WRITE) !== 0 ? AccessType.WRITE : AccessType.READ;
    const gpaHi = hi & 0xf_ffff;
    if (secondStage(second, lo, gpaHi, NO_LINEAR | NO_AD | USER | accessOfType(asked)) === Walk.OK) {
      this.pushTranslated({ lo: second.lo, hi: second.hi, gpaLo: lo, gpaHi }, second.pageShift);
    } else {
      this.pushSecondStageFault(0, 0);
    }
  }

  /** Loads the PDPTEs at CR3 = `lo` without any effect but on the log, at whose end stands how that ends, if not well. */
  probePdptes(lo: number, hi: number): void {
    const { log, registers } = this;
    log.count = 0;
    this.configure();
    const kept = registers.slice(2 * Reg.PDPTE0, 2 * Reg.PDPTE0 + 8);
    const trial = this.trialOf(NO_AD);
    loadPdptes(this, lo, hi, trial === null ? NO_AD : 0);
    if (trial !== null) this.takeBack(trial);
    registers.set(kept, 2 * Reg.PDPTE0);
    const last = (log.count - 1) * ROW;
    const reached = (log.rows[last]! & OBS_KIND_MASK) === Obs.PDPTE_LOADED;
    this.status = reached ? Walk.OK : Walk.SECOND_STAGE;
    if (reached && log.rows[last + ROW_VALUE_LO] === 0) this.pushException(GENERAL_PROTECTION, 0, 0, 0);
  }

  private gpaAccess(op: number, lo: number, hi: number): void {
    this.configure();
    if (this.unmodelled === NotModelled.REFUSED_ENTRY) {
      this.pushNotModelled(this.unmodelled);
      return;
    }
    const second = this.tdpWalk;
    const gpaHi = hi & 0xf_ffff;
    if (second === null) {
      this.pushTranslated({ lo, hi: gpaHi, gpaLo: lo, gpaHi }, 12);
      return;
    }
    const type = (op >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK;
    // NPT is asked for tables with write intent (APM vol. 2 15.25.5).
    const ofTable = (op & ACCESS_OF_TABLE) === 0 ? 0 : second.ept ? OF_TABLE : OF_TABLE | WRITE;
    if (secondStage(second, lo, gpaHi, NO_LINEAR | USER | ofTable | accessOfType(type)) === Walk.OK) {
      this.pushTranslated({ lo: second.lo, hi: second.hi, gpaLo: lo, gpaHi }, second.pageShift);
    } else {
      this.pushSecondStageFault(0, 0);
    }
  }
}

/** Bits 63:47 (63:56 with 5-level paging) are all equal (SDM vol. 1 3.3.7.1). */
function isCanonical(_lo: number, hi: number, la57: boolean): boolean {
  const top = la57 ? hi >> 24 : hi >> 15;
  return top === 0 || top === -1;
}
