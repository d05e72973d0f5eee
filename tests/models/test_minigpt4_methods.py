"""Interventions, recording, decoders and attribution: the tests of LLaVA's, with MiniGPT-4 in its place.

The tests below that are imported take the fixture `llava`, which here is MiniGPT-4.
"""

import pytest

from llava_hh.models.minigpt4_model import MiniGpt4ForConditionalGeneration
from tests.attention.test_hooks import (  # noqa: F401
    test_each_beam_has_its_rows_span,
    test_greedy_generation_equals_a_loop_of_cached_steps,
    test_recorded_attention_equals_eager_maps,
)
from tests.attribution.test_ablation import test_equals_one_cached_step_per_head_and_module as check_attribution
from tests.baselines.test_dola import test_scores_and_layers_equal_full_forwards as test_dola_equals_full_forwards  # noqa: F401
from tests.baselines.test_opera import rows, test_without_penalty_and_return_it_is_beam_search  # noqa: F401
from tests.baselines.test_pai import test_boost_and_guidance_equal_loops_over_eager_maps  # noqa: F401
from tests.baselines.test_pai import test_guidance_equals_full_forwards as test_pai_equals_full_forwards  # noqa: F401
from tests.baselines.test_vcd import test_scores_equal_full_forwards as test_vcd_equals_full_forwards  # noqa: F401
from tests.support.tiny import TinyBatch, llava_batch
from tests.support.tiny_minigpt4 import tiny_minigpt4


@pytest.fixture(scope="session", params=[4, 2], ids=["mha", "gqa"])
def llava(request: pytest.FixtureRequest) -> MiniGpt4ForConditionalGeneration:
    return tiny_minigpt4(n_kv=request.param)


def padded_case() -> tuple[MiniGpt4ForConditionalGeneration, dict, list[int]]:
    batch: TinyBatch = llava_batch([[2, "image", 5], [4, "image", 9]], seed=3)
    return tiny_minigpt4(n_kv=2), {name: value[:1] for name, value in batch.inputs.items()}, [14, 16]


def test_attribution_equals_one_cached_step_per_head_and_module():
    check_attribution(padded_case)


def test_images_must_fill_the_placeholders(llava, batch):
    inputs = batch.inputs | {"pixel_values": batch.inputs["pixel_values"][1:]}
    with pytest.raises(ValueError, match="12 image features for 16 image positions"):
        llava(**inputs)
