/** Adapts a digits model to this device's sensor: open, predict, train, save, load, swap. */
import { resolve } from 'node:path';

import { initialAdapter, loadAdapter, saveAdapter } from './adapter.mjs';
import { Bundle } from './bundle.mjs';
import { collate, readDigits } from './digits.mjs';
import { Trainer } from './trainer.mjs';

const EPOCHS = 30;
const SHOWN = 5; // every so many epochs
const ROWS = 12; // of a batch
const BATCHES = 2; // of a step
const USAGE = 'usage: npm start -- BUNDLE [OUTPUT]    (folders; OUTPUT, the adapter\'s, is digits-adapter by default)';

async function main(folder, output) {
  const bundle = await Bundle.open(folder);
  const { manifest } = bundle;
  const { train, test } = await readDigits();
  const initial = initialAdapter(bundle);
  console.log(`bundle   ${manifest.model.name}: ${manifest.model.parameters} frozen parameters, `
    + `${Object.keys(manifest.files).length} files verified, base ${manifest.base_id.slice(0, 12)}`);
  console.log(`before   ${await evaluate(bundle, initial, test)}`);

  const trainer = new Trainer(bundle, initial);
  for (let epoch = 1; epoch <= EPOCHS; epoch += 1) {
    const losses = [];
    for (const rows of pieces(train, ROWS * BATCHES)) {
      const { loss } = await trainer.step(pieces(rows, ROWS).map((batch) => collate(bundle, 'train', batch)));
      losses.push(loss.toFixed(4));
    }
    if (epoch === 1 || epoch % SHOWN === 0) {
      console.log(`epoch ${`${epoch}`.padStart(2)} loss ${losses.join(' ')}`);
    }
  }
  await saveAdapter(bundle, trainer.adapter, output);
  console.log(`saved    ${output}`);

  // A swap is the choice of what to feed: nothing is loaded anew.
  const saved = await loadAdapter(bundle, output);
  console.log(`after    ${await evaluate(bundle, saved, test)}`);
  console.log(`initial  ${await evaluate(bundle, initial, test)}`);
  const { label } = test[0];
  console.log(`a ${label}      the initial adapter says ${await classify(bundle, initial, test[0])}, `
    + `the trained one ${await classify(bundle, saved, test[0])}`);
}

async function evaluate(bundle, adapter, rows) {
  const outputs = await bundle.run('evaluate', { ...collate(bundle, 'evaluate', rows), ...adapter });
  const right = argmax(outputs.logits).filter((guess, row) => guess === rows[row].label).length;
  return `loss ${outputs.loss.data[0].toFixed(4)}, ${right} of ${rows.length} test images right`;
}

async function classify(bundle, adapter, row) {
  const { logits } = await bundle.run('infer', { ...collate(bundle, 'infer', [row]), ...adapter });
  const [best] = argmax(logits);
  return bundle.manifest.labels?.[best] ?? best;
}

/** Of each row of logits [rows, classes], the class with the largest. */
function argmax({ data, dims: [rows, classes] }) {
  return Array.from({ length: rows }, (_, row) => {
    const scores = data.subarray(row * classes, (row + 1) * classes);
    return scores.indexOf(Math.max(...scores));
  });
}

function pieces(rows, size) {
  return Array.from({ length: Math.ceil(rows.length / size) }, (_, piece) => rows.slice(piece * size, (piece + 1) * size));
}

const [folder, output = 'digits-adapter', ...more] = process.argv.slice(2);
if (folder === undefined || more.length) {
  console.error(USAGE);
  process.exitCode = 2;
} else {
  try {
    await main(resolve(folder), resolve(output));
  } catch (error) {
    console.error(`error: ${error.message.split('\n')[0]}`);
    process.exitCode = 1;
  }
}
