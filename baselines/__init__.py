"""Decoders that AD-HH is compared with."""

if __name__ != "llava_hh.baselines":
    raise ImportError("import llava_hh.baselines: under a second name every class would be there twice")
