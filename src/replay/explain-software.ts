/**
 * KVM's software walks of a step as trees: which context walked, in which nesting, by which rules, and where what it concluded
 * is not what the registers and entries say.
 */

import { hexText } from '../bits/word64.ts';
import { decodePfec } from '../formats/decode/fault.ts';
import { KvmEvent, kvmEventOf } from '../formats/kvm-event.ts';
import { OBS_LEVEL_MASK, OBS_LEVEL_SHIFT } from '../formats/observation.ts';
import type { KvmPageWalk } from '../paging/kvm-page-walk.ts';
import { askedText, entryChecks, eptEntryChecks } from './explain-rules.ts';
import type { WalkRow } from './explain-seen.ts';
import {
  askedOf,
  eptMode,
  type Frame,
  modeText,
  newFrame,
  type SoftwareHints,
  x86Mode,
} from './explain-software-frame.ts';
import { judge } from './explain-software-judge.ts';
import { rootChecks, tableAccessCheck } from './explain-software-mode.ts';
import { addressNode, entryNode, isPdpteOf, rootNode, writeNode } from './explain-software-nodes.ts';
import type { ExplainedWalk } from './explanation.ts';
import type { Row } from './result.ts';

const LARGE = 1 << 7;

/** A walk that nobody else needed, ready to be shown. */
export interface SoftwareWalk extends ExplainedWalk {
  /** Index in the log of the row that it began with. */
  readonly row: number;
}

/** Makes trees of what walks wrote into the step's log. */
export function softwareWalks(rows: readonly Row[], signed: readonly WalkRow[], hints: SoftwareHints): SoftwareWalk[] {
  const reader = new SoftwareReader(rows, hints);
  for (const each of signed) reader.read(each);
  reader.finish();
  return reader.walks;
}

class SoftwareReader {
  readonly walks: SoftwareWalk[] = [];
  private readonly rows: readonly Row[];
  private readonly hints: SoftwareHints;
  private readonly stack: Frame[] = [];
  private firstRow = 0;

  constructor(rows: readonly Row[], hints: SoftwareHints) {
    this.rows = rows;
    this.hints = hints;
  }

  read(signed: WalkRow): void {
    const row = this.rows[signed.row];
    if (row === undefined) return;
    switch (kvmEventOf(row.op)) {
      case KvmEvent.PAGETABLE_WALK:
        this.begin(signed, row);
        break;
      case KvmEvent.PAGING_ELEMENT:
        this.entry(signed, row);
        break;
      case KvmEvent.SET_ACCESSED_BIT:
      case KvmEvent.SET_DIRTY_BIT:
        this.written(signed, row);
        break;
      case KvmEvent.WALKER_ERROR:
        this.fail(signed, row);
        break;
      default:
    }
  }

  finish(): void {
    while (this.stack.length > 0) this.pop();
  }

  private begin(signed: WalkRow, row: Row): void {
    const { walk, context, begun } = signed;
    if (begun === undefined) return;
    const top = this.stack.at(-1);
    const isInner = top !== undefined && top.walk !== walk && top.begun.hasSecond && walk.ngpa && !top.walk.ngpa;
    if (!isInner) {
      // The second stage is asked once more by the same walk: its earlier translation is through.
      const outer = this.stack.at(-2);
      if (top !== undefined && top.walk === walk && outer?.begun.hasSecond === true && top.failed === undefined)
        this.pop();
      else this.finish();
    }
    if (this.stack.length === 0) this.firstRow = signed.row;
    const outer = this.stack.at(-1);
    const frame = newFrame({ walk, context, begun }, row, outer);
    frame.nodes.push(rootNode(frame, rootChecks(frame)));
    const access = tableAccessCheck(frame, outer);
    if (access !== undefined) frame.checks.push(access);
    this.stack.push(frame);
  }

  /** Brings the frame of a walk to the top: what was above it is through. */
  private frameOf(walk: KvmPageWalk): Frame | undefined {
    if (!this.stack.some((frame) => frame.walk === walk)) return undefined;
    while (this.stack.at(-1)!.walk !== walk) this.pop();
    return this.stack.at(-1);
  }

  private entry({ walk }: WalkRow, row: Row): void {
    const frame = this.frameOf(walk);
    if (frame === undefined) return;
    const level = (row.op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK;
    const lo = row.valueLo | 0;
    const hi = row.valueHi | 0;
    const isPdpte = isPdpteOf(frame, level);
    const checks = walk.ept
      ? eptEntryChecks(level, lo, hi, eptMode(frame))
      : isPdpte
        ? entryChecks(level, lo, hi, null, true)
        : entryChecks(level, lo, hi, walk.reserved, x86Mode(frame).nxe);
    const stopped = checks.find(({ outcome, contradicted }) => outcome === 'fail' && contradicted === undefined);
    const failed = checks.some(({ outcome }) => outcome === 'fail');
    if (!isPdpte && stopped?.name !== 'present') {
      frame.allLo &= lo;
      frame.anyHi |= hi;
      frame.leafHi = hi;
    } else if (walk.ept) frame.allLo &= lo;
    frame.nodes.push(entryNode(frame, row, level, checks));
    frame.pending = [];
    frame.entryFailed ||= failed;
    const large = (lo & LARGE) !== 0 && level <= 3 && (walk.rootLevel !== 2 || walk.pse);
    if (!failed && !isPdpte && (level === 1 || large)) frame.reachedLeaf = true;
  }

  private written({ walk }: WalkRow, row: Row): void {
    const frame = this.frameOf(walk);
    if (frame === undefined) return;
    frame.setAccessed = true;
    frame.nodes.push(writeNode(frame, row));
  }

  private fail({ walk, qualification }: WalkRow, row: Row): void {
    const frame = this.frameOf(walk);
    if (frame === undefined) return;
    frame.failed = { code: row.valueLo, qualification };
    this.pop();
  }

  /** The topmost walk is through. */
  private pop(): void {
    const frame = this.stack.pop()!;
    if (frame.pending.length > 0) {
      frame.nodes.push(addressNode(frame, undefined));
      frame.pending = [];
    }
    judge(frame, this.hints);
    const outer = this.stack.at(-1);
    if (outer === undefined) {
      this.walks.push({ ...this.shown(frame), row: this.firstRow });
      return;
    }
    const last = frame.nodes.at(-1);
    if (last !== undefined && frame.checks.length > 0) {
      frame.nodes[frame.nodes.length - 1] = { ...last, checks: [...last.checks, ...frame.checks] };
    }
    if (outer.pending.length > 0) outer.nodes.push(addressNode(outer, frame));
    outer.pending = frame.nodes;
    if (frame.failed !== undefined) outer.secondFailed = true;
    if (outer.reachedLeaf) {
      outer.nodes.push(addressNode(outer, frame));
      outer.pending = [];
    }
  }

  private shown(frame: Frame): ExplainedWalk {
    const { context, start, failed } = frame;
    const faulted = failed !== undefined || frame.secondFailed;
    const code =
      failed === undefined
        ? ''
        : `, error code 0x${failed.code.toString(16)} (${decodePfec({ lo: failed.code >>> 0, hi: 0 }).short})`;
    return {
      by: context,
      title: `software walk of ${context}`,
      address: hexText(start.addressLo, start.addressHi),
      access: askedText(askedOf(frame, this.hints)),
      mode: modeText(frame),
      nodes: frame.nodes,
      checks: frame.checks,
      outcome: faulted ? 'fault' : 'translated',
      result: faulted ? (failed === undefined ? 'the second stage fails' : `fails${code}`) : 'succeeds',
    };
  }
}
