/** Adapters: a few small tensors in the folder format of HF PEFT. They are fed to the graphs by name. */
import { mkdir, open, rename } from 'node:fs/promises';
import { join } from 'node:path';

import { Tensor, parseJson, readRegularFile } from './bundle.mjs';
import { float32, parse, serialize } from './safetensors.mjs';

const CONFIG = 'adapter_config.json';
const MODEL = 'adapter_model.safetensors';
const INITIAL = 'adapters/initial';
const BASE_ID = 'edgepeft.base_id';
const LARGEST = 1e6;
const MEANINGFUL = ['peft_type', 'r', 'rank_pattern', 'lora_alpha', 'alpha_pattern', 'target_modules', 'use_rslora',
  'use_dora', 'fan_in_fan_out'];

/** The adapter as it was exported: it changes nothing about the base. */
export function initialAdapter(bundle) {
  return checked(bundle, bundle.file(`${INITIAL}/${MODEL}`), INITIAL);
}

/** Reads an adapter's folder, and refuses one that was made for another base or with other settings. */
export async function loadAdapter(bundle, folder) {
  const config = parseJson(await readRegularFile(join(folder, CONFIG)), join(folder, CONFIG));
  const initial = JSON.parse(bundle.file(`${INITIAL}/${CONFIG}`));
  const other = MEANINGFUL.find((field) => comparable(config[field]) !== comparable(initial[field]));
  if (other !== undefined) {
    throw new Error(`${folder}: its ${other} is ${JSON.stringify(config[other]) ?? 'missing'}, the bundle was exported with `
      + `${JSON.stringify(initial[other])}. Train it on this bundle.`);
  }
  return checked(bundle, await readRegularFile(join(folder, MODEL)), folder);
}

/** Writes the folder that `edgepeft.Adapter.load` and PEFT open; training changes no setting. */
export async function saveAdapter(bundle, adapter, folder) {
  const metadata = { format: 'pt', [BASE_ID]: bundle.manifest.base_id };
  await mkdir(folder, { recursive: true });
  await replaceFile(join(folder, CONFIG), bundle.file(`${INITIAL}/${CONFIG}`));
  await replaceFile(join(folder, MODEL), serialize(Object.entries(adapter), metadata));
}

/** Tensors by name, ready to be fed, of an adapter that fits. */
function checked(bundle, bytes, where) {
  const { tensors, metadata } = parse(bytes, join(where, MODEL));
  const madeFor = metadata[BASE_ID] ?? bundle.manifest.base_id;
  if (madeFor !== bundle.manifest.base_id) {
    throw new Error(`${where}: was made for base ${madeFor.slice(0, 12)}, this bundle is `
      + `${bundle.manifest.base_id.slice(0, 12)}. Use it with the bundle that it was trained on.`);
  }
  if (tensors.size !== bundle.adapterNames.length) {
    throw new Error(`${where}: has ${tensors.size} tensors, expected ${bundle.adapterNames.length}.`);
  }
  return Object.fromEntries(bundle.manifest.adapter.tensors.map((port) => {
    const tensor = tensors.get(port.name);
    if (tensor?.dtype !== 'F32' || `${tensor.shape}` !== `${port.shape}`) {
      throw new Error(`${where}: expected '${port.name}' as F32 [${port.shape}], got `
        + `${tensor ? `${tensor.dtype} [${tensor.shape}]` : 'none'}. Was it made for another model?`);
    }
    const data = float32(tensor);
    if (!data.every((value) => Math.abs(value) <= LARGEST)) { // false for NaN, too
      throw new Error(`${where}: '${port.name}' holds NaN, infinity or a number above ${LARGEST}. `
        + 'The training that made it went wrong.');
    }
    return [port.name, new Tensor('float32', data, port.shape)];
  }));
}

/** A setting that is missing counts as off or empty; PEFT writes lists from sets, in any order. */
function comparable(value) {
  const text = JSON.stringify(Array.isArray(value) ? value.toSorted() : value ?? false);
  return ['[]', '{}'].includes(text) ? 'false' : text;
}

/** A reader sees the old file or the new one, never half of it, also after a power cut. */
async function replaceFile(path, bytes) {
  const file = await open(`${path}.partial`, 'w');
  try {
    await file.writeFile(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(`${path}.partial`, path);
}
