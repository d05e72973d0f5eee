"""What the released code does on newer models."""

if __name__ != "llava_hh.newer_models":
    raise ImportError("import llava_hh.newer_models: under a second name every class would be there twice")
