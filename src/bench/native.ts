/** Compiles and runs the native reference walker over the very tables that the machine walks. */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Problem } from '../bits/problem.ts';
import { type WalkTables, walkImage } from './tables.ts';

export interface NativeRun {
  readonly walksPerSecond: number;
  /** Sum of the physical addresses of one repetition, modulo 2^64. */
  readonly checksum: bigint;
}

export class NativeWalker {
  private readonly folder = mkdtempSync(join(tmpdir(), 'rewalk-bench-'));
  private readonly program = join(this.folder, 'walker');
  private readonly image = join(this.folder, 'tables');

  /** Throws E_USAGE if there is no C compiler. */
  constructor(tables: WalkTables, maxphyaddr: number, compiler = 'cc') {
    const source = fileURLToPath(new URL('./native-walker.c', import.meta.url));
    try {
      execFileSync(compiler, ['-O2', '-o', this.program, source], { stdio: ['ignore', 'ignore', 'pipe'] });
    } catch (error) {
      this.remove();
      const why = (error as { stderr?: Buffer }).stderr?.toString().trim() || (error as Error).message;
      throw new Problem('E_USAGE', `--native: the C compiler "${compiler}" failed: ${why}`, {}, 'install gcc or clang');
    }
    writeFileSync(this.image, walkImage(tables, maxphyaddr));
  }

  run(repetitions: number): NativeRun {
    const output = execFileSync(this.program, [this.image, String(repetitions)]).toString();
    const { walks, seconds, checksum } = JSON.parse(output) as { walks: number; seconds: number; checksum: string };
    return { walksPerSecond: walks / seconds, checksum: BigInt(`0x${checksum}`) };
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
