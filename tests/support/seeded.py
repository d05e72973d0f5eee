"""Settings of a run that is a test's own."""

from dataclasses import dataclass

from llava_hh.runs.settings import Settings


@dataclass(frozen=True)
class Seeded(Settings):
    seed: int = 1
