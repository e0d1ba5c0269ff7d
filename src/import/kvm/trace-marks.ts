/**
 * What the marks of the guests and the VMM mean for KVM's side of the recording: the same grammar that `kvm-guest` reads
 * (`kvm-guest/marks.ts`), other consequences. A mark stands before what it announces.
 */

import { Problem } from '../../bits/problem.ts';
import { CR0_PG, Reg, type RegId } from '../../formats/registers.ts';
import { Provenance } from '../../formats/step.ts';
import type { Memslot } from '../../trace/stimulus.ts';
import { type AccessResult, ReportedVector } from '../kvm-guest/attempt.ts';
import type { Dump } from '../kvm-guest/dump.ts';
import { type Mark, type MarkOf, parseMark } from '../kvm-guest/marks.ts';
import type { MarkHandler } from './conversion.ts';
import { clearedPage, GuestStores, type StoreRun, singleStore } from './guest-stores.ts';
import type { NativeAccesses } from './native-accesses.ts';
import type { Parts } from './parts.ts';
import { type BackedSlot, memslot, slotFlags } from './slots.ts';
import type { AccessUnderTest } from './told-by-marks.ts';

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

export interface MarkContext {
  readonly native: NativeAccesses;
  /** Bytes of a register of the guest, and of its entries where a `B` mark does not say. */
  readonly wordSize: 4 | 8;
  readonly entrySize: 4 | 8;
  readonly dumps: ReadonlyMap<string, Dump>;
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
      case 'access':
        this.relabel(`${mark.tag} ${mark.configuration}`, position);
        told.access = { ...mark, line: position, user: mark.user !== 0, ac: mark.ac !== 0 };
        return;
      case 'completed':
        this.result(mark.n, { vector: undefined, errorCode: 0n, cr2: 0n }, position);
        return;
      case 'excepted':
        this.result(mark.n, mark, position);
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

  private relabel(label: string, position: number): void {
    if (label === this.label) return;
    this.label = label;
    this.parts.steps.note(label, position);
  }

  private result(n: number, result: AccessResult, position: number): void {
    const { receipt, told } = this.parts;
    const { access } = told;
    told.access = undefined;
    told.storeOfAccess = undefined;
    // INVLPG under the emulator touches no memory.
    if (access === undefined || access.n !== n || access.access === 'fep-invlpg') return;
    if (access.access === 'fep-x' && this.prefixOf === n) return;
    if (told.emulatedAccess === n) return;
    if (result.vector !== undefined && result.vector >= ReportedVector.VMFUNC) {
      receipt.note('access that ended in a nested exit');
      return;
    }
    this.native(access, result, position);
  }

  /** An exit under the emulator's prefix: the processor has fetched it. */
  beforeExit(rip: bigint, position: number): void {
    const { access } = this.parts.told;
    if (access?.access !== 'fep-x' || this.prefixOf === access.n || rip !== access.va - EMULATION_PREFIX) return;
    this.prefixOf = access.n;
    this.native(access, { vector: undefined, errorCode: 0n, cr2: 0n }, position);
  }

  private native(access: AccessUnderTest, result: AccessResult, position: number): void {
    const { kvm, steps, tables } = this.parts;
    for (const found of this.context.native.of({ ...access, line: position }, result, !kvm.tdp)) {
      steps.add([found.step]);
      if (found.completed && kvm.tdp) tables.processorAccess(found.address, found.write);
    }
  }

  private holds(register: RegId, value: bigint, position: number): void {
    const { receipt, registers, steps } = this.parts;
    if (registers.get(register) === value) return;
    receipt.note('register found changed');
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

function storeSize(mark: { readonly size: number; readonly address: bigint; readonly line: number }): 1 | 2 | 4 | 8 {
  const { size, address, line } = mark;
  if ((size === 1 || size === 2 || size === 4 || size === 8) && address % BigInt(size) === 0n) return size;
  throw new Problem('E_IMPORT', `a store of ${size} bytes at ${address.toString(16)}`, { line });
}
