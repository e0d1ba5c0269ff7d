import { describe, expect, test } from 'vitest';
import { FrameNames } from '../../src/replay/frames.ts';

/** A kernel address's frame: 0xff11000000000000 + physical. */
const DIRECT = 0xff110_0000_0000;
const kernel = (physical: number): number => DIRECT + physical;

describe('pages of the guest', () => {
  test('have the name that they were first seen under', () => {
    const names = new FrameNames();
    expect([names.pageName(0x1100), names.pageFits(0x1100, 0x29d3, 1)]).toEqual([-1, true]);
    expect(names.bindPage(0x1100, 0x29d3, 1)).toBe(false);
    expect(names.bindPage(0x1100, 0x29d3, 1)).toBe(true);
    expect([names.pageFits(0x1100, 0x29d3, 1), names.pageFits(0x1100, 0x29d4, 1)]).toEqual([true, false]);
  });

  test('may share a recorded frame, which is counted', () => {
    const names = new FrameNames();
    names.bindPage(1, 0x3310, 1);
    expect([names.pageFits(2, 0x3310, 1), names.bindPage(2, 0x3310, 1), names.sharedPages]).toEqual([true, false, 1]);
  });

  test('of a large mapping are named with it', () => {
    const names = new FrameNames();
    names.bindPage(0x1200, 0x8000, 2);
    expect([names.pageName(0x1205), names.pageName(0x1400)]).toEqual([0x8005, -1]);
    expect([names.pageFits(0x1205, 0x8005, 1), names.pageFits(0x1205, 0x8006, 1)]).toEqual([true, false]);
    expect([names.bindPage(0x1205, 0x8005, 1), names.sharedPages]).toEqual([true, 0]);
    names.bindPage(0x4_0000, 0x8_0000, 3);
    expect(names.pageName(0x7_ffff)).toBe(0xb_ffff);
    expect(names.pageFits(0x1200, 0x8200, 2)).toBe(false);
  });

  test('may be renamed by force', () => {
    const names = new FrameNames();
    names.bindPage(1, 10, 1);
    names.bindPage(1, 11, 1);
    expect(names.pageName(1)).toBe(11);
  });
});

describe('tables', () => {
  test('have one name in each direction', () => {
    const names = new FrameNames();
    expect(names.bindTable(0x30_0000, 0xf3a7)).toBe(false);
    expect(names.bindTable(0x30_0000, 0xf3a7)).toBe(true);
    expect(names.tableFits(0x30_0000, 0xf3a8)).toBe(false);
    expect(names.tableFits(0x30_0001, 0xf3a7)).toBe(false);
    expect(names.tableFits(0x30_0001, 0xf3a8)).toBe(true);
  });

  test('are called by physical and by kernel address: what lies between is learned once', () => {
    const names = new FrameNames();
    names.bindTable(1, 0xf3a7);
    expect(names.tableFits(1, kernel(0xf3a7))).toBe(true);
    expect(names.bindTable(1, kernel(0xf3a7))).toBe(false);
    expect(names.bindTable(1, kernel(0xf3a7))).toBe(true);
    expect([names.tableFits(2, kernel(0xf3a7)), names.tableFits(2, kernel(0xf3a8))]).toEqual([false, true]);
    expect(names.bindTable(2, kernel(0xf3a8))).toBe(false);
    expect(names.bindTable(2, 0xf3a8)).toBe(true);
    expect(names.tableName(2)).toBe(0xf3a8);
  });

  test('seen by kernel address only wait for it', () => {
    const names = new FrameNames();
    names.bindTable(1, kernel(0x100));
    names.bindTable(2, kernel(0x101));
    expect([names.tableFits(2, kernel(0x100)), names.tableFits(3, kernel(0x100))]).toEqual([false, false]);
    expect([names.tableFits(1, 0x101), names.tableFits(1, 0x100)]).toEqual([false, true]);
    expect(names.bindTable(1, 0x100)).toBe(false);
    expect([names.tableName(2), names.bindTable(2, 0x101), names.tableFits(2, 0x102)]).toEqual([0x101, true, false]);
  });

  test('lie in the direct map at a multiple of 1 GiB: nothing else is taken for it', () => {
    const names = new FrameNames();
    names.bindTable(1, 0x100);
    expect(names.tableFits(1, kernel(0x101))).toBe(false);
  });

  test('have no kernel address below where the direct map was found, and none that is not canonical', () => {
    const names = new FrameNames();
    names.bindTable(1, 0x100);
    expect([names.tableFits(1, 2 ** 51 + 0x100), names.tableFits(1, kernel(0x100) - 2 ** 44)]).toEqual([false, false]);
    names.bindTable(1, kernel(0x100));
    const below = kernel(0x100) - 2 ** 18;
    expect([names.tableFits(1, below), names.tableFits(2, below)]).toEqual([false, false]);
    // One that is bound all the same teaches nothing about the others.
    names.bindTable(1, below);
    expect([names.tableFits(1, below), names.tableFits(1, 0x100), names.tableFits(2, kernel(0x101))]).toEqual([
      ...[true, false, true],
    ]);
    expect([names.bindTable(2, kernel(0x101)), names.tableName(2)]).toEqual([false, 0x101]);
  });

  test('may be called anew once the machine takes their frame for another', () => {
    const names = new FrameNames();
    names.bindTable(1, 0x100);
    names.forget(1);
    expect([names.tableFits(1, 0x200), names.tableFits(2, 0x100)]).toEqual([true, true]);
    names.forget(7);
  });

  test('given back keep their name until another one wants it', () => {
    const names = new FrameNames();
    names.bindTable(1, 0x100);
    names.release(1);
    names.release(7);
    expect([names.tableFits(1, 0x100), names.tableFits(1, 0x101), names.tableFits(2, 0x100)]).toEqual([
      ...[true, false, true],
    ]);
    names.bindTable(2, 0x100);
    expect([names.tableName(1), names.tableName(2)]).toEqual([-1, 0x100]);
  });

  test('and pages are apart', () => {
    const names = new FrameNames();
    names.bindTable(1, 0x100);
    names.bindPage(2, 0x100, 1);
    expect([names.tableName(1), names.pageName(2), names.sharedPages]).toEqual([0x100, 0x100, 0]);
  });
});
