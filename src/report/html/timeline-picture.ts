/** A trace's timeline: a band each for faults, walks and flushes over the steps, with a mark where the sides differ. */

import { counted, countText } from '../table.ts';
import type { Timeline } from '../timeline.ts';
import { html, joined, linesAttribute, type Markup } from './markup.ts';

const HEIGHT = 32;

interface Band {
  readonly name: 'faults' | 'walks' | 'flushes';
  readonly counts: readonly number[];
}

/** `steps 512 to 767: 12 faults, 200 walks, 3 flushes`. */
function spanText({ width, steps, faults, walks, flushes }: Timeline, span: number): string {
  const first = span * width;
  const last = Math.min(steps, first + width) - 1;
  const which = first === last ? `step ${countText(first)}` : `steps ${countText(first)} to ${countText(last)}`;
  const all = [counted(faults[span]!, 'fault'), counted(walks[span]!, 'walk')];
  return `${which}: ${all.join(', ')}, ${countText(flushes[span]!)} flush${flushes[span] === 1 ? '' : 'es'}`;
}

/** One unit of the picture's width is a span. */
function bandPicture({ name, counts }: Band, marks: readonly number[]): Markup {
  const most = Math.max(0, ...counts);
  const total = counts.reduce((sum, count) => sum + count, 0);
  // One path of all bars: hundreds of elements for each trace would make the page slow. Heights go by square roots, so
  // that a single fault among thousands is still seen.
  const bars = counts
    .map((count, i) => {
      if (count === 0) return '';
      const height = Math.max(2, HEIGHT * Math.sqrt(count / most)).toFixed(1);
      return `M${i} ${HEIGHT}v-${height}h.88v${height}z`;
    })
    .join('');
  const mark = marks.map((span) => `M${span + 0.5} 0v${HEIGHT}`).join('');
  return html`<div class="band"><b>${name}</b> ${countText(total)}${most > 1 ? `, at most ${countText(most)} in a bar` : ''}</div>
<svg viewBox="0 0 ${counts.length} ${HEIGHT}" preserveAspectRatio="none" aria-hidden="true"><path class="${name}" d="${bars}"/><path class="mark" d="${mark}"/><path class="cursor" d=""/></svg>`;
}

/** `marks`: ordinals of the steps in which the sides differ, as far as they are known. */
export function timelinePicture(timeline: Timeline, marks: readonly number[]): Markup {
  const spans = timeline.faults.length;
  if (spans === 0) return html``;
  const places = [...new Set(marks.map((step) => Math.floor(step / timeline.width)))].filter((span) => span < spans);
  const bands: Band[] = [
    { name: 'faults', counts: timeline.faults },
    { name: 'walks', counts: timeline.walks },
    { name: 'flushes', counts: timeline.flushes },
  ];
  const tips = Array.from({ length: spans }, (_, span) => spanText(timeline, span));
  const width = timeline.width === 1 ? 'a step' : `${countText(timeline.width)} steps`;
  const note = places.length === 0 ? '' : '; dashed lines: the sides differ';
  return html`<figure><figcaption>Timeline as recorded; a bar is ${width}${note}</figcaption>
<div class="timeline" role="img" tabindex="0" aria-label="timeline of faults, walks and flushes; arrow keys move through it" data-height="${HEIGHT}" data-spans="${linesAttribute(tips)}">
${joined(bands.map((band) => bandPicture(band, places)))}<div class="ends"><span>step 0</span><span>step ${countText(timeline.steps - 1)}</span></div></div></figure>`;
}
