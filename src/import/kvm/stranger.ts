/**
 * A stranger's trace: what nobody tells of its VM, as the survey of the trace has it, put as steps where it begins to
 * matter. All of it is inferred: a replay learns from it and predicts only what follows.
 */

import { KVM_EVENT_NAMES, KVM_TRACEPOINTS } from '../../formats/kvm-event.ts';
import {
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_LA57,
  CR4_PAE,
  CR4_PSE,
  CR4_SMAP,
  CR4_SMEP,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  Reg,
  type RegId,
} from '../../formats/registers.ts';
import { Provenance } from '../../formats/step.ts';
import type { Memslot } from '../../trace/stimulus.ts';
import { type Draft, rareDraft } from './draft.ts';
import type { SurveyedSlot } from './frame-history.ts';
import type { PutIn } from './inferred-exits.ts';
import { Role } from './role-bits.ts';
import { type BackedSlot, memslot } from './slots.ts';
import type { Survey } from './survey.ts';

/** Each update of the slots counts twice in the generation. */
const GENERATIONS_PER_UPDATE = 2;
/** Updates made up at a time so that generations agree: more is another VM's history. */
const MAXIMUM_UPDATES = 1 << 12;

/** Values that registers are to have; what is left out stays. */
export type Wanted = ReadonlyMap<RegId, bigint>;

/** Bits of the role word whose place depends on the kernel (facts/kvm-mmu.md §2.1). */
const ROLE_61 = { nx: 1 << 12, wp: 1 << 13, smep: 1 << 14, smap: 1 << 15, smepWithWp: 0 };
const ROLE_73 = { nx: 1 << 13, wp: 1 << 14, smep: 0, smap: 1 << 15, smepWithWp: 1 << 20 };

export class Stranger {
  readonly survey: Survey;
  readonly putIn: PutIn;
  /** Where a root table is put whose address is never told. */
  readonly spareRoot: bigint;
  private readonly due: { readonly position: number; readonly what: 'create' | 'delete'; readonly slot: BackedSlot }[];
  private slots: BackedSlot[];
  private updates = 0;

  constructor(survey: Survey, putIn: PutIn) {
    this.survey = survey;
    this.putIn = putIn;
    this.spareRoot = BigInt(survey.spareFrame) << 12n;
    const slots = survey.slots.map((slot, i) => backed(slot, i + 1));
    const spare = {
      ...backed(
        { first: survey.spareFrame, end: survey.spareFrame + 1, from: 0, to: 0, offset: 0n, readOnly: false },
        0,
      ),
      slot: 0,
    };
    this.slots = [spare, ...slots.filter((_, i) => survey.slots[i]!.from === 0)];
    this.due = survey.slots
      .flatMap(({ from, to }, i) => [
        ...(from === 0 ? [] : [{ position: from, what: 'create' as const, slot: slots[i]! }]),
        ...(to === Number.POSITIVE_INFINITY ? [] : [{ position: to, what: 'delete' as const, slot: slots[i]! }]),
      ])
      .sort((a, b) => a.position - b.position || (a.what < b.what ? 1 : -1));
  }

  /** The slots at the moment. */
  get backing(): readonly BackedSlot[] {
    return this.slots;
  }

  /** What is there at the beginning of the trace. */
  prologue(): Draft[] {
    return this.slots.map((slot) => this.update('create', slot, 0));
  }

  private update(what: Memslot['what'], slot: BackedSlot, position: number): Draft {
    this.updates += what === 'move' || what === 'delete' ? 2 : 1;
    return rareDraft(memslot(what, slot), Provenance.INFERRED, position);
  }

  /** Slots that come or go up to `position`, as steps. */
  changesUntil(position: number): Draft[] {
    const drafts: Draft[] = [];
    while (this.due.length > 0 && this.due[0]!.position <= position) {
      const { what, slot } = this.due.shift()!;
      if (what === 'create') this.slots.push(slot);
      else this.slots = this.slots.filter((each) => each !== slot);
      drafts.push(this.update(what, slot, position));
    }
    return drafts;
  }

  /** Updates of nothing in particular, until the slots' generation is the one that an event tells. */
  generation(told: number, position: number): Draft[] {
    const missing = told / GENERATIONS_PER_UPDATE - this.updates;
    if (missing <= 0 || missing > MAXIMUM_UPDATES || !Number.isInteger(missing)) return [];
    return Array.from({ length: missing }, () => this.update('flags', this.slots[0]!, position));
  }

  /** The paging mode of a guest whose walks begin at `level`. */
  modeOf(level: number, registers: { get(register: RegId): bigint }): Wanted {
    const set = (register: RegId, on: number, off: number): [RegId, bigint] => [
      register,
      (registers.get(register) & ~BigInt(off >>> 0)) | BigInt(on >>> 0),
    ];
    const long = level >= 4;
    const cr4 = CR4_PSE | (level > 2 ? CR4_PAE : 0) | (level === 5 ? CR4_LA57 : 0);
    return new Map([
      set(Reg.CR4, cr4, CR4_PAE | CR4_LA57),
      set(Reg.EFER, long ? EFER_LME | EFER_LMA : 0, EFER_LME | EFER_LMA),
      set(Reg.CR0, CR0_PG | CR0_PE, 0),
    ]);
  }

  /** What the role of a shadow root says of the registers. Bits that `mask` leaves out are not known. */
  registersOf(
    role: number,
    mask: number,
    gfn: bigint,
    profile: '6.1' | '7.3',
    registers: { get(register: RegId): bigint },
  ): Wanted {
    if ((role & Role.DIRECT) !== 0) {
      return new Map([[Reg.CR0, registers.get(Reg.CR0) & ~BigInt(CR0_PG >>> 0)]]);
    }
    const at = profile === '6.1' ? ROLE_61 : ROLE_73;
    const level = role & Role.LEVEL;
    const wanted = new Map(level >= 4 ? this.modeOf(level, registers) : []);
    const put = (register: RegId, bit: number, from: number, valid = true): void => {
      if (from === 0 || (mask & from) === 0 || !valid) return;
      const old = wanted.get(register) ?? registers.get(register);
      const value = BigInt(bit >>> 0);
      wanted.set(register, (role & from) !== 0 ? old | value : old & ~value);
    };
    put(Reg.EFER, EFER_NXE, at.nx);
    put(Reg.CR0, CR0_WP, at.wp);
    const noWp = (mask & at.wp) !== 0 && (role & at.wp) === 0;
    put(Reg.CR4, CR4_SMEP, at.smep, noWp);
    put(Reg.CR4, CR4_SMEP, at.smepWithWp);
    put(Reg.CR4, CR4_SMAP, at.smap, noWp);
    if (level >= 4) wanted.set(Reg.CR3, (registers.get(Reg.CR3) & 0xfffn) | (gfn << 12n));
    return wanted;
  }

  /** Events that the trace never has: whether they would have been recorded is not known. */
  get neverSeen(): string[] {
    return KVM_TRACEPOINTS.flatMap((name, event) =>
      name === '' || this.survey.names.has(name) ? [] : [KVM_EVENT_NAMES[event]!],
    );
  }

  /** Names for the header: what this trace does not tell. */
  get unknown(): string[] {
    const { hasExits } = this.survey;
    return ['memory', 'memslots', 'registers', 'host pages', 'stimuli', 'tables', ...(hasExits ? [] : ['exits'])];
  }
}

function backed({ first, end, offset, readOnly }: SurveyedSlot, slot: number): BackedSlot {
  const gpa = BigInt(first) << 12n;
  return {
    slot,
    gpa,
    size: BigInt(end - first) << 12n,
    readOnly,
    dirtyLog: false,
    hva: offset === 0n ? 0n : gpa + offset,
  };
}
