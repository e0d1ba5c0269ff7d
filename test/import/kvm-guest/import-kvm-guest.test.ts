import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { importKvmGuest } from '../../../src/import/kvm-guest/import-kvm-guest.ts';
import type { StepColumns } from '../../../src/trace/columns.ts';
import type { TraceHeader } from '../../../src/trace/header.ts';
import { tellColumns } from './tell.ts';

const LOG = `api 12 nested_state 1 sregs2 1 romem 1
cpuid 00000000.0 eax=0000000d ebx=68747541 ecx=444d4163 edx=69746e65
cpuid 00000001.0 eax=00060fb1 ebx=00000800 ecx=36f83203 edx=0f8bfbfd
cpuid 00000007.0 eax=00000000 ebx=019803ab ecx=0001020c edx=20000000
cpuid 0000000d.0 eax=00000207 ebx=00000a88 ecx=00000a88 edx=00000000
cpuid 80000001.0 eax=00060fb1 ebx=00000000 ecx=00000075 edx=edd3fbfd
cpuid 80000008.0 eax=00003928 ebx=04000000 ecx=00000000 edx=00000000
VMM start blob=/bin/g64.bin bytes=16480 mode=4
BOOT levels=4 cr3=106000
DUMP dump00_start.txt
VMM end exits=1
`;
const DUMP = `cr0=80010011 cr3=106000 cr4=20 efer=d00
page 106000
 000 107003
page 107000
 000 83
`;
const PARAMETERS = `/sys/module/kvm/parameters/tdp_mmu Y
/sys/module/kvm_amd/parameters/npt Y
`;

describe('a folder', () => {
  let folder: string;
  let header: TraceHeader | undefined;
  let runs: StepColumns[];
  const sink = {
    header: (given: TraceHeader) => {
      header = given;
    },
    steps: (columns: StepColumns) => {
      runs.push(columns);
    },
  };
  const put = (name: string, text: string) => writeFileSync(join(folder, name), gzipSync(text));

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'kvm-guest-'));
    header = undefined;
    runs = [];
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  it('gives a header with processor, hypervisor and sources, then the steps', async () => {
    put('vmm.log.gz', LOG);
    put('dump00_start.txt.gz', DUMP);
    writeFileSync(join(folder, 'kvm_params.txt'), PARAMETERS);
    writeFileSync(join(folder, 'cmdline.txt'), 'rig.scn=g64\n');
    await importKvmGuest(folder, sink);
    expect(header).toMatchObject({
      processor: { vendor: 'amd', maxphyaddr: 40 },
      hypervisor: {
        name: 'kvm',
        version: '6.1.192',
        tdp: true,
        parameters: ['kvm.tdp_mmu=Y', 'kvm_amd.npt=Y', 'cmdline=rig.scn=g64'],
      },
      adPolicy: 'after-permissions',
      independent: false,
    });
    expect(header!.processor.features).toEqual(
      expect.arrayContaining(['pse', 'pae', 'pge', 'smep', 'smap', 'pku', 'la57', 'svm', 'nx', 'pdpe1gb']),
    );
    expect(header!.processor.features).not.toContain('pcid');
    expect(header!.knownFaults).toContain('qemu-rsvd-without-p');
    expect(header!.sources.map(({ name, sha256 }) => [name, sha256.length])).toEqual([
      ['vmm.log.gz', 32],
      ['dump00_start.txt.gz', 32],
    ]);
    expect(runs.flatMap(tellColumns)).toEqual([
      'note guest /bin/g64.bin',
      'set cr4=20 (inferred)',
      'set efer=d00 (inferred)',
      'set cr0=80010011 (inferred)',
      'set cr3=106000',
      'image 106000 (dump)',
      'image 107000 (dump)',
      'note dump dump00_start.txt',
      'image 106000 (dump)',
      'image 107000 (dump)',
    ]);
  });

  it('of two guests needs to be told which', async () => {
    put('vm1_vmm.log.gz', LOG);
    await expect(importKvmGuest(folder, sink)).rejects.toMatchObject({
      code: 'E_NO_SUCH_FILE',
      message: 'the folder holds the logs of several guests',
    });
    await importKvmGuest(folder, sink, { vm: 'vm1' });
    expect(header!.title).toMatch(/, vm1: what the guest saw$/);
  });

  it('without a log, or with a damaged one, is refused with the file', async () => {
    const log = join(folder, 'vmm.log.gz');
    await expect(importKvmGuest(folder, sink)).rejects.toMatchObject({ code: 'E_NO_SUCH_FILE', place: { file: log } });
    writeFileSync(log, 'no gzip');
    await expect(importKvmGuest(folder, sink)).rejects.toMatchObject({ code: 'E_IMPORT', place: { file: log } });
    writeFileSync(log, gzipSync(LOG).subarray(0, 200));
    await expect(importKvmGuest(folder, sink)).rejects.toMatchObject({ code: 'E_IMPORT', place: { file: log } });
    expect(header).toBeUndefined();
  });

  it('with an unknown line in log or dump is refused with file and line', async () => {
    const log = join(folder, 'vmm.log.gz');
    put('vmm.log.gz', `${LOG}STRAY exception vec=14\n`);
    await expect(importKvmGuest(folder, sink)).rejects.toMatchObject({ place: { file: log, line: 12 } });
    put('vmm.log.gz', LOG);
    put('dump00_start.txt.gz', `${DUMP}xmm0=0\n`);
    const place = { file: join(folder, 'dump00_start.txt.gz'), line: 6 };
    await expect(importKvmGuest(folder, sink)).rejects.toMatchObject({ code: 'E_IMPORT', place });
  });

  it('with marks that make no sense is refused with file and line', async () => {
    put('vmm.log.gz', `${LOG}E a=209003 v=0 s=8\n`);
    await expect(importKvmGuest(folder, sink)).rejects.toMatchObject({
      code: 'E_IMPORT',
      place: { file: join(folder, 'vmm.log.gz'), line: 12 },
    });
  });
});
