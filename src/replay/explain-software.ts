/**
 * KVM's software walks of a step as trees: which context walked, in which nesting, by which rules, and where what it concluded
 * is not what the registers and entries say.
 */

import { hexText } from '../bits/word64.ts';
import { decodeEptEntry } from '../formats/decode/ept.ts';
import { decodePfec } from '../formats/decode/fault.ts';
import { decodePageTableEntry, entryName } from '../formats/decode/page-table-entry.ts';
import { KvmEvent, kvmEventOf } from '../formats/kvm-event.ts';
import { OBS_LEVEL_MASK, OBS_LEVEL_SHIFT } from '../formats/observation.ts';
import {
  CR0_PG,
  CR4_LA57,
  CR4_PAE,
  CR4_SMEP,
  EFER_LMA,
  EFER_NXE,
  EPTP_AD,
  GuestMode,
  NESTED_NP_ENABLE,
  Reg,
  SECONDARY_EPT,
  SECONDARY_MBEC,
} from '../formats/registers.ts';
import { FETCH, PFEC_PK, USER, WRITE } from '../paging/access.ts';
import type { KvmPageWalk } from '../paging/kvm-page-walk.ts';
import { cr0Wp, cr4Smep, EXT_CR4_SMAP, EXT_EXECONLY, eferNx } from '../paging/kvm-roles.ts';
import { askedCode } from './explain-hardware.ts';
import {
  type Asked,
  askedText,
  type EptMode,
  entryChecks,
  eptEntryChecks,
  eptRightsChecks,
  eptRightsText,
  errorCodeCheck,
  guestMode,
  nptMode,
  type RightsMode,
  rightsChecks,
  rightsText,
  withVerdict,
} from './explain-rules.ts';
import type { WalkBegun, WalkRow } from './explain-watch.ts';
import type { ContextName, ExplainedCheck, ExplainedWalk, WalkNode } from './explanation.ts';
import type { Row } from './result.ts';

/** What the rows do not tell of the access. */
export interface SoftwareHints {
  /** The step's access is an implicit supervisor one. */
  readonly implicit: boolean;
}

const LARGE = 1 << 7;

interface Frame {
  readonly walk: KvmPageWalk;
  readonly context: ContextName;
  readonly begun: WalkBegun;
  readonly start: Row;
  readonly nodes: WalkNode[];
  readonly checks: ExplainedCheck[];
  /** Translates a table's address for another walk; otherwise its final one, or it is nobody's. */
  ofTable: boolean;
  allLo: number;
  anyHi: number;
  leafHi: number;
  readonly leafLo: number;
  readonly aboveLo: number;
  reachedLeaf: boolean;
  entryFailed: boolean;
  setAccessed: boolean;
  failed: { readonly code: number; readonly qualification: number } | undefined;
  /** Of the last second-stage walk, till the entry is read that it was for. */
  pending: WalkNode[];
  secondFailed: boolean;
}

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
    const frame: Frame = {
      walk,
      context,
      begun,
      start: row,
      nodes: [],
      checks: [],
      ofTable: false,
      allLo: -1,
      anyHi: 0,
      leafHi: 0,
      leafLo: 0,
      aboveLo: -1,
      reachedLeaf: false,
      entryFailed: false,
      setAccessed: false,
      failed: undefined,
      pending: [],
      secondFailed: false,
    };
    const outer = this.stack.at(-1);
    frame.ofTable = outer !== undefined && !outer.reachedLeaf;
    frame.nodes.push(rootNode(frame));
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
    const { context } = frame;
    const isPdpte = walk.rootLevel === 3 && level === 3 && !walk.ept;
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
    const word = { lo: row.valueLo, hi: row.valueHi };
    const place = hexText(row.addressLo, row.addressHi);
    const mbec = eptMode(frame).mbec;
    const rights = walk.ept ? eptRightsText(frame.allLo, mbec) : rightsText(frame.allLo, frame.anyHi);
    frame.nodes.push({
      kind: isPdpte ? 'register' : 'entry',
      context,
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
    });
    frame.pending = [];
    frame.entryFailed ||= failed;
    const large = (lo & LARGE) !== 0 && level <= 3 && (walk.rootLevel !== 2 || walk.pse);
    if (!failed && !isPdpte && (level === 1 || large)) frame.reachedLeaf = true;
  }

  private written({ walk }: WalkRow, row: Row): void {
    const frame = this.frameOf(walk);
    if (frame === undefined) return;
    frame.setAccessed = true;
    const dirty = kvmEventOf(row.op) === KvmEvent.SET_DIRTY_BIT;
    frame.nodes.push({
      kind: 'write',
      context: frame.context,
      name: dirty ? 'D bit' : 'A bit',
      level: 0,
      address: hexText(row.addressLo, row.addressHi),
      gpa: '',
      value: '',
      decoded: dirty ? 'dirty is set' : 'accessed is set',
      rights: '',
      checks: [],
      inner: [],
    });
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
    this.judge(frame);
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

  private judge(frame: Frame): void {
    const { walk, failed, checks } = frame;
    if (frame.pending.length > 0) {
      frame.nodes.push(addressNode(frame, undefined));
      frame.pending = [];
    }
    const asked = askedOf(frame, this.hints);
    const denied = failed !== undefined && frame.reachedLeaf;
    if (walk.ept) {
      const mode = eptMode(frame);
      if (frame.reachedLeaf) {
        // Before 7.3 a user access is one that needs R; KVM's own and what the processor reported as a read are.
        const reads = walk.profile === '6.1' && asked.user;
        const what = { ...asked, userPage: asked.user, ofTable: false };
        checks.push(...withVerdict(eptRightsChecks(frame.allLo, what, mode, reads), denied));
      }
      if (failed !== undefined) contradictPresence(frame, (failed.code & 8) !== 0);
      if (failed !== undefined && (failed.code & 8) === 0) checks.push(qualificationCheck(frame, failed.qualification));
    } else {
      const mode = x86Mode(frame);
      if (frame.reachedLeaf) {
        checks.push(...roleChecks(frame, mode));
        checks.push(
          ...withVerdict(
            rightsChecks(frame, asked, mode),
            denied && (failed.code & 1) !== 0,
            ((failed?.code ?? 0) & PFEC_PK) !== 0,
          ),
        );
      }
      if (failed !== undefined) checks.push(...codeChecks(frame, asked, mode, failed.code));
    }
    const lastEntry = frame.nodes.findLastIndex((node) => node.kind !== 'write' && node.kind !== 'address');
    const stop = failed === undefined ? undefined : stoppedBy(frame);
    if (stop !== undefined && lastEntry >= 0) frame.nodes[lastEntry] = { ...frame.nodes[lastEntry]!, stopped: stop };
    if (failed === undefined && frame.entryFailed && !frame.secondFailed) {
      frame.nodes[lastEntry] = withLetThrough(frame.nodes[lastEntry]!);
    }
    if (frame.setAccessed && failed !== undefined && (failed.code & 1) !== 0) checks.push(ACCESSED_TOO_EARLY);
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

const ACCESSED_TOO_EARLY: ExplainedCheck = {
  name: 'accessed',
  rule: 'A and D bits are set when the whole walk has succeeded, and not before',
  citation: 'facts/kvm-mmu.md §5.2',
  outcome: 'fail',
  detail: 'the walk set an accessed bit and failed',
  contradicted: 'an accessed bit was set before the rights were judged, and the walk failed on them',
};

function withLetThrough(node: WalkNode): WalkNode {
  const checks = node.checks.map((each) =>
    each.outcome === 'fail' && each.contradicted === undefined
      ? { ...each, contradicted: 'the walk went on all the same' }
      : each,
  );
  return { ...node, checks };
}

function stoppedBy(frame: Frame): string {
  for (const node of frame.nodes) {
    const failing = node.checks.find(({ outcome }) => outcome === 'fail');
    if (failing !== undefined) return failing.name;
  }
  return frame.checks.find(({ outcome }) => outcome === 'fail')?.name ?? 'memslot or rights';
}

/** The rights' mode of a walk in an x86 format, by the registers as they are, whatever the walk's role is. */
function x86Mode({ walk, begun }: Frame): RightsMode {
  if (walk.ngpa) return nptMode(begun.registers);
  const mode = guestMode(begun.registers);
  // KVM takes EFER.NXE for NX in use also where 32-bit paging has none.
  const nxe = (begun.registers[2 * Reg.EFER]! & EFER_NXE) !== 0;
  // Its walks know nothing of PKS, which it offers to no guest.
  return { ...mode, nxe, pks: false };
}

function eptMode({ walk, begun }: Frame): EptMode {
  return {
    mbec: walk.profile !== '6.1' && (begun.registers[2 * Reg.SECONDARY_CONTROLS]! & SECONDARY_MBEC) !== 0,
    executeOnly: (walk.ext & EXT_EXECONLY) !== 0,
    maxphyaddr: walk.features.maxphyaddr,
    ad: walk.haveAd,
  };
}

function askedOf({ walk, start, begun }: Frame, hints: SoftwareHints): Asked {
  const access = start.valueLo;
  const user = (access & USER) !== 0;
  return {
    write: (access & WRITE) !== 0,
    fetch: (access & FETCH) !== 0,
    user,
    implicit: !user && !walk.ngpa && hints.implicit,
    ac: begun.ac,
    shadowStack: false,
  };
}

function rootNode(frame: Frame): WalkNode {
  const { walk, begun, context } = frame;
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
    checks: rootChecks(frame),
    inner: [],
  };
}

function levelOfMode(registers: Uint32Array): number {
  const low = (register: number): number => registers[2 * register]!;
  if ((low(Reg.CR0) & CR0_PG) === 0) return 0;
  if ((low(Reg.EFER) & EFER_LMA) !== 0) return (low(Reg.CR4) & CR4_LA57) !== 0 ? 5 : 4;
  return (low(Reg.CR4) & CR4_PAE) !== 0 ? 3 : 2;
}

/** That the walk goes by the mode in force: depth, second stage, EPT's A and D bits. Shown where it does not. */
function rootChecks({ walk, begun, context }: Frame): ExplainedCheck[] {
  const { registers } = begun;
  const checks: ExplainedCheck[] = [];
  const contradict = (name: string, rule: string, citation: string, contradicted: string): void => {
    checks.push({ name, rule, citation, outcome: 'fail', detail: contradicted, contradicted });
  };
  if (walk.ept) {
    const ad = (registers[2 * Reg.EPTP]! & EPTP_AD) !== 0;
    if (ad !== walk.haveAd) {
      const text = `EPTP bit 6 is ${ad ? 1 : 0}, and ${context} ${walk.haveAd ? 'uses' : 'does not use'} A and D bits`;
      contradict('ept-ad', 'EPTP bit 6 says whether EPT has A and D bits', 'SDM vol. 3C 25.6.11', text);
    }
    return checks;
  }
  if (walk.ngpa) return checks;
  const level = levelOfMode(registers);
  if (level !== begun.rootLevel) {
    const text = `${context} walks tables of ${begun.rootLevel} levels, by the registers they have ${level}: the paging mode is another guest's`;
    contradict('mode', 'CR0, CR4 and EFER of whoever runs say how deep the tables are', 'facts/kvm-mmu.md §2.3', text);
  }
  const nested = nestsPaging(registers);
  if (nested !== begun.hasSecond) {
    const text = nested
      ? `L2 runs with nested paging, and ${context} sends no address through tdpWalk`
      : `whoever runs has no nested paging, and ${context} sends its addresses through tdpWalk`;
    contradict(
      'second-stage',
      'addresses go through tdpWalk while L2 runs with nested paging, and only then',
      'facts/kvm-mmu.md §1.3, §5.3',
      text,
    );
  }
  return checks;
}

/** That the role which rights are judged by is that of the registers. Shown where it is not. */
function roleChecks({ walk, context }: Frame, mode: RightsMode): ExplainedCheck[] {
  if (walk.ngpa) return [];
  const { base, ext, profile } = walk;
  const parts: readonly (readonly [name: string, judged: boolean, held: boolean])[] = [
    ['CR0.WP', cr0Wp(base, profile), mode.wp],
    ['CR4.SMEP', cr4Smep({ base, ext }, profile), mode.smep],
    ['CR4.SMAP', (ext & EXT_CR4_SMAP) !== 0, mode.smap],
    ['EFER.NXE', eferNx(base, profile), mode.nxe],
    ['CR4.PKE', walk.keyMask !== 0, mode.pke],
  ];
  return parts
    .filter(([, judged, held]) => judged !== held)
    .map(([name, judged, held]) => {
      const contradicted = `${context} judges as if ${name} were ${judged ? 1 : 0}, the register has ${held ? 1 : 0}`;
      const rule = `${name} counts as the register of whoever runs holds it`;
      return {
        name: 'role',
        rule,
        citation: 'facts/kvm-mmu.md §2.3, §3.4',
        outcome: 'fail',
        detail: contradicted,
        contradicted,
      };
    });
}

function nestsPaging(registers: Uint32Array): boolean {
  const mode = registers[2 * Reg.GUEST_MODE]!;
  if (mode === GuestMode.VMX) return (registers[2 * Reg.SECONDARY_CONTROLS]! & SECONDARY_EPT) !== 0;
  return mode === GuestMode.SVM && (registers[2 * Reg.NESTED_CONTROL]! & NESTED_NP_ENABLE) !== 0;
}

/** A table of the guest's is asked of the second stage with write intent, where A bits will be set in it. */
function tableAccessCheck(frame: Frame, outer: Frame | undefined): ExplainedCheck | undefined {
  if (outer === undefined || outer.reachedLeaf || !outer.walk.haveAd) return undefined;
  const rule = 'the second stage is asked for a write when a page of tables is read whose A bits will be set';
  const citation = 'facts/kvm-mmu.md §5.3; APM vol. 2 15.25.5';
  if ((frame.start.valueLo & WRITE) !== 0) return undefined;
  const text = `${frame.context} is asked to translate a page of the guest's tables for a read only`;
  return { name: 'table-access', rule, citation, outcome: 'fail', detail: text, contradicted: text };
}

/** The last EPT entry fails as absent, and was reported as misconfigured, or the other way round. */
function contradictPresence({ nodes }: Frame, misconfigured: boolean): void {
  const at = nodes.findLastIndex(({ kind }) => kind === 'entry');
  const node = nodes[at];
  const failing = node?.checks.find(({ outcome }) => outcome === 'fail');
  if (node === undefined || (failing === undefined && !misconfigured)) return;
  if (failing?.name === (misconfigured ? 'misconfiguration' : 'present')) return;
  const told = misconfigured
    ? 'the walk counts the entry as present, and as misconfigured'
    : 'the walk counts the entry as absent';
  const name = failing?.name ?? 'misconfiguration';
  const checks = node.checks.map((each) => (each.name === name ? { ...each, contradicted: told } : each));
  nodes[at] = { ...node, checks };
}

/** Bits 5:3 of a nested violation's qualification. */
function qualificationCheck(frame: Frame, qualification: number): ExplainedCheck {
  const rule = 'qualification bits 5:3 are bits 2:0 of all entries ANDed: R, W, X';
  const citation = 'SDM vol. 3C table 28-7; facts/kvm-mmu.md §6.1';
  const expected = frame.allLo & 7;
  const found = (qualification >>> 3) & 7;
  const text = (bits: number): string => bits.toString(2).padStart(3, '0');
  if (found === expected)
    return { name: 'qualification', rule, citation, outcome: 'pass', detail: `bits 5:3 are ${text(found)}` };
  const contradicted = `bits 5:3 of the qualification are ${text(found)}, the entries give ${text(expected)}`;
  return { name: 'qualification', rule, citation, outcome: 'fail', detail: contradicted, contradicted };
}

/** What the error code has to say. */
function codeChecks(frame: Frame, asked: Asked, mode: RightsMode, code: number): ExplainedCheck[] {
  const entry = frame.nodes.findLast((node) => node.kind === 'entry' || node.name === 'PDPTE');
  const failing = entry?.checks.find(({ outcome }) => outcome === 'fail');
  // NPT's own mode: L1's CR4.SMEP has F told, though no entry of NPT is judged by it.
  const smep = frame.walk.ngpa ? (frame.begun.registers[2 * Reg.HOST_CR4]! & CR4_SMEP) !== 0 : mode.smep;
  const bits = askedCode(asked, { ...mode, smep });
  if (failing?.name === 'present') return [errorCodeCheck(code, bits)];
  if (failing?.name === 'reserved') return [errorCodeCheck(code, bits | 9)];
  // No memslot has the table, or the frame that was to be written.
  if ((code & 1) === 0) return [];
  return [errorCodeCheck(code, bits | 1 | (code & PFEC_PK))];
}

function addressNode(outer: Frame, inner: Frame | undefined): WalkNode {
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

function modeText({ walk, begun }: Frame): string {
  const levels = begun.rootLevel;
  if (walk.ept) return `EPT of ${levels} levels`;
  const own = levels === 2 ? '32-bit' : levels === 3 ? 'PAE' : `${levels}-level`;
  if (walk.ngpa) return `NPT, ${own}`;
  return begun.hasSecond ? `${own}, each address through tdpWalk` : own;
}
