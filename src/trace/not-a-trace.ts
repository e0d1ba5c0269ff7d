/** What a file that is not a trace seems to be instead, so that the message can say how to go on. */

import { Problem } from '../bits/problem.ts';

interface Look {
  readonly begins: string | readonly number[];
  readonly what: string;
  readonly remedy: string;
}

const IMPORT = 'make a trace of it with `rewalk import`';

const LOOKS: readonly Look[] = [
  { begins: [0x1f, 0x8b], what: 'gzip data', remedy: 'unpack it with `gzip -dc`, or pass it to `rewalk import`' },
  { begins: [0x28, 0xb5, 0x2f, 0xfd], what: 'zstd data', remedy: 'unpack it with `zstd -dc`' },
  { begins: [0xfd, 0x37, 0x7a, 0x58, 0x5a], what: 'xz data', remedy: 'unpack it with `xz -dc`' },
  { begins: 'PK\x03\x04', what: 'a zip archive', remedy: 'unpack it first' },
  { begins: '\x17\x08Dtracing', what: 'a trace.dat of trace-cmd', remedy: IMPORT },
  { begins: 'H walklog', what: 'a walklog of Bochs', remedy: IMPORT },
  { begins: '# tracer:', what: 'the text of ftrace', remedy: IMPORT },
  {
    begins: '{',
    what: 'JSON Lines, perhaps the text form of a trace',
    remedy: 'make a trace of it with `rewalk convert`',
  },
  { begins: '\x7fELF', what: 'an ELF file', remedy: 'give a trace (*.rwt)' },
];

/** `head`: the first bytes of the file, as many as there are, up to some tens. */
export function notATrace(head: Uint8Array): Problem {
  if (head.length === 0)
    return new Problem('E_NOT_A_TRACE', 'the file is empty', { offset: 0 }, 'record or import again');
  const look = LOOKS.find(({ begins }) =>
    typeof begins === 'string'
      ? begins.length <= head.length && [...begins].every((char, i) => char.charCodeAt(0) === head[i])
      : begins.length <= head.length && begins.every((byte, i) => byte === head[i]),
  );
  if (look === undefined) {
    const remedy = 'give a trace (*.rwt); foreign recordings become one with `rewalk import`';
    return new Problem('E_NOT_A_TRACE', 'this is not a trace: its first bytes are none of ours', { offset: 0 }, remedy);
  }
  return new Problem('E_NOT_A_TRACE', `this is not a trace; it looks like ${look.what}`, { offset: 0 }, look.remedy);
}
