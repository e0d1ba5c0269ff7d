/** Who writes traces: the name and version that headers carry. */

import { readFileSync } from 'node:fs';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

export const VERSION = version;
export const WRITER = `rewalk ${version}`;
