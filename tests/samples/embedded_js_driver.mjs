// Runs the sample's modules by a plan that the test writes, and tells what they computed.
// Usage: node driver.mjs BUNDLE PLAN, which is {adapter: folder or null, steps: [[[row, ...], ...], ...], output: folder}
import { initialAdapter, loadAdapter, saveAdapter } from './adapter.mjs';
import { Bundle } from './bundle.mjs';
import { collate, readDigits } from './digits.mjs';
import { Trainer } from './trainer.mjs';

const [folder, plan] = process.argv.slice(2);
const { adapter, steps, output } = JSON.parse(plan);
const bundle = await Bundle.open(folder);
const { train, test } = await readDigits();
const start = adapter ? await loadAdapter(bundle, adapter) : initialAdapter(bundle);
const trainer = new Trainer(bundle, start);
const results = [];
for (const batches of steps) {
  results.push(await trainer.step(batches.map((rows) => collate(bundle, 'train', rows.map((row) => train[row])))));
}
await saveAdapter(bundle, trainer.adapter, output);
const saved = await loadAdapter(bundle, output);
const predict = async (tensors) => {
  const { logits } = await bundle.run('infer', { ...collate(bundle, 'infer', test), ...tensors });
  return Array.from(logits.data);
};
const { loss } = await bundle.run('evaluate', { ...collate(bundle, 'evaluate', test), ...saved });
// The order is the test's of swapping: back and forth over the same sessions.
const [after, before, again] = [await predict(saved), await predict(start), await predict(saved)];
console.log(JSON.stringify({ results, loss: loss.data[0], after, before, again }));
