/**
 * The tables that walk benchmarks run over: a 4-level guest under 4-level EPT, 4 KiB pages in both dimensions, so that
 * every access costs the full 24 reads. Guest-physical page n is backed by another physical page, spread out.
 */

import { CR0_PG, CR4_PAE, EFER_LMA, EFER_LME, GuestMode, Reg, SECONDARY_EPT } from '../formats/registers.ts';
import type { BareMachine } from '../machine/bare.ts';

export interface WalkTables {
  /** Frame of the guest's PML4 (guest-physical) and of EPT's (physical). */
  readonly cr3Frame: number;
  readonly eptFrame: number;
  /** Physical pages with contents: frame and 1024 words. */
  readonly pages: ReadonlyMap<number, Uint32Array>;
  /** Linear addresses to translate, 2 elements each. */
  readonly addresses: Uint32Array;
}

/** A small repeatable generator (xorshift32); the benchmark needs spread, not quality. */
export function xorshift(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

const GUEST_FRAMES = 1 << 14;

/** `count` addresses over 64 MiB of guest memory. */
export function buildWalkTables(count: number): WalkTables {
  const pages = new Map<number, Uint32Array>();
  const page = (frame: number): Uint32Array => {
    let words = pages.get(frame);
    if (words === undefined) {
      words = new Uint32Array(1024);
      pages.set(frame, words);
    }
    return words;
  };
  // Physical frames: EPT tables from 0x1000 on; guest-physical frame g lives in frame 0x10000 + (g * 5) mod 2^16.
  let nextEpt = 0x1000;
  const eptFrame = nextEpt++;
  const physical = (gfn: number): number => 0x1_0000 + ((gfn * 5) & 0xffff);
  const link = (table: Uint32Array, index: number, make: () => number, flags: number): number => {
    if (table[2 * index] === 0) {
      const frame = make();
      table[2 * index] = ((frame << 12) | flags) >>> 0;
      table[2 * index + 1] = Math.floor(frame / 0x10_0000);
    }
    return Math.floor(table[2 * index]! / 4096) + table[2 * index + 1]! * 0x10_0000;
  };
  const mapEpt = (gfn: number): void => {
    let table = page(eptFrame);
    for (let level = 4; level > 1; level--) {
      const index = Math.floor(gfn / 512 ** (level - 1)) % 512;
      table = page(link(table, index, () => nextEpt++, 0x107));
    }
    link(table, gfn % 512, () => physical(gfn), 0x337);
  };
  // Guest-physical: tables from GUEST_FRAMES on, data below.
  let nextTable = GUEST_FRAMES;
  const guestTable = (): number => {
    mapEpt(nextTable);
    return nextTable++;
  };
  const cr3Frame = guestTable();
  for (let gfn = 0; gfn < GUEST_FRAMES; gfn++) {
    mapEpt(gfn);
    let table = page(physical(cr3Frame));
    for (let level = 4; level > 1; level--) {
      const index = Math.floor(gfn / 512 ** (level - 1)) % 512;
      table = page(physical(link(table, index, guestTable, 0x27)));
    }
    link(table, gfn % 512, () => gfn, 0x67);
  }
  const random = xorshift(0x2545_f491);
  const addresses = new Uint32Array(2 * count);
  for (let i = 0; i < count; i++) addresses[2 * i] = (random() & (GUEST_FRAMES * 4096 - 1)) >>> 0;
  return { cr3Frame, eptFrame, pages, addresses };
}

/** EPTP: write-back, 4 levels, A/D on (SDM vol. 3C 25.6.11). */
export function eptpOf(tables: WalkTables): number {
  return ((tables.eptFrame << 12) | 0x5e) >>> 0;
}

/** Puts the tables and the registers of the guest into a machine. */
export function loadWalkTables(machine: BareMachine, tables: WalkTables): void {
  for (const [frame, words] of tables.pages)
    machine.memory.setPage((frame << 12) | 0, Math.floor(frame / 0x10_0000), words);
  machine.setRegister(Reg.CR0, (CR0_PG | 0x1_0001) >>> 0, 0);
  machine.setRegister(Reg.CR4, CR4_PAE, 0);
  machine.setRegister(Reg.EFER, EFER_LME | EFER_LMA | (1 << 11), 0);
  machine.setRegister(Reg.CR3, (tables.cr3Frame << 12) >>> 0, 0);
  machine.setRegister(Reg.GUEST_MODE, GuestMode.VMX, 0);
  machine.setRegister(Reg.SECONDARY_CONTROLS, SECONDARY_EPT, 0);
  machine.setRegister(Reg.EPTP, eptpOf(tables), 0);
}

/** The image that `native-walker.c` reads. */
export function walkImage(tables: WalkTables, maxphyaddr: number): Buffer {
  const count = tables.addresses.length / 2;
  const image = Buffer.alloc(8 * 6 + tables.pages.size * (8 + 4096) + 8 * count);
  let at = 0;
  const word = (value: bigint): void => {
    at = image.writeBigUInt64LE(value, at);
  };
  word(0x314b_4c41_5757_4552n);
  word(BigInt(tables.cr3Frame) << 12n);
  word(BigInt(eptpOf(tables)));
  word(BigInt(maxphyaddr));
  word(BigInt(tables.pages.size));
  for (const [frame, words] of tables.pages) {
    word(BigInt(frame));
    at += Buffer.from(words.buffer, words.byteOffset, 4096).copy(image, at);
  }
  word(BigInt(count));
  for (let i = 0; i < count; i++)
    word((BigInt(tables.addresses[2 * i + 1]!) << 32n) | BigInt(tables.addresses[2 * i]!));
  return image;
}
