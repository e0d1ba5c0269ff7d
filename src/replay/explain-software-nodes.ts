/** Nodes of KVM's walks: what each row that a walk wrote says, with the checks of its entry. */

import { hexText } from '../bits/word64.ts';
import { decodeEptEntry } from '../formats/decode/ept.ts';
import { decodePageTableEntry, entryName } from '../formats/decode/page-table-entry.ts';
import { KvmEvent, kvmEventOf } from '../formats/kvm-event.ts';
import { Reg } from '../formats/registers.ts';
import { eptRightsText, rightsText } from './explain-rules.ts';
import { eptMode, type Frame } from './explain-software-frame.ts';
import type { ExplainedCheck, WalkNode } from './explanation.ts';
import type { Row } from './result.ts';

export function rootNode({ walk, begun, context }: Frame, checks: readonly ExplainedCheck[]): WalkNode {
  const register = !walk.ngpa ? Reg.CR3 : walk.ept ? Reg.EPTP : Reg.NCR3;
  return {
    kind: 'register',
    context,
    name: !walk.ngpa ? 'CR3' : walk.ept ? 'EPTP' : 'nCR3',
    level: 0,
    address: '',
    gpa: '',
    value: hexText(begun.registers[2 * register]!, begun.registers[2 * register + 1]!),
    decoded: '',
    rights: '',
    checks,
    inner: [],
  };
}

/** An entry that the walk has read; rights as the frame has them with it. */
export function entryNode(frame: Frame, row: Row, level: number, checks: readonly ExplainedCheck[]): WalkNode {
  const { walk } = frame;
  const isPdpte = isPdpteOf(frame, level);
  const failed = checks.some(({ outcome }) => outcome === 'fail');
  const word = { lo: row.valueLo, hi: row.valueHi };
  const place = hexText(row.addressLo, row.addressHi);
  const { mbec } = eptMode(frame);
  const rights = walk.ept ? eptRightsText(frame.allLo, mbec) : rightsText(frame.allLo, frame.anyHi);
  return {
    kind: isPdpte ? 'register' : 'entry',
    context: frame.context,
    name: isPdpte ? 'PDPTE' : `${walk.ept ? 'EPT ' : walk.ngpa ? 'NPT ' : ''}${entryName(level)}`,
    level,
    address: isPdpte ? '' : place,
    gpa: frame.begun.hasSecond ? place : '',
    value: hexText(row.valueLo, row.valueHi),
    decoded: walk.ept
      ? decodeEptEntry(word, level, { mbec, accessedDirty: walk.haveAd, maxphyaddr: walk.features.maxphyaddr }).short
      : decodePageTableEntry(word, level, {
          paging: walk.rootLevel === 2 ? '32-bit' : walk.rootLevel === 3 ? 'pae' : '4-level',
          maxphyaddr: walk.features.maxphyaddr,
          pse: walk.pse,
        }).short,
    rights: failed || isPdpte ? '' : rights,
    checks,
    inner: frame.pending,
  };
}

/** Whether what a walk reads at a level is one of PAE's four. */
export function isPdpteOf({ walk }: Frame, level: number): boolean {
  return walk.rootLevel === 3 && level === 3 && !walk.ept;
}

/** An accessed or dirty bit that the walk set. */
export function writeNode({ context }: Frame, row: Row): WalkNode {
  const dirty = kvmEventOf(row.op) === KvmEvent.SET_DIRTY_BIT;
  return {
    kind: 'write',
    context,
    name: dirty ? 'D bit' : 'A bit',
    level: 0,
    address: hexText(row.addressLo, row.addressHi),
    gpa: '',
    value: '',
    decoded: dirty ? 'dirty is set' : 'accessed is set',
    rights: '',
    checks: [],
    inner: [],
  };
}

/** An address that the second stage was asked for and that is no entry that was read. `inner`: its walk, if known. */
export function addressNode(outer: Frame, inner: Frame | undefined): WalkNode {
  const final = outer.reachedLeaf;
  const gpa = inner === undefined ? '' : hexText(inner.start.addressLo, inner.start.addressHi);
  const failed = inner?.failed === undefined ? {} : { stopped: 'second stage' };
  return {
    kind: 'address',
    context: outer.context,
    name: final ? 'final address' : 'table entry',
    level: 0,
    address: gpa,
    gpa,
    value: '',
    decoded: final
      ? 'goes through the second stage'
      : "an entry of the guest's tables, whose address the second stage translates",
    rights: '',
    checks: [],
    ...failed,
    inner: outer.pending,
  };
}
