/**
 * Delta debugging over a list (Zeller and Hildebrandt, 2002): chunks are left out, ever smaller ones, down to single
 * members, as long as what remains still serves. Knows nothing of what the members are.
 */

/** A list that is being made smaller. */
export interface Shrinking<Member> {
  /** The smallest list so far; `attempt` replaces it. */
  readonly best: readonly Member[];
  /** Whether the shorter list serves, too. If so it, or what it needs of it, is `best` from then on. */
  attempt(shorter: readonly Member[]): boolean;
  /** Whether it is time to stop. */
  isOver(): boolean;
}

/**
 * Leaves out chunks from the end towards the beginning, halves first, until no single member can be left out; yields
 * after every attempt. The same list and the same answers, the same result.
 */
export function* leaveOut<Member>(list: Shrinking<Member>): Generator<void, void, void> {
  for (let size = Math.ceil(list.best.length / 2); size >= 1; ) {
    let removed = false;
    for (let end = list.best.length; end > 0 && !list.isOver(); end -= size) {
      const all = list.best;
      const last = Math.min(end, all.length);
      const rest = [...all.slice(0, Math.max(0, last - size)), ...all.slice(last)];
      if (rest.length < all.length && list.attempt(rest)) removed = true;
      yield;
    }
    if (list.isOver() || (size === 1 && !removed)) return;
    if (!removed || size > 1) size = Math.max(1, Math.floor(size / 2));
  }
}

/**
 * Leaves out two members at a time: those that only go together, like an entry and its exit. `mayGoTogether`: pairs that
 * it says no to are not tried.
 */
export function* leaveOutPairs<Member>(
  list: Shrinking<Member>,
  mayGoTogether: (first: Member, second: Member) => boolean = () => true,
): Generator<void, void, void> {
  for (let second = list.best.length - 1; second > 0; second--) {
    for (let first = second - 1; first >= 0 && !list.isOver(); first--) {
      const all = list.best;
      if (second >= all.length) break;
      if (!mayGoTogether(all[first]!, all[second]!)) continue;
      const taken = list.attempt(all.filter((_, i) => i !== first && i !== second));
      yield;
      if (taken) break;
    }
  }
}
