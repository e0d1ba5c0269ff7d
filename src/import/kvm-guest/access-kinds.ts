/**
 * What each KIND of access does, byte for byte: the accesses that the guest's instruction makes to the address under
 * test, in the order in which processor or emulator make them (the guests' `ops`).
 */

import {
  ACCESS_AC,
  ACCESS_CPL_SHIFT,
  ACCESS_LENGTH_SHIFT,
  ACCESS_SOFTWARE,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  AccessType,
} from '../../formats/step.ts';

/** One access of an instruction. */
export interface Component {
  readonly type: number;
  readonly address: bigint;
  /** Bytes, all within one page. */
  readonly length: number;
  /** By KVM's instruction emulator, not by the processor. */
  readonly software: boolean;
  /** Not by the mark's own operand: the instruction before it, a descriptor. */
  readonly implied: boolean;
  /** By the processor for itself: supervisor rights whatever the CPL. */
  readonly implicit: boolean;
}

/** What the kinds depend on beside the mark. */
export interface AccessContext {
  /** Bytes of a register-sized operand. */
  readonly wordLength: 4 | 8;
  /** The recorded processor makes a locked read-modify-write as a load and then a store (QEMU with one CPU). */
  readonly splitsRmw: boolean;
  readonly gdtBase: bigint | undefined;
}

/** Kinds that touch no memory under test: instructions that trap as such. */
const WITHOUT_ACCESS: ReadonlySet<string> = new Set(['vmmcall', 'skinit', 'ud2']);

/** The user data segment's descriptor, which `fep-seg` loads. */
const USER_DATA_DESCRIPTOR = 0x28n;
/** `ud2; .ascii "kvm"`: what makes KVM emulate the instruction behind it. */
const PREFIX_LENGTH = 5;

/** The components of an access, or `undefined` for a kind that is not known. */
export function componentsOf(kind: string, va: bigint, context: AccessContext): Component[] | undefined {
  const { READ, WRITE, FETCH, RMW } = AccessType;
  const word = context.wordLength;
  const native = (type: number, address: bigint, length: number): Component[] =>
    withinPages({ type, address, length, software: false, implied: false, implicit: false });
  const software = (type: number, address: bigint, length: number): Component[] =>
    withinPages({ type, address, length, software: true, implied: false, implicit: false });
  switch (kind) {
    case 'r':
      return native(READ, va, 1);
    case 'w':
      return native(WRITE, va, 1);
    case 'x':
      return native(FETCH, va, 1);
    case 'rmw':
      return context.splitsRmw ? [...native(READ, va, 1), ...native(WRITE, va, 1)] : native(RMW, va, 1);
    case 'r8':
      return native(READ, va, word);
    case 'w8':
      return native(WRITE, va, word);
    case 'movs':
      return [...native(READ, va, 4), ...native(WRITE, va + 0x100n, 4)];
    case 'fep-r':
      return software(READ, va, 1);
    case 'fep-w':
      return software(WRITE, va, 1);
    case 'fep-rmw':
      return software(RMW, va, 1);
    case 'fep-r8':
      return software(READ, va, word);
    case 'fep-movs':
      return [...software(READ, va, 1), ...software(WRITE, va + 0x100n, 1)];
    case 'fep-x': {
      // The processor fetches the prefix, which stands before the address; KVM fetches what follows it.
      const prefix = native(FETCH, va - BigInt(PREFIX_LENGTH), PREFIX_LENGTH).map((c) => ({ ...c, implied: true }));
      return [...prefix, ...software(FETCH, va, 1)];
    }
    case 'outs':
      // String I/O exits before the processor touches memory: KVM reads or writes the operand.
      return software(READ, va, 4);
    case 'ins':
      return software(WRITE, va, 4);
    case 'fep-seg':
      return context.gdtBase === undefined
        ? []
        : software(READ, context.gdtBase + USER_DATA_DESCRIPTOR, 8).map((c) => ({
            ...c,
            implied: true,
            implicit: true,
          }));
    default:
      return WITHOUT_ACCESS.has(kind) ? [] : undefined;
  }
}

/** Splits at page boundaries: bytes in the next page are an access of their own. */
function withinPages(whole: Component): Component[] {
  const room = 0x1000 - Number(whole.address & 0xfffn);
  if (whole.length <= room) return [whole];
  return [
    { ...whole, length: room },
    { ...whole, address: whole.address + BigInt(room), length: whole.length - room },
  ];
}

/** The `ACCESS_*` bits of a component made at CPL 3 (`user`) or 0. */
export function accessFlags(component: Component, user: boolean, ac: boolean): number {
  return (
    (component.type << ACCESS_TYPE_SHIFT) |
    (user ? 3 << ACCESS_CPL_SHIFT : 0) |
    (user && !component.implicit ? ACCESS_USER : 0) |
    (ac ? ACCESS_AC : 0) |
    (component.software ? ACCESS_SOFTWARE : 0) |
    (component.length << ACCESS_LENGTH_SHIFT)
  );
}
