/**
 * What both sides of a step did, as 16 hexadecimal digits: two runs whose rows were not kept are compared by it.
 * Events of KVM count by kind, state and differing fields only: the values of their fields are full of host frames,
 * which another machine may number in another order.
 */

import { createHash } from 'node:crypto';
import type { Divergence, GuestDifference, Row } from '../replay/result.ts';

function rowsText(rows: readonly Row[]): string {
  return rows.map((r) => `${r.op},${r.addressHi},${r.addressLo},${r.valueHi},${r.valueLo}`).join(';');
}

function kindsText(rows: readonly Row[]): string {
  return rows.map(({ op }) => op).join(',');
}

function hashed(parts: readonly string[]): string {
  return createHash('sha256').update(parts.join('\n')).digest('hex').slice(0, 16);
}

export function fingerprintOf({ judgement, group, pairs, recorded, replayed }: Divergence): string {
  const sides =
    pairs === undefined
      ? [rowsText(recorded), rowsText(replayed)]
      : pairs.map((pair) =>
          [pair.state, kindsText(pair.recorded), kindsText(pair.replayed), pair.fields.join(',')].join(' '),
        );
  return hashed([judgement.kind, group, ...sides]);
}

/** Of a guest that differs on KVM: its group and what the bare machine did. */
export function guestFingerprint({ group, bare, cause }: GuestDifference): string {
  return hashed(['guest-differs', group, cause, rowsText(bare)]);
}
