/**
 * From marks to steps: the guest's log told again, in order. This file says what becomes of each mark; how is told in
 * the files beside it: accesses under test in `tested-access.ts`, entries and exits in `nesting.ts`, what is known of
 * tables in `table-knowledge.ts`, registers told after the fact in `told-state.ts`.
 */

import { assertUnreachable } from '../../bits/brand.ts';
import { Problem } from '../../bits/problem.ts';
import { Reg, type RegId } from '../../formats/registers.ts';
import {
  ACCESS_SOFTWARE,
  ACCESS_TYPE_SHIFT,
  AccessType,
  Invalidation,
  Provenance,
  StepKind,
} from '../../formats/step.ts';
import type { StepSink } from '../sink.ts';
import { ReportedVector } from './attempt.ts';
import type { Dump } from './dump.ts';
import { ImpliedAccesses } from './implied-accesses.ts';
import { KnownMemory } from './known-memory.ts';
import type { Mark, MarkOf } from './marks.ts';
import { type ExitCause, type Nesting, SvmNesting, VmxNesting, vmrunState } from './nesting.ts';
import type { GuestRecording } from './recording.ts';
import { RegisterFile } from './register-file.ts';
import { StepWriter } from './step-writer.ts';
import { TableKnowledge } from './table-knowledge.ts';
import { TestedAccesses } from './tested-access.ts';
import { ToldState } from './told-state.ts';

const REGISTERS: Readonly<Record<string, RegId>> = {
  cr0: Reg.CR0,
  cr3: Reg.CR3,
  cr4: Reg.CR4,
  efer: Reg.EFER,
  pkru: Reg.PKRU,
};

/** State in which the VMM starts a guest: protected mode without paging. */
const START_CR0 = 0x11n;

/** Exit codes of SVM and exit reasons of VMX. */
const SVM_PAGE_FAULT = 0x4en;
const SVM_INTERRUPT = 0x60n;
const SVM_NPF = 0x400n;
const VMX_EXCEPTION = 0n;
const VMX_EPT_VIOLATION = 48n;
const VMX_EPT_MISCONFIG = 49n;
const VMX_VMFUNC = 59n;
const VMX_PML_FULL = 62n;

const PFEC_RSVD = 1n << 3n;

type AccessMark = MarkOf<'access'>;
type QuietResult = MarkOf<'quietNpt' | 'quietEpt' | 'quietNptPreset' | 'quietEptPreset'>;

export interface ConversionOptions {
  /** See `AccessContext.splitsRmw`. */
  readonly splitsRmw: boolean;
}

export class Conversion {
  readonly omissions = new Map<string, number>();
  private readonly recording: GuestRecording;
  private readonly marks: readonly Mark[];
  private readonly writer: StepWriter;
  private readonly tested: TestedAccesses;
  private readonly told: ToldState;
  private readonly tables: TableKnowledge;
  private readonly announcesRegisters: boolean;
  private readonly announcesStores: boolean;
  private svm: SvmNesting | undefined;
  private vmx: VmxNesting | undefined;
  /** The guest's hypervisor runs its guest, though the log has no mark for entries. */
  private entersUnannounced = false;
  private readonly implied: ImpliedAccesses;
  private label = '';
  private byteStore: MarkOf<'nextStore'> | undefined;
  /** EPT recordings do not announce accesses to protected tables: begun at the next entry. */
  private armed: MarkOf<'tableEpt'> | undefined;

  constructor(recording: GuestRecording, sink: StepSink, options: ConversionOptions) {
    this.recording = recording;
    this.marks = recording.marks;
    this.announcesRegisters = this.marks.some((mark) => mark.kind === 'registerWrite');
    this.announcesStores = this.marks.some((mark) => mark.kind === 'store');
    const memory = new KnownMemory();
    this.writer = new StepWriter(sink, memory, new RegisterFile(memory));
    const count = (what: string) => this.count(what);
    this.implied = new ImpliedAccesses(this.writer);
    this.tested = new TestedAccesses(this.writer, options.splitsRmw);
    this.told = new ToldState(this.writer, this.announcesRegisters, count);
    this.tables = new TableKnowledge(this.writer, count);
  }

  run(): void {
    this.marks.forEach((mark, i) => {
      this.writer.line = mark.line;
      this.follow(mark);
      this.mark(mark, i);
    });
    this.writer.flush();
  }

  private count(what: string): void {
    this.omissions.set(what, (this.omissions.get(what) ?? 0) + 1);
  }

  private get nesting(): Nesting | undefined {
    return this.svm ?? this.vmx;
  }

  /** The exit or entry that must have happened before a mark, where none was logged. */
  private follow(mark: Mark): void {
    if (this.entersUnannounced && !this.writer.inL2 && mark.kind !== 'l1NpfFix') this.enterUnannounced(mark);
    if (!mark.kind.startsWith('l1') && mark.kind !== 'vmentry') this.implied.write();
  }

  private mark(mark: Mark, i: number): void {
    const { writer, told, tested, tables } = this;
    switch (mark.kind) {
      case 'vmmStart':
        this.start(mark);
        return;
      case 'store':
        writer.store(mark.address, mark.size, mark.value, Provenance.MARK);
        tables.stored(mark.address);
        if (tables.ofInnerGuest(mark.address)) this.implied.announce(AccessType.WRITE, mark.address);
        return;
      case 'clearPage':
        writer.clearPage(mark.address);
        if (tables.ofInnerGuest(mark.address)) this.implied.announce(AccessType.WRITE, mark.address);
        return;
      case 'fill':
        writer.fill(mark.address, mark.count, tables.entrySize, mark.first, mark.increment);
        return;
      case 'nextStore':
        this.byteStore = mark;
        return;
      case 'invlpg':
        if (this.vmx !== undefined && !mark.inL2) this.leaveByCall();
        writer.invalidate(Invalidation.INVLPG, 0, mark.address, 0n);
        return;
      case 'invlpga':
        writer.invalidate(Invalidation.INVLPGA, 0, mark.address, BigInt(mark.asid));
        return;
      case 'invept':
        if (!mark.inL2) this.leaveByCall();
        if (this.accepted(i)) writer.invalidate(Invalidation.INVEPT, mark.type, 0n, mark.eptp);
        return;
      case 'invvpid':
        if (!mark.inL2) this.leaveByCall();
        if (this.accepted(i)) writer.invalidate(Invalidation.INVVPID, mark.type, mark.address, mark.vpid);
        return;
      case 'registerWrite':
        this.registerWrite(mark, i);
        return;
      case 'vmrun':
        tested.finishQuiet(mark.line);
        this.leaveByCall();
        if (this.refused(i)) return;
        this.svm ??= new SvmNesting(writer);
        this.svm.enter(vmrunState(mark), Provenance.MARK);
        return;
      case 'vmwrite':
        tested.finishQuiet(mark.line);
        this.leaveByCall();
        this.vmx ??= new VmxNesting(writer);
        this.vmx.vmwrite(mark.field, mark.value);
        return;
      case 'vmentry':
        tested.finishQuiet(mark.line);
        this.leaveByCall();
        if (this.refused(i)) return;
        this.vmx?.enter(mark);
        this.beginArmed(i);
        return;
      case 'vmfunc':
        this.vmfunc(mark, i);
        return;
      case 'access':
        this.access(mark, i);
        return;
      case 'completed':
      case 'excepted':
        this.result(mark);
        return;
      case 'quietAccess':
        if (mark.access === 'vmmcall' || mark.access === 'skinit') writer.note(mark.access);
        else this.quietAccess(mark.va, mark.access, mark.ac !== 0, i);
        return;
      case 'tableNpt':
        tables.protects(mark.gpa, mark.second);
        this.relabel(`l2pt npte=${mark.second.toString(16)}`);
        return;
      case 'tableEpt':
        tables.protects(mark.gpa, mark.second);
        this.relabel(`l2pt epte=${mark.second.toString(16)}`);
        this.armed = mark;
        return;
      case 'tableEptPreset':
        tables.protects(mark.gpa, mark.second);
        this.relabel(`l2pt-AD-preset epte=${mark.second.toString(16)}`);
        // The mark itself was made by reading the entry, which leaves its traces in EPT.
        this.implied.announce(AccessType.READ, tables.protectedEntryAddress);
        this.implied.write();
        this.armed = { ...mark, kind: 'tableEpt' };
        this.beginArmed(i);
        return;
      case 'quietNpt':
      case 'quietEpt':
        tested.finishQuiet(mark.line);
        tables.seeProtected(mark.entry);
        return;
      case 'quietNptPreset':
      case 'quietEptPreset':
        tested.finishQuiet(mark.line);
        return;
      case 'secondNpt':
      case 'secondEpt':
        tables.seeSecond(mark.gpa, mark.level, mark.entry);
        return;
      case 'upperEntry':
        tables.seeUpper(mark.address, mark.level, mark.entry, this.announcesStores);
        return;
      case 'accessedDirty':
        this.accessedDirty(mark, i);
        return;
      case 'translated':
        this.translated(mark, i);
        return;
      case 'dump':
        this.dump(mark);
        return;

      case 'boot':
        told.holds(Reg.CR3, mark.cr3);
        this.imageBootTables(mark.cr3);
        return;
      case 'boot32':
        return;
      case 'root':
        told.written(Reg.CR3, mark.cr3);
        return;
      case 'configuration':
        told.holds(Reg.CR0, mark.cr0);
        told.holds(Reg.CR4, mark.cr4);
        told.holds(Reg.EFER, mark.efer);
        told.holds(Reg.CR3, mark.cr3);
        return;
      case 'pagingOnState':
      case 'l2Start':
      case 'l1Svm':
        told.holds(Reg.CR0, mark.cr0);
        told.holds(Reg.CR4, mark.cr4);
        told.holds(Reg.CR3, mark.cr3);
        return;
      case 'globalOn':
      case 'globalOff':
        told.globalPages(mark.kind === 'globalOn');
        return;
      case 'pseOn':
      case 'pseOff':
        told.pageSizeExtensions(mark.kind === 'pseOn');
        return;
      case 'keysOn':
        told.written(Reg.CR4, mark.cr4);
        return;
      case 'pkru':
        told.written(Reg.PKRU, mark.pkru);
        return;
      case 'writeProtect':
        told.writeProtect(mark.wp !== 0);
        return;
      case 'pcidOn':
        told.pcids(true);
        return;
      case 'cr3Switch':
        told.written(Reg.CR3, mark.cr3);
        return;
      case 'cr3Reload':
        if (!this.announcesRegisters) told.written(Reg.CR3, writer.registers.get(Reg.CR3));
        return;
      case 'cr3CacheBits':
        if (!this.announcesRegisters) told.written(Reg.CR3, writer.registers.get(Reg.CR3) | 0x18n);
        return;

      case 'vmmDontNeed':
        writer.note(`madvise(MADV_DONTNEED) gpa=${mark.address.toString(16)} length=${mark.length.toString(16)}`);
        for (let at = 0n; at < mark.length; at += 0x1000n) writer.clearPage(mark.address + at);
        return;
      case 'vmmSlotDelete':
        writer.note(`memory slot ${mark.slot} deleted`);
        return;
      case 'vmmSlotAdd':
        writer.note(`memory slot ${mark.slot} added`);
        return;
      case 'vmmSlotFlags':
        writer.note(`memory slot ${mark.slot} flags=${mark.flags.toString(16)}`);
        return;
      case 'vmmDirtyLogBegin':
        writer.note(`dirty log of slot ${mark.slot} read`);
        return;

      case 'l1Npf':
        tested.secondStageExit(
          {
            ...mark,
            gla: undefined,
            // EXITINFO1 (APM vol. 2 15.25.6): bit 33, a paging-structure entry of the guest.
            ofTable: (mark.info & (1n << 33n)) !== 0n,
            write: (mark.info & 2n) !== 0n,
            fetch: (mark.info & 0x10n) !== 0n,
          },
          'npf',
        );
        this.leave({ reason: SVM_NPF, information: mark.info, provenance: Provenance.MARK });
        return;
      case 'l1Violation':
      case 'l1Misconfig':
        this.eptExit(mark);
        return;
      case 'l1PageFault':
        tested.pageFaultExit(mark.info, mark.cr2, mark.line);
        this.leave(
          this.svm === undefined
            ? { reason: VMX_EXCEPTION, information: mark.cr2, provenance: Provenance.MARK }
            : { reason: SVM_PAGE_FAULT, information: mark.info, provenance: Provenance.MARK },
        );
        return;
      case 'l1NpfFix':
        if (!this.announcesStores) this.npfFixed(mark, i);
        tested.mended();
        return;
      case 'l1EptFix':
      case 'l1ShadowFix':
        tested.mended();
        return;
      case 'l1ExitIntInfo':
      case 'l1IdtVectoring':
        // The exit itself is told by the next mark.
        tested.delivery(mark.line);
        return;
      case 'l1PmlFull':
        this.leave({ reason: VMX_PML_FULL, information: mark.info, provenance: Provenance.MARK });
        return;
      case 'l1Interrupted':
        this.leave({ reason: SVM_INTERRUPT, information: 0n, provenance: Provenance.MARK });
        return;
      case 'l1VmfuncExit':
        this.leave({ reason: VMX_VMFUNC, information: mark.info, provenance: Provenance.MARK });
        return;
      case 'l1UnexpectedSvm':
        this.leave({ reason: mark.code, information: mark.info, provenance: Provenance.MARK });
        this.entersUnannounced = false;
        return;
      case 'l1SetNpte':
      case 'l1SetEpte':
        tested.finishQuiet(mark.line);
        this.leaveByCall();
        if (this.announcesStores) tables.compare(mark.address, 8, mark.entry);
        else writer.store(mark.address, 8, mark.entry, Provenance.MARK);
        if (mark.kind === 'l1SetNpte' && this.svm !== undefined) this.svm.tlbControl = mark.tlb;
        return;
      case 'l1Vmcb':
        tables.useNpt(mark.ncr3, mark.np !== 0);
        return;
      case 'l1Vmcs':
        tables.useEpt(mark.ept, mark.useept !== 0);
        return;
      case 'l1Skinit':
        if (!this.announcesRegisters) this.entersUnannounced = true;
        return;
      case 'l1L2Done':
        this.entersUnannounced = false;
        this.leaveByCall();
        return;
      case 'l1TlbControl':
      case 'l1Asid':
      case 'l1Vpid':
      case 'l1Invlpga':
      case 'l1Ncr3':
      case 'l1EptpAd':
      case 'l1Eptp':
      case 'l1Efer':
      case 'l1Cr4':
      case 'l1Cr0':
      case 'l1Proc2':
      case 'l1PmlBuffer':
      case 'l1PmlIndex':
      case 'l1Inject':
      case 'l1InterceptIntr':
        tested.finishQuiet(mark.line);
        this.leaveByCall();
        return;

      // Nothing for paging in these, or nothing that another mark does not tell; see the README.
      case 'vmmCapabilities':
      case 'cpuid':
      case 'vmmExitCommand':
      case 'vmmEnd':
      case 'translateBegin':
      case 'vmmDirtyLog':
      case 'vmmSignal':
      case 'vmcallInject':
      case 'injected':
      case 'vmfuncResult':
      case 'pagingOn':
      case 'pagingOff':
      case 'cr3OtherPcid':
      case 'cr3NoFlush':
      case 'pdpteReserved':
      case 'cpu':
      case 'done':
      case 'l1Cpuid':
      case 'l1Vmx':
      case 'l1Ept':
      case 'l1VmfuncCapability':
      case 'l1Vmxon':
      case 'l1Vmclear':
      case 'l1Vmptrld':
      case 'l1Apic':
      case 'l1BadEfer':
      case 'l1Refused':
      case 'l1RefusedNcr3':
      case 'l1RefusedAsid':
      case 'l1BadEntryFailed':
      case 'l1BadEntryExited':
      case 'l1Invept':
      case 'l1Invvpid':
      case 'l1PmlEntry':
      case 'l1EndSvm':
      case 'l1EndVmx':
      case 'l2End':
      case 'l2WriteProtectOff':
      case 'l2Cr3Reload':
      case 'l2Smep':
      case 'l2Smap':
      case 'l2RequestMsi':
      case 'l2AfterMsi':
        return;
      default:
        assertUnreachable(mark);
    }
  }

  // Registers and state.

  private start(mark: MarkOf<'vmmStart'>): void {
    const { writer } = this;
    writer.note(`guest ${mark.blob}`);
    this.tables.useShape(mark.mode);
    const first = this.marks.find((each) => each.kind === 'registerWrite');
    const longMode = !mark.blob.includes('g32');
    // The 64-bit guests write CR4 first of all; another beginning means that they do not announce their boot.
    const booted = longMode && (first === undefined || first.register !== 'cr4');
    const dump = this.recording.dumps.values().next().value;
    if (!booted || dump === undefined) {
      writer.setRegister(Reg.CR0, START_CR0, Provenance.INFERRED);
      return;
    }
    for (const name of ['cr0', 'cr4', 'efer']) {
      writer.setRegister(REGISTERS[name]!, dump.registers.get(name) ?? 0n, Provenance.INFERRED);
    }
  }

  /** Boot tables that the guest built without announcing it. */
  private imageBootTables(cr3: bigint): void {
    const dump = this.recording.dumps.values().next().value;
    if (dump !== undefined && this.tables.unknown(cr3)) this.tables.image(dump, cr3);
  }

  private registerWrite(mark: MarkOf<'registerWrite'>, i: number): void {
    const register = REGISTERS[mark.register];
    if (register === undefined) {
      throw new Problem('E_IMPORT', `unknown register: ${mark.register}`, { line: mark.line });
    }
    if (this.writer.inL2 && this.byHypervisor(mark, i)) this.leaveByCall();
    this.writer.writeRegister(register, mark.value);
  }

  /** Who writes: with VMX the mark says so, with SVM the hypervisor's next word confirms its own writes. */
  private byHypervisor(mark: MarkOf<'registerWrite'>, i: number): boolean {
    if (this.vmx !== undefined) return !mark.inL2;
    const next = this.marks[i + 1]?.kind;
    return next === 'l1Efer' || next === 'l1Cr4' || next === 'l1Cr0';
  }

  private dump(mark: MarkOf<'dump'>): void {
    const dump = this.recording.dumps.get(mark.file);
    this.writer.note(`dump ${mark.file}`);
    if (dump === undefined) return;
    if (dump.gdtBase !== undefined) this.tested.gdtBase = dump.gdtBase;
    this.told.dumped(dump);
    if (!this.announcesStores) this.tables.imageAll(dump);
  }

  private nextDump(i: number): Dump | undefined {
    for (const mark of this.marks.slice(i)) {
      const dump = mark.kind === 'dump' ? this.recording.dumps.get(mark.file) : undefined;
      if (dump !== undefined) return dump;
    }
    return undefined;
  }

  // Entries and exits.

  private leave(cause: ExitCause): void {
    if (this.writer.inL2) this.nesting?.leave(cause);
  }

  /** The guest's guest called its hypervisor, which the log does not tell. */
  private leaveByCall(): void {
    const { nesting } = this;
    if (nesting !== undefined) this.leave({ reason: nesting.call, information: 0n, provenance: Provenance.INFERRED });
  }

  /** The entry that a mark announces fails its consistency checks: the next mark says so. */
  private refused(i: number): boolean {
    switch (this.marks[i + 1]?.kind) {
      case 'l1Refused':
      case 'l1RefusedNcr3':
      case 'l1RefusedAsid':
      case 'l1BadEntryFailed':
      case 'l1BadEntryExited':
        this.count('entry refused');
        return true;
      default:
        return false;
    }
  }

  /** The INVEPT or INVVPID that a mark announces did not fail: the next mark says so. */
  private accepted(i: number): boolean {
    const next = this.marks[i + 1];
    const failed = (next?.kind === 'l1Invept' || next?.kind === 'l1Invvpid') && next.flags !== 0n;
    if (failed) this.count('invalidation refused');
    return !failed;
  }

  private enterUnannounced(mark: Mark): void {
    const dump = [...this.recording.dumps.values()].find((each) => each.vmcb !== undefined);
    if (dump?.vmcb === undefined) {
      throw new Problem('E_IMPORT', 'no dump shows how the guest runs its own guest', { line: mark.line });
    }
    this.svm ??= new SvmNesting(this.writer);
    const register = (name: string): bigint => dump.registers.get(name) ?? 0n;
    const { nestedControl, ncr3, asid } = dump.vmcb;
    this.svm.enter(
      {
        np: Number(nestedControl & 1n),
        ncr3,
        asid: Number(asid),
        tlb: this.svm.tlbControl,
        guest: [register('cr0'), register('cr3'), register('cr4'), register('efer')],
      },
      Provenance.INFERRED,
    );
  }

  private vmfunc(mark: MarkOf<'vmfunc'>, i: number): void {
    const next = this.marks[i + 1];
    const switched = next?.kind === 'vmfuncResult' && next.vector === ReportedVector.DEBUG_TRAP;
    if (!switched || this.vmx === undefined) return;
    const eptp = this.writer.memory.read(this.vmx.eptpList + BigInt(8 * mark.index), 8);
    if (eptp === undefined) {
      throw new Problem('E_IMPORT', 'VMFUNC took an EPT pointer that no mark tells', { line: mark.line });
    }
    this.vmx.switchEptp(eptp);
  }

  private eptExit(mark: MarkOf<'l1Violation' | 'l1Misconfig'>): void {
    const misconfig = mark.kind === 'l1Misconfig';
    this.tested.secondStageExit(
      {
        ...mark,
        // Exit qualification (SDM vol. 3C table 28-7): bit 7 without 8, a paging-structure entry of the guest. A
        // misconfiguration has none: its first access met it.
        ofTable: misconfig || (mark.info & 0x180n) === 0x80n,
        write: (mark.info & 2n) !== 0n,
        fetch: (mark.info & 4n) !== 0n,
      },
      misconfig ? 'misconfig' : 'violation',
    );
    const reason = misconfig ? VMX_EPT_MISCONFIG : VMX_EPT_VIOLATION;
    this.leave({ reason, information: mark.info, provenance: Provenance.MARK });
  }

  // Accesses.

  private relabel(label: string): void {
    if (label === this.label) return;
    this.label = label;
    this.writer.note(label);
  }

  private access(mark: AccessMark, i: number): void {
    this.relabel(mark.configuration === '' ? mark.tag : `${mark.tag} cfg=${mark.configuration}`);
    if (mark.entryAddress !== 0n) this.tables.compareLeaf(mark.entryAddress, mark.entry);
    if (!this.announcesStores) {
      const dump = this.nextDump(i);
      this.tables.learn(dump, mark.va, mark.entryAddress);
      if (mark.access === 'fep-x') this.tables.learnFetched(dump, mark.va - 1n, mark.user !== 0);
    }
    if (mark.access === 'fep-invlpg') {
      this.writer.invalidate(Invalidation.INVLPG, 0, mark.va, 0n);
      return;
    }
    const result = this.resultOf(mark, i);
    this.tested.begin({ ...mark, user: mark.user !== 0, ac: mark.ac !== 0 }, result);
  }

  private resultOf(mark: AccessMark, i: number) {
    for (let at = i + 1; at < this.marks.length; at++) {
      const found = this.marks[at]!;
      if (found.kind === 'completed' && found.n === mark.n) return { vector: undefined, errorCode: 0n, cr2: 0n };
      if (found.kind === 'excepted' && found.n === mark.n) return found;
      if (found.kind === 'access') break;
    }
    this.count('access without a result');
    return undefined;
  }

  private result(mark: MarkOf<'completed' | 'excepted'>): void {
    this.tested.finish(mark.line);
    if (this.byteStore !== undefined && mark.kind === 'completed') {
      this.writer.store(this.byteStore.address, this.byteStore.size, this.byteStore.value, Provenance.MARK);
    }
    this.byteStore = undefined;
    const reserved = mark.kind === 'excepted' && mark.vector === 14 && (mark.errorCode & PFEC_RSVD) !== 0n;
    this.tables.seeLeaf(mark.entry, reserved);
  }

  /** The Q line that tells the result of an access to memory behind a protected table. */
  private quietResult(i: number): QuietResult | undefined {
    for (let at = i + 1; at < this.marks.length; at++) {
      const found = this.marks[at]!;
      switch (found.kind) {
        case 'quietNpt':
        case 'quietEpt':
        case 'quietNptPreset':
        case 'quietEptPreset':
          return found;
        case 'tableNpt':
        case 'tableEpt':
        case 'access':
          return undefined;
      }
    }
    return undefined;
  }

  private quietAccess(va: bigint, access: string, ac: boolean, i: number): void {
    const found = this.quietResult(i);
    const user = true;
    const result =
      found === undefined
        ? undefined
        : {
            vector: found.vector === ReportedVector.DEBUG_TRAP ? undefined : found.vector,
            errorCode: 'errorCode' in found ? found.errorCode : 0n,
            cr2: 'cr2' in found ? found.cr2 : 0n,
          };
    this.tested.begin({ line: this.writer.line, access, va, user, ac }, result, () => {
      if (found !== undefined && 'second' in found) this.tables.seeProtecting(found.second);
    });
  }

  /** The access that a P line of an EPT recording stands for: its Q line names the kind, the tables the address. */
  private beginArmed(i: number): void {
    const { armed } = this;
    if (armed === undefined) return;
    this.armed = undefined;
    const result = this.quietResult(i);
    const va = this.tables.protectedAddress();
    if (result === undefined || va === undefined) {
      throw new Problem('E_IMPORT', 'an access to a protected table without a result or an address', {
        line: armed.line,
      });
    }
    this.quietAccess(va, result.access, false, i);
  }

  private translated(mark: MarkOf<'translated'>, i: number): void {
    if (!this.announcesStores) this.tables.learn(this.nextDump(i), mark.gva, undefined);
    const flags = ACCESS_SOFTWARE | (AccessType.READ << ACCESS_TYPE_SHIFT);
    const valid = mark.valid !== 0;
    // How a failed translation failed is not told.
    if (!valid) this.count('KVM_TRANSLATE found no translation');
    this.writer.access(StepKind.ACCESS, flags, mark.gva, Provenance.MARK, valid ? mark.gpa : undefined);
  }

  private npfFixed(mark: MarkOf<'l1NpfFix'>, i: number): void {
    const exit = this.marks.slice(0, i).findLast((each) => each.kind === 'l1Npf');
    if (exit?.kind === 'l1Npf') this.tables.fixSecond(this.nextDump(i), exit.gpa, mark.entry);
  }

  private accessedDirty(mark: MarkOf<'accessedDirty'>, i: number): void {
    const step = mark.when === 'before' ? 1 : -1;
    for (let at = i + step; at >= 0 && at < this.marks.length; at += step) {
      const access = this.marks[at]!;
      if (access.kind !== 'access') continue;
      const { entry, entryAddress } = access;
      this.tables.seeAllLevels(entry, entryAddress, [mark.l1, mark.l2, mark.l3, mark.l4], mark.table);
      return;
    }
  }
}
