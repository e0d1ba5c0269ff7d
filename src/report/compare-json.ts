/** A comparison's result for machines. */

import type { ComparisonResult, Difference } from '../compare/result.ts';
import type { TraceHeader } from '../trace/header.ts';
import { placeObject, sideTexts, stimulusText } from './compare-text.ts';

function differenceObject(difference: Difference, header: TraceHeader): object {
  const { step, line, source, cause, group, places, at } = difference;
  const [a, b] = sideTexts(difference, header);
  return {
    step,
    ...(line === undefined ? {} : { line }),
    ...(source === undefined ? {} : { source }),
    stimulus: stimulusText(difference, header) ?? null,
    cause,
    group,
    ...(places.length === 0
      ? { a, b }
      : { firstDifference: at, places: places.map((place) => placeObject(place, difference, header)) }),
  };
}

/** One object per compared segment. */
export function comparisonObject(result: ComparisonResult, header: TraceHeader): object {
  const { labels, verdict, receipt, differences } = result;
  return { labels, verdict, receipt, differences: differences.map((each) => differenceObject(each, header)) };
}
