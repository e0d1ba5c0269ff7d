/**
 * Looking on at a machine from outside, for as long as it lives. The machine is as it ever is; methods of its objects, and the
 * logs of its walks, are covered by ones that tell of each call.
 */

import { RowLog } from '../paging/row-log.ts';

/**
 * Covers a method of one object. `told` is called with the call still to be made, and returns what it gave.
 * Throws where the object has no such method.
 */
export function cover<Args extends unknown[], Result>(
  object: object,
  name: string,
  told: (call: () => Result, ...args: Args) => Result,
): void {
  const methods = object as Record<string, (...args: Args) => Result>;
  const original = methods[name];
  if (typeof original !== 'function') throw new Error(`nothing to cover: ${name}`);
  methods[name] = function (this: unknown, ...args: Args): Result {
    return told(() => original.apply(this ?? object, args), ...args);
  };
}

/** What is told of each row, before it is in the log. */
export type RowTold = (op: number, addressLo: number, valueLo: number, valueHi: number) => void;

/** Covers the log that a walk writes to: its rows go where they ever did. */
export function coverLog(walk: { readonly log: RowLog }, told: RowTold): void {
  Object.assign(walk, { log: new ToldLog(walk.log, told) });
}

class ToldLog extends RowLog {
  private readonly to: RowLog;
  private readonly told: RowTold;

  constructor(to: RowLog, told: RowTold) {
    super();
    this.to = to;
    this.told = told;
  }

  override push(op: number, addressLo: number, addressHi: number, valueLo: number, valueHi: number): void {
    this.told(op, addressLo, valueLo, valueHi);
    this.to.push(op, addressLo, addressHi, valueLo, valueHi);
  }
}
