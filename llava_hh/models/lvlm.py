"""The one door to a vision-language model: load_lvlm, Lvlm, Batch."""

DESCRIBE = "Please describe this image in detail."
