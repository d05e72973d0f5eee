"""Verbs below a verb as functions of their flags, such as score_chair(["--captions", ...])."""

from collections.abc import Callable, Sequence
from importlib import import_module


def below(verb: str, what: str) -> Callable[[Sequence[str]], None]:
    """`llava-hh VERB WHAT`."""
    return lambda flags: import_module(f"llava_hh.scripts.{verb}").main([what, *flags])


score_chair, score_benchmark, score_vqa = (below("score", what) for what in ("chair", "benchmark", "vqa"))
compare_runs, compare_heads = below("compare", "runs"), below("compare", "heads")
compare_seeds, compare_details = below("compare", "seeds"), below("compare", "details")
report_html, report_figures = below("report", "html"), below("report", "figures")
