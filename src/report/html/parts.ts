/** Parts that several sections of the page are made of: lines with words to take apart, two sides, registers. */

import type { LineWord, ReportLine, ReportPlace, ReportRegister } from '../run.ts';
import { html, htmlText, joined, linesAttribute, Markup } from './markup.ts';

/** A value that is explained on hover, focus and touch. */
export function wordButton(text: string, lines: readonly string[]): Markup {
  return html`<button type="button" class="word" data-tip="${linesAttribute(lines)}">${text}</button>`;
}

/** A line's text with its words made into buttons. */
export function lineMarkup({ text, words }: ReportLine): Markup {
  const parts: Markup[] = [];
  let done = 0;
  for (const { at, word } of placesOf(text, words)) {
    if (at < done) continue;
    parts.push(new Markup(htmlText(text.slice(done, at))), wordButton(word.text, word.lines));
    done = at + word.text.length;
  }
  parts.push(new Markup(htmlText(text.slice(done))));
  return joined(parts);
}

/** Where words stand, in order: as whole words, the first such place. A single digit could be anything and is left out. */
function placesOf(text: string, words: readonly LineWord[]): { at: number; word: LineWord }[] {
  const isPart = (character: string | undefined): boolean => character !== undefined && /[0-9a-zA-Z_]/.test(character);
  return words
    .filter((word) => word.text.length > 1)
    .map((word) => {
      let at = text.indexOf(word.text);
      while (at >= 0 && (isPart(text[at - 1]) || isPart(text[at + word.text.length])))
        at = text.indexOf(word.text, at + 1);
      return { at, word };
    })
    .filter(({ at }) => at >= 0)
    .sort((a, b) => a.at - b.at);
}

const MARK: Readonly<Record<ReportPlace['state'], string>> = { equal: '', differs: '≠', 'only-a': '−', 'only-b': '+' };

function sideMarkup(lines: readonly ReportLine[], label: string): Markup {
  const texts = lines.map((line) => html`<div class="line">${lineMarkup(line)}</div>`);
  return html`<div class="side" data-label="${label}">${lines.length === 0 ? html`<div class="line nothing">nothing</div>` : texts}</div>`;
}

/** Two sides; what is equal stands once. */
export function placesMarkup(places: readonly ReportPlace[], [a, b]: readonly [string, string]): Markup {
  if (places.length === 0) return html``;
  const rows = places.map((place) => {
    const sides =
      place.state === 'equal'
        ? html`<div class="side both">${place.a.map((line) => html`<div class="line">${lineMarkup(line)}</div>`)}</div>`
        : html`${sideMarkup(place.a, a)}${sideMarkup(place.b, b)}`;
    return html`<div class="place ${place.state}"><span class="sign">${MARK[place.state]}</span>${sides}</div>`;
  });
  return html`<div class="places"><div class="place head"><span class="sign"></span><div class="side">${a}</div><div class="side">${b}</div></div>${rows}</div>`;
}

export function registersMarkup(registers: readonly ReportRegister[]): Markup {
  if (registers.length === 0) return html``;
  const rows = registers.map(
    ({ name, value, short, lines }) =>
      html`<tr><th scope="row">${name}</th><td>${lines.length === 0 ? value : wordButton(value, lines)}</td><td>${short}</td></tr>`,
  );
  return html`<details class="registers"><summary>Registers (${registers.length})</summary><div class="scroll"><table>${rows}</table></div></details>`;
}

export function preMarkup(lines: readonly string[]): Markup {
  return html`<pre>${joined(
    lines.map((line) => html`${line}`),
    '\n',
  )}</pre>`;
}

export function detailsMarkup(title: string, body: Markup, open = false): Markup {
  return html`<details${open ? html` open` : undefined}><summary>${title}</summary>${body}</details>`;
}
