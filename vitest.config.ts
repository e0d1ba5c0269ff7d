import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Vitest leaves one processor idle by itself; the main process only hands out files, and has next to nothing to do.
    maxWorkers: '100%',
    // Replays allocate a lot that dies young: with room for it a tenth of the time goes.
    execArgv: ['--max-semi-space-size=64'],
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
});
