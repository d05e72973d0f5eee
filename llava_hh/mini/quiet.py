"""mini is made without the bars and notes of the libraries that it is made with: they tell its user nothing to do."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from transformers import modeling_gguf_pytorch_utils as gguf
from transformers.utils.logging import disable_progress_bar

EMBEDDINGS = "The new embeddings will be initialized"  # that of <image>, which is never looked up
OF_PEFT = "`is_gradient_checkpointing` is deprecated"  # PeftModel asks for it


@contextmanager
def quiet() -> Iterator[None]:
    """No bars of transformers, no note on the embedding that is added, no warning about what peft asks for."""
    notes, bars = logging.getLogger("transformers.modeling_utils"), gguf.tqdm
    disable_progress_bar()
    notes.addFilter(_is_other)
    gguf.tqdm = partial(bars, disable=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", OF_PEFT, FutureWarning)
            yield
    finally:
        gguf.tqdm = bars
        notes.removeFilter(_is_other)


def _is_other(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(EMBEDDINGS)
