import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Problem, placeText } from '../../src/bits/problem.ts';
import { OBSERVATION_KINDS, STEP_KINDS } from '../../src/trace/text/kinds.ts';
import { STIMULUS_FIELDS } from '../../src/trace/text/stimulus.ts';
import {
  chunksArbitrary,
  convert,
  fileOf,
  freshPath,
  HEADER,
  outcome,
  PLAIN_HEADER,
  readAll,
  SEEDED,
  sampleBytes,
  sampleChunks,
  writeTrace,
} from './samples.ts';

function toText(path: string): string {
  const text = freshPath('.jsonl');
  convert(path, text);
  return readFileSync(text, 'utf8');
}

function toTrace(text: string): string {
  const path = freshPath();
  convert(fileOf(text, '.jsonl'), path);
  return path;
}

/** What a person who wrote these lines behind a good header is told. */
function told(...lines: (object | string)[]): string {
  const text = ['{"header":{}}', ...lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line)))];
  try {
    return `${outcome(toTrace(text.join('\n'))).steps} steps`;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return `${error.code} ${placeText({ ...error.place, file: 'FILE' })}: ${error.message}`;
  }
}

describe('trace to text to trace', () => {
  test('gives the same file, bit for bit, for whatever a reader accepts', () => {
    fc.assert(
      fc.property(chunksArbitrary, (chunks) => {
        const { path } = writeTrace(chunks, { header: PLAIN_HEADER });
        expect(readFileSync(toTrace(toText(path))).equals(readFileSync(path))).toBe(true);
      }),
      SEEDED,
    );
  });

  test('gives the same headers and segments', () => {
    const bytes = sampleBytes();
    const { path } = writeTrace(sampleChunks(), { header: { ...PLAIN_HEADER, observable: 0, independent: true } });
    const twice = Buffer.concat([bytes, readFileSync(path)]);
    expect(readFileSync(toTrace(toText(fileOf(twice)))).equals(twice)).toBe(true);
  });
});

describe('text to trace to text', () => {
  test('gives the same text', () => {
    const text = toText(writeTrace(sampleChunks()).path);
    expect(toText(toTrace(text))).toBe(text);
    expect(text).toMatchInlineSnapshot(`
      "{"header":{"recorder":"bochs 3.0","writer":"rewalk test","title":"a sample","processor":{"vendor":"intel","model":"arrow_lake","maxphyaddr":40,"features":["pae","nx","smep"],"eptVpidCap":"0xf0106334141","secondaryControlsAllowed":"0x6d77ff"},"adPolicy":"after-permissions","sources":[{"name":"sample.walklog","size":5000000000,"sha256":"abababababababababababababababababababababababababababababababab"},{"name":"second.walklog"}],"knownFaults":["mbec-qualification"],"hypervisor":{"name":"kvm","version":"6.1.192","tdp":true,"parameters":["ept=1"]},"omissions":[{"what":"port accesses","count":3}],"observable":["none","element","pdpte","nested-walk","entry-write","translated","completed","exception","ept-violation","ept-misconfig","npf","exit-linear","pdpte-loaded","register","entry-after","not-modelled"]}}
      {"state":{"cr0":"0x1234567100000000","cr3":"0x369d03532468ace2","cr4":"0x5b05b03548d159c4","efer":"0x7f6e5d176d3a06a6","pkru":"0xa3d709f991a2b388","pkrs":"0xc83fb6dbb60b606a","pdpte0":"0xeca863bdda740d4c","pdpte1":"0x1111109ffedcba2e","pdpte2":"0x3579bd8123456710","pdpte3":"0x59e26a6347ae13f2","guest_mode":"0x7e4b17456c16c0d4","eptp":"0xa2b3c427907f6db6","vpid":"0xc71c7109b4e81a98","secondary_controls":"0xeb851debd950c77a","nested_control":"0xfedcacdfdb9745c","ncr3":"0x345677af2222213e","asid":"0x58bf2491468ace20","host_cr0":"0x7d27d1736af37b02","host_cr4":"0xa1907e558f5c27e4","host_efer":"0xc5f92b37b3c4d4c6","smm":"0xea61d819d82d81a8","pat":"0xeca84fbfc962e8a"}}
      {"note":"begin “µ”","line":2}
      {"page-image":"0x100003000","words":{"3":"0xdeadbeefdeadbeef","4":"0xdeadbeef"},"line":4}
      {"access":"write","address":"0x7fff00000010","user":true,"length":8,"physical":"0x100000010","line":1}
      {"access":"write","address":"0x7fff00001010","user":true,"length":8,"physical":"0x100002010","line":2,"expect":[{"element":"0x1000","value":"0x2007","level":4},{"nested-walk":"0x2000","tables":"ept"}]}
      {"state":{"cr0":"0x300000000","cr3":"0x900000006","cr4":"0xf0000000c","efer":"0x1500000012","pkru":"0x1b00000018","pkrs":"0x210000001e","pdpte0":"0x2700000024","pdpte1":"0x2d0000002a","pdpte2":"0x3300000030","pdpte3":"0x3900000036","guest_mode":"0x3f0000003c","eptp":"0x4500000042","vpid":"0x4b00000048","secondary_controls":"0x510000004e","nested_control":"0x5700000054","ncr3":"0x5d0000005a","asid":"0x6300000060","host_cr0":"0x6900000066","host_cr4":"0x6f0000006c","host_efer":"0x7500000072","smm":"0x7b00000078","pat":"0x810000007e"},"source":1}
      {"entry-fill":"0x5000","count":512,"first":"0x7","increment":"0x1000","line":9,"time":"1700000000000000000"}
      {"store":"0x6000","value":"0x80000001","size":4,"line":7,"time":"1700000000000000500"}
      {"pdpte-load":"0x7000","time":"1700000000000000400","expect":[{"pdpte-loaded":true}]}
      "
    `);
  });

  test('brings what was written by hand into its usual form', () => {
    const byHand = [
      '{"header": {"processor": {"maxphyaddr": 52}, "observable": ["npf", "completed", "faulted", "translated", "exception", "ept-violation", "ept-misconfig"]}}',
      '',
      '{"user": false, "address": "0x0000000000401000", "access": "read", "cpl": 0, "line": 0}',
      '{"state": {"cr0": "0x80000011", "cr3": "0x0"}}',
      '{"store": "0x1000", "value": "0x2007", "size": 8}',
      '{"access": 1, "address": "0x401000", "expect": [{"completed": true}, {"exception": 14, "error": "0x2", "cr2": "0x401000"}]}',
      '{"access": 0, "address": "0x402000", "expect": [{"faulted": true}]}',
      '{"invalidate": 0, "address": "0x401000"}',
      '{"access": "fetch", "address": "0x401000", "user": true, "physical": "0x0", "time": 5}',
    ].join('\r\n');
    expect(() => toTrace(byHand)).toThrow("all steps have a 'time', or none has");
    expect(toText(toTrace(byHand.replace(', "time": 5', '')))).toMatchInlineSnapshot(`
      "{"header":{"processor":{}}}
      {"state":{}}
      {"access":"read","address":"0x401000"}
      {"state":{"cr0":"0x80000011"}}
      {"store":"0x1000","value":"0x2007"}
      {"access":"write","address":"0x401000","expect":[{"completed":true},{"exception":"#PF","error":"0x2","cr2":"0x401000"}]}
      {"access":"read","address":"0x402000","expect":[{"faulted":true}]}
      {"invlpg":"0x401000"}
      {"access":"fetch","address":"0x401000","user":true,"physical":"0x0"}
      "
    `);
  });
});

test('what was written is counted', () => {
  const text = freshPath('.jsonl');
  const twice = fileOf(Buffer.concat([sampleBytes(), sampleBytes()]));
  const counts = { steps: 14, segments: 2 };
  expect(convert(twice, text)).toEqual({ output: text, form: 'text', ...counts, bytes: statSync(text).size });
  expect(convert(text, freshPath())).toMatchObject({ form: 'trace', ...counts, bytes: statSync(twice).size });
});

test('a trace that was cut short or damaged leaves no text behind, and bad text no trace', () => {
  const short = freshPath('.jsonl');
  expect(() => convert(fileOf(sampleBytes().subarray(0, -8)), short)).toThrow('the file ends inside a chunk');
  expect(() => readFileSync(short)).toThrow('ENOENT');
  const bytes = sampleBytes();
  bytes[400]! ^= 1;
  const text = freshPath('.jsonl');
  expect(() => convert(fileOf(bytes), text)).toThrow('damaged');
  expect(() => readFileSync(text)).toThrow('ENOENT');
  const path = freshPath();
  expect(() => convert(fileOf('{"header":{}}\n{}\n'), path)).toThrow(Problem);
  expect(() => readFileSync(path)).toThrow('ENOENT');
});

test('the shortest text is a trace without steps', () => {
  expect(readAll(toTrace('{"header":{}}'))).toMatchObject([
    { header: { processor: { vendor: 'unknown', maxphyaddr: 52 }, observable: 0x1_07e0 } },
    { complete: true, steps: 0 },
  ]);
});

test('a line may be long, up to its limit, and split anywhere by the buffer', () => {
  const note = (length: number): string => `{"note":"${'é'.repeat(length)}"}`;
  expect(told(note(30_000), note(1), note(20_000))).toBe('3 steps');
  expect(told(note(600_000))).toContain('E_LIMIT FILE, line 2: the line');
});

describe('what a person is told who wrote', () => {
  test('no text form at all', () => {
    const tell = (text: string | Buffer): string => {
      try {
        convert(fileOf(text), freshPath(), 'text');
        return 'fine';
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        return `${error.code} ${placeText({ ...error.place, file: 'FILE' })}: ${error.message}`;
      }
    };
    expect(
      ['', '\n\n', 'hello', '[]', '{"access":"read"}', Buffer.from([0xff, 0xfe, 0x0a]), sampleBytes()].map(tell),
    ).toMatchInlineSnapshot(`
      [
        "E_TEXT_FORM FILE, line 1: there is no header line",
        "E_TEXT_FORM FILE, line 1: there is no header line",
        "E_TEXT_FORM FILE, line 1: the line is no JSON",
        "E_TEXT_FORM FILE, line 1: 'the line' is [], but an object is due",
        "E_TEXT_FORM FILE, line 1: the first line is no header; {"header":{}} is the shortest",
        "E_TEXT_FORM FILE, line 1: the line is no UTF-8 text",
        "E_TEXT_FORM FILE, line 2: the line is no UTF-8 text",
      ]
    `);
  });

  test('a name that is not quite right', () => {
    expect([
      told({ acess: 'read', address: '0x1000' }),
      told({ access: 'raed', address: '0x1000' }),
      told({ access: 'read', adress: '0x1000' }),
      told({ access: 'read', expect: [{ elment: '0x1000' }] }),
      told({ access: 'read', expect: [{ element: '0x1000', vlaue: '0x1' }] }),
      told({ access: 'read', expect: [{ exception: '#PG' }] }),
      told({ 'register-write': 'cr33', value: '0x0' }),
      told({ state: { cr5: '0x0' } }),
      told({ state: {}, sauce: 1 }),
      told({ header: { recoder: 'x' } }),
      told({ header: { processor: { vendor: 'inetl' } } }),
      told({ header: {}, title: 'x' }),
      told({ 'page-image': '0x1000', word: {} }),
      told({ zebra: 1 }),
    ]).toMatchInlineSnapshot(`
      [
        "E_TEXT_FORM FILE, line 2: no key says what kind of line this is; did you mean 'access'?",
        "E_TEXT_FORM FILE, line 2: 'access' is "raed", which is none of its values; did you mean 'read'?",
        "E_TEXT_FORM FILE, line 2: 'adress' is no field of a step 'access'; did you mean 'address'?",
        "E_TEXT_FORM FILE, line 2: no key says what kind of observation this is; did you mean 'element'?",
        "E_TEXT_FORM FILE, line 2: 'vlaue' is no field of an observation 'element'; did you mean 'value'?",
        "E_TEXT_FORM FILE, line 2: 'exception' is "#PG", which is none of its values; did you mean '#PF'?",
        "E_TEXT_FORM FILE, line 2: 'register-write' is "cr33", which is none of its values; did you mean 'cr3'?",
        "E_TEXT_FORM FILE, line 2: 'cr5' is no register; did you mean 'cr0'?",
        "E_TEXT_FORM FILE, line 2: 'sauce' is no field of a state line; did you mean 'source'?",
        "E_TEXT_FORM FILE, line 2: 'recoder' is no field of the header; did you mean 'recorder'?",
        "E_TEXT_FORM FILE, line 2: 'vendor' is "inetl", which is none of its values; did you mean 'intel'?",
        "E_TEXT_FORM FILE, line 2: 'title' is no field of a header line",
        "E_TEXT_FORM FILE, line 2: 'word' is no field of a step 'page-image'; did you mean 'words'?",
        "E_TEXT_FORM FILE, line 2: no key says what kind of line this is",
      ]
    `);
  });

  test('a value of the wrong kind', () => {
    expect([
      told({ access: 'read', address: 4096 }),
      told({ access: 'read', address: '1000' }),
      told({ access: 'read', address: '0x11112222333344445' }),
      told({ access: 'read', user: 'yes' }),
      told({ access: 'read', cpl: 4 }),
      told({ access: 'read', length: 1.5 }),
      told({ access: true }),
      told({ access: 'read', line: -1 }),
      told({ access: 'read', time: 'soon' }),
      told({ access: 'read', time: '9223372036854775808' }),
      told({ access: 'read', expect: {} }),
      told({ access: 'read', expect: ['element'] }),
      told({ access: 'read', expect: [{ completed: false }] }),
      told({ access: 'read', expect: [{ faulted: '#PF' }] }),
      told({ access: 'read', physical: '0x0', operand: '0x1' }),
      told({ access: 'read', bits: '0x400' }),
      told({ note: 5 }),
      told({ 'page-image': '0x1000', words: { 512: '0x1' } }),
      told({ 'page-image': '0x1008' }),
      told({ 'entry-fill': '0x1000', size: 3 }),
      told({ header: { observable: 'element' } }),
      told({ header: { observable: ['elements'] } }),
      told({ header: { sources: [{ sha256: 'ab' }] } }),
      told({ header: { secondaryControlsAllowed: '0x100000000' } }),
    ]).toMatchInlineSnapshot(`
      [
        "E_TEXT_FORM FILE, line 2: 'address' is 4096, but a hexadecimal string like "0x1000" is due",
        "E_TEXT_FORM FILE, line 2: 'address' is "1000", but a hexadecimal string like "0x1000" is due",
        "E_TEXT_FORM FILE, line 2: 'address' is "0x11112222333344445", but a hexadecimal string like "0x1000" is due",
        "E_TEXT_FORM FILE, line 2: 'user' is "yes", but true or false is due",
        "E_TEXT_FORM FILE, line 2: 'cpl' is 4, but a whole number from 0 to 3 is due",
        "E_TEXT_FORM FILE, line 2: 'length' is 1.5, but a whole number from 0 to 8191 is due",
        "E_TEXT_FORM FILE, line 2: 'access' is true, but a name is due: read, write, fetch, rmw",
        "E_TEXT_FORM FILE, line 2: 'line' is -1, but a whole number from 0 to 4294967295 is due",
        "E_TEXT_FORM FILE, line 2: 'time' is "soon", but nanoseconds, as a whole number or as a string of one, are due",
        "E_TEXT_FORM FILE, line 2: 'time' is "9223372036854775808", but nanoseconds, as a whole number or as a string of one, are due",
        "E_TEXT_FORM FILE, line 2: 'expect' is {}, but a list is due",
        "E_TEXT_FORM FILE, line 2: 'expect[0]' is "element", but an object is due",
        "E_TEXT_FORM FILE, line 2: 'completed' is false, but true is due",
        "E_TEXT_FORM FILE, line 2: 'faulted' is "#PF", but true is due",
        "E_TEXT_FORM FILE, line 2: 'physical' and 'operand' exclude each other",
        "E_TEXT_FORM FILE, line 2: 'bits' sets bits that have fields of their own",
        "E_TEXT_FORM FILE, line 2: 'note' is 5, but a string is due",
        "E_TEXT_FORM FILE, line 2: 'words' is 512, but a whole number from 0 to 511 is due",
        "E_TEXT_FORM FILE, line 2: a page image's address is not 4 KiB aligned",
        "E_TEXT_FORM FILE, line 2: an entry fill has entries of 3 bytes",
        "E_TEXT_FORM FILE, line 2: 'observable' is "element", but a list of kinds of observation is due",
        "E_TEXT_FORM FILE, line 2: 'observable' is "elements", which is none of its values; did you mean 'element'?",
        "E_TEXT_FORM FILE, line 2: 'sha256' is "ab", but 64 hexadecimal digits are due",
        "E_TEXT_FORM FILE, line 2: 'secondaryControlsAllowed' is no field of the header",
      ]
    `);
  });
});

test('a trace that nobody can write truthfully survives as text too', () => {
  const strange = [
    { access: 'read', operand: '0x5' },
    { store: '0x0', value: '0x5', size: 3, bits: '0x80000000' },
    { 'clear-page': '0x1001', operand: '0xffffffffffffffff', provenance: 'inferred' },
    { invalidate: 9, type: 7 },
    { 'register-set': 60, value: '0x1' },
    { 'nested-exit': 'svm', reason: '0x400', qualification: '0x100000006' },
    {
      'gpa-access': 'write',
      address: '0x1000',
      ofTable: true,
      expect: [
        { translated: '0x1000', page: 13 },
        { none: true, tables: 'spp', level: 7 },
      ],
    },
  ].map((step) => JSON.stringify(step));
  const text = ['{"header":{"processor":{}}}', '{"state":{}}', ...strange, ''].join('\n');
  expect(toText(toTrace(text))).toBe(text);
});

test('the header of the sample is the one that was written', () => {
  expect(readAll(toTrace(toText(fileOf(sampleBytes()))))[0]).toMatchObject({ header: HEADER });
});

describe('the description of the text form', () => {
  const description = readFileSync(join(import.meta.dirname, '../../src/trace/text/TEXT-FORM.md'), 'utf8');

  test('has an example that is a trace in its usual form', () => {
    const example = /```jsonl\n(.*?)```/s.exec(description)![1]!;
    expect(toText(toTrace(example))).toBe(example);
  });

  test('names every key and field', () => {
    const kinds = [...STEP_KINDS, ...OBSERVATION_KINDS];
    const names = kinds.flatMap(({ main, fields }) => [main, ...fields].map(({ name }) => name));
    const stimuli = Object.entries(STIMULUS_FIELDS).flatMap(([key, fields]) => [key, ...fields]);
    expect([...names, ...stimuli].filter((name) => !description.includes(`\`${name}\``))).toEqual([]);
  });
});
