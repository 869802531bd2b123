/** A bundle: verified, then run on stock ONNX Runtime. Written from docs/bundle-format.md alone. */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { open, readdir } from 'node:fs/promises';
import { join, relative, sep } from 'node:path';

import { parse } from './safetensors.mjs';

process.env.ORT_DISABLE_TELEMETRY = '1'; // read when the library is loaded: hence the late import
export const { InferenceSession, Tensor } = await import('onnxruntime-node');

const SCHEMA_VERSION = 1;
const BASE = 'base.safetensors';
const MANIFEST = 'manifest.json';
const NEEDED_GRAPHS = ['infer', 'evaluate', 'train', 'accumulate', 'update_adamw'];
const NEEDED_FILES = [BASE, 'adapters/initial/adapter_config.json', 'adapters/initial/adapter_model.safetensors'];
const FATAL_ONLY = 4; // every error is thrown, too
const PATH = /^[A-Za-z0-9_-][A-Za-z0-9_.-]*(\/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$/;
const SESSION_OPTIONS = { logSeverityLevel: FATAL_ONLY, enableMemPattern: false };

/** Reads a regular file, never through a link. */
export async function readRegularFile(path) {
  let file;
  try {
    file = await open(path, constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0));
    return await file.readFile();
  } catch (error) {
    throw new Error(`${path}: cannot be read (${error.code ?? error.message}). Give the folder of a bundle, `
      + 'or of an adapter.');
  } finally {
    await file?.close();
  }
}

/** A file's JSON object. */
export function parseJson(bytes, where) {
  try {
    return Object.assign({}, JSON.parse(bytes));
  } catch (error) {
    throw new Error(`${where}: is no JSON: ${error.message}. Copy it again.`);
  }
}

/** A verified bundle; sessions are opened when a graph is first run. */
export class Bundle {
  #files;
  #sessions = new Map();

  constructor(manifest, files) {
    this.manifest = manifest;
    this.#files = files;
    this.adapterNames = manifest.adapter.tensors.map((tensor) => tensor.name);
  }

  /** Opens a folder and checks every file against the manifest; the bytes that were hashed are the ones used. */
  static async open(folder) {
    const manifest = parseManifest(await readRegularFile(join(folder, MANIFEST)), join(folder, MANIFEST));
    await checkListing(folder, manifest);
    const files = new Map();
    for (const [name, { size, sha256 }] of Object.entries(manifest.files)) {
      const bytes = await readRegularFile(join(folder, name));
      if (bytes.length !== size || hex(bytes) !== sha256) {
        throw new Error(`${join(folder, name)}: was altered: its size or SHA-256 is not the manifest's. `
          + 'Copy the bundle again.');
      }
      files.set(name, bytes);
    }
    checkWeights(manifest, parse(files.get(BASE), join(folder, BASE)).tensors, folder);
    return new Bundle(manifest, files);
  }

  /** Content of a file. */
  file(name) {
    return this.#files.get(name);
  }

  /** The ports of a graph that are data: what is no adapter tensor. */
  dataInputs(graph) {
    return this.manifest.graphs[graph].inputs.filter((port) => !this.adapterNames.includes(port.name));
  }

  /** Runs a graph on tensors by name, and gives its outputs by name. */
  async run(graph, feeds) {
    if (!this.#sessions.has(graph)) {
      this.#sessions.set(graph, this.#open(graph));
    }
    const session = await this.#sessions.get(graph);
    return session.run(feeds);
  }

  /** The graphs point into base.safetensors: ONNX Runtime finds it under that name among the given bytes. */
  #open(graph) {
    const { file, weights } = this.manifest.graphs[graph];
    const externalData = weights.length ? [{ path: BASE, data: this.#files.get(BASE) }] : [];
    return InferenceSession.create(this.#files.get(file), { ...SESSION_OPTIONS, externalData });
  }
}

function parseManifest(bytes, where) {
  const manifest = parseJson(bytes, where);
  if (manifest.schema_version !== SCHEMA_VERSION) {
    throw new Error(`${where}: schema version ${manifest.schema_version}; this program reads `
      + `${SCHEMA_VERSION}. Export the bundle again, or update the program.`);
  }
  const graph = NEEDED_GRAPHS.find((name) => !manifest.graphs?.[name]);
  const files = [...NEEDED_FILES, ...NEEDED_GRAPHS.map((name) => manifest.graphs?.[name]?.file)];
  const file = files.find((name) => !manifest.files?.[name]);
  if (graph ?? file) {
    throw new Error(`${where}: has no ${graph ? `graph '${graph}'` : `file '${file}'`}. Export the bundle again.`);
  }
  const outside = Object.keys(manifest.files).find((path) => !PATH.test(path));
  if (outside !== undefined) {
    throw new Error(`${where}: '${outside}' is no path inside the bundle. Do not use it.`);
  }
  const [base, infer] = [BASE, manifest.graphs.infer.file].map((name) => manifest.files[name].sha256);
  if (hex(`${base}\n${infer}\n`) !== manifest.base_id) {
    throw new Error(`${where}: its base_id is not that of its files. Copy the bundle again.`);
  }
  return manifest;
}

/** The folder holds the manifest's files and nothing else, and no links. */
async function checkListing(folder, manifest) {
  const missing = new Set(Object.keys(manifest.files));
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const path = relative(folder, join(entry.parentPath ?? entry.path, entry.name)).split(sep).join('/');
    const known = entry.isDirectory() || (entry.isFile() && (missing.delete(path) || path === MANIFEST));
    if (!known) {
      throw new Error(`${folder}: '${path}' is no file of the manifest. Remove it, or copy the bundle again.`);
    }
  }
  if (missing.size) {
    throw new Error(`${folder}: ${[...missing][0]} is missing. Copy the whole bundle again.`);
  }
}

function checkWeights(manifest, tensors, folder) {
  for (const [graph, { weights }] of Object.entries(manifest.graphs)) {
    const missing = weights.find((name) => !tensors.has(name));
    if (missing !== undefined) {
      throw new Error(`${folder}/${BASE}: lacks '${missing}', which graph '${graph}' reads. Export it again.`);
    }
  }
}

function hex(bytes) {
  return createHash('sha256').update(bytes).digest('hex');
}
