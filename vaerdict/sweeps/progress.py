"""How a sweep tells how far it is: one bar, or a line of JSON per unit."""

import json
import time

from tqdm import tqdm

from vaerdict.sweeps.worker import Outcome


class Progress:
    """Counts units that are done, failed and remaining.

    Args:
        title: before the bar.
        units: how many there are, those of earlier runs included.
        done: how many were done before.
        failed: how many failed before, and are left so.
        log_json: print lines of JSON instead of a bar.
    """

    def __init__(self, title: str, *, units: int, done: int, failed: int, log_json: bool) -> None:
        self.done, self.failed, self.units = done, failed, units
        self._log_json, self._began, self._here = log_json, time.monotonic(), 0
        self._bar = tqdm(
            total=units, initial=done + failed, desc=title, unit="unit", disable=True if log_json else None
        )

    def tell(self, outcome: Outcome) -> None:
        """Count a unit and show it."""
        self._here += 1
        self.done += outcome.status == "done"
        self.failed += outcome.status == "failed"
        if self._log_json:
            print(json.dumps(self._line(outcome)), flush=True)
        self._bar.set_postfix(done=self.done, failed=self.failed, left=self.remaining, refresh=False)
        self._bar.update()

    @property
    def remaining(self) -> int:
        """Units that nobody has done yet."""
        return self.units - self.done - self.failed

    def _line(self, outcome: Outcome) -> dict[str, object]:
        rate = self._here / max(time.monotonic() - self._began, 1e-9)
        return {
            "time": time.time(),
            "unit": outcome.job.key,
            "group": outcome.job.group,
            "status": outcome.status,
            "reason": outcome.reason,
            "seconds": round(outcome.seconds, 6),
            "done": self.done,
            "failed": self.failed,
            "remaining": self.remaining,
            "units_per_second": round(rate, 4),
            "seconds_left": round(self.remaining / rate, 1),
        }

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
