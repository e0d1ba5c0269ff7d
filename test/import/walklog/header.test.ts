import { describe, expect, test } from 'vitest';
import { Problem } from '../../../src/bits/problem.ts';
import { OBS_NAMES } from '../../../src/formats/observation.ts';
import { parseWalklogHeader } from '../../../src/import/walklog/header.ts';
import type { TraceHeader } from '../../../src/trace/header.ts';
import { HEADER } from './logs.ts';

const SOURCE = { name: 'pcid.walklog.gz', size: 1204, sha256: new Uint8Array(32) };

function parsed(line: string): TraceHeader {
  return parseWalklogHeader(line, SOURCE);
}

describe('a header line', () => {
  test('says which processor was logged, by whom', () => {
    expect(parsed(HEADER)).toMatchObject({
      recorder: 'bochs 783b58fd (walklog 1, fix=ff)',
      title: 'page walks of pcid on arrow_lake',
      processor: {
        vendor: 'intel',
        model: 'arrow_lake',
        maxphyaddr: 40,
        eptVpidCap: { lo: 0x06f3_4141, hi: 0xf01 },
        secondaryControlsAllowed: 0x6d7_7fff,
      },
      adPolicy: 'after-permissions',
      independent: false,
      sources: [SOURCE],
      hypervisor: undefined,
    });
  });

  test('AMD by model, all others Intel', () => {
    expect(parsed(HEADER.replace('arrow_lake', 'ryzen')).processor.vendor).toBe('amd');
    expect(parsed(HEADER.replace('arrow_lake', 'corei7')).processor.vendor).toBe('intel');
  });

  test('features as they are listed, empty ones left out, PSE-36 with PAT', () => {
    const features = (feat: string): readonly string[] =>
      parsed(HEADER.replace(/feat=\S+/, `feat=${feat}`)).processor.features;
    expect(features('pse,pae,pat,nx,')).toEqual(['pse', 'pae', 'pat', 'nx', 'pse36']);
    expect(features('pae,nx')).toEqual(['pae', 'nx']);
    expect(features('')).toEqual([]);
  });

  test('a set of walks stands for itself, a history does not', () => {
    expect(parsed(HEADER.replace('dedup=0', 'dedup=1')).independent).toBe(true);
  });

  test('faults that were not corrected are known, by bit of fix', () => {
    const faults = (fix: string): readonly string[] => parsed(HEADER.replace('fix=ff', `fix=${fix}`)).knownFaults;
    const never = [
      'bochs-implicit-access-honours-ac',
      'bochs-ept-1g-by-cpuid',
      'bochs-ad-write-back-unchecked-outside-long-mode',
    ];
    expect(faults('ff')).toEqual(never);
    expect(faults('7e')).toEqual([
      'bochs-keys-by-non-leaf-entries',
      'bochs-amd-top-level-bit-8-not-reserved',
      ...never,
    ]);
    expect(faults('0')).toHaveLength(8 + never.length);
  });

  test('sees everything but what only others see', () => {
    const seen = OBS_NAMES.filter((_, kind) => ((parsed(HEADER).observable >>> kind) & 1) !== 0);
    expect(seen.toSorted()).toEqual(
      [
        'element',
        'pdpte',
        'nested-walk',
        'entry-write',
        'translated',
        'exception',
        'ept-violation',
        'ept-misconfig',
        'npf',
        'exit-linear',
        'pdpte-loaded',
        'register',
      ].toSorted(),
    );
  });
});

describe('a header line that is none', () => {
  const told = (line: string): string => {
    try {
      parsed(line);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      expect(error.place).toEqual({ file: 'pcid.walklog.gz', line: 1 });
      return `${error.code}: ${error.message}`;
    }
    return 'parsed';
  };

  test.each([
    ['', 'this is no walk log: it does not begin with "H walklog"'],
    ['S * cr0=0', 'this is no walk log: it does not begin with "H walklog"'],
    ['H othersuch 1', 'this is no walk log: it does not begin with "H walklog"'],
    ['H walklog 2 bochs=1', 'walk log version 2 is unknown; this version reads 1'],
    [HEADER.replace('maxphy=40', 'maxphy=53'), 'maxphy=53 is not a physical-address width (32 to 52)'],
    [HEADER.replace('maxphy=40', 'maxphy=28'), 'maxphy=28 is not a physical-address width (32 to 52)'],
    [HEADER.replace('maxphy=40', 'maxphy=x'), 'maxphy=x is not a physical-address width (32 to 52)'],
    [HEADER.replace('fix=ff', 'fix=0xff'), 'field "fix" is not hexadecimal'],
    [HEADER.replace('f0106f34141', '10106f341410106f34141'), 'field "vmx_ept_vpid_cap" is not hexadecimal'],
    [HEADER.replace('6d77fff', '-1'), 'field "vmx_c2_allowed" is not hexadecimal'],
  ])('%s', (line, message) => {
    expect(told(line)).toBe(`E_IMPORT: ${message}`);
  });

  test.each([
    'bochs',
    'maxphy',
    'fix',
    'dedup',
    'cpu',
    'feat',
    'vmx_ept_vpid_cap',
    'vmx_c2_allowed',
  ])('without the field %s', (field) => {
    expect(told(HEADER.replace(new RegExp(` ${field}=\\S*`), ''))).toBe(
      `E_IMPORT: the header line has no field "${field}"`,
    );
    expect(told(HEADER.replace(new RegExp(` ${field}=\\S*`), ` ${field}`))).toBe(
      `E_IMPORT: the header line has no field "${field}"`,
    );
  });
});
