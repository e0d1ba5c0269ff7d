import { describe, expect, it } from 'vitest';
import { frameNumber, KnownMemory } from '../../src/import/known-memory.ts';

describe('known memory', () => {
  it('knows nothing to begin with', () => {
    expect(new KnownMemory().read(0x1000n, 8)).toBeUndefined();
  });

  it('knows what was written, word by word', () => {
    const memory = new KnownMemory();
    memory.write(0x1ff8n, 8, 0x8000_0000_0000_5067n);
    expect(memory.read(0x1ff8n, 8)).toBe(0x8000_0000_0000_5067n);
    expect(memory.read(0x1ffcn, 4)).toBe(0x8000_0000n);
    expect(memory.read(0x1ff0n, 8)).toBeUndefined();
    expect(memory.read(0x2ff8n, 8)).toBeUndefined();
  });

  it('does not know an entry of which one half is known', () => {
    const memory = new KnownMemory();
    memory.write(0x1000n, 4, 0x67n);
    expect(memory.read(0x1000n, 4)).toBe(0x67n);
    expect(memory.read(0x1000n, 8)).toBeUndefined();
    memory.write(0x1004n, 4, 0x1n);
    expect(memory.read(0x1000n, 8)).toBe(0x1_0000_0067n);
  });

  it('changes part of a known word, and learns nothing from part of an unknown one', () => {
    const memory = new KnownMemory();
    memory.write(0x1000n, 8, 0x1122_3344_5566_7788n);
    memory.write(0x1001n, 1, 0xaan);
    memory.write(0x1006n, 2, 0xbbccn);
    expect(memory.read(0x1000n, 8)).toBe(0xbbcc_3344_5566_aa88n);
    memory.write(0x2000n, 2, 0xffffn);
    expect(memory.read(0x2000n, 4)).toBeUndefined();
  });

  it('knows all of a page that was cleared or given whole', () => {
    const memory = new KnownMemory();
    memory.clear(0x1238n);
    expect([memory.read(0x1000n, 8), memory.read(0x1ff8n, 8), memory.read(0x2000n, 8)]).toEqual([0n, 0n, undefined]);
    memory.setPage(2, new Uint32Array(1024).fill(7, 2, 3));
    expect([memory.read(0x2008n, 8), memory.read(0x2ff8n, 8)]).toEqual([7n, 0n]);
  });

  it('tells pages apart up to the last physical address', () => {
    const memory = new KnownMemory();
    memory.write(0xf_ffff_ffff_fff8n, 8, 1n);
    expect(memory.read(0xf_ffff_ffff_fff8n, 8)).toBe(1n);
    expect(memory.read(0xfff8n, 8)).toBeUndefined();
    expect(frameNumber(0xf_ffff_ffff_fff8n)).toBe(0xff_ffff_ffff);
  });
});
