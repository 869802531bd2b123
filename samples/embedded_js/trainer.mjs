/** Training: the bundle's graphs do all arithmetic on tensors, this only hands them from one to the next. */
import { Tensor } from './bundle.mjs';

const ADAMW = { learning_rate: 5e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0, max_grad_norm: 1 };
const SLOTS = ['exp_avg', 'exp_avg_sq'];

export class Trainer {
  #bundle;
  #settings;
  #values; // the adapter's tensors `t`, and what AdamW keeps for each: `exp_avg.t`, `exp_avg_sq.t`
  #step = 0;

  /** AdamW's settings, where not given, are the bundle's own, then the defaults above. */
  constructor(bundle, adapter, settings = {}) {
    const chosen = { ...ADAMW, ...bundle.manifest.training, ...settings };
    const zeros = ({ data, dims }) => new Tensor('float32', new Float32Array(data.length), dims);
    this.#bundle = bundle;
    this.#settings = mapped(Object.keys(ADAMW), (name) => [name, new Tensor('float64', [chosen[name]], [])]);
    this.#values = Object.assign({ ...adapter }, ...SLOTS.map((slot) => (
      mapped(bundle.adapterNames, (name) => [`${slot}.${name}`, zeros(adapter[name])])
    )));
  }

  /** The adapter as it is now. */
  get adapter() {
    return mapped(this.#bundle.adapterNames, (name) => [name, this.#values[name]]);
  }

  /** One update from the mean gradient of all batches (data and labels by name); none if that is not finite. */
  async step(batches) {
    const { gradients, loss } = await this.#meanGradients(batches);
    const step = new Tensor('int64', [BigInt(this.#step + 1)], []);
    const updated = await this.#bundle.run('update_adamw', { ...this.#values, ...gradients, ...this.#settings, step });
    const gradientNorm = updated.gradient_norm.data[0];
    if (!Number.isFinite(loss) || !Number.isFinite(gradientNorm)) {
      throw new Error(`step ${this.#step + 1}: the loss is ${loss}, the gradient's norm ${gradientNorm}. `
        + 'Lower the learning rate, or look for a row without a label.');
    }
    this.#values = mapped(Object.keys(this.#values), (name) => [name, updated[`new.${name}`]]);
    this.#step += 1;
    return { loss, gradientNorm };
  }

  /** Gradients and loss over all batches, each weighted by how many rows it counted. */
  async #meanGradients(batches) {
    const names = this.#bundle.adapterNames;
    const counted = [];
    let mean;
    for (const batch of batches) {
      const { loss, weight, ...gradients } = await this.#bundle.run('train', { ...batch, ...this.adapter });
      counted.push([loss.data[0], weight.data[0]]);
      if (mean) {
        const sums = await this.#bundle.run('accumulate', { ...mean, ...gradients, weight });
        mean = mapped(Object.keys(mean), (name) => [name, sums[`new.${name}`]]);
      } else {
        mean = mapped(names, (name) => [`accumulated.${name}`, gradients[`gradient.${name}`]]);
        mean.accumulated_weight = weight;
      }
    }
    const total = counted.reduce((sum, [, weight]) => sum + weight, 0);
    const loss = counted.reduce((sum, [each, weight]) => sum + each * weight, 0) / total;
    return { gradients: mapped(names, (name) => [`gradient.${name}`, mean[`accumulated.${name}`]]), loss };
  }
}

function mapped(names, entry) {
  return Object.fromEntries(names.map(entry));
}
