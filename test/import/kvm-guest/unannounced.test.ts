import { describe, expect, it } from 'vitest';
import { tell } from './tell.ts';

/** A guest that announces nothing, seen in two dumps: the second has one more table, at 209000h. */
const FIRST = `cr0=80010011 cr3=200000 cr4=20 efer=d00
page 200000
 000 201027
page 201000
 008 207027
page 207000
 010 208027
page 208000
 000 104025
`;
const SECOND = `${FIRST.replace(' 010 208027', ' 000 209027\n 010 208027')}page 209000
 000 300063
 008 301021
`;
const BEGIN = `
VMM start blob=/bin/g64.bin bytes=1 mode=4
ROOT cr3=200000
DUMP first
`;

function behindFirst(log: string): string[] {
  const dumps = { first: FIRST, second: SECOND };
  const all = tell(`${BEGIN}${log}\nDUMP second`, dumps).steps;
  const end = all.indexOf('note dump second');
  return all.slice(tell(BEGIN, dumps).steps.length, end);
}

describe('a recording without stores', () => {
  it('takes tables from dumps, as they are found', () => {
    const { steps } = tell(BEGIN, { first: FIRST });
    expect(steps.filter((step) => step.startsWith('image'))).toEqual([
      'image 200000 (dump)',
      'image 201000 (dump)',
      'image 207000 (dump)',
      'image 208000 (dump)',
    ]);
  });

  it('concludes a leaf from what the guest read, and what is above it from the next dump', () => {
    const steps = behindFirst(`
      T 1 mtx k=r u=0 ac=0 va=40001040 pte@209008=301001 cfg=wp
      R 1 ok pte=301021
      T 2 mtx k=r u=0 ac=0 va=40001040 pte@209008=301001 cfg=wp
      R 2 ok pte=301021`);
    expect(steps).toEqual([
      'note mtx cfg=wp',
      'know 209008=301001 size 8 (inferred)',
      'know 207000=209007 size 8 (inferred)',
      'read 40001040+1',
      '  completed',
      '  entry-after level 0 209008=301021',
      'know 209008=301001 size 8 (inferred)',
      'read 40001040+1',
      '  completed',
      '  entry-after level 0 209008=301021',
    ]);
  });

  it('believes a mark about an entry above a leaf more than the dump', () => {
    const steps = behindFirst(`
      M level=2 entry@207000=209005
      T 1 mid-ro k=r u=0 ac=0 va=40001040 pte@209008=301001 cfg=wp
      R 1 ok pte=301021`);
    expect(steps.filter((step) => step.startsWith('know 207000'))).toEqual(['know 207000=209005 size 8 (inferred)']);
  });

  it('concludes nothing of tables that no memory holds, below an entry with a reserved address bit', () => {
    const steps = behindFirst(`
      M level=3 entry@201008=8000000207007
      T 1 mid-rsvd k=r u=0 ac=0 va=40001040 pte@209008=301001 cfg=wp
      R 1 vec=14 err=9 cr2=40001040 pte=301001
      M level=2 entry@207000=8000000209007
      T 2 mid-rsvd k=fep-x u=0 ac=0 va=40001000 pte@209008=301001 cfg=wp
      R 2 vec=14 err=19 cr2=40001000 pte=301001`);
    expect(steps).toContain('know 201008=8000000207007 size 8 (inferred)');
    expect(steps).toContain('know 207000=8000000209007 size 8 (inferred)');
    expect(steps.filter((step) => /^know 8/.test(step))).toEqual([]);
  });

  it('concludes that the prefix of an emulated fetch could be fetched', () => {
    const steps = behindFirst(`
      T 1 mtx k=fep-x u=0 ac=0 va=40001000 pte@209008=301001 cfg=wp
      R 1 vec=6 err=0 cr2=0 pte=301001`);
    expect(steps).toContain('know 209000=300043 size 8 (inferred)');
  });
});
