/**
 * A shadow page as the kernel prints it, back into fields. The text has part of the role word; which bits those are is
 * told by `roleMask`. The layout follows from the access letters: three up to 6.x (facts/kvm-mmu.md §2.1, §9.1), four
 * from 7.1 on.
 */

import type { Cursor } from './cursor.ts';
import type { ShadowPageFields } from './event.ts';

interface RoleLayout {
  /** Letters of the access text, with the bit of each. */
  readonly access: readonly (readonly [letter: string, bit: number])[];
  readonly invalid: number;
  readonly eferNx: number;
}

const LAYOUT_6: RoleLayout = {
  access: [
    ['w', 1 << 9],
    ['u', 1 << 10],
    ['x', 1 << 8],
  ],
  invalid: 1 << 11,
  eferNx: 1 << 12,
};

const LAYOUT_7: RoleLayout = {
  access: [
    ['r', 1 << 8],
    ['w', 1 << 9],
    ['u', 1 << 10],
    ['x', 1 << 11],
  ],
  invalid: 1 << 12,
  eferNx: 1 << 13,
};

const FOUR_BYTE = 1 << 4;
const QUADRANT_SHIFT = 5;
const DIRECT = 1 << 7;
const LOW_BITS = 0xff;
const AD_DISABLED = 1 << 16;

/** `sp gen 0 gfn 209 l1 8-byte q0 direct wux invalid !nxe !ad root 0 sync`, and the NUL behind it if it is there. */
export function parseShadowPage(cursor: Cursor): ShadowPageFields {
  cursor.literal('sp gen ');
  const gen = cursor.decimal();
  cursor.literal(' gfn ');
  const gfn = cursor.big();
  cursor.literal(' l');
  let role = cursor.decimal() & 0xf;
  cursor.literal(' ');
  if (cursor.oneOf('4-byte q', '8-byte q') === '4-byte q') role |= FOUR_BYTE;
  role |= (cursor.decimal() & 3) << QUADRANT_SHIFT;
  if (cursor.skip(' direct')) role |= DIRECT;
  cursor.literal(' ');
  const at = cursor.at;
  const letters = cursor.word();
  const layout = letters.length === 4 ? LAYOUT_7 : LAYOUT_6;
  let mask = LOW_BITS | layout.invalid | layout.eferNx | AD_DISABLED;
  layout.access.forEach(([letter, bit], index) => {
    mask |= bit;
    if (letters[index] === letter) role |= bit;
    else if (letters[index] !== '-') throw cursor.problem('letters of access', at);
  });
  if (letters.length !== layout.access.length) throw cursor.problem('letters of access', at);
  if (cursor.skip(' invalid')) role |= layout.invalid;
  if (cursor.oneOf(' nxe', ' !nxe') === ' nxe') role |= layout.eferNx;
  if (cursor.oneOf(' ad', ' !ad') === ' !ad') role |= AD_DISABLED;
  cursor.literal(' root ');
  const rootCount = cursor.decimal();
  const unsync = cursor.oneOf(' sync', ' unsync') === ' unsync';
  cursor.skip('\0');
  return { gen, gfn, role: role >>> 0, roleMask: mask >>> 0, rootCount, unsync };
}
