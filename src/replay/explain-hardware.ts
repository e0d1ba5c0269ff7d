/**
 * The processor's walks of a step as trees, out of the rows that they left: one read after the other, the second stage's reads
 * before the entry whose address they translate, rights accumulated on the way down, each rule judged.
 */

import { hexText } from '../bits/word64.ts';
import { decodeEptEntry } from '../formats/decode/ept.ts';
import { decodePfec, decodeQualification } from '../formats/decode/fault.ts';
import { decodeSpte } from '../formats/decode/kvm-spte.ts';
import { decodePageTableEntry, entryName, type PagingMode, pageSizeName } from '../formats/decode/page-table-entry.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import {
  Dim,
  OBS_KIND_MASK,
  OBS_NESTED_ACCESS_MASK,
  OBS_NESTED_ACCESS_SHIFT,
  OBS_NESTED_OF_TABLE,
  OBS_NESTED_USER,
  OBS_PAGE_SHIFT_MASK,
  OBS_PAGE_SHIFT_SHIFT,
  OBS_VECTOR_MASK,
  OBS_VECTOR_SHIFT,
  Obs,
  observationDim,
  observationLevel,
} from '../formats/observation.ts';
import { CR0_PG, CR4_LA57, CR4_PAE, EFER_LMA, EFER_LME, Reg } from '../formats/registers.ts';
import {
  ACCESS_AC,
  ACCESS_CPL_MASK,
  ACCESS_CPL_SHIFT,
  ACCESS_SHADOW_STACK,
  ACCESS_TYPE_MASK,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  AccessType,
} from '../formats/step.ts';
import type { PageWalk } from '../paging/page-walk.ts';
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
import type { ContextName, ExplainedCheck, ExplainedWalk, WalkNode } from './explanation.ts';
import type { Row } from './result.ts';

/** What the rows of a processor's walk are to be read by. */
export interface HardwareView {
  readonly cpuWalk: PageWalk;
  readonly tdpWalk: PageWalk | null;
  /** Of the processor, 2 elements each. */
  readonly registers: Uint32Array;
  readonly maxphyaddr: number;
  readonly vendor: 'intel' | 'amd' | undefined;
  readonly executeOnly: boolean;
  /** Whose the tables are that CR3 and the second stage's root lead to. */
  readonly first: ContextName;
  readonly second: ContextName;
  /** Set where the tables of a stage hold SPTEs of an emulated KVM. */
  readonly sptes: 'first' | 'second' | undefined;
  readonly config: KvmConfig | undefined;
}

/** What an ACCESS or GPA_ACCESS step asks for. */
export function askedOf(op: number): Asked {
  const type = (op >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK;
  const user = (op & ACCESS_USER) !== 0;
  return {
    write: type === AccessType.WRITE || type === AccessType.RMW,
    fetch: type === AccessType.FETCH,
    user,
    implicit: !user && ((op >>> ACCESS_CPL_SHIFT) & ACCESS_CPL_MASK) === 3,
    ac: (op & ACCESS_AC) !== 0,
    shadowStack: (op & ACCESS_SHADOW_STACK) !== 0,
  };
}

export function pagingMode(registers: Uint32Array): PagingMode | undefined {
  const low = (register: number): number => registers[2 * register]!;
  if ((low(Reg.CR0) & CR0_PG) === 0) return undefined;
  if ((low(Reg.CR4) & CR4_PAE) === 0) return '32-bit';
  if ((low(Reg.EFER) & (EFER_LMA | EFER_LME)) === 0) return 'pae';
  return (low(Reg.CR4) & CR4_LA57) !== 0 ? '5-level' : '4-level';
}

type Writable<T> = { -readonly [Key in keyof T]: T[Key] };

function kindOf(row: Row): number {
  return row.op & OBS_KIND_MASK;
}

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
          this.outer.nodes.push(this.registerNode(row));
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
        this.outer.nodes.push(register(view.sptes === 'first' ? 'root' : 'CR3', view.first, root));
      }
    }
  }

  private registerNode(row: Row): WalkNode {
    const value = hexText(row.valueLo, row.valueHi);
    const { vendor, maxphyaddr } = this.view;
    const decoded = decodePageTableEntry({ lo: row.valueLo, hi: row.valueHi }, 3, {
      paging: 'pae',
      vendor,
      maxphyaddr,
    });
    const present = (row.valueLo & 1) !== 0;
    if (!present) this.outer.stopped = true;
    return {
      ...register(`PDPTE${observationLevel(row.op)} register`, this.view.first, value),
      decoded: decoded.short,
      level: 3,
      checks: [
        {
          name: 'present',
          rule: 'P must be 1',
          citation: 'SDM vol. 3A 4.4.1',
          outcome: present ? 'pass' : 'fail',
          detail: '',
        },
      ],
      ...(present ? {} : { stopped: 'present' }),
    };
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
    const paging = isSpte ? undefined : pagingMode(view.registers);
    const gpa = this.pendingGpa === null ? '' : hexText(this.pendingGpa.addressLo, this.pendingGpa.addressHi);
    outer.nodes.push({
      kind: 'entry',
      context: view.first,
      name: isSpte ? `SPTE level ${level}` : entryName(level),
      level,
      address: hexText(row.addressLo, row.addressHi),
      gpa,
      value: hexText(row.valueLo, row.valueHi),
      decoded: isSpte
        ? this.spteText(row, level)
        : decodePageTableEntry({ lo: row.valueLo, hi: row.valueHi }, level, {
            paging,
            vendor: view.vendor,
            maxphyaddr: view.maxphyaddr,
            pse: view.cpuWalk.pse,
          }).short,
      rights: stopped === undefined ? rightsText(outer.allLo, outer.anyHi) : '',
      checks,
      ...(stopped === undefined ? {} : { stopped: stopped.name }),
      inner: this.pending,
    });
    if (stopped !== undefined) outer.stopped = true;
    this.pending = [];
    this.pendingGpa = null;
  }

  private spteText(row: Row, level: number): string {
    const { config } = this.view;
    if (config === undefined) return '';
    const ept = config.vendor === 'intel' && config.tdp;
    return decodeSpte({ lo: row.valueLo, hi: row.valueHi }, { profile: config.profile, ept, level }).short;
  }

  private innerEntry(row: Row): void {
    const { view } = this;
    this.inner ??= newStage();
    const { inner } = this;
    if (!inner.started) {
      inner.started = true;
      const { tdpWalk } = view;
      const name = view.sptes === 'second' ? 'root' : observationDim(row.op) === Dim.EPT ? 'EPTP' : 'nCR3';
      if (tdpWalk !== null) inner.nodes.push(register(name, view.second, hexText(tdpWalk.rootLo, tdpWalk.rootHi)));
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
    const word = { lo: row.valueLo, hi: row.valueHi };
    const stage = ept ? 'EPT' : 'NPT';
    const isSpte = view.sptes === 'second';
    const decoded = isSpte
      ? this.spteText(row, level)
      : ept
        ? decodeEptEntry(word, level, {
            mbec: this.eptMode.mbec,
            accessedDirty: this.eptMode.ad,
            maxphyaddr: view.maxphyaddr,
          }).short
        : decodePageTableEntry(word, level, { vendor: view.vendor, maxphyaddr: view.maxphyaddr }).short;
    inner.nodes.push({
      kind: 'entry',
      context: view.second,
      name: isSpte ? `SPTE level ${level}` : `${stage} ${entryName(level)}`,
      level,
      address: hexText(row.addressLo, row.addressHi),
      gpa: '',
      value: hexText(row.valueLo, row.valueHi),
      decoded,
      rights:
        stopped !== undefined
          ? ''
          : ept
            ? eptRightsText(inner.allLo, this.eptMode.mbec)
            : rightsText(inner.allLo, inner.anyHi),
      checks,
      ...(stopped === undefined ? {} : { stopped: stopped.name }),
      inner: [],
    });
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
    const start = this.pendingGpa;
    const ofTable = start !== null && (start.op & OBS_NESTED_OF_TABLE) !== 0;
    const gpa = start === null ? '' : hexText(start.addressLo, start.addressHi);
    const stopped = this.pending.find((node) => node.stopped !== undefined)?.stopped;
    this.outer.nodes.push({
      kind: 'address',
      context: this.view.first,
      name: ofTable ? 'table entry' : 'final address',
      level: 0,
      address: gpa,
      gpa,
      value: '',
      decoded: ofTable ? "an entry of the guest's tables" : 'where the access goes',
      rights: '',
      checks: [],
      ...(stopped === undefined ? {} : { stopped }),
      inner: this.pending,
    });
    this.pending = [];
    this.pendingGpa = null;
  }

  private write(row: Row): void {
    this.closeInner();
    const guest = observationDim(row.op) === Dim.GUEST;
    const level = observationLevel(row.op);
    const node: WalkNode = {
      kind: 'write',
      context: guest ? this.view.first : this.view.second,
      name: `${guest ? '' : observationDim(row.op) === Dim.EPT ? 'EPT ' : 'NPT '}${entryName(level)}`,
      level,
      address: hexText(row.addressLo, row.addressHi),
      gpa: '',
      value: hexText(row.valueLo, row.valueHi),
      decoded: 'accessed or dirty set',
      rights: '',
      checks: [],
      inner: [],
    };
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
    const vector = (row.op >>> OBS_VECTOR_SHIFT) & OBS_VECTOR_MASK;
    const isPageFault = kind === Obs.EXCEPTION && vector === 14;
    if (!reached || (kind !== Obs.TRANSLATED && !isPageFault)) return;
    const checks = withVerdict(rightsChecks(outer, this.asked, this.mode), isPageFault, (row.valueLo & 0x20) !== 0);
    this.checks = checks;
    if (isPageFault)
      this.checks = [...checks, errorCodeCheck(row.valueLo, expectedCode(checks, this.asked, this.mode))];
  }
}

/** What ends an access besides entries and rights. */
function specialCheck(row: Row): ExplainedCheck | undefined {
  const failed = { outcome: 'fail' as const };
  const vector = (row.op >>> OBS_VECTOR_SHIFT) & OBS_VECTOR_MASK;
  if (kindOf(row) === Obs.PML_FULL) {
    const rule = 'a page that becomes dirty needs room in the page-modification log';
    return { name: 'log', rule, citation: 'SDM vol. 3C 29.3.6', ...failed, detail: 'the index is beyond 511' };
  }
  if (kindOf(row) !== Obs.EXCEPTION || (vector !== 12 && vector !== 13)) return undefined;
  const rule = 'the linear address must be canonical';
  return {
    name: 'canonical',
    rule,
    citation: 'SDM vol. 1 3.3.7.1',
    ...failed,
    detail: 'its upper bits are not all equal',
  };
}

/** The error code that rights which forbid come to. */
export function expectedCode(checks: readonly ExplainedCheck[], asked: Asked, mode: RightsMode): number {
  const key = checks.some(({ name, outcome }) => name === 'key' && outcome === 'fail');
  return 1 | askedCode(asked, mode) | (key ? 0x20 : 0);
}

/** W, U, F and SS of an error code. */
export function askedCode(asked: Asked, mode: RightsMode): number {
  const tellsFetch = mode.nxe || mode.smep;
  return (
    (asked.write ? 2 : 0) |
    (asked.user ? 4 : 0) |
    (asked.fetch && tellsFetch ? 0x10 : 0) |
    (asked.shadowStack ? 0x40 : 0)
  );
}

function register(name: string, context: ContextName, value: string): WalkNode {
  return {
    kind: 'register',
    context,
    name,
    level: 0,
    address: '',
    gpa: '',
    value,
    decoded: '',
    rights: '',
    checks: [],
    inner: [],
  };
}

function resultText(row: Row): string {
  const address = hexText(row.addressLo, row.addressHi);
  switch (kindOf(row)) {
    case Obs.TRANSLATED: {
      const size = pageSizeName((row.op >>> OBS_PAGE_SHIFT_SHIFT) & OBS_PAGE_SHIFT_MASK);
      const gpa = hexText(row.valueLo, row.valueHi);
      return `translated to ${address}${gpa === address ? '' : `, guest-physical ${gpa}`}, page of ${size}`;
    }
    case Obs.EXCEPTION: {
      const vector = (row.op >>> OBS_VECTOR_SHIFT) & OBS_VECTOR_MASK;
      if (vector !== 14) return `exception ${vector}`;
      return `#PF, error code 0x${row.valueLo.toString(16)} (${decodePfec({ lo: row.valueLo, hi: 0 }).short})`;
    }
    case Obs.EPT_VIOLATION:
      return `EPT violation at ${address}, qualification 0x${row.valueLo.toString(16)} (${decodeQualification({ lo: row.valueLo, hi: row.valueHi }).short})`;
    case Obs.EPT_MISCONFIG:
      return `EPT misconfiguration at ${address}`;
    case Obs.NPF:
      return `nested page fault at ${address}, EXITINFO1 ${hexText(row.valueLo, row.valueHi)}`;
    case Obs.PML_FULL:
      return `the page-modification log is full at ${address}`;
    case Obs.NOT_MODELLED:
      return 'the machine does not model what the access needs';
    default:
      return `observation ${kindOf(row)}`;
  }
}

/** The mode of a walk in words: `4-level under EPT`. */
export function modeText(view: HardwareView): string {
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
