/** HTML put together without mistakes: whatever is not markup itself is escaped. */

import { escapeControls } from '../escape.ts';

/** A piece of HTML or SVG. */
export class Markup {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

export type Piece = string | number | Markup | readonly Markup[] | undefined;

const SPECIAL: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Control characters shown as `\x1b`, HTML's own characters as references: for text and for attributes in quotes. */
export function htmlText(text: string): string {
  return escapeControls(text).replace(/[&<>"']/g, (character) => SPECIAL[character] ?? '');
}

function pieceText(piece: Piece): string {
  if (piece === undefined) return '';
  if (typeof piece === 'string') return htmlText(piece);
  if (typeof piece === 'number') return String(piece);
  if (piece instanceof Markup) return piece.text;
  return piece.map(({ text }) => text).join('');
}

/** A template of HTML: what is put into it is escaped, unless it is markup. */
export function html(strings: TemplateStringsArray, ...pieces: readonly Piece[]): Markup {
  return new Markup(strings.map((text, i) => (i === 0 ? text : pieceText(pieces[i - 1]) + text)).join(''));
}

/** Several lines as the value of an attribute in quotes. */
export function linesAttribute(lines: readonly string[]): Markup {
  return new Markup(lines.map(htmlText).join('&#10;'));
}

export function joined(pieces: readonly Markup[], between = ''): Markup {
  return new Markup(pieces.map(({ text }) => text).join(between));
}
