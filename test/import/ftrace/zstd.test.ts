/** Frames made by the zstd command line, from content that a generator makes again here. */

import { describe, expect, it } from 'vitest';
import { decompressZstd, ZstdError } from '../../../src/import/ftrace/zstd/decompress.ts';

function content(kind: string): string {
  let seed = 1;
  const next = (n: number): number => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * n);
  };
  const pte = (): string => (next(2 ** 20) * 4096 + 0x67).toString(16);
  const line = (): string => `gfn ${next(4096).toString(16)} level ${1 + next(4)} pte ${pte()}\n`;
  if (kind === 'events') return Array.from({ length: 120 }, line).join('');
  if (kind === 'letters') {
    return Array.from({ length: 800 }, () => 'etaoinshrdlu'[Math.min(next(12), next(12))]).join('');
  }
  return kind === 'zeros' ? '\0'.repeat(300000) : 'abcabcabd';
}

/** Between them: raw and coded literals, one and four streams, weights as they are and coded, all kinds of tables. */
const FRAMES: readonly (readonly [kind: string, base64: string])[] = [
  [
    'letters',
    'KLUv/WAgAkULAAYyWQ3AJQdpkaQ2C+b//581VABUAFQAQxHD460iOUkRPC96JmgWgVGuUMCXjA3vhNWRPH9TZgjBEDkPuq9KfQ93j7V2h0CqsV' +
      'Vua9vDHFm7hVc8I21urIDZjbzCsHB+00J/ICVlfh8rvNkou7f5E9bUSi7net/vu67oWgxzFNN1idFtHPeZTbIPCa6m1/yEANSi39uJArfFG+L2' +
      'AnCJzRfWg8nHBq/RADAm9EdCUYaPm0wIC8lupHAMuIQ/qTYtDNM4N0Lhk+M9VTCS30qb+3t1SUMux9YFrjObRWv5fvWkPDSBeXX+DEw8+xDnaJ' +
      'En4PtmTeMPiBCDEWF2wH+9isEL0REMEmbwqDXd+VxQ8z9i0izE8c6bcwdms8S0c3AWh/mkj2TDMC8pKK4BDzKw7FsBr7zhszUENm/QXtfrlyx1' +
      'Q3ib9rA1BvA2baaLJKYVdNGMVzjlGEfyJ5ZGn/S1w1e9dq499DQlAA==',
  ],
  ['zeros', 'KLUv/aTgkwQAVAAAEAAAAQD7/znAAgIAEAADnwQALSjeJg=='],
  ['short', 'KLUv/SQJSQAAYWJjYWJjYWJkjZVfTw=='],
  [
    'events',
    'KLUv/WCHDE0YABZ8ghKgl3Sk/RBLUlYVRpIkCXB1blaBAHoAewDv4SKuo7THZ/3c5Wyi0Z9D+LA+VMfNyvY/7+5+rHTBpp5vVOaDVs11daYE8u' +
      'LaMkW1Sp7WwdzfxRFVfbkgFOGG2FycYdPKvQIFi5wkmZLMzAqvPBZS8BVfMgnvPUxFqB/Dt7SeVGTHnOomWAEAL+JEMsANCgImYMAPfCAgmQII' +
      'XiA7xLytfYG+jds0Ae+albuNy+Roz+fecoh4aUVDmyQ4bP94bM2VcC2+JCKsHpZmrClxGSI+qjW6c3LQefqvjxJcxSz//M8bFQrqL4x/VV0jnA' +
      'zzy7+Lzxs+W2Uucp0kAymU5JHuBa4sfzQZQdV1s/SjoH6kPkRXclZWE5lWPcOUV8vYG9hVW5JKwz11rin+PIqEOnWeY5wZOVGOK3YlZJCwEaEa' +
      'T71OqcqRpSa00zmsw7fMvoEmQ4p1eQQbz0iH1QtL5IL2YQIujvKsXzX9cTxmpIarLnoxs9TL5y0G1PL/vvu3asQ+19318JRBrjRzW9mv4RX8AQ' +
      'B4kRSCyn9NqlKeaHAZDhMaF6fZQm3INHpWVFkkmZnL1RrRE547SI5d+1WIL/laTmqvNS7/DE5q3V4wUksqCvttYhyCEi7/B43z79XQdOPJLiFG' +
      'Wgp3qMy2+j5L59txrUmvDmmUo6ub+2HGJD/t5xN++/lK0WtulXsDgPGoETAMnvD9OxArCbEOEBAiIJgEEjwH1yg/te1Af2NApjVwN9t+XqDUH9' +
      'W3f9YFkzRTBZPwev9rb68JGjP7k87dUX0yJW/ReplXeU7QXnqn2b1G2lp4MIJPhk8bMfU9n5YGIt8+9p8Bu/Q504T3Q5PZXJM9Vy/obmKCfwYs' +
      'D7ejPPDMtqEiqI9c8x6Z+RFQjnY5psXw6OdhmTrNtRYnqsUdAnsneNv306KXWMR8A2NO8ZoDb+PkKowELZOavYjnAHIKbvS92VXacnLfRgd+Tr' +
      '1O7UJ/WfCjU3sPPnLOxi6G5xq7WEHDxmETz0Z3sXc3mtnEw+vFQnTJFQGgqw==',
  ],
  [
    'events',
    'KLUv/WCHDC0bAEZ4exWgl+QBpP0QRkoJVTAi5ZaQiavnvgJ6AHIAcwDJc7JZ1eqeZmYmU7yNmmm1QZnpgURjQnsn40xKSUUosOh0FsVl56QYRG' +
      'yxIQ+BqYRYJb0ZozmvSoiZxoOOiMm98JeZSSnRlBYk/sEpnC8ZzTt6usAOozb55Du9TPWQSwSNAIIWABAWgolcABsUBEzAAB/wQMDpAwhaIFTy' +
      'p/FM12n+KRhwPxI0VPZUFuMpKzRJwETDkIV0pRJC9LFWMOsHTr9PJGISxRH3dd/Dt0mElkbMuvjcmE7tFK05fotj4ZIfxEnOjjlD6YhblIyIIy' +
      'ZXHdsHstGR5zcqKpo+Dwu2J9zhybMxi4UV3DoGBbd9aONA8r3WMKxCT4gphZRxYzIghv4m/0bDEdblOXujgqOWqpzjc+OkljgELRrZkSg28meh' +
      '6jFEihnUSTaSfZuGFheOEZlUVUT6LMUMgdxfsy7aEWKNMXNG/8JlxlJuMTBR0M65ai6uhTHO3H+GMFvFb2kAwsJ9DJTuOUQaLB8dEzCYBMNb+Y' +
      'qi1el0uUulxRC2dUXKdjjr5nApa1P7MwLJbBzrhN5bJKVj4MW1PzzaOZ8VJpmncXUi425r1upYyXJobph2XP0oL7tKLz3LNjplW41QMI0l6uZd' +
      '0c7PKFWsMuIKnTiBTKhRWEaS9z8DIYcyIqIHEfQUNrGkOVQbbUkntDviWLJ+bZ4r479gRbQAJd0ktwSFyNpnRJvu8r4Xm7vYXYBUZ6pPaIwunP' +
      'bUiNLQt5Vl5UtdK/2qbQRN0rMM0go+x3lB4MgYlmHQEXQIdhhc70oMjk2x+0tS+XtIZ1IxTJnKzN2vDyiKG/Ac6DQr2F+shum8QKdbwjpSkihm' +
      'v01QyrNTIi1FRVXKvGmobyrJUFVxXW+AFlovBQ+6T1MYo+xSHChCV6gPa1nkWg0hL1H0rbrxyb9n58eEJxVhOXGhBX4U94YTGPGuwHutJto4Ss' +
      'lCOeUvprvLQtwoWeE39ddNqtEivSGcSAMWj4aQcpBuDgOfmQC3Id1VpqAeW/4oMsyFSSItKYXccR9KNGnjjtti1cfzFNVUQ2RjV4/1uTdik5JG' +
      'QNc3+zULigX4SFsE8vtANVPNuo+lmeCLlh4MkzLo6FCfIqvoUJ8i2VrEDYxb6KeKfWEQeFEV',
  ],
];

const unpack = (base64: string): Uint8Array => new Uint8Array(Buffer.from(base64, 'base64'));

describe('decompressZstd', () => {
  it.each(FRAMES)('gives back %s', (kind, base64) => {
    const wanted = content(kind);
    const got = decompressZstd(unpack(base64), wanted.length);
    expect(Buffer.from(got).toString('latin1') === wanted).toBe(true);
  });

  it.each(FRAMES)('needs no magic number, as trace-cmd writes %s', (kind, base64) => {
    const wanted = content(kind);
    const got = decompressZstd(unpack(base64).subarray(4), wanted.length);
    expect(Buffer.from(got).toString('latin1') === wanted).toBe(true);
  });

  it.each(FRAMES)('refuses another size than that of %s', (kind, base64) => {
    const { length } = content(kind);
    expect(() => decompressZstd(unpack(base64), length - 1)).toThrow(ZstdError);
    expect(() => decompressZstd(unpack(base64), length + 1)).toThrow(ZstdError);
  });

  it('throws nothing but ZstdError, wherever a frame is cut or changed', () => {
    let refused = 0;
    for (const [kind, base64] of FRAMES) {
      const whole = unpack(base64);
      const { length } = content(kind);
      for (let at = 0; at < whole.length; at++) {
        const changed = whole.slice();
        changed[at] = (changed[at]! ^ (1 + ((at * 37) % 255))) & 0xff;
        for (const bytes of [whole.subarray(0, at), changed]) {
          try {
            decompressZstd(bytes, length);
          } catch (error) {
            expect(error).toBeInstanceOf(ZstdError);
            refused++;
          }
        }
      }
    }
    expect(refused).toBeGreaterThan(1000);
  });
});
