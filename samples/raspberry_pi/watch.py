"""Reads images that come into a folder, takes corrections, and learns from them in the background.

Usage: python -m samples.raspberry_pi.watch BUNDLE FOLDER [--corrections 8] [--epochs 20]

New images are put into FOLDER/inbox; each goes to FOLDER/read/<class>. A wrong one is moved, by hand, to
FOLDER/corrected/<right class>. When so many corrections wait, it learns from them and from FOLDER/examples/<class>,
goes on reading meanwhile, and then reads with what it has learned, which is in FOLDER/adapter, unless that reads fewer
of the images in FOLDER/held_out/<class> than before. Ctrl-C ends it.
"""

import argparse
import contextlib
import io
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

import edgepeft
from edgepeft import board
from edgepeft.data.images import load_image
from edgepeft.errors import AdapterError
from edgepeft.tensors import Array
from samples.raspberry_pi.folders import Watched, class_of, gather, lock, move, reason
from samples.raspberry_pi.inbox import Collection, Corrections, Inbox
from samples.raspberry_pi.view import IDLE, Learning, View

#: Seconds between two looks at the folder.
_LOOK_SECONDS = 1.0

#: Seconds after which it tries again to learn from what it could not learn from.
RETRY_SECONDS = 300.0

#: Pixels of an image that are decoded in half of that memory, whatever its kind.
MAX_PIXELS = 20_000_000

#: Bytes that the program may take while it learns: MemoryMax of the service, for kernels that do not enforce that.
MAX_MEMORY = 400 << 20


def guest(root: Path = board.ROOT) -> edgepeft.Guest:
    """Learns within `MAX_MEMORY`, or within what is available where that is less.

    Args:
        root: Where the kernel's files are.
    """
    available = board.available_memory(root)
    less = available is not None and available < MAX_MEMORY
    return edgepeft.Guest(max_memory=None if less else MAX_MEMORY, root=root)


class _Ended(Exception):  # noqa: N818 - nothing went wrong
    """It was told to end in the middle of something."""


class Reader:
    """The model, its watched folder, and the training that may be running.

    Args:
        model: A classifier of images.
        watched: The folders.
        view: What shows them.
        enough: Corrections that make a training worth the while.
        settings: Of the training, beside the bundle's own.
    """

    def __init__(
        self, model: edgepeft.Model, watched: Watched, view: View, enough: int, **settings: Any
    ) -> None:
        self.model = model
        self.watched = watched
        self._view = view
        self._enough = enough
        if model.bundle.manifest.image is None:
            raise edgepeft.EdgepeftError(
                f"{model.bundle.path}: its model does not read images. Take one that does."
            )
        self._image = model.bundle.manifest.image
        recommended: dict[str, Any] = dict(model.bundle.manifest.training) | settings
        self._arguments = edgepeft.TrainingArguments(**recommended)
        self._labels = tuple(model.labels or ())
        strange = [label for label in self._labels if label.startswith(".") or "/" in label]
        if strange:
            raise edgepeft.EdgepeftError(
                f"{model.bundle.path}: its class {strange[0]!r} cannot name a folder. Export it with another name."
            )
        self._trainer: edgepeft.Trainer | None = None
        self._training: threading.Thread | None = None
        self._inbox = Inbox(watched, self._classify, view.event)
        self._corrections = Corrections(watched, self._labels, self._decode, view.event)
        self._examples = Collection(watched.examples, self._labels, self._decode, view.event)
        self._held_out = Collection(watched.held_out, self._labels, self._decode, view.event)
        self._failed: set[Path] = set()  # corrections that could not be learned from
        self._retry = 0.0  # when it is tried again, by the monotonic clock
        self._stuck: set[Path] = set()  # those that were learned from, and cannot be moved
        self._told = ""
        self.stopping = False
        view.refresh(corrections=(0, enough))

    def look(self) -> None:
        """Does what there is to do, once; an error of the folders is told when it is new."""
        try:
            self._look()
            self._told = ""
        except OSError as error:
            if str(error) != self._told:
                self._told = str(error)
                self._view.event(f"could not look into {self.watched.root}: {reason(error)}")

    def _look(self) -> None:
        if self.watched.make(self._labels):
            self._view.event(f"{self.watched.root} is new: images are waited for in {self.watched.inbox}")
        for _ in self._inbox.look():
            self._view.refresh(read=self._view.state.read + 1)
        if self._training is not None and not self._training.is_alive():
            self._training = None
            self._view.refresh(doing=IDLE)
        found = self._corrections.look()
        if self._training is None:
            self._stuck &= found.keys()  # under the name of one that is gone there may be another
        waiting = found.keys() - self._stuck
        self._view.refresh(corrections=(len(waiting), self._enough))
        due = waiting != self._failed or time.monotonic() >= self._retry
        if len(waiting) >= self._enough and due and self._training is None:
            self._training = threading.Thread(target=self._learn, args=(found,), name="learning")
            self._training.start()

    def use_learned(self) -> None:
        """Reads with what was learned before; what another bundle learned is put aside."""
        if not self.watched.adapter.is_dir():
            return
        try:
            self.model.use(edgepeft.Adapter.load(self.watched.adapter))
        except AdapterError as error:
            place = move(self.watched.adapter, self.watched.unused)
            self._view.event(f"{error} It is in {place} now.")

    def score(self) -> None:
        """Measures the model on the held-out images, if there are any."""
        try:
            scores = self._scores(None)
        except _Ended:
            return
        except (edgepeft.EdgepeftError, OSError) as error:
            self._view.event(f"could not measure: {reason(error)}")
        else:
            if scores:
                self._tell_score(scores[0])

    def stop(self) -> None:
        """Asks it to end; for signals: nothing else is done, since a lock may be held when one comes."""
        self.stopping = True

    def join(self) -> None:
        """Ends a training that is running after its step; its corrections wait for the next start."""
        self.stopping = True
        if self._trainer is not None:
            self._trainer.stop()
        if self._training is not None:
            self._training.join()

    def _decode(self, path: Path) -> Array:
        pixels = 0
        with contextlib.suppress(Exception), Image.open(path) as image:  # what is wrong with it is told below
            pixels = image.width * image.height
        if pixels > MAX_PIXELS:
            raise edgepeft.EdgepeftError(
                f"{path}: has {pixels / 1e6:.0f} million pixels, and at most {MAX_PIXELS / 1e6:.0f} fit. Save it smaller."
            )
        return load_image(path, self._image)

    def _classify(self, path: Path) -> edgepeft.Classification:
        return next(self.model.classify([{self._image.input: self._decode(path)}]))

    def _scores(self, *adapters: str | None) -> list[float]:
        """Per cent of the held-out images that are read rightly under each adapter; none without any image."""
        right, count = [0] * len(adapters), 0
        for name, _, image in self._held_out.look():
            if self.stopping:
                raise _Ended
            count += 1
            for index, adapter in enumerate(adapters):
                found = next(self.model.classify([{self._image.input: image}], adapter=adapter))
                right[index] += found.index == class_of(name, self._labels)
        return [100 * some / count for some in right if count]

    def _tell_score(self, score: float) -> None:
        self._view.refresh(scores=[*self._view.state.scores[:1], score])
        self._view.event(f"{score:.1f} % of the held-out images are read rightly")

    def _learn(self, taken: dict[Path, str]) -> None:
        """Trains on all there is, from the bundle's own adapter."""
        work = self.watched.root / ".learning"
        try:
            self._train(work, taken)
        except _Ended:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, reading goes on
            self._failed = taken.keys() - self._stuck
            self._retry = time.monotonic() + RETRY_SECONDS
            self._view.event(
                f"could not learn: {reason(error)}. It tries again in {RETRY_SECONDS / 60:.0f} minutes,"
                " or when the corrections change"
            )
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _train(self, work: Path, taken: dict[Path, str]) -> None:
        examples = ((path, name) for name, path, _ in self._examples.look())
        count = gather(chain(examples, taken.items()), work)
        self._view.event(f"learning from {count} images, {len(taken)} of them corrections")
        self._view.refresh(doing="learning")
        trainer = self._trainer = edgepeft.Trainer(edgepeft.load(self.model.bundle), self._arguments)
        told = Learning(self._view, lambda: trainer.stop() if self.stopping else None)
        result = trainer.fit(work, callbacks=[told], guest=guest())
        if result.stop_reason == "stopped":
            return
        self._take(result, taken)

    def _take(self, result: edgepeft.TrainingResult, taken: dict[Path, str]) -> None:
        """Reads with what was learned from now on, unless that reads fewer of the held-out images."""
        self.model.add_adapter("new", result.adapter)
        scores = self._scores(None, "new")
        worse = bool(scores) and scores[1] < scores[0]
        if not worse:
            result.adapter.save(self.watched.adapter)
            self.model.use("new")
        self._keep(taken)
        if worse:
            self._view.event(
                f"learned in {result.seconds:.1f} s; but that reads {scores[1]:.1f} % of the held-out images rightly,"
                f" and what is in use {scores[0]:.1f} %: it stays in use, and the next training learns from these, too"
            )
            return
        self._view.event(f"learned in {result.seconds:.1f} s, kept in {self.watched.adapter}")
        if scores:
            self._tell_score(scores[1])

    def _keep(self, taken: dict[Path, str]) -> None:
        """Corrections that were learned from become examples; one that cannot be moved counts no more."""
        for path, name in taken.items():
            try:
                move(path, self.watched.examples / name)
            except FileNotFoundError:  # somebody has moved it meanwhile
                continue
            except OSError as error:
                if path not in self._stuck:
                    self._stuck |= {path}
                    self._view.event(
                        f"could not make {path} an example: {error.strerror or error}; it stays there"
                    )


def _folder(text: str) -> Path:
    """A folder, or a name for one."""
    path = Path(text)
    if not path.is_dir() and (path.exists() or not path.absolute().parent.is_dir()):
        raise argparse.ArgumentTypeError(f"{text}: expected a folder, or a new name in one that exists")
    return path


def _count(text: str) -> int:
    """A number from 1 on."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number, at least 1")
    return int(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=_folder)
    parser.add_argument(
        "--corrections", type=_count, default=8, help="how many make a training worth the while"
    )
    parser.add_argument("--epochs", type=_count, help="of a training; by default the bundle's own")
    return parser.parse_args()


def main() -> None:
    """Watches until it is told to end."""
    options = _options()
    # What is too large is refused in a line of its own.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    settings = {} if options.epochs is None else {"epochs": options.epochs}
    watched = Watched(options.folder)
    model = edgepeft.load(options.bundle)
    view = View(f"{model.bundle.manifest.model.name} in {options.folder}")
    reader = Reader(model, watched, view, options.corrections, **settings)
    new = watched.make(tuple(model.labels or ()))
    lock(watched.root)
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name can be anything
    with view:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: reader.stop())
        view.event(
            f"{'made the folder; ' * new}put images into {watched.inbox};"
            f" move wrong ones from {watched.read} to {watched.corrected}"
        )
        reader.use_learned()
        reader.score()
        try:
            while not reader.stopping and view.lost is None:
                reader.look()
                time.sleep(_LOOK_SECONDS)
        finally:
            reader.join()
        view.refresh(doing="ended")
        view.event("ended")
    if view.lost is not None:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # what is left cannot be written either
        raise edgepeft.EdgepeftError(f"could not write what it does: {reason(view.lost)}.")


if __name__ == "__main__":
    try:
        main()
    except (edgepeft.EdgepeftError, OSError) as error:
        sys.exit(f"Error: {reason(error)}.")
