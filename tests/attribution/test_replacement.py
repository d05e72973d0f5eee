"""Mean and noise ablation against single cached forwards; statistics against plain numpy; modules that are refused."""

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from llava_hh.attention.modules import attention_modules
from llava_hh.attribution.ablation import Ablated, ablate_every_head
from llava_hh.attribution.outputs import add_sums, record_outputs, statistics_of, sums_of
from llava_hh.attribution.replacement import Mean, Noise, OutputStatistics
from llava_hh.heads import Head
from tests.support.ablation_cases import TOKENS, chameleon_case, llava_case, mllama_case, padded_llava_case
from tests.support.slow_ablation import ablate_one_by_one, assert_same
from tests.support.tiny import D_HEAD, N_HEADS, llava_batch, tiny_llama, tiny_llava

D_MODEL = N_HEADS * D_HEAD
CASES = [llava_case, padded_llava_case, mllama_case, chameleon_case]


def random_statistics(n_layers: int, seed: int = 0) -> OutputStatistics:
    """Statistics of no data set at all, so that a mistaken layer, head or kind shows."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for kind, shape in {"heads": (N_HEADS, D_HEAD), "mha": (D_MODEL,), "mlp": (D_MODEL,)}.items():
        arrays[f"mean_{kind}"] = rng.normal(size=(n_layers, *shape)).astype(np.float32)
        arrays[f"std_{kind}"] = rng.uniform(0.2, 1, size=(n_layers, *shape)).astype(np.float32)
    return OutputStatistics(**arrays, count=100)


def of_head(values: np.ndarray | torch.Tensor, head: int | None) -> torch.Tensor:
    return torch.as_tensor(values if head is None else values[head])


def ablate_with_means(statistics: OutputStatistics, *sample) -> Ablated:
    def replace(output, kind, layer, head, position):
        return of_head(getattr(statistics, f"mean_{kind}")[layer], head)

    return ablate_one_by_one(*sample, modules=True, replace=replace)


def ablate_with_noise(statistics: OutputStatistics, sigma: float, seed: int, sample_id: int, *sample) -> Ablated:
    def replace(output, kind, layer, head, position):
        spread = np.asarray(getattr(statistics, f"std_{kind}")[layer])
        rng = np.random.default_rng([seed, sample_id, position, layer, ["heads", "mha", "mlp"].index(kind)])
        noise = sigma * spread * rng.standard_normal(spread.shape).astype(np.float32)
        return output + of_head(noise, head)

    return ablate_one_by_one(*sample, modules=True, replace=replace)


def sample_of(case) -> tuple[PreTrainedModel, dict, list[int], list[int], OutputStatistics]:
    model, inputs, positions = case()
    targets = [37 + 5 * row for row in range(len(positions))]
    return model, inputs, positions, targets, random_statistics(len(attention_modules(model)))


@pytest.mark.parametrize("case", CASES)
def test_mean_equals_one_cached_step_per_head_and_module(case):
    *sample, statistics = sample_of(case)
    ours = ablate_every_head(*sample, modules=True, replacement=Mean(statistics))
    assert_same(ours, ablate_with_means(statistics, *sample))


@pytest.mark.parametrize("case", CASES)
def test_noise_equals_one_cached_step_per_head_and_module(case):
    *sample, statistics = sample_of(case)
    ours = ablate_every_head(*sample, modules=True, replacement=Noise(statistics, sigma=0.7, seed=3), sample_id=12)
    assert_same(ours, ablate_with_noise(statistics, 0.7, 3, 12, *sample))


def test_torch_statistics_do_as_numpy_ones():
    *sample, statistics = sample_of(llava_case)
    arrays = {name: torch.as_tensor(value) for name, value in vars(statistics).items() if name != "count"}
    for kind in (Mean, Noise):
        one = ablate_every_head(*sample, replacement=kind(statistics), sample_id=0)
        two = ablate_every_head(*sample, replacement=kind(OutputStatistics(**arrays, count=100)), sample_id=0)
        assert torch.equal(one.heads, two.heads)


@pytest.mark.parametrize("max_rows", [7, 13, 25, 60])
@pytest.mark.parametrize("kind", [Mean, Noise])
def test_max_rows_does_not_change_the_answer(kind, max_rows):
    *sample, statistics = sample_of(llava_case)
    settings = {"modules": True, "replacement": kind(statistics), "sample_id": 5}
    whole = ablate_every_head(*sample, **settings)
    assert_same(ablate_every_head(*sample, **settings, max_rows=max_rows), whole, atol=1e-7)


@pytest.mark.parametrize("kind", [Mean, Noise])
def test_some_heads_alone(kind):
    model, inputs, positions = llava_case()
    replacement = kind(random_statistics(4))
    how = {"replacement": replacement, "sample_id": 3}
    whole = ablate_every_head(model, inputs, positions, [9, 8, 7], **how).heads
    some = ablate_every_head(model, inputs, positions, [9, 8, 7], heads=[Head(2, 3), Head(2, 1)], **how).heads
    assert torch.allclose(some[:, 2, [1, 3]], whole[:, 2, [1, 3]], atol=1e-5)
    assert (~some.isnan()).sum() == 3 * 2


def test_noise_is_the_same_whatever_else_is_ablated_and_changes_with_seed_and_sample():
    model, inputs, positions, targets, statistics = sample_of(llava_case)

    def heads(chosen: slice, modules: bool = True, sample_id: int = 5, **noise) -> torch.Tensor:
        settings = {"modules": modules, "replacement": Noise(statistics, **noise), "sample_id": sample_id}
        return ablate_every_head(model, inputs, positions[chosen], targets[chosen], **settings).heads

    whole = heads(slice(None))
    torch.testing.assert_close(heads(slice(1, 2)), whole[1:2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(heads(slice(None), modules=False), whole, atol=1e-5, rtol=1e-5)
    for other in (heads(slice(None), seed=1), heads(slice(None), sample_id=6)):
        assert (other - whole).abs().min() > 1e-5
    clean = ablate_every_head(model, inputs, positions, targets).clean
    torch.testing.assert_close(heads(slice(None), sigma=0.0), clean[:, None, None].expand(whole.shape))


def spied_outputs(model: PreTrainedModel, inputs: dict) -> dict[str, np.ndarray]:
    """All outputs of one eager pass at all positions: heads (position, layer, head, d_head), modules without heads."""
    seen = {"heads": [], "mha": [], "mlp": []}
    handles = []
    for layer in model.get_decoder().layers:
        attention = layer.self_attn if hasattr(layer, "self_attn") else layer.cross_attn
        handles += [
            attention.o_proj.register_forward_pre_hook(lambda _, args: seen["heads"].append(args[0][0].numpy())),
            attention.register_forward_hook(lambda _, args, output: seen["mha"].append(output[0][0].numpy())),
            layer.mlp.down_proj.register_forward_hook(lambda _, args, output: seen["mlp"].append(output[0].numpy())),
        ]
    before = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        model(**inputs)
    model.set_attn_implementation(before)
    for handle in handles:
        handle.remove()
    stacked = {kind: np.stack(outputs, axis=1) for kind, outputs in seen.items()}
    stacked["heads"] = stacked["heads"].reshape(*stacked["heads"].shape[:2], N_HEADS, D_HEAD)
    return stacked


@pytest.mark.parametrize("case", CASES)
def test_recorded_outputs_are_those_of_a_plain_pass(case):
    model, inputs, positions = case()
    recorded = record_outputs(model, inputs, positions)
    for kind, expected in spied_outputs(model, inputs).items():
        assert recorded[kind].dtype == torch.float32
        np.testing.assert_allclose(recorded[kind].numpy(), expected[positions], atol=1e-5, rtol=1e-4)
    assert not any(module._forward_hooks for module in model.get_decoder().modules())


def test_statistics_equal_those_of_the_stacked_outputs():
    model = tiny_llava()
    samples = [(dict(llava_batch([[3, "image", 9]], seed=seed).inputs), [7 + seed, 10, 15]) for seed in range(4)]
    samples.append((samples[0][0], []))
    sums = [sums_of(record_outputs(model, *sample)) for sample in samples]
    statistics = statistics_of([add_sums(sums[:2]), {"other": np.zeros(3), **add_sums(sums[2:])}])
    spied = [(spied_outputs(model, inputs), positions) for inputs, positions in samples]
    assert statistics.count == 12
    for kind in ("heads", "mha", "mlp"):
        stacked = np.concatenate([outputs[kind][positions] for outputs, positions in spied]).astype(np.float64)
        mean, std = getattr(statistics, f"mean_{kind}"), getattr(statistics, f"std_{kind}")
        assert mean.dtype == std.dtype == np.float32
        np.testing.assert_allclose(mean, stacked.mean(0), atol=1e-5)
        np.testing.assert_allclose(std, stacked.std(0), atol=1e-5)
    ablated = ablate_every_head(model, *samples[0], [9, 8, 7], modules=True, replacement=Mean(statistics))
    assert_same(ablated, ablate_with_means(statistics, model, *samples[0], [9, 8, 7]))


def test_a_constant_output_has_no_spread():
    constants = torch.randn(4, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outputs = {"mha": constants.expand(3, 4, 32), "mlp": 100 * constants.expand(3, 4, 32)}
    outputs["heads"] = outputs["mha"].unflatten(-1, (4, 8))
    statistics = statistics_of([sums_of(outputs)] * 7)
    assert statistics.std_heads.max() < 1e-6 and statistics.std_mlp.max() < 1e-4 and statistics.count == 21


@pytest.mark.parametrize(
    ("replacement", "sample_id", "message"),
    [
        (Mean(random_statistics(3)), None, r"mean_heads has shape \(3, 4, 8\), the model's outputs \(4, 4, 8\)"),
        (Noise(random_statistics(4)), None, "sample_id is None; noise is drawn per sample"),
        (Noise(random_statistics(4)), -1, "sample_id is -1"),
    ],
)
def test_wrong_replacements_are_named(replacement, sample_id, message):
    with pytest.raises(ValueError, match=message):
        ablate_every_head(tiny_llama(), {"input_ids": TOKENS}, [3], [9], replacement=replacement, sample_id=sample_id)


def test_wrong_settings_and_empty_statistics_are_refused():
    with pytest.raises(ValueError, match="sigma -1"):
        Noise(random_statistics(4), sigma=-1)
    with pytest.raises(ValueError, match="seed -2"):
        Noise(random_statistics(4), seed=-2)
    with pytest.raises(ValueError, match="no sums"):
        statistics_of([])
    with pytest.raises(ValueError, match="no predicting position"):
        statistics_of([sums_of(record_outputs(tiny_llama(), {"input_ids": TOKENS}, []))])
    with pytest.raises(ValueError, match="position 24 is outside"):
        record_outputs(tiny_llama(), {"input_ids": TOKENS}, [24])


def test_recording_leaves_no_hook_behind_when_it_fails():
    model = tiny_llama()
    model.get_decoder().layers[2].mlp.forward = lambda hidden: (hidden, None)
    with pytest.raises(ValueError, match="LlamaMLP returns a tuple"):
        record_outputs(model, {"input_ids": TOKENS}, [3])
    assert not any(module._forward_hooks for module in model.get_decoder().modules())


class RoutedMlp(torch.nn.Module):
    """Stands for a mixture of experts, which returns its router's logits too."""

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, None]:
        return hidden, None


@pytest.mark.parametrize(
    ("name", "mlp", "runs", "message"),
    [
        ("mlp", RoutedMlp(), 1, "RoutedMlp returns a tuple; only a tensor can be replaced"),
        ("feed_forward", torch.nn.Identity(), 1, "LlamaDecoderLayer has no child named mlp; it has .*feed_forward"),
        ("mlp", torch.nn.GELU(), 2, "GELU ran 2 times in its layer"),
    ],
)
def test_layers_without_a_usable_mlp_are_refused_with_modules_alone(name, mlp, runs, message):
    model = tiny_llama()
    layer = model.get_decoder().layers[1]
    del layer.mlp
    setattr(layer, name, mlp)

    def forward(hidden, **kwargs):
        hidden = hidden + layer.self_attn(layer.input_layernorm(hidden), **kwargs)[0]
        for _ in range(runs):
            output = mlp(layer.post_attention_layernorm(hidden))
        return hidden + (output[0] if isinstance(output, tuple) else output)

    layer.forward = forward
    ours = ablate_every_head(model, {"input_ids": TOKENS}, [3], [9])
    assert_same(ours, ablate_one_by_one(model, {"input_ids": TOKENS}, [3], [9]))
    with pytest.raises(ValueError, match=message):
        ablate_every_head(model, {"input_ids": TOKENS}, [3], [9], modules=True)
