"""Turning: lengths are kept, what does not pull leaves every bit."""

import torch
from torch.testing import assert_close

from llava_hh.steering.turning import turning
from tests.support.tiny_vti import turned_by_loops


def test_lengths_are_kept_and_directions_follow_from_loops():
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn(3, 5, 8, generator=generator) * 50, torch.randn(5, 8, generator=generator)
    v[2] = 0
    module = torch.nn.Identity()
    with turning([(module, lambda _: 0.09 * torch.nn.functional.normalize(v, dim=-1))]):
        turned = module(x)
    assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-5, atol=0)
    assert_close(turned, turned_by_loops(x, v.numpy(), 0.9), rtol=1e-5, atol=1e-5)
    assert torch.equal(turned[:, 2], x[:, 2]) and not torch.equal(turned[:, 1], x[:, 1])
    assert torch.equal(module(x), x)
    with turning([(module, lambda _: torch.ones(8))]):
        assert module(x.half()).dtype == torch.float16
