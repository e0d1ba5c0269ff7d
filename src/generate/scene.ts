/**
 * Where a random program plays: guest memory with page tables in it, linear addresses worth having, and the hypervisor's
 * memslots. Everything is small, so that tables are shared and addresses meet again.
 */

import { defaultKvmConfig, type KvmConfig } from '../formats/kvm-config.ts';
import { Obs, obsMask } from '../formats/observation.ts';
import { FORMAT_VERSION, type TraceHeader } from '../trace/header.ts';
import type { Memslot } from '../trace/stimulus.ts';
import { WRITER } from '../trace/version.ts';
import type { Paging } from './program.ts';
import type { Random } from './random.ts';

export interface Table {
  /** Guest frame. */
  readonly frame: number;
  /** Level that it is meant for: 1 page table … 5; 3 is PAE's table of PDPTEs. */
  readonly level: number;
}

/** A memslot, of which a program may make use. */
export interface SceneSlot {
  readonly slot: number;
  readonly frame: number;
  readonly pages: number;
  readonly readOnly: boolean;
  /** Page number of the host-virtual address. */
  readonly userspacePage: number;
}

export interface Scene {
  readonly paging: Paging;
  readonly rootLevel: number;
  readonly entryBytes: 4 | 8;
  readonly tables: readonly Table[];
  /** Of CR3: byte offset within the root table's page (PAE only). */
  readonly rootOffset: number;
  /** Indices used at a level; [0] is unused. */
  readonly indices: readonly (readonly number[])[];
  /** Frames that pages are put into, tables not among them. */
  readonly dataFrames: readonly number[];
  /** Its frame f stands in frame f + `home` of L1's memory: not 0 for an L2 with tables in guest-physical addresses of its own. */
  readonly home: number;
  /** Further frames of L1's memory that the hypervisor's moves may have to do with. */
  readonly otherFrames: readonly number[];
  /** PDPTEs never have reserved bits: transitions load them, and must not fail. */
  readonly soundPdptes: boolean;
  /** Empty: one slot covers everything, and the trace says nothing of slots. */
  readonly slots: readonly SceneSlot[];
  readonly maxphyaddr: number;
  readonly keys: boolean;
  readonly header: TraceHeader;
}

export const ROOT_LEVEL: Readonly<Record<Paging, number>> = { '4-level': 4, '5-level': 5, pae: 3, '32-bit': 2 };
const FIRST_TABLE = 0x10;
/** Host-virtual page that the first slot begins at. */
const USERSPACE = 0x7_f000_0000;

/** In slot 0. */
const NEAR_FRAMES = [0x40, 0x41, 0x42, 0x43, 0x44, 0x47] as const;
/** In slots 1 and 2, and in none. */
const FAR_FRAMES = [0x400, 0x401, 0x600, 0x1000, 0x1001, 0x3000] as const;

export const SLOTS: readonly SceneSlot[] = [
  { slot: 0, frame: 0, pages: 0x400, readOnly: false, userspacePage: USERSPACE },
  { slot: 1, frame: 0x400, pages: 0x800, readOnly: false, userspacePage: USERSPACE + 0x400 },
  { slot: 2, frame: 0x1000, pages: 0x400, readOnly: true, userspacePage: USERSPACE + 0x1_0000 },
];

export function makeScene(random: Random, paging: Paging, title: string): Scene {
  const rootLevel = ROOT_LEVEL[paging];
  const tables: Table[] = [];
  for (let level = rootLevel; level >= 1; level--) {
    const count = level === rootLevel ? random.between(2, 5) : random.between(1, level <= 2 ? 4 : 3);
    for (let i = 0; i < count; i++) tables.push({ frame: FIRST_TABLE + tables.length, level });
  }
  const withSlots = random.chance(0.4);
  // KVM knows PSE-36 with 36 bits only, whatever MAXPHYADDR is (facts/kvm-mmu.md §4).
  const maxphyaddr = rootLevel === 2 ? 36 : random.pick([36, 40, 40, 40]);
  const vendor = random.chance(0.5) ? 'intel' : 'amd';
  const keys = rootLevel >= 4 && random.chance(0.15);
  const features = ['pse', 'pae', 'pge', 'nx', 'smep', 'smap', 'pcid', ...(keys ? ['pku'] : [])];
  if (random.chance(0.7)) features.push('pdpe1gb');
  // KVM always assumes PSE-36 (facts/kvm-mmu.md §4).
  if (rootLevel === 2 || random.chance(0.8)) features.push('pse36');
  if (rootLevel === 5) features.push('la57');
  const mmu = withSlots ? hostOf(random, vendor, rootLevel) : undefined;
  return {
    paging,
    rootLevel,
    entryBytes: rootLevel === 2 ? 4 : 8,
    tables,
    rootOffset: rootLevel === 3 ? 0x20 * random.below(3) : 0,
    indices: [[], ...Array.from({ length: rootLevel }, (_, i) => indicesAt(random, i + 1, rootLevel))],
    dataFrames: [...NEAR_FRAMES, ...FAR_FRAMES],
    home: 0,
    otherFrames: [],
    soundPdptes: false,
    slots: withSlots ? SLOTS : [],
    maxphyaddr,
    keys,
    header: {
      formatVersion: FORMAT_VERSION,
      featureFlags: 0,
      recorder: 'rewalk generate',
      writer: WRITER,
      title,
      processor: {
        vendor,
        model: 'random',
        maxphyaddr,
        features,
        eptVpidCap: { lo: 0, hi: 0 },
        secondaryControlsAllowed: 0,
      },
      adPolicy: 'after-permissions',
      observable: obsMask(Obs.TRANSLATED, Obs.EXCEPTION),
      independent: false,
      sources: [],
      knownFaults: [],
      hypervisor: mmu && { name: 'none: a random host', version: '', tdp: mmu.tdp, parameters: [], mmu },
      omissions: [],
    },
  };
}

export function hostOf(random: Random, vendor: 'intel' | 'amd', rootLevel: number): KvmConfig {
  return defaultKvmConfig({
    profile: random.pick(['6.1', '7.3']),
    vendor,
    tdpLevel: vendor === 'amd' ? random.pick(rootLevel === 5 ? [5] : [4, 5]) : 4,
    eptAd: random.chance(0.8),
    pml: vendor === 'intel' && random.chance(0.3),
    maxLevel: random.pick([1, 2, 3, 3]),
    nxHugePages: random.chance(0.25),
    mmioCaching: random.chance(0.9),
    eagerPageSplit: random.chance(0.5),
  });
}

export function indicesAt(random: Random, level: number, rootLevel: number): number[] {
  if (level === 3 && rootLevel === 3) return [0, 1, 2, 3];
  const last = rootLevel === 2 ? 1023 : 511;
  if (level === 1) return [...new Set([0, 1, 2, 3, 5, 8, random.between(9, last), last])];
  const middle = (last + 1) / 2;
  return [...new Set([0, 1, random.pick([2, 7, middle - 1, middle, last]), random.between(0, last)])];
}

/** The step that brings a slot of the scene back as it was first. */
export function creation(slot: SceneSlot, dirtyLog = false): Memslot {
  return {
    kind: 'memslot',
    what: 'create',
    slot: slot.slot,
    addressSpace: 0,
    address: addressOf(slot.frame),
    size: addressOf(slot.pages),
    readOnly: slot.readOnly,
    dirtyLog,
    userspace: addressOf(slot.userspacePage),
  };
}

/** The address that a page number, below 2^52, stands for. */
export function addressOf(frame: number): { lo: number; hi: number } {
  return { lo: ((frame % 0x10_0000) << 12) >>> 0, hi: Math.floor(frame / 0x10_0000) };
}
