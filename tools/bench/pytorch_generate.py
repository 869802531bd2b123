"""Benchmark worker: greedy tokens of the same model and adapter in PyTorch + HF PEFT, with transformers' cache."""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from common import RANK, measure_generation
from peft import LoraConfig, get_peft_model
from pytorch_worker import model_folder
from transformers.cache_utils import DynamicCache

from edgepeft_export.decode import cache_name
from edgepeft_export.hf import load_folder


def main() -> None:
    """Loads the model and generates."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--model")
    arguments.add_argument("--threads", type=int, required=True)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    base: Any = load_folder(model_folder(options.model), "causal_lm").model
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, config).eval()
    name = cache_name(model)

    def start(prompt: npt.NDArray[np.int64]) -> Callable[[], object]:
        cache: Any = DynamicCache()

        def read(ids: torch.Tensor) -> torch.Tensor:
            given = {"input_ids": ids, name: cache, "use_cache": True, "logits_to_keep": 1}
            best: torch.Tensor = model(**given).logits[:, -1].argmax(-1, keepdim=True)
            return best

        best = [read(torch.from_numpy(prompt[None]))]

        def one_more() -> None:
            best[0] = read(best[0])

        return one_more

    with torch.inference_mode():
        measure_generation(start, int(base.config.vocab_size))


if __name__ == "__main__":
    main()
