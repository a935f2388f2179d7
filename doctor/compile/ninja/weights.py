"""What objects cost: seconds and memory, by the table at first, by earlier builds once there were any."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from doctor.knowledge.tables import Row
from doctor.text.bounded import read_json
from doctor.work.files import write_json

KEEP = 50_000
"""Objects that are remembered; a PyTorch has about 8,000."""

MB_PER_GB = 1024


@dataclass
class Weights:
    """Costs of objects, by their path in the build folder.

    Attributes:
        rows: [[weight]] of build/recipes.toml; the last whose pattern fits counts.
        learned: object -> (seconds, MB at the most), of earlier builds on this machine.
    """

    rows: Sequence[Row]
    path: Path
    learned: dict[str, tuple[float, int]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, rows: Sequence[Row]) -> Weights:
        """Read what was learned; a file that is damaged has taught nothing."""
        learned: dict[str, tuple[float, int]] = {}
        try:
            for name, (seconds, memory) in read_json(path).items():
                learned[str(name)] = (float(seconds), int(memory))
        except (ValueError, TypeError, AttributeError):
            learned = {}
        return cls(rows, path, learned)

    def _row(self, name: str) -> Row | None:
        return next((row for row in reversed(self.rows) if re.search(row["pattern"], name)), None)

    def seconds(self, name: str) -> float:
        """How long an object takes on a core."""
        if name in self.learned:
            return max(0.05, self.learned[name][0])
        row = self._row(name)
        return float(row["seconds"]) if row else 1.0

    def memory_gb(self, name: str) -> float:
        """What its compiler takes at the most."""
        if name in self.learned and self.learned[name][1]:
            return self.learned[name][1] / MB_PER_GB
        row = self._row(name)
        return float(row["memory_gb"]) if row else 0.5

    def is_heavy(self, name: str, from_gb: float) -> bool:
        """Whether an object belongs into the narrow pool."""
        return self.memory_gb(name) > from_gb

    def learn(self, seconds: Mapping[str, float], peaks: Mapping[str, int]) -> None:
        """Remember what objects took; a peak that was not met keeps the former one."""
        for name, took in seconds.items():
            former = self.learned.pop(name, (0.0, 0))
            self.learned[name] = (round(took, 2), peaks.get(name, former[1]))
        for name in list(self.learned)[: max(0, len(self.learned) - KEEP)]:
            del self.learned[name]
        write_json(self.path, {name: list(cost) for name, cost in self.learned.items()})
