"""What the reader is doing: one screen on a terminal that changes, or a line for each event elsewhere."""

import errno
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

import edgepeft
from edgepeft.engines.base import StepResult

#: What it is doing when there is nothing to do.
IDLE = "waiting for images"
#: Events that the screen shows.
_LINES = 8


@dataclass
class State:
    """What the screen shows.

    Attributes:
        doing: What is going on.
        read: Images read since the start.
        corrections: Corrections that wait to be learned from, of so many that make it worth the while.
        scores: Per cent of held-out images that were read rightly, at first and now.
    """

    doing: str = IDLE
    read: int = 0
    corrections: tuple[int, int] = (0, 0)
    scores: list[float] = field(default_factory=list)


class View:
    """Shows a state and events, from several threads.

    Attributes:
        lost: Why nothing can be shown any more: the terminal is gone, or a disk is full.
    """

    def __init__(self, title: str) -> None:
        self.state = State()
        self.lost: OSError | None = None
        self._title = title
        self._lock = threading.RLock()
        self._events: deque[str] = deque(maxlen=_LINES)
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None and self.lost is None:
            self._live.stop()

    def event(self, text: str) -> None:
        """Tells what happened."""
        with self._lock:
            self._events.append(text)
            if self._live is None:
                self._write(lambda: self._console.print(Text(text), soft_wrap=True))
            self.refresh()

    def refresh(self, **changes: Any) -> None:
        """Shows the state anew, with fields of it changed."""
        with self._lock:
            new = {name: value for name, value in changes.items() if getattr(self.state, name) != value}
            for name, value in new.items():
                setattr(self.state, name, value)
            if self._live is not None and (new or not changes):  # drawing anew costs more than looking
                live, drawing = self._live, self._drawing()
                self._write(lambda: live.update(drawing, refresh=True))

    def _write(self, show: Callable[[], None]) -> None:
        """Shows something; a training must not end because nobody sees it."""
        if self.lost is None:
            try:
                show()
            except OSError as error:
                self.lost = error
            except SystemExit:  # so rich would end the program
                self.lost = BrokenPipeError(errno.EPIPE, "Nobody reads it any more")

    def _drawing(self) -> Group:
        state = self.state
        waiting, enough = state.corrections
        table = Table(title=self._title, show_header=False, box=None, title_justify="left")
        table.add_row("doing", Text(state.doing))
        table.add_row("read", f"{state.read} image{'s' * (state.read != 1)}")
        table.add_row("corrections", f"{waiting} waiting, {enough} start a training")
        if state.scores:
            first, now = state.scores[0], state.scores[-1]
            table.add_row("held-out score", f"{now:.1f} %, {first:.1f} % at first")
        return Group(table, *(Text(f"  {line}", style="dim") for line in self._events))


class Learning(edgepeft.Callback):
    """Tells a view how a training goes.

    Args:
        view: The view.
        begun: Called as it begins: a run that is to end may not have heard it before.
    """

    def __init__(self, view: View, begun: Callable[[], None]) -> None:
        self._view = view
        self._begun = begun
        self._total = 0

    def on_train_begin(self, total_steps: int, first_step: int) -> None:
        """The number of steps is known."""
        del first_step
        self._total = total_steps
        self._begun()

    def on_step_end(self, step: int, result: StepResult) -> None:
        """Each step is shown on a terminal."""
        self._view.refresh(doing=f"learning, step {step} of {self._total}, loss {result.loss:.3f}")

    def on_pause(self, step: int, reason: str) -> None:
        """Why it waits."""
        self._view.event(f"pausing after step {step}: {reason}")

    def on_resume(self, step: int, seconds: float) -> None:
        """It goes on."""
        self._view.event(f"going on after step {step}, {seconds:.0f} s later")
