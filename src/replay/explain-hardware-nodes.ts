/** Nodes of the processor's walks: what each row that a walk left says by itself, before rights and outcome are judged. */

import { hexText } from '../bits/word64.ts';
import { decodeEptEntry } from '../formats/decode/ept.ts';
import { decodeSpte } from '../formats/decode/kvm-spte.ts';
import { decodePageTableEntry, entryName, type PagingMode } from '../formats/decode/page-table-entry.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import { Dim, OBS_NESTED_OF_TABLE, observationDim, observationLevel } from '../formats/observation.ts';
import { CR0_PG, CR4_LA57, CR4_PAE, EFER_LMA, EFER_LME, Reg } from '../formats/registers.ts';
import type { PageWalk } from '../paging/page-walk.ts';
import type { EptMode } from './explain-rules.ts';
import type { ContextName, ExplainedCheck, WalkNode } from './explanation.ts';
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

function pagingMode(registers: Uint32Array): PagingMode | undefined {
  const low = (register: number): number => registers[2 * register]!;
  if ((low(Reg.CR0) & CR0_PG) === 0) return undefined;
  if ((low(Reg.CR4) & CR4_PAE) === 0) return '32-bit';
  if ((low(Reg.EFER) & (EFER_LMA | EFER_LME)) === 0) return 'pae';
  return (low(Reg.CR4) & CR4_LA57) !== 0 ? '5-level' : '4-level';
}

/** What a stage's walk starts from. */
export function registerNode(name: string, context: ContextName, value: string): WalkNode {
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

/** One of PAE's four, which are registers of the processor where nothing virtualises them. */
export function pdpteNode(row: Row, { first, vendor, maxphyaddr }: HardwareView): WalkNode {
  const value = hexText(row.valueLo, row.valueHi);
  const decoded = decodePageTableEntry({ lo: row.valueLo, hi: row.valueHi }, 3, {
    paging: 'pae',
    vendor,
    maxphyaddr,
  });
  const present = (row.valueLo & 1) !== 0;
  return {
    ...registerNode(`PDPTE${observationLevel(row.op)} register`, first, value),
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

/** What a node of an entry has besides what its row says. */
export interface Judged {
  readonly checks: readonly ExplainedCheck[];
  /** Accumulated so far; empty where the entry stopped the walk. */
  readonly rights: string;
  /** Name of the check that stopped the walk here. */
  readonly stopped: string | undefined;
}

/** An entry of CR3's tables. `translated`: the row of the second stage's walk that its address went through. */
export function firstEntryNode(
  row: Row,
  view: HardwareView,
  { checks, rights, stopped }: Judged,
  translated: Row | null,
  inner: WalkNode[],
): WalkNode {
  const level = observationLevel(row.op);
  const isSpte = view.sptes === 'first';
  return {
    kind: 'entry',
    context: view.first,
    name: isSpte ? `SPTE level ${level}` : entryName(level),
    level,
    address: hexText(row.addressLo, row.addressHi),
    gpa: translated === null ? '' : hexText(translated.addressLo, translated.addressHi),
    value: hexText(row.valueLo, row.valueHi),
    decoded: isSpte
      ? spteText(row, level, view)
      : decodePageTableEntry({ lo: row.valueLo, hi: row.valueHi }, level, {
          paging: pagingMode(view.registers),
          vendor: view.vendor,
          maxphyaddr: view.maxphyaddr,
          pse: view.cpuWalk.pse,
        }).short,
    rights,
    checks,
    ...(stopped === undefined ? {} : { stopped }),
    inner,
  };
}

/** An entry of the second stage's tables. */
export function secondEntryNode(
  row: Row,
  view: HardwareView,
  mode: EptMode,
  { checks, rights, stopped }: Judged,
): WalkNode {
  const level = observationLevel(row.op);
  const ept = observationDim(row.op) === Dim.EPT;
  const word = { lo: row.valueLo, hi: row.valueHi };
  const isSpte = view.sptes === 'second';
  const { maxphyaddr } = view;
  return {
    kind: 'entry',
    context: view.second,
    name: isSpte ? `SPTE level ${level}` : `${ept ? 'EPT' : 'NPT'} ${entryName(level)}`,
    level,
    address: hexText(row.addressLo, row.addressHi),
    gpa: '',
    value: hexText(row.valueLo, row.valueHi),
    decoded: isSpte
      ? spteText(row, level, view)
      : ept
        ? decodeEptEntry(word, level, { mbec: mode.mbec, accessedDirty: mode.ad, maxphyaddr }).short
        : decodePageTableEntry(word, level, { vendor: view.vendor, maxphyaddr }).short,
    rights,
    checks,
    ...(stopped === undefined ? {} : { stopped }),
    inner: [],
  };
}

function spteText(row: Row, level: number, { config }: HardwareView): string {
  if (config === undefined) return '';
  const ept = config.vendor === 'intel' && config.tdp;
  return decodeSpte({ lo: row.valueLo, hi: row.valueHi }, { profile: config.profile, ept, level }).short;
}

/** An address that the second stage translated and that is no entry that was read. `start`: the row its walk began with. */
export function addressNode(start: Row | null, context: ContextName, inner: WalkNode[]): WalkNode {
  const ofTable = start !== null && (start.op & OBS_NESTED_OF_TABLE) !== 0;
  const gpa = start === null ? '' : hexText(start.addressLo, start.addressHi);
  const stopped = inner.find((node) => node.stopped !== undefined)?.stopped;
  return {
    kind: 'address',
    context,
    name: ofTable ? 'table entry' : 'final address',
    level: 0,
    address: gpa,
    gpa,
    value: '',
    decoded: ofTable ? "an entry of the guest's tables" : 'where the access goes',
    rights: '',
    checks: [],
    ...(stopped === undefined ? {} : { stopped }),
    inner,
  };
}

/** A and D bits that the walk set. */
export function writeNode(row: Row, view: HardwareView): WalkNode {
  const dim = observationDim(row.op);
  const level = observationLevel(row.op);
  return {
    kind: 'write',
    context: dim === Dim.GUEST ? view.first : view.second,
    name: `${dim === Dim.GUEST ? '' : dim === Dim.EPT ? 'EPT ' : 'NPT '}${entryName(level)}`,
    level,
    address: hexText(row.addressLo, row.addressHi),
    gpa: '',
    value: hexText(row.valueLo, row.valueHi),
    decoded: 'accessed or dirty set',
    rights: '',
    checks: [],
    inner: [],
  };
}
