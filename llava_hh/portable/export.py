"""Write AD-HH as a folder that plain transformers loads by `custom_generate=`, without this package."""

import json
from pathlib import Path

from llava_hh import portable
from llava_hh.attention.interventions import DeactivateText
from llava_hh.files.files import is_ours, write_json, write_text
from llava_hh.heads import Head
from llava_hh.runs.run import make_folder

TEMPLATE = Path(portable.__file__).with_name("generate.py")
EMPTY_LIST, DEFAULT_THRESHOLD = "HEADS: list[list[int]] = []\n", "THRESHOLD = 0.4\n"  # lines of the template
REQUIREMENTS = "torch>=2.9\ntransformers>=5.23\n"
README = """---
library_name: transformers
tags: [custom_generate]
---

# AD-HH: adaptive deactivation of hallucination heads

```python
settings = {{"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": 128}}
ids = model.generate(**inputs, custom_generate="{folder}", trust_remote_code=True, **settings)
```

runs `custom_generate/generate.py` of this folder; read it first, for that is what `trust_remote_code` asks of you. It
needs torch and transformers alone. {n_heads} heads, threshold {threshold}; `heads=[[layer, head], ...]` and
`threshold=` change them for one call. The list stands in `heads.json` too. Pad batches on the left. The heads belong to
the model that they were found on; on another one they are arbitrary. `generate` takes every setting that the call does
not name from the checkpoint's `generation_config.json`, with this folder as without it.
"""


def fill_template(heads: list[Head], threshold: float) -> str:
    """The text of generate.py with this list and threshold in it."""
    listed = ",\n".join(f"    {json.dumps(head)}" for head in heads)
    text = TEMPLATE.read_text(encoding="utf-8").replace(EMPTY_LIST, f"HEADS: list[list[int]] = [\n{listed},\n]\n")
    return text.replace(DEFAULT_THRESHOLD, f"THRESHOLD = {threshold!r}\n")


def export_decoder(heads: list[Head], threshold: float, out: Path, source: str) -> None:
    """Write `out`/custom_generate/{generate.py, requirements.txt}, `out`/heads.json and `out`/README.md.

    Args:
        source: where the list is from, for heads.json.

    Raises:
        ValueError: no heads, or a threshold outside [0, 1].
        FileExistsError: a decoder or a README.md that no export wrote.
    """
    DeactivateText(tuple(heads), threshold)  # refuses what cannot be
    make_folder(out)
    code = out / "custom_generate" / "generate.py"
    if code.exists() and not is_ours(out / "heads.json"):
        raise FileExistsError(f"{code}: is there already, and no export of ours wrote it; choose another --out")
    # first, for it says whose the folder is, also after a kill
    write_json(out / "heads.json", {"hal_heads": heads, "threshold": threshold, "source": source})
    write_text(code, fill_template(heads, threshold))
    write_text(out / "custom_generate" / "requirements.txt", REQUIREMENTS)
    write_text(out / "README.md", README.format(folder=out.name, n_heads=len(heads), threshold=threshold))
