"""Settings of a run that is a test's own."""

from dataclasses import dataclass

from llava_hh.settings import Settings


@dataclass(frozen=True)
class Seeded(Settings):
    seed: int = 1
