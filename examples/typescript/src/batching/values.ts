/**
 * Values on their way into JSON. `JSON.stringify` changes some of them without a word: what it would change is refused
 * here, with what to send instead.
 */

import type { JsonValue } from './contract';

/** What a column may be given. */
export type ColumnValue = JsonValue | bigint | Date;

/** A value that JSON would change. The message names the column, and what to send instead. */
export class InvalidValue extends Error {
  override readonly name = 'InvalidValue';
}

/** From here on `JSON.stringify` writes an exponent, and the number stays a double all the way. */
const FIRST_WITH_EXPONENT = 1e21;

/**
 * The values of a record as they travel: a `bigint` as a string of digits, a `Date` as a timestamp in UTC.
 *
 * @throws {InvalidValue} JSON would change a value, or drop it.
 */
export function encodeValues(values: { readonly [column: string]: ColumnValue }): { [column: string]: JsonValue } {
  return Object.fromEntries(Object.entries(values).map(([column, value]) => [column, encode(value, column)]));
}

function encode(value: ColumnValue, column: string): JsonValue {
  if (typeof value === 'bigint') return value.toString();
  if (isDate(value)) {
    if (Number.isNaN(value.getTime())) throw new InvalidValue(`${column}: an invalid Date`);
    return value.toISOString();
  }
  checkJson(value, column);
  return value;
}

/** Only plain JSON travels as it is. `where` is the column, and the path to a value within it. */
function checkJson(value: unknown, where: string): void {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return;
  if (typeof value === 'number') {
    checkNumber(value, where);
  } else if (Array.isArray(value)) {
    // By index: `forEach` leaves out the holes of a sparse array, which JSON fills with nulls.
    for (let index = 0; index < value.length; index++) checkJson(value[index], `${where}[${index}]`);
  } else if (isPlainObject(value)) {
    for (const [name, inner] of Object.entries(value)) checkJson(inner, `${where}.${name}`);
  } else {
    throw new InvalidValue(`${where}: ${describe(value)} is not JSON; send ${instead(value)}`);
  }
}

function checkNumber(value: number, where: string): void {
  if (!Number.isFinite(value)) {
    throw new InvalidValue(`${where}: ${value} is not JSON; send a string, or null`);
  }
  if (Number.isInteger(value) && !Number.isSafeInteger(value) && Math.abs(value) < FIRST_WITH_EXPONENT) {
    throw new InvalidValue(
      `${where}: a whole number beyond 2^53 is rounded before it gets here; send a bigint, or a string of digits`,
    );
  }
}

function isDate(value: ColumnValue): value is Date {
  return Object.prototype.toString.call(value) === '[object Date]';
}

/** An object literal: its prototype, if it has one, has none. True across the realms of a workflow's sandbox too. */
function isPlainObject(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

function describe(value: unknown): string {
  if (typeof value !== 'object' || value === null) return typeof value === 'undefined' ? 'undefined' : `a ${typeof value}`;
  return `an object of class ${value.constructor?.name ?? 'unknown'}`;
}

function instead(value: unknown): string {
  if (value === undefined) return 'null, or leave it out';
  if (value instanceof Uint8Array) return 'base64 text';
  if (typeof value === 'bigint') return 'a string of digits';
  return 'a string, a list or an object literal';
}
