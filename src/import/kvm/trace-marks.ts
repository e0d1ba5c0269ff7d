/**
 * What the marks of the guests and the VMM mean for KVM's side of the recording: the same grammar that `kvm-guest` reads
 * (`kvm-guest/marks.ts`), other consequences. A mark stands before what it announces.
 */

import { Problem } from '../../bits/problem.ts';
import { OBS_EXCEPTION_EXITS, OBS_KIND_MASK, Obs } from '../../formats/observation.ts';
import { CR0_PG, Reg, type RegId } from '../../formats/registers.ts';
import { PROVENANCE_MASK, PROVENANCE_SHIFT, Provenance } from '../../formats/step.ts';
import type { Memslot } from '../../trace/stimulus.ts';
import { type AccessResult, ReportedVector } from '../kvm-guest/attempt.ts';
import type { Dump } from '../kvm-guest/dump.ts';
import { type Mark, type MarkOf, parseMark } from '../kvm-guest/marks.ts';
import type { MarkHandler } from './conversion.ts';
import type { Draft } from './draft.ts';
import { isException, isInterrupt, isOfL2, pageFaultOf, type Unit } from './exit-units.ts';
import type { InstructionOfHypervisor } from './guest-actions.ts';
import { clearedPage, GuestStores, type StoreRun, singleStore } from './guest-stores.ts';
import type { NativeAccesses } from './native-accesses.ts';
import type { NestedGuest } from './nested-guest.ts';
import type { Parts } from './parts.ts';
import { type BackedSlot, memslot, slotFlags } from './slots.ts';
import type { AccessUnderTest } from './told-by-marks.ts';
import type { Unannounced } from './unannounced.ts';

const REGISTERS: Readonly<Record<string, RegId>> = {
  cr0: Reg.CR0,
  cr3: Reg.CR3,
  cr4: Reg.CR4,
  efer: Reg.EFER,
  pkru: Reg.PKRU,
};

/** Bytes of the prefix that makes KVM emulate what is behind it. */
const EMULATION_PREFIX = 5n;
const MAXIMUM_FILL = 0x1000;
const PAGE_FAULT = 14;
/** Number of an access that has none. */
const QUIET = -2;
/** Kinds of announced instructions that touch no memory. */
const WITHOUT_MEMORY: ReadonlySet<string> = new Set(['vmmcall', 'skinit']);

export interface MarkContext {
  readonly native: NativeAccesses;
  readonly nested: NestedGuest;
  /** Bytes of a register of the guest, and of its entries where a `B` mark does not say. */
  readonly wordSize: 4 | 8;
  readonly entrySize: 4 | 8;
  readonly dumps: ReadonlyMap<string, Dump>;
  /** Of guests that announce neither stores nor register writes. */
  readonly unannounced: Unannounced | undefined;
}

export class TraceMarks implements MarkHandler {
  private readonly parts: Parts;
  private readonly context: MarkContext;
  /** Slots that were deleted and may come back. */
  private readonly deleted = new Map<number, BackedSlot>();
  private label = '';
  /** The access of which the fetch of the prefix has been told. */
  private prefixOf = -1;

  constructor(parts: Parts, context: MarkContext) {
    this.parts = parts;
    this.context = context;
  }

  mark(text: string, position: number): void {
    let mark: Mark;
    try {
      mark = parseMark(text, position);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.parts.receipt.note('mark that is none of the guests known');
      return;
    }
    this.handle(mark, position);
  }

  private handle(mark: Mark, position: number): void {
    const { actions, registers, steps, told } = this.parts;
    if (this.context.nested.kind.take(mark)) return;
    this.context.unannounced?.mark(mark, position);
    switch (mark.kind) {
      case 'store':
        this.stores(singleStore(mark.address, storeSize(mark), mark.value));
        return;
      case 'clearPage':
        this.stores(clearedPage(mark.address));
        return;
      case 'fill':
        if (mark.count === 0 || mark.count > MAXIMUM_FILL) {
          throw new Problem('E_IMPORT', 'a run of entries that no page of tables holds', { line: position });
        }
        this.stores({
          address: mark.address,
          count: mark.count,
          size: this.context.entrySize,
          first: mark.first,
          increment: mark.increment,
        });
        return;
      case 'nextStore':
        told.storeOfAccess = this.runOf(singleStore(mark.address, storeSize(mark), mark.value));
        return;
      case 'registerWrite': {
        const register = REGISTERS[mark.register];
        if (register === undefined) {
          throw new Problem('E_IMPORT', `unknown register: ${mark.register}`, { line: position });
        }
        actions.announce({ kind: 'register', register, value: mark.value });
        return;
      }
      case 'invlpg':
        actions.announce({ kind: 'invlpg', address: mark.address });
        return;
      case 'invlpga':
        this.instruction('invlpga', 0, mark.address, BigInt(mark.asid));
        return;
      case 'invept':
        this.instruction('INVEPT', mark.type, 0n, mark.eptp);
        return;
      case 'invvpid':
        this.instruction('INVVPID', mark.type, mark.address, mark.vpid);
        return;
      case 'vmfunc':
        this.instruction('VMFUNC', 0, BigInt(mark.index), 0n);
        return;
      case 'quietAccess':
        if (!WITHOUT_MEMORY.has(mark.access)) {
          told.pageFaultExited = false;
          told.access = { ...mark, n: QUIET, line: position, user: mark.user !== 0, ac: mark.ac !== 0 };
        }
        return;
      case 'access':
        this.relabel(`${mark.tag} ${mark.configuration}`, position);
        told.pageFaultExited = false;
        told.access = { ...mark, line: position, user: mark.user !== 0, ac: mark.ac !== 0 };
        return;
      case 'completed':
        this.result(mark.n, { vector: undefined, errorCode: 0n, cr2: 0n }, position);
        this.context.unannounced?.accessOver(mark.entry, position);
        return;
      case 'excepted':
        this.result(mark.n, mark, position);
        this.context.unannounced?.accessOver(mark.entry, position);
        return;
      case 'translateBegin':
        told.translating = true;
        return;
      case 'translated':
        told.translating = false;
        return;
      case 'root':
        // Told after the write, which no exit showed if it is news.
        if (registers.get(Reg.CR3) !== mark.cr3) {
          steps.writeRegister(Reg.CR3, mark.cr3, position);
          steps.forgetStep();
        }
        return;
      case 'configuration':
        this.holds(Reg.CR0, mark.cr0, position);
        this.holds(Reg.CR3, mark.cr3, position);
        this.holds(Reg.CR4, mark.cr4, position);
        this.holds(Reg.EFER, mark.efer, position);
        return;
      case 'dump':
        this.dumped(mark, position);
        return;
      case 'vmmSlotDelete':
      case 'vmmSlotAdd':
      case 'vmmSlotFlags':
        this.slot(mark, position);
        return;
      case 'vmmDirtyLogBegin':
        steps.stimulus({ kind: 'dirty-log', slot: mark.slot }, Provenance.MARK, position);
        return;
      case 'vmmEnd':
        steps.stimulus({ kind: 'hypervisor', what: 'destroy' }, Provenance.INFERRED, position);
        return;
      default:
        return;
    }
  }

  private runOf(run: StoreRun): GuestStores {
    return new GuestStores(this.parts.memory, [run], this.context.wordSize);
  }

  private stores(run: StoreRun): void {
    this.parts.told.tablePages.add(run.address >> 12n);
    this.parts.actions.announce({ kind: 'stores', stores: this.runOf(run) });
  }

  private instruction(reason: InstructionOfHypervisor['reason'], type: number, address: bigint, operand: bigint): void {
    this.parts.actions.announce({ kind: 'instruction', reason, type, address, operand });
  }

  private relabel(label: string, position: number): void {
    if (label === this.label) return;
    this.label = label;
    this.parts.steps.note(label, position);
  }

  private result(n: number, result: AccessResult, position: number): void {
    const { told } = this.parts;
    const { access } = told;
    told.access = undefined;
    told.storeOfAccess = undefined;
    // INVLPG under the emulator touches no memory.
    if (access === undefined || access.n !== n || access.access === 'fep-invlpg') return;
    if (access.access === 'fep-x' && this.prefixOf === n) return;
    if (told.emulatedAccess === n) {
      // Quiet accesses have no number of their own.
      told.emulatedAccess = -1;
      return;
    }
    // Raised by the processor before, and handed on by L1.
    if (result.vector === PAGE_FAULT && told.pageFaultExited) return;
    // How it ended is in the events.
    if (result.vector !== undefined && result.vector >= ReportedVector.VMFUNC) return;
    this.native(access, result, position);
  }

  async lookAhead(unit: Unit, next: AsyncIterable<Unit>): Promise<void> {
    await this.context.unannounced?.lookAhead(unit, next);
  }

  /** An access without a number is over with the exit that is not its own; its result is told some exits later. */
  async endQuietAccess(unit: Unit, next: AsyncIterable<Unit>): Promise<void> {
    const { actions, told } = this.parts;
    if (told.access?.n !== QUIET || isOfL2(unit) !== actions.inL2) return;
    if (isInterrupt(unit.exit) || pageFaultOf(unit) !== undefined || isException(unit.exit)) return;
    const position = unit.exit?.position ?? 0;
    const result = quietResult(unit) ?? (await firstResult(next));
    if (result === undefined) told.access = undefined;
    else this.result(QUIET, result, position);
  }

  interceptedPageFault(errorCode: bigint, cr2: bigint, position: number): void {
    const { kvm, receipt, steps, told } = this.parts;
    const { access } = told;
    if (!kvm.tdp) return;
    try {
      if (access === undefined) throw new Problem('E_IMPORT', 'no access is under test', { line: position });
      for (const { step } of this.context.native.of(
        { ...access, line: position },
        { vector: PAGE_FAULT, errorCode, cr2 },
        false,
      )) {
        const last = step.rows.length - 1;
        const row = step.rows[last];
        if (row !== undefined && (row.op & OBS_KIND_MASK) === Obs.EXCEPTION) {
          step.rows[last] = { ...row, op: (row.op | OBS_EXCEPTION_EXITS) >>> 0 };
        }
        steps.add([step]);
      }
      told.pageFaultExited = true;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      receipt.note('page fault of no announced access, intercepted');
    }
  }

  /** An exit under the emulator's prefix: the processor has fetched it. */
  beforeExit(rip: bigint, position: number): void {
    const { access } = this.parts.told;
    if (access?.access !== 'fep-x' || this.prefixOf === access.n || rip !== access.va - EMULATION_PREFIX) return;
    this.prefixOf = access.n;
    this.native(access, { vector: undefined, errorCode: 0n, cr2: 0n }, position);
  }

  private native(access: AccessUnderTest, result: AccessResult, position: number): void {
    const { kvm, receipt, steps, tables } = this.parts;
    for (const found of this.context.native.of({ ...access, line: position }, result, !kvm.tdp)) {
      // The fetch of the prefix lies in a page of which these guests tell nothing.
      if (this.context.unannounced !== undefined && isInferred(found.step)) {
        receipt.note('fetch through entries that are not known');
        continue;
      }
      steps.add([found.step]);
      if (found.completed && kvm.tdp) tables.processorAccess(found.address, found.write);
    }
  }

  private holds(register: RegId, value: bigint, position: number): void {
    const { receipt, registers, steps } = this.parts;
    if (registers.get(register) === value) return;
    receipt.note(this.context.unannounced === undefined ? 'register found changed' : 'register write not announced');
    steps.setRegister(register, value, Provenance.MARK, position);
  }

  private dumped(mark: MarkOf<'dump'>, position: number): void {
    const { registers, residency, steps } = this.parts;
    steps.note(`dump ${mark.file}`, position);
    // Writing the dump, the VMM has read all pages that it had never touched.
    steps.add(residency.everythingRead(position));
    const dump = this.context.dumps.get(mark.file);
    if (dump === undefined) return;
    for (const [name, register] of Object.entries(REGISTERS)) {
      const value = dump.registers.get(name);
      if (value !== undefined) this.holds(register, value, position);
    }
    if ((registers.get(Reg.CR0) & BigInt(CR0_PG)) === 0n) return;
    dump.pdptes?.forEach((value, i) => {
      this.holds((Reg.PDPTE0 + i) as RegId, value, position);
    });
  }

  private slot(mark: MarkOf<'vmmSlotDelete' | 'vmmSlotAdd' | 'vmmSlotFlags'>, position: number): void {
    const { residency, receipt } = this.parts;
    const old = residency.slots.find(({ slot }) => slot === mark.slot) ?? this.deleted.get(mark.slot);
    if (old === undefined) {
      receipt.note('change of a memory slot that is not known');
      return;
    }
    const others = residency.slots.filter(({ slot }) => slot !== mark.slot);
    const announce = (what: Memslot['what'], slot: BackedSlot): void => {
      this.parts.steps.stimulus(memslot(what, slot), Provenance.MARK, position);
    };
    if (mark.kind === 'vmmSlotDelete') {
      this.deleted.set(old.slot, old);
      residency.slots = others;
      announce('delete', old);
      return;
    }
    const flags = mark.kind === 'vmmSlotFlags' ? mark.flags : undefined;
    const changed: BackedSlot =
      flags === undefined
        ? old
        : {
            ...old,
            ...slotFlags(flags),
          };
    residency.slots = [...others, changed];
    announce(flags === undefined ? 'create' : 'flags', changed);
  }
}

function isInferred({ op }: Draft): boolean {
  return ((op >>> PROVENANCE_SHIFT) & PROVENANCE_MASK) === Provenance.INFERRED;
}

/** The result of an access without a number, if the unit has it. */
function quietResult(unit: Unit): AccessResult | undefined {
  for (const event of unit.events) {
    if (event.name !== 'mark' || !event.text.startsWith('Q ')) continue;
    const mark = parseMark(event.text, event.position);
    if (mark.kind !== 'quietNpt' && mark.kind !== 'quietEpt' && mark.kind !== 'quietNptPreset') continue;
    const vector = mark.vector === ReportedVector.COMPLETED ? undefined : mark.vector;
    return mark.kind === 'quietNptPreset' ? { vector, errorCode: 0n, cr2: 0n } : { ...mark, vector };
  }
  return undefined;
}

async function firstResult(units: AsyncIterable<Unit>): Promise<AccessResult | undefined> {
  for await (const unit of units) {
    const result = quietResult(unit);
    if (result !== undefined) return result;
  }
  return undefined;
}

function storeSize(mark: { readonly size: number; readonly address: bigint; readonly line: number }): 1 | 2 | 4 | 8 {
  const { size, address, line } = mark;
  if ((size === 1 || size === 2 || size === 4 || size === 8) && address % BigInt(size) === 0n) return size;
  throw new Problem('E_IMPORT', `a store of ${size} bytes at ${address.toString(16)}`, { line });
}
