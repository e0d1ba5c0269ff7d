/**
 * Judges a step whose observations are not the machine's own: lawfully stale, stale after an invalidation,
 * undetermined, or diverged (design §4, TLB truth and A/D truth).
 */

import { Dim, OBS_DIM_MASK, OBS_DIM_SHIFT, OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import { ACCESS_SOFTWARE, ACCESS_WALKED, expectsAddress, STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import type { BareMachine } from '../machine/bare.ts';
import { LawfulOutcomes } from '../machine/lawful.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { AdPolicy } from '../trace/header.ts';
import { type Aligned, answer, isQuestion, logRows, sameRow } from './align.ts';
import type { ReplayEngine } from './engine.ts';
import type { Judgement, Row } from './result.ts';

const X86_AD = (1 << 5) | (1 << 6);
const GUEST_DIRTY = 1 << 6;
const EPT_AD = (1 << 8) | (1 << 9);

/** The bits of an entry that walks set. */
function adMask(row: Row): number {
  return ((row.op >>> OBS_DIM_SHIFT) & OBS_DIM_MASK) === Dim.EPT ? EPT_AD : X86_AD;
}

/** Equal but for accessed and dirty bits that only the replay has set. */
function lacksOnlyAd(recorded: Row, replayed: Row): boolean {
  const mask = adMask(recorded);
  return (
    recorded.valueHi === replayed.valueHi &&
    ((recorded.valueLo ^ replayed.valueLo) & ~mask) === 0 &&
    (recorded.valueLo & ~replayed.valueLo) === 0
  );
}

function differsOnlyInAd(recorded: Row, replayed: Row): boolean {
  return recorded.valueHi === replayed.valueHi && ((recorded.valueLo ^ replayed.valueLo) & ~adMask(recorded)) === 0;
}

/**
 * An entry re-read: what the machine set must be there if the access went through; beyond that only a guest entry's A
 * (walks for other purposes may set it) or, in second-stage tables, A and D may be set.
 */
function afterWithinBounds(recorded: Row, replayed: Row, translated: boolean): boolean {
  if (!differsOnlyInAd(recorded, replayed)) return false;
  const added = recorded.valueLo & ~replayed.valueLo;
  const missing = replayed.valueLo & ~recorded.valueLo;
  const guest = ((recorded.op >>> OBS_DIM_SHIFT) & OBS_DIM_MASK) === Dim.GUEST;
  return (!translated || missing === 0) && (!guest || (added & GUEST_DIRTY) === 0);
}

function sameAddress(a: Row, b: Row): boolean {
  return a.addressLo === b.addressLo && a.addressHi === b.addressHi;
}

export class Judge {
  private readonly engine: ReplayEngine;
  private readonly adPolicy: AdPolicy;
  private readonly staleness: LawfulOutcomes | null;

  /** `bare`: the engine's machine if it is a bare processor; of another one's TLB nothing is judged. */
  constructor(engine: ReplayEngine, adPolicy: AdPolicy, bare: BareMachine | null) {
    this.engine = engine;
    this.adPolicy = adPolicy;
    this.staleness = bare === null ? null : new LawfulOutcomes(bare);
  }

  /** `aligned`: the rows of step `index`, which differ. The machine's log is overwritten. */
  judge(columns: StepColumns, index: number, aligned: Aligned): Judgement | { readonly kind: 'match' } {
    const op = columns.op[index]!;
    if (this.adPolicy === 'unspecified' && this.adWithinBounds(aligned)) return { kind: 'match' };
    if ((op & STEP_KIND_MASK) !== StepKind.ACCESS || (op & ACCESS_WALKED) !== 0) return { kind: 'diverged' };
    const { staleness, engine } = this;
    if (engine.machine.servedByTlb && this.freshMatches(columns, index, aligned.recorded)) return { kind: 'match' };
    if (staleness === null) return { kind: 'diverged' };
    const { recorded, replayed } = aligned;
    const questions = recorded.flatMap((row, i) => (isQuestion(row.op) && i < replayed.length ? [i] : []));
    const wrong = questions.filter((i) => !sameRow(recorded[i]!, replayed[i]!));
    if (wrong.some((i) => (recorded[i]!.op & OBS_KIND_MASK) !== Obs.ENTRY_AFTER)) return { kind: 'diverged' };
    if (!wrong.every((i) => lacksOnlyAd(recorded[i]!, replayed[i]!))) return { kind: 'diverged' };
    // Software that walks for the guest has no TLB of its own.
    if ((op & ACCESS_SOFTWARE) !== 0) return { kind: 'diverged' };
    return this.judgeStaleness(staleness, columns, index, recorded);
  }

  /**
   * A/D truth without a declared policy: when, and on a fault whether, the bits are written is open, so the writes may
   * stand anywhere or be missing; but only entries that the walk read are written, and only A and D are added.
   */
  private adWithinBounds({ recorded, replayed }: Aligned): boolean {
    const isWrite = (row: Row): boolean => (row.op & OBS_KIND_MASK) === Obs.ENTRY_WRITE;
    const translated = replayed.some((row) => (row.op & OBS_KIND_MASK) === Obs.TRANSLATED);
    const missing = replayed.filter(
      (row) => isWrite(row) && !recorded.some((other) => isWrite(other) && sameAddress(row, other)),
    );
    if (translated && missing.length > 0) return false;
    const others = recorded.filter((row) => !isWrite(row));
    const machine = replayed.filter((row) => !isWrite(row));
    if (others.length !== machine.length) return false;
    const alike = others.every((row, i) => {
      const other = machine[i]!;
      if ((row.op & OBS_KIND_MASK) !== Obs.ENTRY_AFTER) return sameRow(row, other);
      return row.op === other.op && afterWithinBounds(row, other, translated);
    });
    if (!alike) return false;
    return recorded.filter(isWrite).every((write) =>
      recorded.some((read) => {
        const element = (read.op & OBS_KIND_MASK) === Obs.ELEMENT && sameAddress(read, write);
        return element && differsOnlyInAd(read, write) && (read.valueLo & ~write.valueLo) === 0;
      }),
    );
  }

  /**
   * The machine's TLB was lawfully out of date, the recorded processor's perhaps not: does a walk of memory as it
   * stands explain everything? If it does, it has been made.
   */
  private freshMatches(columns: StepColumns, index: number, recorded: readonly Row[]): boolean {
    const { machine } = this.engine;
    const op = columns.op[index]!;
    const lo = columns.address[2 * index]! | 0;
    const hi = columns.address[2 * index + 1]! | 0;
    machine.probe(op, lo, hi);
    if (!this.outcomesMatch(op, recorded)) return false;
    machine.rewalk(op, lo, hi);
    return recorded.every((row) => !isQuestion(row.op) || sameRow(row, answer(this.engine, row)));
  }

  /** Whether the outcomes in the machine's log are the recorded ones. */
  private outcomesMatch(op: number, recorded: readonly Row[]): boolean {
    const addressOnly = expectsAddress(op);
    const outcomes = recorded.filter((row) => !isQuestion(row.op));
    const seen = logRows(this.engine.machine.log).filter((row) =>
      addressOnly ? (row.op & OBS_KIND_MASK) === Obs.TRANSLATED : this.engine.isVisible(row.op),
    );
    return seen.length === outcomes.length && outcomes.every((row, i) => sameRow(row, seen[i]!, addressOnly));
  }

  private judgeStaleness(
    lawful: LawfulOutcomes,
    columns: StepColumns,
    index: number,
    recorded: readonly Row[],
  ): Judgement {
    const op = columns.op[index]!;
    const lo = columns.address[2 * index]! | 0;
    const hi = columns.address[2 * index + 1]! | 0;
    const verdict = lawful.judge(op, lo, hi, () => this.outcomesMatch(op, recorded));
    switch (verdict.kind) {
      case 'allowed':
        return { kind: 'stale-allowed' };
      case 'invalidated':
        return { kind: 'stale-after-invalidation', invalidatedAt: verdict.invalidatedAt };
      case 'undetermined':
        return verdict;
      case 'none':
        return { kind: 'diverged' };
    }
  }
}
