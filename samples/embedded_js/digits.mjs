/** Hand-written digits as the device's sensor sees them, and as tensors of a bundle's inputs. */
import { readFile } from 'node:fs/promises';

import { Tensor } from './bundle.mjs';

const SIDE = 8;
const INK = 16; // pixels are 0 to 16

/** Rows `{pixels, label}` to train on and to test with; pixels are 64 numbers from 0 to 1. */
export async function readDigits() {
  const { train, test } = JSON.parse(await readFile(new URL('digits.json', import.meta.url)));
  const rows = ({ images, labels }) => images.map((image, row) => ({ pixels: sensor(image), label: labels[row] }));
  return { train: rows(train), test: rows(test) };
}

/** What this device's sensor makes of an image: one pixel too far to the right, half the contrast, on grey. */
function sensor(image) {
  return image.map((_, place) => 0.25 + 0.5 * (place % SIDE ? image[place - 1] / INK : 0));
}

/** Rows as one batch: the bundle's one data input, and labels where the graph takes them. */
export function collate(bundle, graph, rows) {
  const ports = bundle.dataInputs(graph);
  const image = ports.find((port) => port.name !== 'labels');
  const sizes = image?.shape.slice(1) ?? [];
  const fits = ports.every(({ name }) => name === image?.name || name === 'labels') && image?.dtype === 'float32'
    && sizes.reduce((product, size) => product * size, 1) === SIDE * SIDE;
  if (!fits) {
    throw new Error(`graph '${graph}' takes ${ports.map(({ name, dtype, shape }) => `${name} ${dtype} [${shape}]`)
      .join(', ')}; this sample has float32 images of ${SIDE}x${SIDE} and labels. Give it a bundle for digits.`);
  }
  const pixels = Float32Array.from(rows.flatMap((row) => row.pixels));
  const labels = BigInt64Array.from(rows.map((row) => BigInt(row.label)));
  const tensors = {
    [image.name]: new Tensor('float32', pixels, [rows.length, ...sizes]),
    labels: new Tensor('int64', labels, [rows.length]),
  };
  return Object.fromEntries(ports.map(({ name }) => [name, tensors[name]]));
}
