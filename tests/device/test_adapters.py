"""Many adapters over one base: by name, a call each, from several threads, at the cost of their own bytes."""

import dataclasses
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import edgepeft
from edgepeft.errors import AdapterError, ArgumentError

BATCH = {"input_ids": np.arange(3, 15).reshape(1, 12), "attention_mask": np.ones((1, 12), np.int64)}


@pytest.fixture
def model(bundles: Path) -> edgepeft.Model:
    return edgepeft.load(bundles / "tiny-llama", threads=1)


def moved(adapter: edgepeft.Adapter, seed: int) -> edgepeft.Adapter:
    """An adapter with other values."""
    generator = np.random.default_rng(seed)
    tensors = {
        name: value + generator.standard_normal(value.shape).astype(np.float32) * 0.3
        for name, value in sorted(adapter.tensors.items())
    }
    return dataclasses.replace(adapter, tensors=tensors)


def test_adapters_are_used_by_name(model: edgepeft.Model, tmp_path: Path) -> None:
    """From a folder or from memory; a name is as good as the adapter, for one call or for all that follow."""
    alice, bob = moved(model.adapter, 1), moved(model.adapter, 2)
    alice.save(tmp_path / "alice")
    model.add_adapter("alice", tmp_path / "alice")
    model.add_adapter("bob", bob)
    assert list(model.adapters) == ["alice", "bob"]
    assert model.adapters["bob"] is bob
    base = model.predict(BATCH)["logits"]
    told = {name: model.predict(BATCH, adapter=name)["logits"] for name in ("alice", "bob")}
    assert np.array_equal(model.predict(BATCH, adapter=alice)["logits"], told["alice"])
    assert np.array_equal(model.predict(BATCH)["logits"], base)
    for name, logits in told.items():
        assert np.abs(logits - base).max() > 1e-2
        model.use(name)
        assert np.array_equal(model.predict(BATCH)["logits"], logits)
        assert model.adapter is model.adapters[name]


def test_every_call_takes_an_adapter(model: edgepeft.Model) -> None:
    """What a call gives under an adapter is what it gives when that adapter is in use, and it changes nothing."""
    other, first = moved(model.adapter, 3), model.adapter
    model.add_adapter("other", other)
    rows = [{"text": "hello"}, {"text": "how are you"}]

    def answers(adapter: str | None) -> list[object]:
        return [
            model.evaluate(rows, adapter=adapter)["loss"],
            model.generate("hi", max_new_tokens=8, adapter=adapter),
            list(model.stream("hi", max_new_tokens=8, temperature=1.0, seed=3, adapter=adapter)),
        ]

    before, given = answers(None), answers("other")
    assert model.adapter is first
    assert all(one != two for one, two in zip(before, given, strict=True))
    model.use("other")
    assert answers(None) == given


def test_an_answer_that_streams_keeps_its_adapter(model: edgepeft.Model) -> None:
    """Swapped, replaced or deleted in the middle: the answer is that of the adapter it began with."""
    model.add_adapter("other", moved(model.adapter, 3))
    expected = model.generate("hi", max_new_tokens=8, adapter="other")
    pieces = model.stream("hi", max_new_tokens=8, adapter="other")
    got = next(pieces)
    model.delete_adapter("other")
    model.use(moved(model.adapter, 4))
    assert got + "".join(pieces) == expected


def test_a_name_that_is_not_there(model: edgepeft.Model) -> None:
    """The message has the names there are, and the nearest."""
    with pytest.raises(ArgumentError, match=r"no adapter is named 'alice'; there are none\. Load one"):
        model.use("alice")
    for name in ("alice", "bob"):
        model.add_adapter(name, model.adapter)
    expected = r"named 'alcie'; there are 'alice', 'bob'\. Did you mean 'alice'\?"
    for call in (
        lambda: model.use("alcie"),
        lambda: model.delete_adapter("alcie"),
        lambda: model.predict(BATCH, adapter="alcie"),
        lambda: model.evaluate([{"text": "a"}], adapter="alcie"),
        lambda: model.generate("hi", adapter="alcie"),
        lambda: model.stream("hi", adapter="alcie"),
    ):
        with pytest.raises(ArgumentError, match=expected):
            call()
    with pytest.raises(ArgumentError, match="name is ''"):
        model.add_adapter("", model.adapter)


def test_a_refused_adapter_changes_nothing(model: edgepeft.Model, tmp_path: Path) -> None:
    """Neither a folder that is none, nor tensors that do not fit, replace what has the name."""
    alice = moved(model.adapter, 1)
    model.add_adapter("alice", alice)
    for bad in (tmp_path, dataclasses.replace(alice, base_id="0" * 64)):
        with pytest.raises(AdapterError):
            model.add_adapter("alice", bad)
    with pytest.raises(AdapterError, match="made for base"):
        model.predict(BATCH, adapter=dataclasses.replace(alice, base_id="0" * 64))
    assert model.adapters["alice"] is alice


def test_replacing_and_deleting(model: edgepeft.Model) -> None:
    """A name is replaced at once; one that is in use stays in use until the next swap."""
    first, second = moved(model.adapter, 1), moved(model.adapter, 2)
    model.add_adapter("alice", first)
    held = model.adapters
    model.use("alice")
    model.add_adapter("alice", second)
    assert model.adapters["alice"] is second
    assert (held["alice"], model.adapter) == (first, first)
    model.delete_adapter("alice")
    assert not model.adapters
    assert model.adapter is first
    with pytest.raises(TypeError):
        held["bob"] = second  # type: ignore[index]


def ask(model: edgepeft.Model, name: str, expected: bytes, wrong: list[str]) -> None:
    """Asks many times under one adapter; notes each answer that is another's."""
    text = model.generate("hi", max_new_tokens=4, adapter=name)
    for turn in range(150):
        if model.predict(BATCH, adapter=name)["logits"].tobytes() != expected:
            wrong.append(name)
        if turn % 15 == 0 and model.generate("hi", max_new_tokens=4, adapter=name) != text:
            wrong.append(f"{name}: another text")
    wrong.append(f"{name} is done")


def test_two_threads_two_adapters(model: edgepeft.Model) -> None:
    """At once, each under its own, while a third one swaps, adds and deletes: every answer is the right one."""
    made = {name: moved(model.adapter, seed) for seed, name in enumerate(("alice", "bob", "carol"), 1)}
    expected = {name: model.predict(BATCH, adapter=one)["logits"].tobytes() for name, one in made.items()}
    assert len(set(expected.values())) == 3
    for name in ("alice", "bob"):
        model.add_adapter(name, made[name])
    found: list[str] = []
    threads = [
        threading.Thread(target=ask, args=(model, name, expected[name], found)) for name in ("alice", "bob")
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        model.use("alice")
        model.add_adapter("carol", made["carol"])
        model.use("carol")
        if model.predict(BATCH)["logits"].tobytes() != expected["carol"]:
            found.append("carol")
        model.delete_adapter("carol")
    assert sorted(found) == ["alice is done", "bob is done"]


MEMORY = """
import gc, sys, tracemalloc
from pathlib import Path
import numpy as np
import edgepeft

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

def measure():
    gc.collect()
    return resident(), tracemalloc.get_traced_memory()[0]

bundle, folder, further = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
model = edgepeft.load(bundle, threads=1)
batch = {"x": np.ones((2, 8), np.float32)}
for index in range(further + 1):
    model.adapter.save(folder / str(index))
tracemalloc.start()
model.add_adapter("0", folder / "0")
model.predict(batch, adapter="0")
before = measure()
for index in range(1, further + 1):
    model.add_adapter(str(index), folder / str(index))
    model.predict(batch, adapter=str(index))
after = measure()
print(model.adapter.size, *(b - a for a, b in zip(before, after)))
"""


def test_a_further_adapter_costs_its_own_bytes(bundles: Path, tmp_path: Path) -> None:
    """Four of 51 MB, loaded from files and used: four times 51 MB, within a tenth, resident and as Python counts."""
    command = [sys.executable, "-c", MEMORY, str(bundles / "wide"), str(tmp_path), "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    size, resident, traced = map(int, done.stdout.split())
    assert size == 4 * 1792 * 1792 * 4
    assert 0.9 < resident / (4 * size) < 1.1
    assert 0.9 < traced / (4 * size) < 1.1
