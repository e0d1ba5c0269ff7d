/**
 * How fast the emulated KVM is: a 4-level guest of 64 MiB in 4 KiB pages, on each of KVM's three ways to build tables.
 * Faults that build tables, accesses that walk what was built, and edits of guest entries with their invalidation.
 */

import { word64 } from '../bits/word64.ts';
import { defaultKvmConfig } from '../formats/kvm-config.ts';
import { CR0_PG, CR0_WP, CR4_PAE, EFER_LMA, EFER_LME, EFER_NXE, Reg } from '../formats/registers.ts';
import {
  ACCESS_CPL_SHIFT,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  ACCESS_WALKED,
  AccessType,
  INVALIDATION_SHIFT,
  Invalidation,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../formats/step.ts';
import { KvmMachine } from '../machine/kvm/machine.ts';
import { FORMAT_VERSION, type TraceHeader } from '../trace/header.ts';
import { xorshift } from './tables.ts';

const PAGES = 1 << 14;
const ROOT = 0x1_0000;
const WALKS = 1 << 17;
const EDITS = 1 << 14;

/** Guest entries: present, writable, user, accessed, dirty. */
const TABLE = 0x27;
const LEAF = 0x67;

export const KVM_WAYS = [
  { name: 'EPT, TDP MMU', config: defaultKvmConfig({ vendor: 'intel', tdp: true, tdpMmu: true }) },
  { name: 'EPT, legacy direct MMU', config: defaultKvmConfig({ vendor: 'intel', tdp: true, tdpMmu: false }) },
  { name: 'shadow paging', config: defaultKvmConfig({ vendor: 'intel', tdp: false, tdpMmu: false }) },
] as const;

export interface KvmFigures {
  readonly way: string;
  /** Accesses per second that fault, have tables built, and are made again. */
  readonly faults: number;
  /** Accesses per second that walk the tables that KVM built, no TLB. */
  readonly walks: number;
  /** Steps per second of: store into a guest entry, INVLPG, access. */
  readonly edits: number;
  /** Host memory pages that guest and tables take, 4 KiB each. */
  readonly pages: number;
  readonly peakMemory: number;
}

function header(): TraceHeader {
  return {
    formatVersion: FORMAT_VERSION,
    featureFlags: 0,
    recorder: '',
    writer: '',
    title: 'KVM benchmark',
    processor: {
      vendor: 'intel',
      model: '',
      maxphyaddr: 40,
      features: ['pse36', 'pdpe1gb', 'nx'],
      eptVpidCap: word64(0),
      secondaryControlsAllowed: 0,
    },
    adPolicy: 'after-permissions',
    observable: 0,
    independent: false,
    sources: [],
    knownFaults: [],
    hypervisor: undefined,
    omissions: [],
  };
}

/** Entry of the level-1 table that maps linear page `n`: the tables lie one behind the other. */
function leafEntry(page: number): number {
  return (ROOT + 4 + (page >>> 9)) * 4096 + (page & 511) * 8;
}

function guest(config: (typeof KVM_WAYS)[number]['config']): KvmMachine {
  const machine = new KvmMachine(header(), config);
  const store = (address: number, value: number): void => {
    machine.host.store(
      address | 0,
      Math.floor(address / 0x1_0000_0000),
      value | 0,
      Math.floor(value / 0x1_0000_0000),
      8,
    );
  };
  store(ROOT * 4096, (ROOT + 1) * 4096 + TABLE);
  store((ROOT + 1) * 4096, (ROOT + 2) * 4096 + TABLE);
  for (let i = 0; i < PAGES >>> 9; i++) store((ROOT + 2) * 4096 + 8 * i, (ROOT + 4 + i) * 4096 + TABLE);
  for (let page = 0; page < PAGES; page++) store(leafEntry(page), page * 4096 + LEAF);
  machine.setRegister(Reg.CR0, (CR0_PG | CR0_WP | 1) >>> 0, 0);
  machine.setRegister(Reg.CR4, CR4_PAE, 0);
  machine.setRegister(Reg.EFER, EFER_LME | EFER_LMA | EFER_NXE, 0);
  machine.setRegister(Reg.CR3, ROOT * 4096, 0);
  return machine;
}

const READ = StepKind.ACCESS | ACCESS_USER | (3 << ACCESS_CPL_SHIFT) | (AccessType.READ << ACCESS_TYPE_SHIFT);
const WRITE = StepKind.ACCESS | ACCESS_USER | (3 << ACCESS_CPL_SHIFT) | (AccessType.WRITE << ACCESS_TYPE_SHIFT);
const INVLPG = StepKind.INVALIDATE | (Invalidation.INVLPG << INVALIDATION_SHIFT);
const STORE_8 = StepKind.STORE | (8 << STORE_SIZE_SHIFT);

function perSecond(count: number, run: () => void): number {
  const start = performance.now();
  run();
  return (count / (performance.now() - start)) * 1000;
}

/** One round for one way of building tables. */
function round(config: (typeof KVM_WAYS)[number]['config']): Omit<KvmFigures, 'way' | 'peakMemory'> {
  const machine = guest(config);
  const random = xorshift(0x2545_f491);
  let ordinal = 0;
  const faults = perSecond(PAGES, () => {
    for (let page = 0; page < PAGES; page++) machine.apply(ordinal++, WRITE, page << 12, 0, 0, 0, []);
  });
  const walks = perSecond(WALKS, () => {
    for (let i = 0; i < WALKS; i++) {
      machine.apply(ordinal++, READ | ACCESS_WALKED, (random() % PAGES) << 12, 0, 0, 0, []);
    }
  });
  const edits = perSecond(3 * EDITS, () => {
    for (let i = 0; i < EDITS; i++) {
      const page = random() % PAGES;
      const target = random() % PAGES;
      machine.apply(ordinal++, STORE_8, leafEntry(page) | 0, 0, (target << 12) | LEAF, 0, []);
      machine.apply(ordinal++, INVLPG, page << 12, 0, 0, 0, []);
      machine.apply(ordinal++, READ, page << 12, 0, 0, 0, []);
    }
  });
  return { faults, walks, edits, pages: machine.host.memory.words.length / 1024 };
}

/** The best of some rounds for each way. */
export function measureKvm(rounds: number): KvmFigures[] {
  return KVM_WAYS.map(({ name, config }) => {
    const runs = Array.from({ length: rounds }, () => round(config));
    const most = (of: (run: (typeof runs)[number]) => number): number => Math.max(...runs.map(of));
    return {
      way: name,
      faults: most((run) => run.faults),
      walks: most((run) => run.walks),
      edits: most((run) => run.edits),
      pages: most((run) => run.pages),
      peakMemory: process.resourceUsage().maxRSS * 1024,
    };
  });
}
