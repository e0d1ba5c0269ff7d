/**
 * Templates for lines of the guests' log, and the types that follow from them.
 *
 * A template is the line as the guest's own `printf` spells it, with `{name:x}` for up to 16 hexadecimal digits,
 * `{name:d}` for up to 9 decimal ones, `{name:w}` for a word without spaces and `{name:*}` for the rest of the line. It parses to an object with
 * a bigint, number or string per name.
 */

type Value<Form extends string> = Form extends 'x' ? bigint : Form extends 'd' ? number : string;

/** The fields that a template's line has. */
export type Fields<Template extends string> = Template extends `${string}{${infer Name}:${infer Form}}${infer Rest}`
  ? { readonly [K in Name]: Value<Form> } & Fields<Rest>
  : unknown;

const PATTERNS: Readonly<Record<string, string>> = { x: '([0-9a-f]{1,16})', d: '(\\d{1,9})', w: '(\\S+)', '*': '(.*)' };

interface Field {
  readonly name: string;
  readonly form: string;
}

export interface CompiledTemplate {
  readonly pattern: RegExp;
  readonly fields: readonly Field[];
}

export function compileTemplate(template: string): CompiledTemplate {
  const fields: Field[] = [];
  const source = template
    .split(/(\{\w+:[xdw*]\})/)
    .map((part) => {
      const hole = /^\{(\w+):([xdw*])\}$/.exec(part);
      if (hole === null) return part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
      fields.push({ name: hole[1]!, form: hole[2]! });
      return PATTERNS[hole[2]!]!;
    })
    .join('');
  return { pattern: new RegExp(`^${source}$`), fields };
}

/** The fields of a line, or `undefined` if the line does not follow the template. */
export function matchTemplate(
  template: CompiledTemplate,
  line: string,
): Record<string, bigint | number | string> | undefined {
  const match = template.pattern.exec(line);
  if (match === null) return undefined;
  const result: Record<string, bigint | number | string> = {};
  template.fields.forEach(({ name, form }, i) => {
    const text = match[i + 1]!;
    result[name] = form === 'x' ? BigInt(`0x${text}`) : form === 'd' ? Number(text) : text;
  });
  return result;
}
