"""Stopping on SIGTERM, SIGUSR1 and Ctrl-C when the state has been saved."""

import signal
import threading

import jax


class StopSignal:
    """Notes SIGTERM and Ctrl-C within a `with`; a second Ctrl-C interrupts at once.

    SIGUSR1, which clusters send before the time is up, counts as SIGTERM. With several
    processes, jax agrees on a common step to stop at after SIGTERM.

    Attributes:
      status: to exit with: 0 after SIGTERM, 130 after Ctrl-C, None without a signal.
    """

    def __enter__(self) -> "StopSignal":
        self.status: int | None = None
        self._old = {}
        # Signals reach the main thread, which alone may ask for them.
        main_thread = threading.current_thread() is threading.main_thread()
        if jax.process_count() == 1 and main_thread:
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
                self._old[number] = signal.signal(number, self._note)
        elif main_thread:  # jax itself listens to SIGTERM
            old = signal.signal(signal.SIGUSR1, _as_sigterm)
            self._old[signal.SIGUSR1] = old
        return self

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        if number == signal.SIGINT:
            signal.signal(number, self._old[number])
        self.status = 130 if number == signal.SIGINT else 0

    @property
    def noted(self) -> bool:
        """Whether a signal has come to this process, which is alone."""
        return jax.process_count() == 1 and self.status is not None

    def __call__(self, step: int, checkpoints) -> bool:
        """Whether to save and stop after `step`; asked by all processes."""
        if jax.process_count() > 1:
            self.status = 0
            return checkpoints.reached_preemption(step)
        return self.status is not None


def _as_sigterm(*_):
    signal.raise_signal(signal.SIGTERM)
