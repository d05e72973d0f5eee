"""Prepare VTI's vectors of a model: pairs of captions, what its states make of them, one file."""

from dataclasses import dataclass
from pathlib import Path

from llava_hh.files.progress import announce
from llava_hh.heads import architecture
from llava_hh.models.lvlm import load_lvlm
from llava_hh.runs.identity import describe_loaded, identify
from llava_hh.runs.run import make_parent, provenance
from llava_hh.steering.bank import Bank, write_bank
from llava_hh.steering.directions import image_vectors, steering, text_vectors
from llava_hh.steering.pairs import Pair, pairs_of_annotations, pairs_of_file
from llava_hh.steering.tower import tower_of


@dataclass(frozen=True)
class Preparation:
    """What decides VTI's vectors, and where they go.

    Args:
        pairs: JSON lines (`pairs.pairs_of_file`); None: pairs are made of `annotations`, of images of `split`, and the
            question is `prompt`.
        n_pairs, seed: how many are drawn; the seed is that of damaged images as well.
        masked, copies: share of an image's patches that is hidden, in so many copies.
        alpha_image: of the steering of the vision tower, under which captions are read.
        batch_size: images, or captions, a pass.
    """

    model: Path
    out: Path
    image_folder: Path
    pairs: Path | None
    annotations: Path | None
    split: str
    prompt: str
    n_pairs: int
    seed: int
    masked: float
    copies: int
    alpha_image: float
    batch_size: int


def prepare(given: Preparation) -> Bank:
    """Make the vectors, and write them.

    A model whose vision tower is not like CLIP's gets vectors for text alone; a line says so.

    Raises:
        ValueError: pairs or images that cannot be; FileExistsError: another file stands at `out`.
        OSError: a file that cannot be read or written.
    """
    make_parent(given.out)
    drawn, source = _draw(given)
    lvlm = load_lvlm(given.model)
    tower, image = tower_of(lvlm.model), None
    if tower is None:
        announce("no image vectors: this vision tower is not like CLIP's; use them as vti:alpha_image=0")
    else:
        rates = given.masked, given.copies, given.seed, given.batch_size
        image = image_vectors(lvlm, tower, drawn, *rates)
    with steering(lvlm, None, 0, image, given.alpha_image if tower else 0):
        text = text_vectors(lvlm, drawn, given.batch_size)
    if not text.any():
        announce("no text vectors: all captions are alike as tokens; VTI will steer by the image alone")
    names = ("n_pairs", "seed", "masked", "copies", "alpha_image")
    settings = {"model": describe_loaded(lvlm), **{name: getattr(given, name) for name in names}, **source}
    settings["images"] = [pair.image.relative_to(given.image_folder).as_posix() for pair in drawn]
    bank = Bank(text, image, {"architecture": architecture(lvlm.model.config), "settings": settings, **provenance()})
    write_bank(given.out, bank)
    return bank


def _draw(given: Preparation) -> tuple[list[Pair], dict]:
    """The pairs, and what they are of."""
    if given.pairs:
        drawn = pairs_of_file(given.pairs, given.image_folder, given.n_pairs, given.seed)
        return drawn, {"pairs": identify(given.pairs)}
    of_split = given.annotations, given.split, given.image_folder
    drawn, files = pairs_of_annotations(*of_split, given.n_pairs, given.seed, given.prompt)
    return drawn, {"annotations": [identify(file) for file in files], "split": given.split, "prompt": given.prompt}
