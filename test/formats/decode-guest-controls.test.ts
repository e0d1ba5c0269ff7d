import { expect, test } from 'vitest';
import { fromBigInt } from '../../src/bits/word64.ts';
import { decodeExceptionBitmap, decodePfecFilter, decodeVmFunctions } from '../../src/formats/decode/guest-controls.ts';

test('an exception bitmap names what is intercepted (SDM vol. 3C 25.6.3)', () => {
  expect(decodeExceptionBitmap(fromBigInt(0x6_0042n)).short).toBe('#DB #UD #AC #MC');
  const decoded = decodeExceptionBitmap(fromBigInt(0x4000n));
  expect(decoded.short).toBe('#PF');
  expect(decoded.fields).toEqual([{ name: 'vector-14', high: 14, low: 14, value: 1, words: '#PF is a VM exit' }]);
  expect(decodeExceptionBitmap(fromBigInt(0n)).short).toBe('-');
  expect(decodeExceptionBitmap(fromBigInt(1n << 32n)).short).toBe('RSVD(63:32)');
});

test('mask in the low half, match in the high one (SDM vol. 3C 25.2)', () => {
  expect(decodePfecFilter(fromBigInt(0x1_0000_0003n)).short).toBe('mask 0x3 match 0x1');
  expect(decodePfecFilter(fromBigInt(0n)).short).toBe('mask 0x0 match 0x0');
});

test('VM-function controls', () => {
  expect(decodeVmFunctions(fromBigInt(1n)).short).toBe('EPTP-switching');
  expect(decodeVmFunctions(fromBigInt(3n)).short).toBe('EPTP-switching RSVD(63:1)');
});
