/** The tokens of a `W`, `X` or `P` record: entries read and written, second-stage walks, and the result. */

import { parseHex64, type Word64, ZERO } from '../../bits/word64.ts';
import {
  Dim,
  elementRow,
  entryWriteRow,
  OBS_DIM_SHIFT,
  OBS_LEVEL_SHIFT,
  OBS_NESTED_ACCESS_SHIFT,
  OBS_NESTED_NO_LINEAR,
  OBS_NESTED_NX,
  OBS_NESTED_OF_TABLE,
  OBS_NESTED_SHADOW_STACK,
  OBS_NESTED_USER,
  OBS_NESTED_WRITABLE,
  OBS_PAGE_SHIFT_SHIFT,
  OBS_VECTOR_SHIFT,
  Obs,
} from '../../formats/observation.ts';
import { AccessType } from '../../formats/step.ts';

/** One observation; `size` in bytes for entries in memory, 0 for anything else. */
export interface Row {
  readonly op: number;
  readonly address: Word64;
  readonly value: Word64;
  readonly size: 0 | 4 | 8;
}

export class TokenError extends Error {}

function hex(text: string | undefined, what: string): Word64 {
  const word = text === undefined ? undefined : parseHex64(text);
  if (word === undefined) throw new TokenError(`${what} "${text ?? ''}" is not a hexadecimal number`);
  return word;
}

const DIMENSIONS: ReadonlyMap<string, number> = new Map([
  ['g', Dim.GUEST],
  ['e', Dim.EPT],
  ['n', Dim.NPT],
  ['s', Dim.SPP],
]);
export const ACCESS_LETTERS: ReadonlyMap<string, number> = new Map([
  ['r', AccessType.READ],
  ['w', AccessType.WRITE],
  ['x', AccessType.FETCH],
  ['m', AccessType.RMW],
]);
const NESTED_FLAGS: ReadonlyMap<string, number> = new Map([
  ['n', OBS_NESTED_NO_LINEAR],
  ['u', OBS_NESTED_USER],
  ['w', OBS_NESTED_WRITABLE],
  ['x', OBS_NESTED_NX],
  ['s', OBS_NESTED_SHADOW_STACK],
]);

/** `g4:addr:val`, `^e1:addr:val`, `g2d:…`, `p0:…`, `N3:…` */
function entryRow(label: string, written: boolean, address: Word64, value: Word64): Row {
  const letter = label[0]!;
  const digit = Number(label[1]);
  const fourBytes = label[2] === 'd';
  const make = written ? entryWriteRow : elementRow;
  if (letter === 'p' || letter === 'N') {
    if (!/^[pN][0-3]$/.test(label)) throw new TokenError(`"${label}" is no label of an entry`);
    return { op: make(letter === 'p' ? Dim.GUEST : Dim.NPT, 3, false), address, value, size: 8 };
  }
  const dim = DIMENSIONS.get(letter);
  if (dim === undefined || !(digit >= 1 && digit <= 5) || label.length > (fourBytes ? 3 : 2)) {
    throw new TokenError(`"${label}" is no label of an entry`);
  }
  return { op: make(dim, digit, fourBytes), address, value, size: fourBytes ? 4 : 8 };
}

/** `>erpuw:gpa`, `>nmp:gpa` */
function nestedWalkRow(token: string): Row {
  const colon = token.indexOf(':');
  const head = token.slice(1, colon < 0 ? undefined : colon);
  const dim = head[0] === 'e' ? Dim.EPT : head[0] === 'n' ? Dim.NPT : undefined;
  const access = ACCESS_LETTERS.get(head[1] ?? '');
  const purpose = head[2];
  if (dim === undefined || access === undefined || (purpose !== 'p' && purpose !== 'f')) {
    throw new TokenError(`"${token}" is no second-stage translation`);
  }
  let op = Obs.NESTED_WALK | (dim << OBS_DIM_SHIFT) | (access << OBS_NESTED_ACCESS_SHIFT);
  if (purpose === 'p') op |= OBS_NESTED_OF_TABLE;
  for (const flag of head.slice(3)) {
    const bit = NESTED_FLAGS.get(flag);
    if (bit === undefined) throw new TokenError(`"${token}" has an unknown flag "${flag}"`);
    op |= bit;
  }
  return { op, address: hex(token.slice(colon + 1), 'address'), value: ZERO, size: 0 };
}

/** A token that is no result. */
export function parseToken(token: string): Row {
  if (token.startsWith('>')) return nestedWalkRow(token);
  const written = token.startsWith('^');
  const [label = '', first, second] = (written ? token.slice(1) : token).split(':');
  if (label[0] === 'P' && !written) {
    if (!/^P[0-3]$/.test(label)) throw new TokenError(`"${label}" is no label of an entry`);
    return {
      op: Obs.PDPTE | (Number(label[1]) << OBS_LEVEL_SHIFT),
      address: ZERO,
      value: hex(first, 'value'),
      size: 0,
    };
  }
  return entryRow(label, written, hex(first, 'address'), hex(second, 'value'));
}

/** `=pa[/gpa] z<mask> t<type>` or one of the `!` results, as the rows that it stands for. */
export function parseResult(tokens: readonly string[]): Row[] {
  const [head = '', ...rest] = tokens;
  if (head.startsWith('=')) {
    const [pa, gpa] = head.slice(1).split('/');
    const address = hex(pa, 'address');
    const value = gpa === undefined ? address : hex(gpa, 'address');
    const mask = rest[0]?.startsWith('z') ? hex(rest[0].slice(1), 'page size') : undefined;
    if (mask === undefined) throw new TokenError('the translation has no page size');
    const shift = 32 - Math.clz32(mask.lo);
    return [{ op: Obs.TRANSLATED | (shift << OBS_PAGE_SHIFT_SHIFT), address, value, size: 0 }];
  }
  const linear = (text: string | undefined): Row[] =>
    text === '-' ? [] : [{ op: Obs.EXIT_LINEAR, address: hex(text, 'linear address'), value: ZERO, size: 0 }];
  switch (head) {
    case '!PF':
      return [
        {
          op: Obs.EXCEPTION | (14 << OBS_VECTOR_SHIFT),
          value: hex(rest[0], 'error code'),
          address: hex(rest[1], 'CR2'),
          size: 0,
        },
      ];
    case '!EV':
      return [
        { op: Obs.EPT_VIOLATION, value: hex(rest[0], 'qualification'), address: hex(rest[1], 'address'), size: 0 },
        ...linear(rest[2]),
      ];
    case '!EM':
      return [{ op: Obs.EPT_MISCONFIG, value: ZERO, address: hex(rest[1], 'address'), size: 0 }, ...linear(rest[2])];
    case '!NPF':
      return [{ op: Obs.NPF, value: hex(rest[0], 'EXITINFO1'), address: hex(rest[1], 'address'), size: 0 }];
    default:
      throw new TokenError(`"${head}" is no result`);
  }
}
