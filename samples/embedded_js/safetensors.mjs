/**
 * Reads and writes safetensors files: the header's length (8 bytes, little endian), the header (JSON), the tensors.
 * Format: https://huggingface.co/docs/safetensors, section "Format"; docs/bundle-format.md, "Tensor files".
 */

const LENGTH_BYTES = 8;
const ITEM_BYTES = { F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, I16: 2, I8: 1, U8: 1, BOOL: 1 };

/**
 * Takes a file apart without copying it.
 * @param {Uint8Array} bytes the whole file
 * @param {string} where its name, for messages
 * @returns {{tensors: Map<string, {dtype: string, shape: number[], bytes: Uint8Array}>, metadata: object}}
 */
export function parse(bytes, where) {
  const { header, start } = readHeader(bytes, where);
  const { __metadata__: metadata = {}, ...rows } = header;
  const tensors = new Map();
  let position = start;
  const inOrder = Object.entries(rows).sort(([, a], [, b]) => a?.data_offsets?.[0] - b?.data_offsets?.[0]);
  for (const [name, row] of inOrder) {
    const [begin, end] = checkedOffsets(name, row, where).map((offset) => start + offset);
    if (begin !== position || end > bytes.length) {
      throw new Error(`${where}: tensor '${name}' lies at bytes ${begin} to ${end}, expected it to begin at `
        + `${position} and to end by ${bytes.length}. Copy the file again.`);
    }
    tensors.set(name, { dtype: row.dtype, shape: row.shape, bytes: bytes.subarray(begin, end) });
    position = end;
  }
  if (position !== bytes.length) {
    throw new Error(`${where}: ${bytes.length - position} bytes follow the last tensor. Copy the file again.`);
  }
  return { tensors, metadata };
}

function readHeader(bytes, where) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = bytes.length < LENGTH_BYTES ? Infinity : Number(view.getBigUint64(0, true));
  const start = LENGTH_BYTES + length;
  if (start > bytes.length) {
    throw new Error(`${where}: its ${bytes.length} bytes are fewer than its header. Not a safetensors file, or cut off: `
      + 'copy it again.');
  }
  try {
    const header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(LENGTH_BYTES, start)));
    return { header, start };
  } catch (error) {
    throw new Error(`${where}: its header is no JSON: ${error.message}. Copy it again.`);
  }
}

/** Offsets of a tensor, once its row of the header agrees with itself. */
function checkedOffsets(name, row, where) {
  const { dtype, shape, data_offsets: offsets } = row ?? {};
  const sizes = (values) => Array.isArray(values) && values.every((value) => Number.isSafeInteger(value) && value >= 0);
  const bytes = sizes(shape) ? shape.reduce((product, size) => product * size, ITEM_BYTES[dtype]) : NaN;
  if (!sizes(offsets) || offsets.length !== 2 || offsets[1] - offsets[0] !== bytes) {
    throw new Error(`${where}: tensor '${name}' contradicts itself: ${dtype} ${JSON.stringify(shape)} at bytes `
      + `${JSON.stringify(offsets)}. Copy the file again.`);
  }
  return offsets;
}

/** Numbers of a float32 tensor of `parse`: a copy, as a view would need aligned bytes. */
export function float32(tensor) {
  return new Float32Array(Uint8Array.from(tensor.bytes).buffer);
}

/**
 * Writes a file of float32 tensors.
 * @param {Iterable<[string, {data: Float32Array, dims: readonly number[]}]>} tensors by name
 * @param {Record<string, string>} metadata
 * @returns {Uint8Array} the whole file
 */
export function serialize(tensors, metadata) {
  const rows = [['__metadata__', metadata]];
  const parts = [];
  let position = 0;
  for (const [name, { data, dims }] of tensors) {
    rows.push([name, { dtype: 'F32', shape: [...dims], data_offsets: [position, position + data.byteLength] }]);
    parts.push(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    position += data.byteLength;
  }
  const text = new TextEncoder().encode(JSON.stringify(Object.fromEntries(rows)));
  const padding = -(text.length) & (LENGTH_BYTES - 1); // spaces, so that the tensors are aligned
  const length = new DataView(new ArrayBuffer(LENGTH_BYTES));
  length.setBigUint64(0, BigInt(text.length + padding), true);
  return Buffer.concat([new Uint8Array(length.buffer), text, Buffer.alloc(padding, ' '), ...parts]);
}
