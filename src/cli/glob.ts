/** Path patterns, for shells that leave them to us and for quoted ones: `*`, `?`, `[a-z]`, `{a,b}`, `**`. */

import { readdirSync } from 'node:fs';
import { join, sep } from 'node:path';

export function hasMagic(path: string): boolean {
  return /[*?[{]/.test(path);
}

/** One level of `{a,b}` at a time, until none is left. A brace without a comma or without an end is itself. */
function braceExpansions(pattern: string): string[] {
  const [, before, inner, after] = /^(.*?)\{([^{}]*,[^{}]*)\}(.*)$/s.exec(pattern) ?? [];
  if (before === undefined || inner === undefined || after === undefined) return [pattern];
  return inner.split(',').flatMap((choice) => braceExpansions(before + choice + after));
}

/** A segment of a pattern as a regular expression for a file name. As in shells, `*` and `?` pass over hidden names. */
function segmentExpression(segment: string): RegExp {
  let source = '';
  for (let i = 0; i < segment.length; i++) {
    const character = segment[i]!;
    const close = character === '[' ? segment.indexOf(']', i + 2) : -1;
    if (character === '*') source += '[^/]*';
    else if (character === '?') source += '[^/]';
    else if (close > 0) {
      const set = segment
        .slice(i + 1, close)
        .replace(/[\\[]/g, '\\$&')
        .replace(/^!/, '^');
      source += `[${set}]`;
      i = close;
    } else source += character.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
  }
  const visible = segment.startsWith('.') ? '' : '(?!\\.)';
  return new RegExp(`^${visible}${source}$`, 'su');
}

interface Entry {
  readonly name: string;
  readonly folder: boolean;
}

/** The entries of a folder, by name; nothing if it cannot be read or is none. A link counts as what it is not. */
function entriesOf(folder: string): Entry[] {
  try {
    return readdirSync(folder === '' ? '.' : folder, { withFileTypes: true })
      .map((entry) => ({ name: entry.name, folder: entry.isDirectory() }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  } catch {
    return [];
  }
}

function descend(base: string, segments: readonly string[], found: Set<string>): void {
  const [segment, ...rest] = segments;
  if (segment === undefined) return;
  if (segment === '**') {
    descend(base, rest.length === 0 ? ['*'] : rest, found);
    for (const entry of entriesOf(base)) {
      if (entry.folder && !entry.name.startsWith('.')) descend(join(base, entry.name), segments, found);
    }
    return;
  }
  if (!hasMagic(segment)) {
    const path = base === '' ? segment : join(base, segment);
    if (rest.length > 0) descend(path, rest, found);
    else if (entriesOf(base).some(({ name }) => name === segment)) found.add(path);
    return;
  }
  const expression = segmentExpression(segment);
  for (const entry of entriesOf(base)) {
    if (!expression.test(entry.name)) continue;
    const path = base === '' ? entry.name : join(base, entry.name);
    if (rest.length === 0) found.add(path);
    else descend(path, rest, found);
  }
}

/** Every file and folder that the pattern matches, sorted. */
export function globMatches(pattern: string): string[] {
  const found = new Set<string>();
  for (const each of braceExpansions(pattern)) {
    const segments = each.split(/[/\\]/.test(each) && sep === '\\' ? /[/\\]+/ : /\/+/);
    const absolute = segments[0] === '';
    descend(absolute ? '/' : '', absolute ? segments.slice(1) : segments, found);
  }
  return [...found].sort();
}
