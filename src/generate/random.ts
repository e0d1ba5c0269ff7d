/** Random numbers that a seed determines on every machine: sfc32. */

const MIX_IN = 15;

export class Random {
  private a: number;
  private b: number;
  private c: number;
  private counter = 1;

  /** The same parts, the same numbers. Parts count modulo 2^32. */
  constructor(...parts: readonly [number, ...number[]]) {
    this.a = parts[0] | 0;
    this.b = (parts[1] ?? 0) | 0;
    this.c = (parts[2] ?? 0) | 0;
    for (let i = 0; i < MIX_IN; i++) this.uint32();
  }

  uint32(): number {
    const sum = (((this.a + this.b) | 0) + this.counter++) | 0;
    this.a = this.b ^ (this.b >>> 9);
    this.b = (this.c + (this.c << 3)) | 0;
    this.c = (((this.c << 21) | (this.c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }

  /** An integer in [0, limit), `limit` at most 2^32. */
  below(limit: number): number {
    return Math.floor((this.uint32() / 0x1_0000_0000) * limit);
  }

  /** An integer from `first` to `last`, both included. */
  between(first: number, last: number): number {
    return first + this.below(last - first + 1);
  }

  chance(probability: number): boolean {
    return this.uint32() < probability * 0x1_0000_0000;
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)]!;
  }

  /** One of `choices`, each [weight, value], in proportion to the weights, which are whole numbers. */
  weighted<T>(choices: readonly (readonly [number, T])[]): T {
    let left = this.below(choices.reduce((sum, [weight]) => sum + weight, 0));
    for (const [weight, value] of choices) {
      if (left < weight) return value;
      left -= weight;
    }
    return choices[0]![1];
  }
}
