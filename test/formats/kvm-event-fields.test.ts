import { describe, expect, test } from 'vitest';
import {
  KVM_EVENT_COUNT,
  KVM_EVENT_MASK,
  KVM_EVENT_NAMES,
  KVM_EVENT_SHIFT,
  KVM_MORE_ROWS,
  KVM_TRACEPOINTS,
  KvmEvent,
} from '../../src/formats/kvm-event.ts';
import { fieldNumber, KVM_EVENT_BITS, KVM_EVENT_FIELDS, type KvmField } from '../../src/formats/kvm-event-fields.ts';
import { OBS_KIND_MASK, OBS_LEARNED, Obs } from '../../src/formats/observation.ts';

const events = Array.from({ length: KVM_EVENT_COUNT }, (_, event) => event);
const fieldOf = (event: number, name: string): KvmField => KVM_EVENT_FIELDS[event]!.find((f) => f.name === name)!;

test('every event has a name, a tracepoint, fields and a number of rows', () => {
  expect(Object.values(KvmEvent)).toEqual(events);
  for (const list of [KVM_EVENT_NAMES, KVM_TRACEPOINTS, KVM_EVENT_FIELDS, KVM_MORE_ROWS, KVM_EVENT_BITS]) {
    expect(list).toHaveLength(KVM_EVENT_COUNT);
  }
  expect(KVM_EVENT_COUNT).toBeLessThanOrEqual(KVM_EVENT_MASK + 1);
});

describe.each(events)('the fields of event %i', (event) => {
  const fields = KVM_EVENT_FIELDS[event]!;

  test('have names of their own and no bit in common', () => {
    expect(new Set(fields.map(({ name }) => name)).size).toBe(fields.length);
    const taken = new Map<string, bigint>();
    for (const { row, column, maskLo, maskHi } of fields) {
      const mask = (BigInt(maskHi) << 32n) | BigInt(maskLo);
      const before = taken.get(`${row} ${column}`) ?? 0n;
      expect(mask & before).toBe(0n);
      taken.set(`${row} ${column}`, before | mask);
    }
    // A column that two fields share is shared out whole, so that no value hides between them.
    for (const [key, mask] of taken) if (!key.endsWith('op')) expect(mask).toBe(2n ** 64n - 1n);
  });

  test('need as many rows as the event has', () => {
    const rows = fields.map(({ row }) => row);
    expect(Math.max(0, ...rows)).toBe(KVM_MORE_ROWS[event]);
  });

  test('leave the kind, the event and the mark of what was learned alone', () => {
    const own = OBS_KIND_MASK | (KVM_EVENT_MASK << KVM_EVENT_SHIFT) | OBS_LEARNED;
    for (const { column, maskLo, maskHi } of fields) {
      if (column !== 'op') continue;
      expect(maskHi).toBe(0);
      expect((maskLo & own) >>> 0).toBe(0);
      expect((KVM_EVENT_BITS[event]! & maskLo) >>> 0).toBe(maskLo);
    }
  });
});

test('a field of part of a column gives its own bits', () => {
  expect(fieldNumber(fieldOf(KvmEvent.GET_PAGE, 'role'), 0x8000_0234, 7)).toBe(0x8000_0234);
  expect(fieldNumber(fieldOf(KvmEvent.GET_PAGE, 'root_count'), 0x8000_0234, 0xffff_fff7)).toBe(0xffff_fff7);
  const op = (Obs.KVM_EVENT | (KvmEvent.GET_PAGE << KVM_EVENT_SHIFT) | (0xa5 << 18) | (1 << 16)) >>> 0;
  expect(fieldNumber(fieldOf(KvmEvent.GET_PAGE, 'mmu_valid_gen'), op, 0)).toBe(0xa5);
  expect(fieldNumber(fieldOf(KvmEvent.GET_PAGE, 'created'), op, 0)).toBe(1);
  expect(fieldNumber(fieldOf(KvmEvent.GET_PAGE, 'unsync'), op, 0)).toBe(0);
});
