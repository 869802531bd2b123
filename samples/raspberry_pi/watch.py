"""Reads images that come into a folder, takes corrections, and learns from them in the background.

Usage: python -m samples.raspberry_pi.watch BUNDLE FOLDER [--corrections 8] [--epochs 20]

New images are put into FOLDER/inbox; each goes to FOLDER/read/<class>. A wrong one is moved, by hand, to
FOLDER/corrected/<right class>. When so many corrections wait, it learns from them and from FOLDER/examples/<class>,
goes on reading meanwhile, and then reads with what it has learned, which is in FOLDER/adapter. Ctrl-C ends it.
"""

import argparse
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import edgepeft
from edgepeft import board
from edgepeft.data.images import load_image
from samples.raspberry_pi.folders import Watched, by_class, gather, move
from samples.raspberry_pi.inbox import Inbox
from samples.raspberry_pi.view import IDLE, Learning, View

#: Seconds between two looks at the folder.
_LOOK_SECONDS = 1.0

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
        self._trainer: edgepeft.Trainer | None = None
        self._training: threading.Thread | None = None
        self._inbox = Inbox(watched, self._classify, view.event)
        self._failed: set[Path] = set()  # corrections that could not be learned from
        self._stuck: set[Path] = set()  # those that were learned from, and cannot be moved
        self._told = ""
        self.stopping = False

    def look(self) -> None:
        """Does what there is to do, once; an error of the folders is told when it is new."""
        try:
            self._look()
            self._told = ""
        except OSError as error:
            if str(error) != self._told:
                self._told = str(error)
                self._view.event(f"could not look into {self.watched.root}: {error}")

    def _look(self) -> None:
        for _ in self._inbox.look():
            self._view.refresh(read=self._view.state.read + 1)
        waiting = {path for _, path in by_class(self.watched.corrected)} - self._stuck
        self._view.refresh(corrections=(len(waiting), self._enough))
        if self._training is not None and not self._training.is_alive():
            self._training = None
            self._view.refresh(doing=IDLE)
        if len(waiting) >= self._enough and waiting != self._failed and self._training is None:
            self._training = threading.Thread(target=self._learn, name="learning")
            self._training.start()

    def score(self) -> None:
        """Measures the model on the held-out images, if there are any."""
        if self.watched.held_out.is_dir():
            accuracy = 100 * self.model.evaluate(self.watched.held_out, batch_size=32)["accuracy"]
            self._view.refresh(scores=[*self._view.state.scores, accuracy])
            self._view.event(f"{accuracy:.1f} % of the held-out images are read rightly")

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

    def _classify(self, path: Path) -> edgepeft.Classification:
        row = {self._image.input: load_image(path, self._image)}
        return next(self.model.classify([row]))

    def _learn(self) -> None:
        """Trains on all there is, from the bundle's own adapter; what was learned from becomes an example."""
        work = self.watched.root / ".learning"
        taken = list(by_class(self.watched.corrected))
        try:
            self._train(work, taken)
        except (edgepeft.EdgepeftError, OSError) as error:
            self._failed = {path for _, path in taken} - self._stuck  # until there are others
            self._view.event(f"could not learn: {error}")
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _train(self, work: Path, taken: list[tuple[str, Path]]) -> None:
        count = gather(self.watched, work)
        self._view.event(f"learning from {count} images, {len(taken)} of them corrections")
        self._view.refresh(doing="learning")
        trainer = self._trainer = edgepeft.Trainer(edgepeft.load(self.model.bundle), self._arguments)
        told = Learning(self._view, lambda: trainer.stop() if self.stopping else None)
        result = trainer.fit(work, callbacks=[told], guest=guest())
        if result.stop_reason == "stopped":
            return
        result.adapter.save(self.watched.adapter)
        self._keep(taken)
        self.model.use(result.adapter)
        self._view.event(f"learned in {result.seconds:.1f} s, kept in {self.watched.adapter}")
        self.score()

    def _keep(self, taken: list[tuple[str, Path]]) -> None:
        """Corrections that were learned from become examples; one that cannot be moved counts no more."""
        for label, path in taken:
            try:
                move(path, self.watched.examples / label)
            except FileNotFoundError:  # somebody has moved it meanwhile
                continue
            except OSError as error:
                self._stuck |= {path}
                self._view.event(
                    f"could not make {path} an example: {error.strerror or error}; it stays there"
                )


def main() -> None:
    """Watches until it is told to end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--corrections", type=int, default=8, help="how many make a training worth the while")
    parser.add_argument("--epochs", type=int, help="of a training; by default the bundle's own")
    options = parser.parse_args()
    settings = {} if options.epochs is None else {"epochs": options.epochs}
    watched = Watched(options.folder)
    adapter = watched.adapter if watched.adapter.is_dir() else None
    model = edgepeft.load(options.bundle, adapter)
    watched.make(model.labels or ())
    title = f"{model.bundle.manifest.model.name} in {options.folder}"
    with View(title) as view:
        reader = Reader(model, watched, view, options.corrections, **settings)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: reader.stop())
        view.event(
            f"put images into {watched.inbox}; move wrong ones from {watched.read} to {watched.corrected}"
        )
        reader.score()
        try:
            while not reader.stopping:
                reader.look()
                time.sleep(_LOOK_SECONDS)
        finally:
            reader.join()
        view.event("ended")


if __name__ == "__main__":
    try:
        main()
    except edgepeft.EdgepeftError as error:
        sys.exit(f"Error: {error}")
