import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { escapeControls } from '../../src/report/escape.ts';
import { countText, tableLines } from '../../src/report/table.ts';

describe('tables', () => {
  test('columns are as wide as their widest cell, numbers to the right', () => {
    expect(
      tableLines(
        [
          ['access', '1,234'],
          ['store', '7'],
        ],
        ['left', 'right'],
        2,
      ),
    ).toEqual(['  access  1,234', '  store       7']);
  });

  test('a short row leaves no spaces behind', () => {
    expect(tableLines([['a', 'b'], ['longer'], []])).toEqual(['a       b', 'longer', '']);
  });

  test('colour takes no room', () => {
    expect(
      tableLines([
        ['\u001b[31mred\u001b[39m', 'x'],
        ['green', 'y'],
      ]),
    ).toEqual(['\u001b[31mred\u001b[39m    x', 'green  y']);
  });

  test('counts have thousands separated', () => {
    expect([0, 999, 1000, 1234567].map(countText)).toEqual(['0', '999', '1,000', '1,234,567']);
  });
});

describe('escaping', () => {
  test('control characters are shown, not sent', () => {
    expect(escapeControls('a\u001b]0;title\u0007b\tc\nd\u009be')).toBe('a\\x1b]0;title\\x07b\\tc\\nd\\x9be');
  });

  test('characters that turn the writing direction are shown', () => {
    expect(escapeControls('trace\u202etwr.evil')).toBe('trace\\u{202e}twr.evil');
  });

  test('ordinary text in any script stays as it is', () => {
    expect(escapeControls('Größe — 大きさ 🙂')).toBe('Größe — 大きさ 🙂');
  });

  test('nothing that a terminal obeys is left', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
        expect(escapeControls(text)).not.toMatch(/[\u0000-\u001f\u007f-\u009f]/);
      }),
    );
  });
});
