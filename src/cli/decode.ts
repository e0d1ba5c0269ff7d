/** `rewalk decode`: one word, bit by bit. */

import { ExitStatus, Problem } from '../bits/problem.ts';
import { DECODE_FORMATS, type DecodeOption, type DecodeOptions, decodeFormat } from '../formats/decode/catalog.ts';
import { KVM_PROFILES } from '../formats/decode/kvm-role.ts';
import { PAGING_MODES, TOP_LEVEL } from '../formats/decode/page-table-entry.ts';
import { jsonForm, longForm } from '../formats/decode/word.ts';
import { tableLines } from '../report/table.ts';
import { defineCommand, jsonOption } from './command.ts';
import { hexWordValue, wholeNumber } from './option-values.ts';
import { suggestion } from './suggest.ts';

/** How an option of the decoders is spelt on the command line. */
const SPELLING: Readonly<Record<DecodeOption, string>> = {
  level: 'level',
  paging: 'paging',
  vendor: 'vendor',
  maxphyaddr: 'maxphyaddr',
  pse: 'pse',
  pcide: 'pcide',
  mbec: 'mbec',
  ad: 'ad',
  executeOnly: 'execute-only',
  advanced: 'advanced',
  profile: 'profile',
  ept: 'ept',
};

/** The formats with the options that they look at. */
function formatLines(): string[] {
  return tableLines(
    DECODE_FORMATS.map(({ name, aliases, summary, options }) => [
      [name, ...aliases].join(', '),
      summary,
      options.map((option) => `--${SPELLING[option]}`).join(' '),
    ]),
  );
}

function unknownFormat(name: string): Problem {
  const near = suggestion(
    name,
    DECODE_FORMATS.flatMap((format) => [format.name, ...format.aliases]),
  );
  const remedy = near === undefined ? '`rewalk decode --list` names the formats' : `did you mean ${near}?`;
  return new Problem('E_USAGE', `unknown format ${JSON.stringify(name)}`, {}, remedy);
}

export const decode = defineCommand({
  command: 'decode [format] [words..]',
  describe: 'Put a PTE, EPT entry, error code, qualification, CR, role or SPTE in words',
  examples: [
    ['rewalk decode pfec 0x15', 'a page-fault error code'],
    ['rewalk decode pte --level 2 0x6000e7', 'a page-directory entry'],
    ['rewalk decode qualification 0x182', 'an EPT violation'],
    ['rewalk decode spte --profile 6.1 --ept 0x6000000028f6b77', "KVM's own entry"],
  ],
  positionals: {
    format: { type: 'string', describe: 'Kind of word; see --list' },
    words: { type: 'string', array: true, describe: 'Words, hexadecimal, 0x or not' },
  },
  options: {
    list: { type: 'boolean', default: false, describe: 'List the formats' },
    short: { type: 'boolean', default: false, describe: 'One line per word' },
    level: { type: 'string', coerce: wholeNumber('--level', 1, 5), describe: 'Level of the table, 1 (PTE) to 5' },
    paging: { choices: PAGING_MODES, describe: 'Paging mode' },
    vendor: { choices: ['intel', 'amd'] as const, describe: 'Processor vendor' },
    maxphyaddr: { type: 'string', coerce: wholeNumber('--maxphyaddr', 32, 52), describe: 'Physical-address bits' },
    pse: { type: 'boolean', describe: 'CR4.PSE' },
    pcide: { type: 'boolean', describe: 'CR4.PCIDE' },
    mbec: { type: 'boolean', describe: 'Mode-based execute control' },
    ad: { type: 'boolean', describe: 'EPT accessed and dirty flags' },
    'execute-only': { type: 'boolean', describe: 'Execute-only EPT entries supported' },
    advanced: { type: 'boolean', describe: 'Advanced VM-exit information for EPT violations' },
    profile: { choices: KVM_PROFILES, describe: 'Kernel whose layout it is (default 7.3)' },
    ept: { type: 'boolean', describe: 'SPTE of a host with EPT' },
    ...jsonOption,
  },
  async run(args, { out, json }) {
    if (args.list) {
      if (json) out.json(DECODE_FORMATS.map(({ name, aliases, summary }) => ({ name, aliases, summary })));
      else out.lines(formatLines());
      return ExitStatus.MATCH;
    }
    if (args.format === undefined)
      throw new Problem('E_USAGE', 'no format is given', {}, '`rewalk decode --list` names them');
    const format = decodeFormat(args.format);
    if (format === undefined) throw unknownFormat(args.format);
    const options: DecodeOptions = { ...args, executeOnly: args['execute-only'] };
    for (const option of Object.keys(SPELLING) as DecodeOption[]) {
      if (options[option] === undefined || format.options.includes(option)) continue;
      throw new Problem('E_USAGE', `--${SPELLING[option]} makes no difference to ${format.name}`, {}, `leave it away`);
    }
    const top = options.paging === undefined ? 5 : TOP_LEVEL[options.paging];
    if (options.level !== undefined && options.level > top) {
      throw new Problem('E_USAGE', `${options.paging} paging has no level ${options.level}`);
    }
    const words = (args.words ?? []).map((text) => hexWordValue('word', text));
    if (words.length === 0)
      throw new Problem('E_USAGE', 'no word is given', {}, `e.g. \`rewalk decode ${format.name} 0x15\``);
    const decoded = words.map((word) => format.decode(word, options));
    if (json) out.json(decoded.length === 1 ? jsonForm(decoded[0]!) : decoded.map(jsonForm));
    else if (args.short) out.lines(decoded.map(({ short }) => short));
    else out.lines(decoded.flatMap((word, i) => (i === 0 ? longForm(word) : ['', ...longForm(word)])));
    return ExitStatus.MATCH;
  },
});
