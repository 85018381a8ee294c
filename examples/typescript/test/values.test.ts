import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isWriteError } from '../src/batching/errors';
import { encodeRequest } from '../src/batching/request';
import { type ColumnValue, encodeValues } from '../src/batching/values';

test('what JSON can hold travels as it is', () => {
  const values = { text: 'é "\u2028', n: 9007199254740991, d: -0.1, double: 1e300, yes: true, no: null, json: { a: [1, {}] } };
  assert.deepEqual(JSON.parse(JSON.stringify(encodeValues(values))), values);
});

test('a bigint travels as a string of digits, and a Date as a timestamp in UTC', () => {
  const values = { id: 9007199254740993n, at: new Date(Date.UTC(2026, 0, 31, 12, 0, 0, 123)) };
  assert.deepEqual(encodeValues(values), { id: '9007199254740993', at: '2026-01-31T12:00:00.123Z' });
});

test('a request has what its caller said of it, and nothing that it did not', () => {
  const records = [{ table: 't', values: { n: 1n } }];
  const sent = { batcher: 'main', request_id: 'r-1', records: [{ table: 't', values: { n: '1' } }], safe_integers: true };
  assert.deepEqual(encodeRequest('main', records, 'r-1', {}), { ...sent, key: '' });
  const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
  const options = { key: 'k', traceparent, timeout: 1_000 };
  assert.deepEqual(encodeRequest('main', records, 'r-1', options), { ...sent, key: 'k', traceparent });
});

/** Each of these is changed by `JSON.stringify`, or has been rounded before, and no type keeps them all out. */
const changed: readonly [unknown, RegExp][] = [
  [2 ** 53, /^column: a whole number beyond 2\^53 .* send a bigint, or a string of digits$/],
  [-12345678901234567890, /beyond 2\^53/],
  [Number.NaN, /^column: NaN is not JSON/],
  [Number.NEGATIVE_INFINITY, /^column: -Infinity is not JSON/],
  [undefined, /^column: undefined is not JSON; send null, or leave it out$/],
  [{ deep: [1, { at: 2 ** 60 }] }, /^column\.deep\[1\]\.at: a whole number/],
  [{ left: undefined }, /^column\.left: undefined/],
  [[1, , 3], /^column\[1\]: undefined/],
  [{ id: 1n }, /^column\.id: a bigint is not JSON; send a string of digits$/],
  [new Uint8Array(3), /^column: an object of class Uint8Array is not JSON; send base64 text$/],
  [new Map([['a', 1]]), /^column: an object of class Map/],
  [new Date(Number.NaN), /^column: an invalid Date$/],
  [{ at: new Date() }, /^column\.at: an object of class Date/],
  [() => 1, /^column: a function/],
];

for (const [value, message] of changed) {
  test(`refused, not changed: ${String(message)}`, () => {
    const column = value as ColumnValue;
    assert.throws(() => encodeValues({ column }), { name: 'InvalidValue', message });
    assert.throws(
      () => encodeRequest('main', [{ table: 't', values: { column } }], 'r-1', {}),
      (error) => isWriteError(error) && error.type === 'WriteRejected' && error.details[0].code === 'invalid',
    );
  });
}
