"""The adapters that a model has at hand: the one in use, and others by name."""

import difflib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from edgepeft.adapter import Adapter, check_fits
from edgepeft.bundle import Bundle
from edgepeft.engines.base import Engine
from edgepeft.errors import ArgumentError


@dataclass(frozen=True)
class Loaded:
    """An adapter and what the engine made of it: replaced as one, so that no call sees half a swap."""

    adapter: Adapter
    prepared: Any


class Adapters:
    """Adapters that were checked and made ready once. Safe to use from several threads.

    An adapter costs the bytes of its tensors: the engine computes with the very arrays that were loaded.

    Attributes:
        active: The one in use.
    """

    def __init__(self, bundle: Bundle, engine: Engine, adapter: Adapter) -> None:
        self._bundle = bundle
        self._engine = engine
        self._lock = threading.Lock()
        self._named: Mapping[str, Loaded] = {}
        self.active = self._load(adapter)

    @property
    def named(self) -> Mapping[str, Adapter]:
        """The adapters by name, read-only: as they are now, whatever is added afterwards."""
        return MappingProxyType({name: loaded.adapter for name, loaded in self._named.items()})

    def add(self, name: str, adapter: Adapter | str | os.PathLike[str]) -> None:
        """Loads an adapter under a name; see `Model.add_adapter`."""
        if not isinstance(name, str) or not name:
            raise ArgumentError(f"the adapter's name is {name!r}; expected a text that is not empty.")
        loaded = self._load(adapter if isinstance(adapter, Adapter) else Adapter.load(adapter))
        with self._lock:
            self._named = {**self._named, name: loaded}

    def delete(self, name: str) -> None:
        """Forgets a name; see `Model.delete_adapter`."""
        with self._lock:
            self._get(name)
            self._named = {other: loaded for other, loaded in self._named.items() if other != name}

    def find(self, adapter: str | Adapter | None) -> Loaded:
        """An adapter by its name or itself, ready to run with; by default the one in use.

        Raises:
            ArgumentError: No adapter has that name.
            AdapterError: The adapter is not made for this bundle.
        """
        if adapter is None:
            return self.active
        if isinstance(adapter, str):
            return self._get(adapter)
        known = (self.active, *self._named.values())
        return next((loaded for loaded in known if loaded.adapter is adapter), None) or self._load(adapter)

    def _get(self, name: str) -> Loaded:
        named = self._named
        if name not in named:
            near = difflib.get_close_matches(name, named, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            known = ", ".join(map(repr, sorted(named))) or "none"
            raise ArgumentError(
                f"no adapter is named {name!r}; there are {known}.{hint} Load one with add_adapter."
            )
        return named[name]

    def _load(self, adapter: Adapter) -> Loaded:
        manifest = self._bundle.manifest
        check_fits(adapter, manifest, self._bundle.initial_adapter())
        tensors = {name: np.ascontiguousarray(adapter.tensors[name]) for name in manifest.adapter_names}
        return Loaded(adapter, self._engine.prepare(tensors))
