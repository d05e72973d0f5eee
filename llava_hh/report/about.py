"""What a page is about: the model by its name, and the images that it was asked about."""

from collections.abc import Sequence
from contextlib import suppress

from llava_hh.files.files import read_json
from llava_hh.report.folder import UNREADABLE, ResultFolder

SHOWN = 3  # models, and draws of images, that are named; the others are counted


def find_about(results: ResultFolder) -> dict[str, str]:
    """The `models` and the `images` of the folder's runs in words, those of `first` before others; "" if none says it.

    A run.json that cannot be read says nothing here; `find_runs` names it.
    """
    models, images = [], []
    for path in results.named("run.json"):
        with suppress(*UNREADABLE):
            settings = read_json(path)["settings"]
            model, drawn = str(settings["model"]["name"]), _drawn(settings["draw"], settings["image_folder"])
            models.append(model)
            images.append(drawn)
    return {"models": _listed(models, "models"), "images": _listed(images, "draws of images")}


def _drawn(draw: dict, folder: str) -> str:
    number = f"{draw['n']:,} image{'s' * (draw['n'] > 1)}"
    return (
        f"{number} of {draw['split']} (seed {draw['seed']}, from {folder})"
        if "split" in draw
        else f"{number} from {folder}"
    )


def _listed(texts: Sequence[str], kind: str) -> str:
    """Different texts as one: "a, b and c", or "a, b, c and 2 other kind"."""
    found = list(dict.fromkeys(texts))
    parts = found[:SHOWN] + ([f"{len(found) - SHOWN} other {kind}"] if len(found) > SHOWN else [])
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
