/**
 * Which guest frames a stranger's trace shows to be backed by a slot, and when. What an event shows of a frame holds
 * before it, too, and of its neighbours as far as nothing else is shown.
 */

/** A run of guest frames that are backed together. */
export interface SurveyedSlot {
  readonly first: number;
  /** Exclusive. */
  readonly end: number;
  /** Position from which it is there; 0: from the beginning. */
  readonly from: number;
  /** Position from which it is gone; Infinity: never. */
  readonly to: number;
  /** Writes to it end in MMIO, though it is backed. */
  readonly readOnly: boolean;
  /** Host-virtual minus guest-physical address, 0 if no event tells both. */
  readonly offset: bigint;
}

/** Frames between two known ones that are taken to be backed alike, at most: 1 GiB. */
const MAXIMUM_GAP = 1 << 18;
/** Guest frames looked at; a stranger's trace may hold anything. */
const MAXIMUM_FRAMES = 1 << 22;

interface Change {
  readonly position: number;
  readonly present: boolean;
}

/** What is shown of every frame, event by event. */
export class FrameHistory {
  private readonly changes = new Map<number, Change[]>();
  /** Positions at which the VMM zapped everything: a slot may have gone there. */
  private readonly zaps: number[] = [];
  private readonly mmioWrites = new Set<number>();
  private readonly offsets = new Map<number, bigint>();

  /** An event shows that there is something behind a guest frame, or nothing; of a large page, behind all of it. */
  show(gfn: bigint, position: number, present: boolean, level = 1): void {
    const shift = 9 * (level - 1);
    const first = Number((gfn >> BigInt(shift)) << BigInt(shift));
    // Of a large page its ends do: what lies between is joined to them.
    for (const frame of level > 1 ? [first, first + 2 ** shift - 1] : [Number(gfn)])
      this.showFrame(frame, position, present);
  }

  private showFrame(frame: number, position: number, present: boolean): void {
    const changes = this.changes.get(frame);
    if (changes === undefined) {
      if (this.changes.size < MAXIMUM_FRAMES) this.changes.set(frame, [{ position, present }]);
    } else if (changes.at(-1)!.present !== present) {
      changes.push({ position, present });
    }
  }

  /** The VMM has zapped everything. */
  zapped(position: number): void {
    this.zaps.push(position);
  }

  /** A write to the frame ended in MMIO. */
  mmioWritten(gfn: bigint): void {
    this.mmioWrites.add(Number(gfn));
  }

  /** The host has the page of the frame at `address`. */
  mappedAt(gfn: bigint, address: bigint): void {
    this.offsets.set(Number(gfn), address - (gfn << 12n));
  }

  /** 2 GiB behind the last known frame of RAM, clear of everything. */
  get spareFrame(): number {
    let highest = 0;
    for (const frame of this.changes.keys()) highest = Math.max(highest, frame);
    return (Math.ceil(highest / 2 ** 19) + 1) * 2 ** 19;
  }

  /** Frames with the same history, neighbours but for frames of which nothing is known, make a slot. */
  slots(): SurveyedSlot[] {
    const frames = [...this.changes.keys()].sort((a, b) => a - b);
    const slots: {
      first: number;
      end: number;
      spans: { from: number; to: number }[];
      key: string;
      offset: bigint;
      readOnly: boolean;
    }[] = [];
    let last: (typeof slots)[number] | undefined;
    for (const frame of frames) {
      const spans = this.spans(this.changes.get(frame)!);
      if (spans.length === 0) {
        last = undefined;
        continue;
      }
      const readOnly = this.mmioWrites.has(frame) && this.changes.get(frame)!.every(({ present }) => present);
      const key = `${readOnly} ${spans.map(({ from, to }) => `${from}-${to}`).join()}`;
      const offset = this.offsets.get(frame) ?? 0n;
      const differs = last !== undefined && offset !== 0n && last.offset !== 0n && offset !== last.offset;
      if (last !== undefined && last.key === key && frame - last.end < MAXIMUM_GAP && !differs) {
        last.end = frame + 1;
        if (offset !== 0n) last.offset = offset;
        continue;
      }
      // Slots begin at round addresses rather than at the first page that is used.
      const first = differs ? roundest(last!.end, frame) : frame;
      last = { first, end: frame + 1, spans, key, offset, readOnly };
      slots.push(last);
    }
    return slots.flatMap(({ first, end, spans, offset, readOnly }) =>
      spans.map((span) => ({ first, end, offset, readOnly, ...span })),
    );
  }

  /** When a frame is backed. It goes where everything is zapped, and comes as late as that can be. */
  private spans(changes: readonly Change[]): { from: number; to: number }[] {
    const spans: { from: number; to: number }[] = [];
    changes.forEach(({ position, present }, i) => {
      if (!present) return;
      const next = changes[i + 1];
      const from = i === 0 ? 0 : position;
      const zap = next === undefined ? undefined : this.zaps.findLast((at) => at > position && at <= next.position);
      spans.push({ from, to: next === undefined ? Number.POSITIVE_INFINITY : (zap ?? next.position) });
    });
    return spans;
  }
}

/** The number from `low` to `high`, both included, that most zeros end. */
function roundest(low: number, high: number): number {
  for (let step = 2 ** 30; step > 1; step /= 2) {
    const number = Math.floor(high / step) * step;
    if (number >= low) return number;
  }
  return high;
}
