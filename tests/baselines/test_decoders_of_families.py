"""Every decoder on every family: a batch is decoded as its rows alone, or the decoder says that it cannot have it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from llava_hh.baselines.sampling import sample_generator
from llava_hh.baselines.vcd import VCD_PAPER, VCD_REPO, noise_scales, with_noised_twins
from llava_hh.decoding.generation import answer_samples
from llava_hh.decoding.method import Greedy, Method
from llava_hh.models.lvlm import Lvlm, load_lvlm
from tests.support.decoding import preset
from tests.support.questions import IMAGES, QUESTIONS, SHOWN
from tests.support.slow_halc import Detector, use
from tests.support.tiny_minigpt4 import save_tiny_parts
from tests.support.tiny_newer import FAMILIES, save_tiny_family

SAMPLES = [{"image_id": f"sample {n}"} for n in range(4)]
N_TOKENS = 5
METHODS = [
    *(preset(name) for name in ("vcd_paper", "vcd_repo", "dola_repo", "opera", "opera_fast")),
    preset("pai", start_layer=1),
    preset("halc_clean", detector="scripted", scorer="scripted"),
]
# what a family cannot have, and what is said then
LACKING = {
    ("mllama", "opera"): "reads its image by cross-attention",
    ("mllama", "opera_fast"): "reads its image by cross-attention",
    ("mllama", "pai"): "reads its image by cross-attention",
    ("gemma3", "opera"): "a cache that keeps every key",
    ("gemma3", "opera_fast"): "a cache that keeps every key",
}


@pytest.fixture(scope="module")
def lvlm_of(tmp_path_factory) -> Callable[[str], Lvlm]:
    loaded: dict[str, Lvlm] = {}

    def load(name: str) -> Lvlm:
        if name not in loaded:
            folder: Path = tmp_path_factory.mktemp("families")
            if name == "minigpt4":
                save_tiny_parts(folder)
                folder = folder / name
            else:
                save_tiny_family(name, folder)
            loaded[name] = load_lvlm(folder)
        return loaded[name]

    return load


def answers(lvlm: Lvlm, method: Method, rows: slice) -> list:
    images: list[Image.Image | None] = SHOWN if lvlm.model.config.model_type == "mllama" else IMAGES
    return answer_samples(lvlm, SAMPLES[rows], images[rows], method, QUESTIONS[rows], N_TOKENS).answers


@pytest.mark.parametrize("method", METHODS, ids=[method.kind for method in METHODS])
@pytest.mark.parametrize("name", [*FAMILIES, "minigpt4"])
def test_a_batch_equals_its_rows(name, method, lvlm_of, monkeypatch):
    use(monkeypatch, Detector())
    lvlm = lvlm_of(name)
    if (name, method.kind) in LACKING:
        with pytest.raises(NotImplementedError, match=LACKING[name, method.kind]) as error:
            answers(lvlm, method, slice(None))
        assert "\n" not in str(error.value)
        return
    together = answers(lvlm, method, slice(None))
    assert together == [answers(lvlm, method, slice(row, row + 1))[0] for row in range(4)]
    assert len({tuple(answer.token_ids) for answer in together}) > 1


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])
def qwen(request, lvlm_of) -> Lvlm:
    return lvlm_of(request.param)


def test_patches_are_seen_as_pixels_of_channels(qwen):
    """An image of one colour: every pixel of a channel is that colour, whatever its frame and patch."""
    colours = [(200, 30, 40), (10, 220, 90)]
    images = [Image.new("RGB", size, colour) for size, colour in zip([(24, 8), (16, 16)], colours, strict=True)]
    inputs = qwen.encode([images[0], None, images[1]], QUESTIONS[:3]).inputs
    pixels, lengths = qwen.family.image_pixels(qwen.processor, inputs)
    assert pixels.shape == (2, sum(lengths), 3, 4, 4) and len(lengths) == 2
    for own, colour in zip(pixels.split(lengths, 1), colours, strict=True):
        for channel, value in enumerate(colour):
            assert_close(own[:, :, channel], torch.full_like(own[:, :, channel], (value / 255 - 0.5) / 0.25))
    assert pixels.data_ptr() == inputs["pixel_values"].data_ptr()


@pytest.mark.parametrize("settings", [VCD_PAPER, VCD_REPO], ids=["normalized", "raw_unnormalized"])
def test_each_row_of_patches_has_noise_of_its_own(qwen, settings):
    """Computed patch by patch: both frames show the same noised picture, a row without an image nothing."""
    names = [sample["image_id"] for sample in SAMPLES]
    batch = qwen.encode(IMAGES, QUESTIONS, sample_ids=names)
    twins = with_noised_twins(qwen, batch, settings)
    signal, noise = noise_scales(settings.noise_step)
    lengths = [int(grid.prod()) for grid in batch.inputs["image_grid_thw"]]
    lengths.insert(2, 0)
    clean = iter(batch.inputs["pixel_values"])
    found = iter(twins["pixel_values"])
    for name, n_patches in zip(names, lengths, strict=True):
        rows = [next(clean) for _ in range(n_patches)]
        for row in rows:
            assert torch.equal(next(found), row)
        drawn = torch.randn(n_patches, 3, 4, 4, generator=sample_generator(settings.seed, name, "noise"))
        for row, own in zip(rows, drawn, strict=True):
            for channel, values in enumerate(next(found).view(3, 2, 4, 4)):
                shown = row.view(3, 2, 4, 4)[channel]
                shown = shown * 0.25 + 0.5 if settings.noise_space != "normalized" else shown
                for frame in range(2):
                    assert_close(values[frame], signal * shown[frame] + noise * own[channel], atol=1e-5, rtol=1e-5)
    assert next(found, None) is None
    assert torch.equal(twins["image_grid_thw"], batch.inputs["image_grid_thw"].repeat_interleave(2, 0))


def test_noise_changes_what_qwen_says(qwen):
    greedy = preset("vcd_paper", do_sample=False, noise_step=999, alpha=3.0, beta=0.001)
    contrasted = answers(qwen, greedy, slice(None))
    plain = answers(qwen, Greedy(), slice(None))
    assert [own != other for own, other in zip(contrasted, plain, strict=True)] == [True, True, False, True]
