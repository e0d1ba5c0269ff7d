/**
 * Where a nested random program plays: L1 with tables of its own, EPT or NPT in its memory, and L2 with its tables; or a
 * hypervisor without nested paging, whose L2 has tables in L1's memory as it is.
 */

import { Obs, obsMask } from '../formats/observation.ts';
import {
  EPTP_AD,
  GuestMode,
  NESTED_GMET,
  NESTED_NP_ENABLE,
  SECONDARY_EPT,
  SECONDARY_MBEC,
  SECONDARY_PML,
  SECONDARY_UNRESTRICTED,
  SECONDARY_VMFUNC,
  SECONDARY_VPID,
} from '../formats/registers.ts';
import type { TraceHeader } from '../trace/header.ts';
import type { Nesting, Paging } from './program.ts';
import type { Random } from './random.ts';
import { addressOf, hostOf, indicesAt, makeScene, ROOT_LEVEL, type Scene, SLOTS, type Table } from './scene.ts';
import { blocksOf, HOME_OF_L2, reachOf, type SecondStage, type SecondTable } from './second-stage.ts';

export interface NestedScene {
  readonly l1: Scene;
  readonly l2: Scene;
  readonly second: SecondStage | null;
  /** One of `GuestMode`: VMX or SVM. */
  readonly mode: number;
  /** SECONDARY_CONTROLS, or NESTED_CONTROL, when L2 runs; VPIDs come and go. */
  readonly controls: number;
  readonly vpids: boolean;
  /** TLB_CONTROL 3 and 7 exist. */
  readonly flushByAsid: boolean;
  /** EPTPs that VMFUNC may switch to, at `eptpList`; or the roots of NPT. */
  readonly roots: readonly number[];
  /** Frame of the list of EPTPs, 0: none. */
  readonly eptpList: number;
  /** Frame of L1's page-modification log, 0: none. */
  readonly log: number;
  /** Only KVMs of profile 7.3 offer this to L1. */
  readonly recent: boolean;
  readonly header: TraceHeader;
}

/** Of L2's tables: guest-physical, or, without nested paging, in L1's memory. */
const L2_TABLES = 0x10;
const L2_DATA = [0x40, 0x41, 0x42, 0x43, 0x200, 0x201, 0xc00, 0x2c00] as const;
const SECOND_TABLES = 0x80;
const EPTP_LIST_FRAME = 0xc0;
const LOG_FRAME = 0xc1;
const EPTP_WB = 6;

// IA32_VMX_EPT_VPID_CAP (SDM vol. 3D A.10).
const CAP_EXECUTE_ONLY = 1 << 0;
/** Walks of 4 and 5 levels, UC and WB, pages of 2 MiB and 1 GiB, INVEPT of both types. */
const CAP_COMMON = (1 << 6) | (1 << 7) | (1 << 8) | (1 << 14) | (1 << 16) | (1 << 17) | (1 << 20) | (3 << 25);
const CAP_AD = 1 << 21;
const CAP_ADVANCED_INFO = 1 << 22;
/** INVVPID, all types. */
const CAP_INVVPID_HI = 1 | (0xf << 8);

interface Choices {
  readonly nested: Exclude<Nesting, 'no'>;
  /** Of a hypervisor without nested paging. */
  readonly vendor: 'amd' | 'intel';
  readonly paging: Paging;
  readonly title: string;
}

export function makeNestedScene(random: Random, { nested, vendor, paging, title }: Choices): NestedScene {
  const intel = nested === 'ept' || (nested === 'none' && vendor === 'intel');
  const l1 = makeScene(random, paging, title);
  const l2Paging = random.weighted<Paging>([
    [l1.rootLevel >= 4 || !intel ? 45 : 0, '4-level'],
    [l1.rootLevel >= 4 || !intel ? 15 : 0, '5-level'],
    [20, 'pae'],
    [20, '32-bit'],
  ]);
  const recent = random.chance(0.3);
  const ad = nested === 'ept' && random.chance(0.6);
  const executeOnly = random.chance(0.7);
  const mbec = nested === 'ept' && recent && random.chance(0.6);
  const gmet = nested === 'npt' && recent && random.chance(0.5);
  const pml = ad && random.chance(0.4);
  const vmfunc = nested === 'ept' && random.chance(0.5);
  const vpids = intel && random.chance(0.8);
  const header = headerOf(random, l1, { intel, l2Paging, ad, executeOnly, mbec, nested: nested !== 'none', recent });
  const { maxphyaddr } = header.processor;
  const keys = l1.keys && ROOT_LEVEL[l2Paging] >= 4;
  const l2 = l2Of(random, l1, header, { paging: l2Paging, keys, second: nested !== 'none' });
  const second =
    nested === 'none' ? null : secondOf(random, l1, l2, { ept: nested === 'ept', ad, mbec, executeOnly, maxphyaddr });
  const l2Homes = [...l2.tables.map(({ frame }) => frame), ...l2.dataFrames].map((frame) => frame + l2.home);
  const l1Frames = [...l2Homes, ...(second?.tables.map(({ frame }) => frame) ?? [])];
  const controls = intel
    ? (second === null ? 0 : SECONDARY_EPT | SECONDARY_UNRESTRICTED) |
      (mbec ? SECONDARY_MBEC : 0) |
      (pml ? SECONDARY_PML : 0) |
      (vmfunc ? SECONDARY_VMFUNC : 0) |
      (vpids ? SECONDARY_VPID : 0)
    : (second === null ? 0 : NESTED_NP_ENABLE) | (gmet ? NESTED_GMET : 0);
  return {
    l1: { ...l1, header, maxphyaddr, slots: SLOTS, otherFrames: l1Frames, soundPdptes: true },
    l2,
    second,
    mode: intel ? GuestMode.VMX : GuestMode.SVM,
    controls,
    vpids,
    flushByAsid: recent && random.chance(0.7),
    roots: rootsOf(second),
    eptpList: vmfunc ? EPTP_LIST_FRAME : 0,
    log: pml ? LOG_FRAME : 0,
    recent,
    header,
  };
}

/** EPTPs, or addresses for nCR3, below 4 GiB. */
function rootsOf(second: SecondStage | null): number[] {
  if (second === null) return [];
  const { ept, rootLevel, ad } = second;
  const bits = ept ? EPTP_WB | ((rootLevel - 1) << 3) | (ad ? EPTP_AD : 0) : 0;
  return second.tables.filter(({ level }) => level === rootLevel).map(({ frame }) => (frame << 12) | bits);
}

interface HeaderChoices {
  readonly intel: boolean;
  readonly l2Paging: Paging;
  readonly ad: boolean;
  readonly executeOnly: boolean;
  /** Goes with the rights of the guest's entries in qualifications: without them KVM cannot tell whose fetch it was. */
  readonly mbec: boolean;
  readonly nested: boolean;
  readonly recent: boolean;
}

function headerOf(random: Random, { header, rootLevel, paging }: Scene, choices: HeaderChoices): TraceHeader {
  const { intel, l2Paging, ad, executeOnly, mbec, nested, recent } = choices;
  const vendor = intel ? 'intel' : 'amd';
  const legacy = paging === '32-bit' || l2Paging === '32-bit';
  const features = new Set([...header.processor.features, intel ? 'vmx' : 'svm']);
  if (legacy) features.add('pse36');
  if (l2Paging === '5-level') features.add('la57');
  const deep = rootLevel === 5 || l2Paging === '5-level';
  const mmu = hostOf(random, vendor, deep ? 5 : 4);
  const cap =
    CAP_COMMON |
    (executeOnly ? CAP_EXECUTE_ONLY : 0) |
    (ad ? CAP_AD : 0) |
    (mbec || (recent && random.chance(0.3)) ? CAP_ADVANCED_INFO : 0);
  return {
    ...header,
    processor: {
      ...header.processor,
      vendor,
      maxphyaddr: legacy ? 36 : header.processor.maxphyaddr,
      features: [...features],
      eptVpidCap: intel ? { lo: nested ? cap : 0, hi: CAP_INVVPID_HI } : { lo: 0, hi: 0 },
    },
    observable: obsMask(Obs.TRANSLATED, Obs.EXCEPTION, Obs.EPT_VIOLATION, Obs.EPT_MISCONFIG, Obs.NPF, Obs.PML_FULL),
    hypervisor: {
      name: 'none: a random host',
      version: '',
      tdp: true,
      parameters: [],
      mmu: {
        ...mmu,
        profile: recent ? '7.3' : mmu.profile,
        hostMaxphyaddr: Math.max(mmu.hostMaxphyaddr, 40),
        // EPT of five levels is shadowed by tables of five levels.
        tdpLevel: intel ? 5 : mmu.tdpLevel,
        eptAd: mmu.eptAd || ad,
      },
    },
  };
}

interface L2Choices {
  readonly paging: Paging;
  readonly keys: boolean;
  /** There is a second stage: guest-physical addresses are L2's own. */
  readonly second: boolean;
}

function l2Of(random: Random, l1: Scene, header: TraceHeader, { paging, keys, second }: L2Choices): Scene {
  const rootLevel = ROOT_LEVEL[paging];
  const first = second ? L2_TABLES : HOME_OF_L2 + L2_TABLES;
  const tables: Table[] = [];
  for (let level = rootLevel; level >= 1; level--) {
    const count = level === rootLevel ? random.between(1, 3) : random.between(1, level <= 2 ? 3 : 2);
    for (let i = 0; i < count; i++) tables.push({ frame: first + tables.length, level });
  }
  return {
    paging,
    rootLevel,
    entryBytes: rootLevel === 2 ? 4 : 8,
    tables,
    rootOffset: rootLevel === 3 ? 0x20 * random.below(3) : 0,
    indices: [[], ...Array.from({ length: rootLevel }, (_, i) => indicesAt(random, i + 1, rootLevel))],
    dataFrames: second ? L2_DATA : [...L2_DATA.map((frame) => frame + HOME_OF_L2), ...l1.dataFrames.slice(0, 4)],
    home: second ? HOME_OF_L2 : 0,
    otherFrames: [],
    soundPdptes: !second,
    slots: [],
    maxphyaddr: header.processor.maxphyaddr,
    keys,
    header,
  };
}

interface SecondChoices {
  readonly ept: boolean;
  readonly ad: boolean;
  readonly mbec: boolean;
  readonly executeOnly: boolean;
  readonly maxphyaddr: number;
}

function secondOf(random: Random, l1: Scene, l2: Scene, choices: SecondChoices): SecondStage {
  const rootLevel = choices.ept ? random.pick([4, 4, 5]) : l1.rootLevel;
  const entryBytes = rootLevel === 2 ? 4 : 8;
  const tableFrames = l2.tables.map(({ frame }) => frame);
  const reach = reachOf({ entryBytes });
  const tables: SecondTable[] = [];
  const add = (level: number, count: number, block = 0): void => {
    for (let i = 0; i < count; i++) tables.push({ frame: SECOND_TABLES + tables.length, level, block });
  };
  add(rootLevel, random.between(2, 3));
  for (let level = rootLevel - 1; level >= 2; level--) add(level, random.between(1, 2));
  for (const block of blocksOf([...tableFrames, ...l2.dataFrames], reach)) {
    add(1, block === 0 ? random.between(1, 3) : random.between(1, 2), block);
  }
  const own = tables.map(({ frame }) => frame);
  return {
    ...choices,
    rootLevel,
    entryBytes,
    tables,
    tableFrames,
    dataFrames: l2.dataFrames,
    pdptFrames: l2.rootLevel === 3 ? l2.tables.filter(({ level }) => level === 3).map(({ frame }) => frame) : [],
    foreignFrames: [...l1.dataFrames, ...own.slice(0, 2), l1.tables[0]!.frame, tableFrames.at(-1)! + HOME_OF_L2],
  };
}

/** The address of a frame, as a register holds it. */
export function frameAddress(frame: number): number {
  return addressOf(frame).lo;
}
