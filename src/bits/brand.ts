/** Branded quantities: values of different kinds of address cannot be mixed up, at no cost at run time. */

declare const brand: unique symbol;

/** A `T` that only code which knows what it means can make. */
export type Brand<T, Name extends string> = T & { readonly [brand]: Name };

/** Guest-virtual (linear) address, 64 bits. */
export type Gva = Brand<bigint, 'gva'>;
/** L1 guest-physical address. */
export type Gpa = Brand<bigint, 'gpa'>;
/** L2 guest-physical address: what L1's EPT or NPT translates. */
export type Ngpa = Brand<bigint, 'ngpa'>;
/** Guest frame number: a physical address >> 12; at most 2^40, so a double holds it exactly. */
export type Gfn = Brand<number, 'gfn'>;

/** Marks a place that the type system has shown to be unreachable. */
export function assertUnreachable(value: never): never {
  throw new Error(`unreachable: ${String(value)}`);
}
