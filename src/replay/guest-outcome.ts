/**
 * How an access ended as the guest sees it: which guest-physical address it reached, which exception it raised, or, of a
 * guest's guest, with which exit its hypervisor gets control.
 */

import { hexText } from '../bits/word64.ts';
import { exceptionName } from '../formats/decode/fault.ts';
import {
  NOT_MODELLED_NAMES,
  OBS_EXCEPTION_EXITS,
  OBS_FAULTS,
  OBS_KIND_MASK,
  OBS_NAMES,
  OBS_NOT_MODELLED_MASK,
  OBS_NOT_MODELLED_SHIFT,
  OBS_VECTOR_MASK,
  OBS_VECTOR_SHIFT,
  Obs,
  obsMask,
} from '../formats/observation.ts';
import { expectsAddress } from '../formats/step.ts';
import {
  ROW,
  ROW_ADDRESS_HI,
  ROW_ADDRESS_LO,
  ROW_OP,
  ROW_VALUE_HI,
  ROW_VALUE_LO,
  type RowLog,
} from '../paging/row-log.ts';
import type { StepColumns } from '../trace/columns.ts';

const OUTCOMES = OBS_FAULTS | obsMask(Obs.TRANSLATED, Obs.COMPLETED, Obs.FAULTED, Obs.NOT_MODELLED);
const PAGE_FAULT = 14;
const QUAL_READ = 1 << 0;
const QUAL_USER_EXECUTE = 1 << 6;
const QUAL_LINEAR = 3 << 7;
const QUAL_RIGHTS = 7 << 3;

/** Whether the guest-linear address of an EPT exit is known. */
const Linear = { ABSENT: 0, GIVEN: 1, NOT_RECORDED: 2 } as const;

/** One outcome, filled anew for each access. Page sizes and how the tables were read do not belong to it. */
export class GuestOutcome {
  /** One of `Obs`: TRANSLATED, EXCEPTION, …; NONE: nothing is known of it. */
  kind: number = Obs.NONE;
  /** EXCEPTION: the vector. NOT_MODELLED: one of `NotModelled`. */
  number = 0;
  /** TRANSLATED: guest-physical address. #PF: CR2. Exits: guest-physical address. Unsigned halves. */
  lo = 0;
  hi = 0;
  /** Error code, exit qualification or EXITINFO1. */
  valueLo = 0;
  valueHi = 0;
  /** EXCEPTION: the hypervisor of the running guest intercepts it. */
  exits = false;
  /** EPT exits: the guest-linear address, and whether there is one. */
  private linear: number = Linear.ABSENT;
  private linearLo = 0;
  private linearHi = 0;

  /** Takes the last outcome in a machine's log. */
  ofLog(log: RowLog): void {
    this.clear();
    const { rows } = log;
    for (let at = (log.count - 1) * ROW; at >= 0; at -= ROW) {
      const op = rows[at + ROW_OP]!;
      if ((op & OBS_KIND_MASK) === Obs.EXIT_LINEAR)
        this.setLinear(rows[at + ROW_ADDRESS_LO]!, rows[at + ROW_ADDRESS_HI]!);
      if (((OUTCOMES >>> (op & OBS_KIND_MASK)) & 1) === 0) continue;
      this.set(
        op,
        rows[at + ROW_ADDRESS_LO]!,
        rows[at + ROW_ADDRESS_HI]!,
        rows[at + ROW_VALUE_LO]!,
        rows[at + ROW_VALUE_HI]!,
      );
      return;
    }
  }

  /** Takes what was recorded of step `index`. `seesLinear`: the recorder sees guest-linear addresses of EPT exits. */
  ofColumns(columns: StepColumns, index: number, seesLinear: boolean): void {
    this.clear();
    if (!seesLinear) this.linear = Linear.NOT_RECORDED;
    if (expectsAddress(columns.op[index]!)) {
      this.set(Obs.TRANSLATED, columns.operand[2 * index]!, columns.operand[2 * index + 1]!, 0, 0);
      return;
    }
    const begin = index === 0 ? 0 : columns.observationEnd[index - 1]!;
    for (let row = columns.observationEnd[index]! - 1; row >= begin; row--) {
      const op = columns.observationOp[row]!;
      const { observationAddress: address, observationValue: value } = columns;
      if ((op & OBS_KIND_MASK) === Obs.EXIT_LINEAR) this.setLinear(address[2 * row]!, address[2 * row + 1]!);
      if (((OUTCOMES >>> (op & OBS_KIND_MASK)) & 1) === 0) continue;
      this.set(op, address[2 * row]!, address[2 * row + 1]!, value[2 * row]!, value[2 * row + 1]!);
      return;
    }
  }

  clear(): void {
    this.set(Obs.NONE, 0, 0, 0, 0);
    this.linear = Linear.ABSENT;
    this.linearLo = 0;
    this.linearHi = 0;
  }

  copy(other: GuestOutcome): void {
    this.kind = other.kind;
    this.number = other.number;
    this.lo = other.lo;
    this.hi = other.hi;
    this.valueLo = other.valueLo;
    this.valueHi = other.valueHi;
    this.exits = other.exits;
    this.linear = other.linear;
    this.linearLo = other.linearLo;
    this.linearHi = other.linearHi;
  }

  /** A nested page fault is told with another one's EXITINFO2 and high half of EXITINFO1. */
  takeExit({ lo, hi, valueHi }: GuestOutcome): void {
    if (this.kind !== Obs.NPF) return;
    this.lo = lo;
    this.hi = hi;
    this.valueHi = valueHi;
  }

  /**
   * An EPT violation's qualification says nothing of the linear address, and of any access that it was a read; with 6.1,
   * not even that, and bits 8:7 are left over from another (`seen`).
   */
  leaveUntold(old: boolean, seen: GuestOutcome): void {
    if (this.kind !== Obs.EPT_VIOLATION) return;
    if (old) this.valueLo = (this.valueLo & QUAL_RIGHTS) | (seen.valueLo & QUAL_LINEAR);
    else this.valueLo = (this.valueLo & (QUAL_RIGHTS | QUAL_USER_EXECUTE)) | QUAL_READ;
  }

  private setLinear(lo: number, hi: number): void {
    this.linear = Linear.GIVEN;
    this.linearLo = lo >>> 0;
    this.linearHi = hi >>> 0;
  }

  private set(op: number, lo: number, hi: number, valueLo: number, valueHi: number): void {
    const kind = op & OBS_KIND_MASK;
    const translated = kind === Obs.TRANSLATED;
    this.kind = kind;
    this.number = 0;
    this.exits = kind === Obs.EXCEPTION && (op & OBS_EXCEPTION_EXITS) !== 0;
    if (kind === Obs.EXCEPTION) this.number = (op >>> OBS_VECTOR_SHIFT) & OBS_VECTOR_MASK;
    else if (kind === Obs.NOT_MODELLED) this.number = (op >>> OBS_NOT_MODELLED_SHIFT) & OBS_NOT_MODELLED_MASK;
    const hasAddress = kind !== Obs.EXCEPTION || this.number === PAGE_FAULT;
    this.lo = hasAddress ? lo >>> 0 : 0;
    this.hi = hasAddress ? hi >>> 0 : 0;
    this.valueLo = translated ? 0 : valueLo >>> 0;
    this.valueHi = translated ? 0 : valueHi >>> 0;
  }

  get isFault(): boolean {
    return ((OBS_FAULTS >>> this.kind) & 1) !== 0;
  }

  equals(other: GuestOutcome): boolean {
    return (
      this.kind === other.kind &&
      this.number === other.number &&
      this.lo === other.lo &&
      this.hi === other.hi &&
      this.valueLo === other.valueLo &&
      this.valueHi === other.valueHi &&
      this.exits === other.exits &&
      this.sameLinear(other)
    );
  }

  private sameLinear(other: GuestOutcome): boolean {
    if (this.linear === Linear.NOT_RECORDED || other.linear === Linear.NOT_RECORDED) return true;
    return this.linear === other.linear && this.linearLo === other.linearLo && this.linearHi === other.linearHi;
  }

  /** `translated to 0x5008`, `#PF error 0x2 cr2 0x7000`, `ept-violation 0x181 at 0x5000 linear 0x7000`. */
  get text(): string {
    const address = hexText(this.lo, this.hi);
    const value = hexText(this.valueLo, this.valueHi);
    switch (this.kind) {
      case Obs.NONE:
        return 'nothing';
      case Obs.TRANSLATED:
        return `translated to ${address}`;
      case Obs.EXCEPTION: {
        const cr2 = this.number === PAGE_FAULT ? ` cr2 ${address}` : '';
        return `${exceptionName(this.number)} error ${value}${cr2}${this.exits ? ', intercepted' : ''}`;
      }
      case Obs.NOT_MODELLED:
        return `not modelled: ${this.notModelled}`;
      case Obs.COMPLETED:
      case Obs.FAULTED:
        return OBS_NAMES[this.kind]!;
      default: {
        const linear = this.linear === Linear.GIVEN ? ` linear ${hexText(this.linearLo, this.linearHi)}` : '';
        return `${OBS_NAMES[this.kind]} ${value} at ${address}${linear}`;
      }
    }
  }

  /** NOT_MODELLED: what, as `--allow-unmodelled` spells it. */
  get notModelled(): string {
    return NOT_MODELLED_NAMES[this.number] ?? 'unnamed';
  }

  /** The same without addresses: equal for differences of the like. */
  get shape(): string {
    const value = hexText(this.valueLo, this.valueHi);
    switch (this.kind) {
      case Obs.EXCEPTION:
        return `${exceptionName(this.number)} ${value}${this.exits ? ' intercepted' : ''}`;
      case Obs.EPT_VIOLATION:
      case Obs.NPF:
        return `${OBS_NAMES[this.kind]} ${value}`;
      default:
        return OBS_NAMES[this.kind] ?? 'nothing';
    }
  }
}
