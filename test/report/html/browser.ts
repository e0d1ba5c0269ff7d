/** A real browser for the tests of pages: Debian's Chromium, or what CHROMIUM names. */

import { accessSync, constants } from 'node:fs';

const PLACES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

/** Undefined if there is none: tests that need it are skipped, and say so. */
export function chromiumPath(): string | undefined {
  const given = process.env['CHROMIUM'];
  const places = given === undefined || given === '' ? PLACES : [given];
  return places.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

export const NO_CHROMIUM = 'no Chromium here: apt-get install chromium, or set CHROMIUM to the path of one';
