"""A run whose rows are squares of image ids, in blocks of 3."""

from dataclasses import dataclass

import numpy as np

from llava_hh.runs.run import start_run
from llava_hh.runs.settings import Settings

SAMPLES = [{"image_id": number} for number in range(7)]


@dataclass(frozen=True)
class Squares(Settings):
    seed: int = 1
    prompt: str | None = None
    model: dict | None = None
    limit: int | None = None

    def free(self):
        return {"limit": "the first so many"}


def work(folder, settings=Squares(), samples=SAMPLES, stop_at=None):  # frozen
    """Run blocks of 3; `stop_at` dies before that block is finished, as a kill would."""
    done = []
    with start_run(folder, settings) as run:
        for number, block in run.blocks(samples, 3, "test"):
            if number == stop_at:
                raise KeyboardInterrupt
            done.append(number)
            rows = [{"image_id": s["image_id"], "square": s["image_id"] ** 2} for s in block]
            run.finish_block(number, block, rows, {"ids": np.array([s["image_id"] for s in block])})
        run.write_rows("rows.jsonl")
        return done, run.finished_rows(), np.concatenate([a["ids"] for a in run.finished_arrays()])
