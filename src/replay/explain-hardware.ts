/**
 * The processor's walks of a step as trees, out of the rows that they left: one read after the other, the second stage's reads
 * before the entry whose address they translate, rights accumulated on the way down, each rule judged.
 */

import { hexText } from '../bits/word64.ts';
import {
  Dim,
  OBS_NESTED_ACCESS_MASK,
  OBS_NESTED_ACCESS_SHIFT,
  OBS_NESTED_OF_TABLE,
  OBS_NESTED_USER,
  Obs,
  observationDim,
  observationLevel,
} from '../formats/observation.ts';
import { AccessType } from '../formats/step.ts';
import { askedOf, expectedCode } from './explain-asked.ts';
import { kindOf, resultText, specialCheck, vectorOf } from './explain-hardware-end.ts';
import {
  addressNode,
  firstEntryNode,
  type HardwareView,
  pdpteNode,
  registerNode,
  secondEntryNode,
  writeNode,
} from './explain-hardware-nodes.ts';
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
import type { ExplainedCheck, ExplainedWalk, WalkNode } from './explanation.ts';
import type { Row } from './result.ts';

type Writable<T> = { -readonly [Key in keyof T]: T[Key] };

/** A stage while it is read. */
interface Stage {
  readonly nodes: Writable<WalkNode>[];
  allLo: number;
  anyHi: number;
  leafHi: number;
  leafLo: number;
  aboveLo: number;
  /** An entry stopped it: no present one, or a reserved bit. */
  stopped: boolean;
  started: boolean;
}

function newStage(): Stage {
  return { nodes: [], allLo: -1, anyHi: 0, leafHi: 0, leafLo: 0, aboveLo: -1, stopped: false, started: false };
}

class TreeReader {
  private readonly view: HardwareView;
  private readonly asked: Asked;
  private readonly eptMode: EptMode;
  private readonly mode: RightsMode;
  outer = newStage();
  private inner: Stage | null = null;
  private innerStart: Row | null = null;
  private pending: WalkNode[] = [];
  private pendingGpa: Row | null = null;
  readonly done: Stage[] = [];
  result = '';
  outcome: ExplainedWalk['outcome'] = 'translated';
  checks: ExplainedCheck[] = [];

  constructor(view: HardwareView, asked: Asked) {
    this.view = view;
    this.asked = asked;
    const { tdpWalk } = view;
    this.mode = guestMode(view.registers);
    this.eptMode = {
      mbec: tdpWalk?.mbec === true,
      executeOnly: view.executeOnly,
      maxphyaddr: view.maxphyaddr,
      ad: tdpWalk?.ad === true,
    };
  }

  read(rows: readonly Row[]): void {
    for (const row of rows) {
      switch (kindOf(row)) {
        case Obs.NESTED_WALK:
          this.closeInner();
          if (this.pending.length > 0) this.leaveAddress();
          this.inner = newStage();
          this.innerStart = row;
          break;
        case Obs.PDPTE:
          this.begin();
          this.outer.nodes.push(pdpteNode(row, this.view));
          if ((row.valueLo & 1) === 0) this.outer.stopped = true;
          break;
        case Obs.ELEMENT:
          if (observationDim(row.op) === Dim.GUEST) this.outerEntry(row);
          else this.innerEntry(row);
          break;
        case Obs.ENTRY_WRITE:
          this.write(row);
          break;
        default:
          this.end(row);
      }
    }
    this.closeInner();
    if (this.pending.length > 0) this.leaveAddress();
  }

  private begin(): void {
    if (!this.outer.started) {
      this.outer.started = true;
      const { view } = this;
      if (view.cpuWalk.rootLevel !== 0) {
        const root = `${hexText(view.cpuWalk.rootLo, view.cpuWalk.rootHi)}`;
        this.outer.nodes.push(registerNode(view.sptes === 'first' ? 'root' : 'CR3', view.first, root));
      }
    }
  }

  private outerEntry(row: Row): void {
    this.closeInner();
    const level = observationLevel(row.op);
    const last = this.outer.nodes.at(-1);
    // An emulator's read-modify-write walks twice.
    if (last?.kind === 'entry' && last.level <= level) {
      this.done.push(this.outer);
      this.outer = newStage();
    }
    this.begin();
    const { view, outer } = this;
    const isSpte = view.sptes === 'first';
    const { lo, hi } = { lo: row.valueLo | 0, hi: row.valueHi | 0 };
    const nxe = isSpte || this.mode.nxe;
    const checks = entryChecks(level, lo, hi, view.cpuWalk.format.reserved, nxe);
    const stopped = checks.find(({ outcome }) => outcome === 'fail');
    if ((view.cpuWalk.rootLevel !== 3 || level < 3) && stopped === undefined) {
      outer.aboveLo = outer.allLo;
      outer.leafLo = lo;
      outer.allLo &= lo;
      outer.anyHi |= hi;
      outer.leafHi = hi;
    }
    const rights = stopped === undefined ? rightsText(outer.allLo, outer.anyHi) : '';
    const judged = { checks, rights, stopped: stopped?.name };
    outer.nodes.push(firstEntryNode(row, view, judged, this.pendingGpa, this.pending));
    if (stopped !== undefined) outer.stopped = true;
    this.pending = [];
    this.pendingGpa = null;
  }

  private innerEntry(row: Row): void {
    const { view } = this;
    this.inner ??= newStage();
    const { inner } = this;
    if (!inner.started) {
      inner.started = true;
      const { tdpWalk } = view;
      const name = view.sptes === 'second' ? 'root' : observationDim(row.op) === Dim.EPT ? 'EPTP' : 'nCR3';
      if (tdpWalk !== null) inner.nodes.push(registerNode(name, view.second, hexText(tdpWalk.rootLo, tdpWalk.rootHi)));
    }
    const level = observationLevel(row.op);
    const ept = observationDim(row.op) === Dim.EPT;
    const { lo, hi } = { lo: row.valueLo | 0, hi: row.valueHi | 0 };
    const checks = ept
      ? eptEntryChecks(level, lo, hi, { ...this.eptMode })
      : entryChecks(level, lo, hi, view.tdpWalk?.format.reserved ?? null, nptMode(view.registers).nxe);
    const stopped = checks.find(({ outcome }) => outcome === 'fail');
    inner.allLo &= lo;
    inner.anyHi |= hi;
    inner.leafHi = hi;
    if (stopped !== undefined) inner.stopped = true;
    const rights =
      stopped !== undefined
        ? ''
        : ept
          ? eptRightsText(inner.allLo, this.eptMode.mbec)
          : rightsText(inner.allLo, inner.anyHi);
    inner.nodes.push(secondEntryNode(row, view, this.eptMode, { checks, rights, stopped: stopped?.name }));
  }

  /** The second stage is through, or has ended in a fault, which `faulted` says. */
  private closeInner(faulted = false): void {
    const { inner, innerStart } = this;
    if (inner === null) return;
    this.inner = null;
    this.pendingGpa = innerStart;
    if (innerStart !== null && !inner.stopped && inner.nodes.length > 0) {
      const last = inner.nodes.at(-1)!;
      const rights = this.innerRights(inner, innerStart);
      const checks = withVerdict(rights, faulted);
      last.checks = [...last.checks, ...checks];
      const stopped = faulted ? checks.find(({ outcome }) => outcome === 'fail') : undefined;
      if (stopped !== undefined) last.stopped = stopped.name;
    }
    this.pending = inner.nodes;
  }

  private innerRights(inner: Stage, start: Row): ExplainedCheck[] {
    const type = (start.op >>> OBS_NESTED_ACCESS_SHIFT) & OBS_NESTED_ACCESS_MASK;
    const ofTable = (start.op & OBS_NESTED_OF_TABLE) !== 0;
    const write = type === AccessType.WRITE || type === AccessType.RMW;
    const fetch = type === AccessType.FETCH;
    if (observationDim(start.op) === Dim.EPT) {
      const userPage = (start.op & OBS_NESTED_USER) !== 0;
      return eptRightsChecks(inner.allLo, { write, fetch, userPage, ofTable }, this.eptMode, false);
    }
    const gmet = this.view.tdpWalk?.gmet === true;
    const user = !gmet || ofTable || this.asked.user;
    const asked: Asked = { write, fetch, user, implicit: false, ac: false, shadowStack: false };
    const checks = rightsChecks(inner, asked, { ...nptMode(this.view.registers), smep: gmet });
    return checks.filter(({ outcome, name }) => outcome !== 'not-asked' || name === 'write' || name === 'execute');
  }

  /** What the second stage translated is not an entry that was read: the final address, or one of which the read failed. */
  private leaveAddress(): void {
    this.outer.nodes.push(addressNode(this.pendingGpa, this.view.first, this.pending));
    this.pending = [];
    this.pendingGpa = null;
  }

  private write(row: Row): void {
    this.closeInner();
    const guest = observationDim(row.op) === Dim.GUEST;
    const node = writeNode(row, this.view);
    if (guest || this.pending.length === 0) this.outer.nodes.push(node);
    else this.pending.push(node);
  }

  private end(row: Row): void {
    const kind = kindOf(row);
    if (kind === Obs.EXIT_LINEAR) return;
    const faulted = kind !== Obs.TRANSLATED;
    const second =
      kind === Obs.EPT_VIOLATION || kind === Obs.EPT_MISCONFIG || kind === Obs.NPF || kind === Obs.PML_FULL;
    this.closeInner(second);
    this.outcome = faulted ? 'fault' : 'translated';
    this.result = resultText(row);
    this.judge(row, kind);
  }

  /** The rights of the whole walk, where it got to a leaf. */
  private judge(row: Row, kind: number): void {
    const { outer, view } = this;
    const special = specialCheck(row);
    if (special !== undefined) this.checks = [special];
    if (!outer.started || outer.stopped || view.cpuWalk.rootLevel === 0) return;
    const reached = outer.nodes.some((node) => node.kind === 'entry');
    const isPageFault = kind === Obs.EXCEPTION && vectorOf(row) === 14;
    if (!reached || (kind !== Obs.TRANSLATED && !isPageFault)) return;
    const checks = withVerdict(rightsChecks(outer, this.asked, this.mode), isPageFault, (row.valueLo & 0x20) !== 0);
    this.checks = checks;
    if (isPageFault)
      this.checks = [...checks, errorCodeCheck(row.valueLo, expectedCode(checks, this.asked, this.mode))];
  }
}

/** The mode of a walk in words: `4-level under EPT`. */
function modeText(view: HardwareView): string {
  const { cpuWalk, tdpWalk } = view;
  const levels = cpuWalk.rootLevel;
  const own = levels === 0 ? 'no paging' : levels === 3 ? 'PAE' : levels === 2 ? '32-bit' : `${levels}-level`;
  const whose = view.sptes === 'first' ? `${own} tables of ${view.first}` : own;
  if (tdpWalk === null) return whose;
  const stage = tdpWalk.ept ? 'EPT' : 'NPT';
  return `${whose} under ${stage}${view.sptes === 'second' ? ` that ${view.second} built` : ''}`;
}

/** The walks that `rows` tell of; one, or two of an emulator's read-modify-write. */
export function hardwareWalks(
  rows: readonly Row[],
  view: HardwareView,
  op: number,
  lo: number,
  hi: number,
  title: string,
  isServed: boolean,
): ExplainedWalk[] {
  const asked = askedOf(op);
  const reader = new TreeReader(view, asked);
  reader.read(rows);
  const common = {
    by: 'processor' as const,
    title,
    address: hexText(lo, hi),
    access: askedText(asked),
    mode: modeText(view),
  };
  const earlier = reader.done.map(({ nodes }) => ({
    ...common,
    title: `${title}: the read`,
    nodes,
    checks: [],
    outcome: 'translated' as const,
    result: '',
  }));
  const last: ExplainedWalk = {
    ...common,
    nodes: reader.outer.nodes,
    checks: reader.checks,
    outcome: isServed ? 'served' : reader.outcome,
    result: reader.result,
  };
  return [...earlier, last];
}
