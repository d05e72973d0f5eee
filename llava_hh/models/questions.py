"""The question that all captions answer unless another one is asked."""

DESCRIBE = "Please describe this image in detail."
