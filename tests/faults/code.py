"""Files that try to run code when they are read: none of it runs, and the command ends by one line or does its work."""

import json
import os
import pickle
import random
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from llava_hh.files.files import sha256
from llava_hh.finetuning.checkpoints import MANIFEST
from llava_hh.runs.settings import digest_of
from tests.support.repository import ROOT
from tests.support.wrappers import make_stub

from . import training
from .children import Ending, run_to_the_end
from .kills import prepare
from .material import scripts


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def run(folder: Path, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """One hostile file each."""
    prepare(folder)
    for number in range(n):
        rng = random.Random(f"{seed}, code, {number}")
        attack, own = rng.choice(ATTACKS), folder / "code"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        marker = own / "it ran"
        ending = attack(folder, own, marker, rng)
        trouble = None
        if marker.exists():
            trouble = "the code ran"
        elif attack in REFUSED and ending.code == 0:
            trouble = "it was not refused"
        elif ending.code not in (0, 2) or "Traceback" in ending.output or (ending.code == 2 and not ending.error):
            trouble = f"exit {ending.code}: {ending.output[-300:]}"
        yield attack.__name__.replace("_", " "), trouble and f"case {number}: {trouble}"


def captioned(folder: Path, model: Path, own: Path) -> Ending:
    [script] = [script for script in scripts(folder) if script.name == "caption"]
    flags = [model if word == folder / "model" else word for word in script.flags]
    return run_to_the_end(script.main, (*flags, "--out", own / "out"), own / "log")


def copied(folder: Path, own: Path) -> Path:
    return Path(shutil.copytree(folder / "model", own / "model"))


def pickled_weights(folder: Path, own: Path, marker: Path, rng: random.Random) -> Ending:
    """As torch writes them now, as it wrote them before 1.6, or as a bare pickle; alone or beside tensors."""
    model = copied(folder, own)
    content: object = {**load_file(model / "model.safetensors"), "evil": Evil(marker)}
    if rng.random() < 0.5:
        content = Evil(marker)
    (model / "model.safetensors").unlink()
    path = model / "pytorch_model.bin"
    kind = rng.choice(("zip", "legacy", "bare", "renamed"))
    if kind == "bare":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind != "legacy")
    if kind == "renamed":
        path.rename(model / "model.safetensors")
    return captioned(folder, model, own)


def a_zip_with_code(folder: Path, own: Path, marker: Path, rng: random.Random) -> Ending:
    """TorchScript's layout: an archive of code."""
    model = copied(folder, own)
    (model / "model.safetensors").unlink()
    with zipfile.ZipFile(model / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil(marker)))
        archive.writestr("archive/constants.pkl", pickle.dumps(Evil(marker)))
        archive.writestr("archive/code/__torch__.py", f"import os\nos.mkdir({str(marker)!r})\n")
    return captioned(folder, model, own)


def code_beside_a_checkpoint(folder: Path, own: Path, marker: Path, rng: random.Random) -> Ending:
    """A class of the folder's own, named by auto_map of any of its JSON files."""
    model = copied(folder, own)
    (model / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    path = model / rng.choice(("config.json", "tokenizer_config.json", "processor_config.json"))
    content = json.loads(path.read_text()) if path.exists() else {}
    names = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor")
    content["auto_map"] = dict.fromkeys(names, "evil.Evil")
    if rng.random() < 0.5:
        content |= {"tokenizer_class": "Evil", "processor_class": "Evil", "image_processor_type": "Evil"}
    path.write_text(json.dumps(content))
    return captioned(folder, model, own)


def a_kernel_of_the_hub(folder: Path, own: Path, marker: Path, rng: random.Random) -> Ending:
    model = copied(folder, own)
    content = json.loads((model / "config.json").read_text())
    inner = rng.choice([content, content["text_config"], content["vision_config"]])
    inner[rng.choice(("attn_implementation", "_attn_implementation"))] = "someone/kernel"
    (model / "config.json").write_text(json.dumps(content))
    return captioned(folder, model, own)


def a_chat_template(folder: Path, own: Path, marker: Path, rng: random.Random) -> Ending:
    model = copied(folder, own)
    reach = rng.choice(
        ("''.__class__.__mro__[1].__subclasses__()", "cycler.__init__.__globals__.os", "self.__init__.__globals__")
    )
    (model / "chat_template.jinja").write_text(
        f"{{{{ {reach} }}}}{{{{ cycler.__init__.__globals__.os.mkdir('{marker}') }}}}"
    )
    return captioned(folder, model, own)


def a_pickled_state_of_a_training(folder: Path, own: Path, marker: Path, rng: random.Random) -> Ending:
    """A checkpoint of a fine-tuning that was killed, whose manifest says that all is as it should be."""
    base = folder / "training for code"
    if not base.exists():
        training.prepare(base, folder / "log")
    shutil.copytree(base / "interrupted", own / "out")
    state = rng.choice(("optimizer.pt", "scheduler.pt", "rng_state.pth"))
    for manifest in own.glob(f"out/checkpoints/*/{MANIFEST}"):
        torch.save(Evil(marker), manifest.with_name(state))
        content = json.loads(manifest.read_text())
        content["files"][state] = sha256(manifest.with_name(state))
        content["sha256"] = digest_of({key: value for key, value in content.items() if key != "sha256"})
        manifest.write_text(json.dumps(content))
    return run_to_the_end(training.tune, (*training.flags_of(base), "--out", own / "out"), own / "log")


def a_profile(folder: Path, own: Path, marker: Path, rng: random.Random) -> Ending:
    """Settings that a shell would run."""
    run = f"mkdir '{marker}'"
    line = rng.choice(
        ("top_k=$({})", "top_k=`{}`", "top_k=2; {}", 'top_k="2" {}', "{}", "result_path=a'$({})'", "inherit=$({})")
    )
    (own / "own.sh").write_text(f"inherit=mini\n{line.format(run)}\n")
    environment = {
        **os.environ,
        "PROFILE": str(own / "own.sh"),
        "PYTHON": str(make_stub(own / "python", own / "calls")),
    }
    done = subprocess.run(
        ["sh", ROOT / "bash_scripts/pope.sh"], env=environment, capture_output=True, text=True, check=False
    )
    return Ending(done.returncode, done.stdout + done.stderr)


Attack = Callable[[Path, Path, Path, random.Random], Ending]
REFUSED = (a_kernel_of_the_hub, a_zip_with_code, a_pickled_state_of_a_training)
ATTACKS: tuple[Attack, ...] = (
    *(pickled_weights,) * 3,
    a_zip_with_code,
    *(code_beside_a_checkpoint,) * 2,
    a_kernel_of_the_hub,
    a_chat_template,
    a_pickled_state_of_a_training,
    *(a_profile,) * 2,
)
