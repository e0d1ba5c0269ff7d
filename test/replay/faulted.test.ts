import { describe, expect, test } from 'vitest';
import {
  access,
  countsOf,
  divergenceOf,
  header,
  type Line,
  lands,
  replay,
  state,
  store,
  TABLES,
} from './small-traces.ts';

const FAULTED: Line = { expect: [{ faulted: true }] };
const COMPLETED: Line = { expect: [{ completed: true }] };
/** Sees whether an access goes through, and nothing else. */
const SEEN = header({ observable: ['completed', 'faulted'] });

describe('a recorder that sees only that an access faulted', () => {
  test('is content with any exception', () => {
    const notCanonical = access('read', '0x800000000000', FAULTED);
    const result = replay([SEEN, state(), ...TABLES, access('read', '0x9008', FAULTED), notCanonical]);
    expect(result.verdict).toBe('match');
    expect(countsOf(result)).toEqual({ faulted: [2, 2, 0] });
    expect(result.receipt.observationsPredicted).toBe(2);
  });

  // EPT of the guest's guest: a table at 6000h whose entry for the guest's root is absent, or writable but unreadable.
  test.each([
    ['a violation', '0x0'],
    ['a misconfiguration', '0x2'],
  ])('is content with %s of EPT, though that reports a guest-linear address, too', (_, entry) => {
    const nested = state({ guest_mode: '0x1', eptp: '0x601e', secondary_controls: '0x2' });
    const result = replay([SEEN, nested, ...TABLES, store('0x6000', entry), access('read', '0x5008', FAULTED)]);
    expect([result.verdict, countsOf(result)]).toEqual(['match', { faulted: [1, 1, 0] }]);
  });

  test('is content with a nested page fault', () => {
    const nested = state({
      guest_mode: '0x2',
      nested_control: '0x1',
      ncr3: '0x6000',
      host_cr0: '0x80010011',
      host_cr4: '0x20',
      host_efer: '0xd00',
    });
    const amd = header({
      observable: ['faulted'],
      processor: { vendor: 'amd', maxphyaddr: 40, features: ['pae', 'nx'] },
    });
    const result = replay([amd, nested, ...TABLES, access('read', '0x5008', FAULTED)]);
    expect([result.verdict, countsOf(result)]).toEqual(['match', { faulted: [1, 1, 0] }]);
  });

  test('is not content with a translation, which it may see or not', () => {
    const unseen = header({ observable: ['faulted'] });
    for (const first of [SEEN, unseen]) {
      const { step, recorded } = divergenceOf([first, state(), ...TABLES, access('read', '0x5008', FAULTED)]);
      expect([step, recorded.map(({ op }) => op)]).toEqual([4, [16]]);
    }
    expect(divergenceOf([SEEN, state(), ...TABLES, access('read', '0x5008', FAULTED)]).group).toBe(
      'supervisor read: recorded faulted, replayed translated',
    );
  });

  test('does not take a fault for an access that completed', () => {
    expect(divergenceOf([SEEN, state(), ...TABLES, access('read', '0x9008', COMPLETED)]).group).toBe(
      'supervisor read: recorded completed, replayed #PF 0x0',
    );
    expect(divergenceOf([SEEN, state(), ...TABLES, lands('read', '0x9008', '0x5008')]).step).toBe(4);
  });

  test('is not content with nothing', () => {
    expect(divergenceOf([SEEN, state(), ...TABLES, { 'gpa-access': 'read', address: '0x5008', ...FAULTED }]).step).toBe(
      4,
    );
  });
});
