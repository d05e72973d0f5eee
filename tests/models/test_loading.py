"""Weights in another dtype, quantized, or with layers elsewhere: what the environment says, and the same results."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook, ModelHook, SequentialHook
from PIL import Image
from torch.testing import assert_close

from llava_hh.attention.hooks import intervene, record
from llava_hh.attention.interventions import DeactivateText, ZeroHeads
from llava_hh.attention.modules import input_device
from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.attribution.estimate import estimate_every_head
from llava_hh.baselines import dola, halc
from llava_hh.baselines.dola import DolaSettings, candidate_layers
from llava_hh.baselines.halc import HalcSettings
from llava_hh.decoding.generation import answer_samples
from llava_hh.decoding.method import Decoding, Greedy, generate_greedily
from llava_hh.experiments.measures.js_divergence import record_maps
from llava_hh.heads import Head
from llava_hh.models.loading import Loading
from llava_hh.models.lvlm import Lvlm, load_lvlm
from tests.support.decoding import preset
from tests.support.questions import SHOWN, draw_image
from tests.support.slow_halc import Detector, use
from tests.support.tiny_newer import FAMILIES, save_tiny_family

pytestmark = pytest.mark.filterwarnings("ignore:The following device_map keys")
HEADS = [Head(0, 1), Head(1, 3), Head(3, 0)]
QUESTIONS = ["describe the dog", "a cat"]


@pytest.fixture(scope="module", params=["llava_next", "qwen2_5_vl", "chameleon"])
def both(request, tmp_path_factory):
    """A model on the CPU, and the same with two of its layers on the disk, read for every pass."""
    folder = tmp_path_factory.mktemp("devices") / request.param
    save_tiny_family(request.param, folder)
    plain = load_lvlm(folder)
    first = next(name for name, part in plain.model.named_modules() if part is plain.decoder_layers[0])
    layers = first.removesuffix(".0")
    names = [name for name, _ in (*plain.model.named_parameters(), *plain.model.named_buffers())]
    places = dict.fromkeys((name for name in names if not name.startswith(f"{layers}.")), "cpu")
    places |= {f"{layers}.{n}": "disk" if n in (1, 2) else "cpu" for n in range(plain.n_layers)}
    return plain, load_lvlm(folder, Loading(device_map=places))


@torch.no_grad()
def test_layers_on_the_disk_change_nothing(both):
    plain, spread = both
    assert spread.decoder_layers[1].mlp.up_proj.weight.device.type == "meta"
    images: list[Image.Image | None] = [draw_image(0, 20, 12), draw_image(1, 8, 24)]
    batch = plain.encode(images, QUESTIONS)
    other = spread.encode(images, QUESTIONS)
    assert generate_greedily(spread, other, 5) == generate_greedily(plain, batch, 5)
    removed = [ZeroHeads(HEADS[:2])]
    assert generate_greedily(spread, other, 5, removed) == generate_greedily(plain, batch, 5, removed)
    switched = [DeactivateText([HEADS[0], HEADS[2]], 0.0)]
    results = []
    for lvlm, inputs in ((plain, batch), (spread, other)):
        with intervene(lvlm.model, inputs.image_mask, switched) as trace:
            results.append(lvlm.model(**inputs.inputs).logits)
        assert all(count.fired == 2 for count in trace.fired.values())
    assert_close(*results)
    traces = []
    for lvlm, inputs in ((plain, batch), (spread, other)):
        with record(lvlm.model, inputs.image_mask, mass=HEADS, maps=HEADS) as trace:
            lvlm.model(**inputs.inputs)
        traces.append(trace)
    for layer in (0, 1, 3):
        assert_close(traces[0].maps[layer][0], traces[1].maps[layer][0])
        assert_close(traces[0].mass[layer][0], traces[1].mass[layer][0])


def test_attribution_with_layers_on_the_disk(both):
    found = []
    for lvlm in both:
        batch = lvlm.encode([draw_image(0, 20, 12)], QUESTIONS[:1], [[30, 41, 52]])
        sample = (lvlm.model, batch.inputs, [batch.response_start[0] - 1, batch.response_start[0] + 1], [30, 52])
        found.append((ablate_every_head(*sample, modules=True), estimate_every_head(*sample)))
    for name in ("clean", "heads", "mha", "mlp"):
        assert_close(*(getattr(ablated, name) for ablated, _ in found))
    assert_close(*(drops for _, (_, drops) in found))


@pytest.fixture(params=["disk", "memory"])
def offloaded(request, tmp_path):
    """A model on the CPU, and the same with nothing but its last layer kept there, or nothing at all."""
    save_tiny_family("qwen2_5_vl", tmp_path)
    plain = load_lvlm(tmp_path)
    if request.param == "memory":
        spread = load_lvlm(tmp_path)
        cpu_offload(spread.model, execution_device="cpu")
        return plain, spread
    kept = next(name for name, part in plain.model.named_modules() if part is plain.decoder_layers[-1])
    parts = [(name, part) for name, part in plain.model.named_modules() if not name.startswith(kept)]
    places = {name: "cpu" for name, part in parts if any(True for _ in part.buffers(recurse=False))} | {kept: "cpu"}
    places |= {name: "disk" for name, part in parts if any(True for _ in part.parameters(recurse=False))}
    return plain, load_lvlm(tmp_path, Loading(device_map=places))


def test_inputs_of_a_model_whose_embeddings_are_offloaded(offloaded):
    """They go where accelerate brings the weights, for captions, AD-HH, attribution and what --screen estimates."""
    plain, spread = offloaded
    assert {spread.model.device.type, spread.model.get_input_embeddings().weight.device.type} == {"meta"}
    found = []
    for lvlm in (plain, spread):
        batch = lvlm.encode(SHOWN[:2], QUESTIONS)
        assert {value.device.type for value in (*batch.inputs.values(), batch.image_mask)} == {"cpu"}
        switched = [DeactivateText([HEADS[0], HEADS[2]], 0.0)]
        answers = [generate_greedily(lvlm, batch, 5, edits) for edits in ([], switched)]
        batch = lvlm.encode(SHOWN[:1], QUESTIONS[:1], [[30, 41, 52]])
        sample = (lvlm.model, batch.inputs, [batch.response_start[0] - 1, batch.response_start[0] + 1], [30, 52])
        image = {"image_mask": batch.image_mask[0], "answer_start": batch.response_start[0]}
        ablated = ablate_every_head(*sample, modules=True, sources=("image", "answer"), direct=True, **image)
        found.append(
            (answers, [*vars(ablated).values(), *estimate_every_head(*sample), *record_maps(lvlm, batch, [2]).values()])
        )
    assert found[0][0] == found[1][0]
    assert_close(found[0][1], found[1][1])


@pytest.mark.parametrize("held", [[], [AlignDevicesHook("cpu"), AlignDevicesHook("cuda:1")]], ids=["loose", "held"])
def test_a_model_without_weights_takes_inputs_where_its_first_hook_says(held):
    model = FAMILIES["llava_next"]()[0].to("meta")
    for part, hook in zip(model.children(), held, strict=False):
        part._hf_hook = SequentialHook(ModelHook(), hook)
    assert input_device(model).type == ("cpu" if held else "meta")


def with_matrix_on(where: str, plain: Lvlm, folder: Path) -> Lvlm:
    """The model with its vocabulary matrix (and the input embeddings, where they are the same) elsewhere."""
    model = plain.model
    matrices = [model.get_output_embeddings()]
    if matrices[0].weight is model.get_input_embeddings().weight:
        matrices.append(model.get_input_embeddings())
    moved = [name for name, part in model.named_modules() if any(part is matrix for matrix in matrices)]
    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    places = {name: "cpu" for name in names if not name.startswith(tuple(moved))} | dict.fromkeys(moved, where)
    return load_lvlm(folder, Loading(device_map=places))


def save_tied(name: str, folder: Path) -> None:
    torch.manual_seed(7)
    model, processor = FAMILIES[name]()
    model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = True
    model.tie_weights()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "tied"), [*((name, False) for name in FAMILIES), *((name, True) for name in ("gemma3", "qwen2_5_vl"))]
)
def test_decoders_with_the_vocabulary_matrix_on_the_disk(name, tied, tmp_path, monkeypatch):
    """The last module, which DEVICE_MAP=auto offloads first; two blocks, since a pass renews what is offloaded."""
    use(monkeypatch, Detector())
    (save_tied if tied else save_tiny_family)(name, tmp_path)
    plain = load_lvlm(tmp_path)
    spread = with_matrix_on("disk", plain, tmp_path)
    assert spread.model.get_output_embeddings().weight.device.type == "meta"
    samples = [{"image_id": n} for n in range(2)]
    methods = [Greedy(), preset("vcd_paper"), preset("dola_repo")]
    methods += [Decoding("halc", halc.decode, HalcSettings("scripted", "scripted"))]
    methods += [Decoding("dola", dola.decode, DolaSettings())]
    for method in methods:
        for images in (SHOWN[:2], SHOWN[2:]):
            asked = (samples, images, method, "describe", 3)
            assert answer_samples(spread, *asked).answers == answer_samples(plain, *asked).answers, method
    assert candidate_layers(spread.model, DolaSettings()) == candidate_layers(plain.model, DolaSettings())
    assert (candidate_layers(spread.model, DolaSettings())[0] == 2) == tied


def test_the_environment_says_how(tmp_path, monkeypatch):
    for name in ("DTYPE", "DEVICE_MAP", "BITS"):
        monkeypatch.delenv(name, raising=False)
    assert Loading.from_environment() == Loading()
    for name, value in (("DTYPE", "bfloat16"), ("DEVICE_MAP", "cpu"), ("BITS", "8")):
        monkeypatch.setenv(name, value)
    loading = Loading.from_environment()
    assert loading == Loading("bfloat16", "cpu", 8) and loading.record() == {
        "dtype": "bfloat16",
        "bits": 8,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }
    options = loading.options()
    assert options["quantization_config"].load_in_8bit and not options["quantization_config"].load_in_4bit
    monkeypatch.setenv("BITS", "")
    save_tiny_family("llava_next", tmp_path)
    assert load_lvlm(tmp_path).model.dtype == torch.bfloat16
    monkeypatch.setenv("DTYPE", "half-ish")
    with pytest.raises(ValueError, match="DTYPE 'half-ish': expected a dtype of torch"):
        load_lvlm(tmp_path)
    monkeypatch.setenv("DTYPE", "")
    monkeypatch.setenv("BITS", "3")
    with pytest.raises(ValueError, match="BITS '3': expected 4 or 8"):
        load_lvlm(tmp_path)


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_quantization_without_its_package_is_one_line(tmp_path):
    save_tiny_family("llava_next", tmp_path)
    with pytest.raises(ValueError, match="bitsandbytes") as error:
        load_lvlm(tmp_path, Loading(bits=4))
    assert "\n" not in str(error.value)
