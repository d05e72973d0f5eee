"""Run in several processes by test_firing.py: what each of them gets as firing rates, a file for each rank."""

import json
import sys
from pathlib import Path

from llava_hh.experiments.firing import firing_rates
from llava_hh.files.processes import processes
from llava_hh.models.lvlm import load_lvlm

if __name__ == "__main__":
    *paths, threshold = sys.argv[1:]
    model, captions, images, out = map(Path, paths)
    rates = firing_rates(load_lvlm(model), captions, images, float(threshold), out, batch_size=1)
    Path(out, f"of_rank_{processes().rank}.txt").write_text(json.dumps(rates.tolist()))
