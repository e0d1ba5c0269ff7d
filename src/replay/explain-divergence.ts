/** Two sides of a step that differ, held side by side: recorded and replayed rows, or a bare processor and a guest on KVM. */

import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import type { ExplainedDivergence, ExplainedPlace } from './explanation.ts';
import type { Divergence, GuestDifference, Judgement, Row } from './result.ts';
import { sideBySide } from './sequence.ts';
import { unitsOf } from './units.ts';

/** Places shown of a step. */
const MAXIMUM_PLACES = 500;

/** A step that is not as recorded. */
export function recordedDivergence(of: Divergence, say: (rows: readonly Row[]) => string): ExplainedDivergence {
  const places =
    of.pairs === undefined
      ? rowPlaces(of.recorded, of.replayed, say)
      : of.pairs.map(
          ({ state, recorded, replayed, fields }): ExplainedPlace => ({
            state:
              state === 'equal' || state === 'host'
                ? 'equal'
                : recorded.length === 0
                  ? 'only-b'
                  : replayed.length === 0
                    ? 'only-a'
                    : 'differs',
            a: unitsOf(recorded).map(({ rows }) => say(rows)),
            b: unitsOf(replayed).map(({ rows }) => say(rows)),
            fields,
          }),
        );
  return divergenceOf('recording', ['recorded', 'replayed'], places, of.cause);
}

/** A step of a guest that is not as on a bare processor. */
export function guestDivergence(of: GuestDifference, say: (rows: readonly Row[]) => string): ExplainedDivergence {
  const places = rowPlaces(outcomesOf(of.bare), outcomesOf(of.kvm), say);
  return divergenceOf('guest', ['bare processor', 'guest on KVM'], places, of.cause);
}

/** How a step that differs was judged, where that is not simply diverged. */
export function judgementText(judgement: Judgement | undefined): string {
  switch (judgement?.kind) {
    case 'stale-allowed':
      return 'the difference is no divergence: the architecture allows the recorded outcome with translations cached before a change';
    case 'stale-after-invalidation':
      return `the recorded outcome needs a translation that was invalidated at step ${judgement.invalidatedAt}`;
    case 'undetermined':
      return `whether the difference is lawful cannot be determined: ${judgement.why}`;
    case 'expected':
      return `the difference is expected: ${judgement.name}`;
    default:
      return '';
  }
}

/** Of a side's rows those that tell how an access ended: tables and events are not alike on a bare processor. */
function outcomesOf(rows: readonly Row[]): Row[] {
  const kinds = [
    Obs.TRANSLATED,
    Obs.EXCEPTION,
    Obs.EPT_VIOLATION,
    Obs.EPT_MISCONFIG,
    Obs.NPF,
    Obs.PML_FULL,
    Obs.EXIT_LINEAR,
  ];
  return rows.filter(({ op }) => kinds.some((kind) => kind === (op & OBS_KIND_MASK)));
}

/** A divergence with as many places as are shown, the first that differs among them. */
export function divergenceOf(
  between: ExplainedDivergence['between'],
  labels: readonly [string, string],
  places: readonly ExplainedPlace[],
  cause: string,
): ExplainedDivergence {
  const at = Math.max(
    0,
    places.findIndex(({ state }) => state !== 'equal'),
  );
  const begin = places.length > MAXIMUM_PLACES ? Math.max(0, at - 50) : 0;
  return { between, labels, places: places.slice(begin, begin + MAXIMUM_PLACES), at: at - begin, cause };
}

/** Two sides' rows side by side, units with the same text being equal. */
function rowPlaces(a: readonly Row[], b: readonly Row[], say: (rows: readonly Row[]) => string): ExplainedPlace[] {
  const [unitsA, unitsB] = [unitsOf(a), unitsOf(b)];
  const textsA = unitsA.map(({ rows }) => say(rows));
  const textsB = unitsB.map(({ rows }) => say(rows));
  const kinds = (units: typeof unitsA): string[] => units.map(({ rows }) => String(rows[0]!.op & OBS_KIND_MASK));
  return sideBySide([textsA, kinds(unitsA)], [textsB, kinds(unitsB)]).map(([i, j]): ExplainedPlace => {
    const left = textsA[i];
    const right = textsB[j];
    const state = left === undefined ? 'only-b' : right === undefined ? 'only-a' : left === right ? 'equal' : 'differs';
    return { state, a: left === undefined ? [] : [left], b: right === undefined ? [] : [right], fields: [] };
  });
}
