"""Small models with random weights, and bundles of them: what the tests export."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft import LoraConfig
from reference_values import FOLDER
from torch import Tensor, nn

import edgepeft_export
from edgepeft import names
from edgepeft.manifest import ImageInfo, TextInfo

#: Three special tokens, 256 bytes, one to spare.
VOCABULARY = 260
CHAT_TEMPLATE = (
    "{% for message in messages %}<bos>{{ message.role }}: {{ message.content | trim }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant: {% endif %}"
)


def byte_tokenizer() -> bytes:
    """A tokenizer.json that knows bytes and the special tokens <pad>, <bos> and <eos>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    special = ["<pad>", "<bos>", "<eos>"]
    alphabet = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({text: index for index, text in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return tokenizer.to_str().encode()


def text_info() -> TextInfo:
    """The special tokens and length of the small language models."""
    return TextInfo(bos_token_id=1, eos_token_ids=[2], pad_token_id=0, max_length=128)


def tiny_llama(attention: str = "sdpa", *, tied: bool = True) -> nn.Module:
    """Two layers of Llama, with grouped key heads, and embeddings that the head shares or not."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            attn_implementation=attention,
            tie_word_embeddings=tied,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )


def tiny_bert() -> nn.Module:
    """Two layers of BERT with a head of three classes."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
            num_labels=3,
        )
    )


class ConvNet(nn.Module):
    """A small convolutional net on [batch, 1, 8, 8] images, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(64, 10)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2.0)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv1(image)))
        x = nn.functional.max_pool2d(x, 2)
        return self.head(torch.relu(self.conv2(x)).flatten(1))


class Embedder(nn.Module):
    """Mean embedding of the tokens that the mask keeps, [batch, 16], and scores of three classes from it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens = nn.Embedding(VOCABULARY, 16)
        self.project = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        kept = attention_mask.unsqueeze(-1).float()
        mean = (self.tokens(input_ids) * kept).sum(1) / kept.sum(1)
        embedding = nn.functional.normalize(self.project(mean), dim=-1)
        return {"embedding": embedding, "logits": self.head(embedding)}


class Wide(nn.Module):
    """Four layers on [batch, 8] whose weights, 51 MB, are all trained; four numbers come out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(8, 1792).requires_grad_(False)
        self.layers = nn.ModuleList(nn.Linear(1792, 1792, bias=False) for _ in range(4))
        self.last = nn.Linear(1792, 4).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.last(x)


def text_batch(
    rows: int = 2, length: int = 12, classes: int | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Random tokens; labels are other random tokens, or classes."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if classes is None:
        return batch | {"labels": torch.randint(3, VOCABULARY, (rows, length), generator=generator)}
    labels = torch.randint(0, classes, (rows,), generator=generator)
    return batch | {"token_type_ids": torch.zeros_like(ids), "labels": labels}


def without_types(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if name != "token_type_ids"}


def image_batch(rows: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Random images and classes."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((rows, 1, 8, 8), generator=generator)
    return {"image": images, "labels": torch.randint(0, 10, (rows,), generator=generator)}


def lora(*modules: str, task: str | None = None) -> LoraConfig:
    """LoRA of rank 4."""
    return LoraConfig(r=4, lora_alpha=8, target_modules=list(modules), task_type=task)


def save_tiny_folder(path: Path) -> None:
    """A tiny Llama with its tokenizer and chat template, as `save_pretrained` writes them."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tiny_llama().save_pretrained(path)  # type: ignore[operator]
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(byte_tokenizer().decode()),
        bos_token="<bos>",  # noqa: S106
        eos_token="<eos>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(path)


#: What each small bundle is exported from: arguments of `edgepeft_export.export`.
RECIPES: dict[str, Callable[[], Mapping[str, Any]]] = {
    "tiny-llama": lambda: {
        "model": tiny_llama(),
        "example_inputs": text_batch(),
        "loss": "causal_lm",
        "adapter": lora("q_proj", "v_proj", task="CAUSAL_LM"),
        "text": text_info(),
        "assets": {names.TOKENIZER: byte_tokenizer(), names.CHAT_TEMPLATE: CHAT_TEMPLATE.encode()},
    },
    "tiny-bert": lambda: {
        "model": tiny_bert(),
        "example_inputs": text_batch(classes=3),
        "loss": "cross_entropy",
        "adapter": lora("query", "value", task="SEQ_CLS"),
        "labels": ["red", "green", "blue"],
        "text": msgspec.structs.replace(text_info(), max_length=64),
        "assets": {names.TOKENIZER: byte_tokenizer()},
    },
    "embedder": lambda: {
        "model": Embedder(),
        "example_inputs": without_types(text_batch(classes=3)),
        "loss": "cross_entropy",
        "adapter": lora("project"),
        "text": msgspec.structs.replace(text_info(), max_length=64),
        "assets": {names.TOKENIZER: byte_tokenizer()},
    },
    "wide": lambda: {
        "model": Wide(),
        "example_inputs": {"x": torch.randn(3, 8), "labels": torch.randn(3, 4)},
        "loss": "mse",
        "adapter": None,
        "labels": ["north", "east", "south", "west"],
    },
    "conv-net": lambda: {
        "model": ConvNet(),
        "example_inputs": image_batch(),
        "loss": "cross_entropy",
        "adapter": lora("conv1", "conv2", "head"),
        "image": ImageInfo(input="image", channels=1, height=8, width=8, mean=[0.5], std=[0.25]),
    },
}


def export_all(folder: Path, tell: Callable[[str], object] = lambda _: None) -> None:
    """Exports every recipe into a folder of its own, and PyTorch's values beside; what was there is replaced.

    Args:
        folder: Where.
        tell: Called with each recipe's name before it is exported.
    """
    from pytorch_models import write_values  # it needs this module

    for name, recipe in RECIPES.items():
        tell(name)
        shutil.rmtree(folder / name, ignore_errors=True)
        edgepeft_export.export(**recipe(), output=folder / name, check=False)
    write_values(folder / FOLDER)
