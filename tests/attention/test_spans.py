import pytest
import torch

from llava_hh.attention.spans import SpanFinder, image_only_spans


def bits(*rows: str) -> torch.Tensor:
    return torch.tensor([[character == "1" for character in row] for row in rows])


PROMPTS = bits(
    "00111000",  # left padding and an image
    "01101100",  # two images
    "00000000",  # no image
    "00000011",  # the image ends the prompt
)


@pytest.mark.parametrize(
    ("n_keys", "image", "after_image"),
    [
        (
            8,
            ["00111000", "01101100", "00000000", "00000011"],
            ["00000111", "00000011", "00000000", "00000000"],
        ),
        (
            10,
            ["0011100000", "0110110000", "0000000000", "0000001100"],
            ["0000011111", "0000001111", "0000000000", "0000000011"],
        ),
        (4, ["0011", "0110", "0000", "0000"], ["0000"] * 4),  # the first chunk of a prompt
    ],
)
def test_spans_of_a_growing_sequence(n_keys, image, after_image):
    spans = SpanFinder(PROMPTS).find(4, n_keys, "cpu")
    assert torch.equal(spans.image, bits(*image))
    assert torch.equal(spans.after_image, bits(*after_image))


def test_beams_stand_next_to_each_other():
    finder = SpanFinder(PROMPTS)
    once, thrice = finder.find(4, 9, "cpu"), finder.find(12, 9, "cpu")
    for beam in range(3):
        assert torch.equal(thrice.image[beam::3], once.image)
        assert torch.equal(thrice.after_image[beam::3], once.after_image)
    with pytest.raises(ValueError, match="6 rows, no multiple of the 4 rows"):
        finder.find(6, 9, "cpu")


def test_the_layers_of_a_step_share_one_computation():
    finder = SpanFinder(PROMPTS)
    first = finder.find(4, 9, "cpu")
    assert finder.find(4, 9, "cpu") is first
    assert finder.find(4, 10, "cpu").image.shape == (4, 10)


def test_answer_rows_begin_with_the_prompts_last_position():
    finder = SpanFinder(PROMPTS, response_start=torch.tensor([6, 8, 7, 0]))
    rows = finder.find_answers(8, 8, 8, 0, "cpu")
    assert torch.equal(rows.predict[::2], bits("00000111", "00000001", "00000011", "11111111"))
    assert torch.equal(rows.predict[::2], rows.predict[1::2])
    assert (rows.first, rows.index.tolist(), finder.first_predicting) == (0, list(range(8)), 0)
    finder = SpanFinder(PROMPTS, [6, 8, 7, 9])
    assert finder.find_answers(4, 8, 8, 0, "cpu").first == finder.first_predicting == 5
    with pytest.raises(ValueError, match="response_start has 2 rows, image_mask has 4"):
        SpanFinder(PROMPTS, [1, 2])


@pytest.mark.parametrize(
    ("n_queries", "n_keys", "first_index", "first", "predict"),
    [
        (8, 8, 0, 7, "00000001"),  # a prefill
        (3, 6, 3, 3, "000"),  # a chunk of the prompt
        (2, 8, 6, 1, "01"),  # its last chunk
        (1, 7, 6, 1, "0"),  # a chunk of one position
        (1, 8, 7, 0, "1"),
        (1, 12, torch.tensor(6), 0, "0"),  # under a static cache only the mask tells
        (1, 12, torch.tensor(9), 0, "1"),
        (3, 12, torch.tensor(6), 1, "011"),
        (11, 11, 0, 7, "00000001111"),  # a whole pass without a cache
        (4, 13, 9, 0, "1111"),  # proposed tokens
    ],
)
def test_answer_rows_are_a_matter_of_position(n_queries, n_keys, first_index, first, predict):
    rows = SpanFinder(PROMPTS).find_answers(4, n_queries, n_keys, first_index, "cpu")
    assert rows.first == first
    assert torch.equal(rows.predict, bits(*[predict] * 4))
    assert rows.index.tolist() == [int(first_index) + query for query in range(n_queries)]


def test_cross_attention_keys_are_all_image():
    spans = image_only_spans(2, 3, "cpu")
    assert spans.image.all() and not spans.after_image.any() and spans.image.shape == (2, 3)


@pytest.mark.parametrize("mask", [PROMPTS.long(), PROMPTS[0], PROMPTS[:0]])
def test_a_wrong_image_mask_is_refused(mask):
    with pytest.raises(ValueError, match="image_mask must be"):
        SpanFinder(mask)


def test_an_empty_prompt_has_no_image():
    assert not SpanFinder(PROMPTS[:, :0]).find(4, 3, "cpu").after_image.any()
