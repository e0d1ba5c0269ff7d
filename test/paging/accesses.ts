/** Random accesses to a world, and random changes to the entries that a walk has read. */

import type { PlainEvent } from '../reference/plain-walker.ts';
import type { Random } from '../reference/random.ts';
import type { Access, World } from './world.ts';

/** A linear address put together from the world's indexes; seldom one that leads nowhere or is not canonical. */
export function randomAddress(random: Random, world: World): bigint {
  const { paging, indexes } = world;
  const index = (): bigint => BigInt(random.chance(0.01) ? random.below(512) : random.pick(indexes));
  let address = BigInt(random.below(0x1000)) | (index() << 12n) | (index() << 21n) | (index() << 30n);
  if (paging !== '4-level' && paging !== '5-level') return address & 0xffff_ffffn;
  address |= index() << 39n;
  const sign = paging === '5-level' ? 56 : 47;
  if (paging === '5-level') address |= index() << 48n;
  if ((address >> BigInt(sign)) & 1n) address |= (1n << 64n) - (1n << BigInt(sign));
  if (random.chance(0.025)) address ^= 1n << BigInt(sign + random.below(64 - sign));
  return address;
}

export function randomAccess(random: Random, world: World, address: bigint): Access {
  const kind = random.weighted([
    [4, 'read'],
    [3, 'write'],
    [3, 'fetch'],
    [1, 'rmw'],
  ] as const);
  const user = random.chance(0.5);
  const cet = ((world.machine.cr4 >> 23n) & 1n) !== 0n;
  return {
    address,
    kind,
    user,
    implicit: !user && random.chance(0.2),
    shadowStack: cet && kind !== 'fetch' && random.chance(0.3),
    ac: random.chance(0.4),
  };
}

/** An entry that a walk has read: where, how large, what. */
export type ReadEntry = Extract<PlainEvent, { type: 'element' }>;

/** `entry` with a bit flipped that is likely to matter; seldom with more than one. */
export function mutated(random: Random, world: World, entry: ReadEntry): bigint {
  const { maxphyaddr } = world.processor;
  const interesting =
    entry.dimension === 'ept'
      ? [0, 1, 2, 10, 0, 1, 2, 10, 8, 9, 3, 4, 5, 6, 7, maxphyaddr, 51, 12, 63]
      : [0, 1, 2, 1, 2, 5, 6, 5, 6, 7, 8, 12, 13, 21, maxphyaddr, 51, 62, 63, 63, 59, 60];
  const position = random.chance(0.8) ? random.pick(interesting) : random.below(64);
  let value = entry.value ^ (1n << BigInt(position));
  if (random.chance(0.1)) value ^= 1n << BigInt(random.pick(interesting));
  return BigInt.asUintN(8 * entry.bytes, value);
}
