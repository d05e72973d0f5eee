"""The decoders of this package, registered as kinds of methods by the names of their presets."""

from llava_hh.baselines import dola, halc, opera, pai, vcd
from llava_hh.decoding.registry import register_decoder

LABELS = {"vcd_paper": "VCD", "dola_repo": "DoLa", "opera": "OPERA", "halc_clean": "HALC", "pai": "PAI"}
EDIT_THEMSELVES = (vcd, halc, pai)  # decoders that run a row in several branches
PRESETS = {
    name: (module, settings) for module in (vcd, dola, opera, halc, pai) for name, settings in module.PRESETS.items()
}

for name, (module, settings) in PRESETS.items():
    register_decoder(name, module.decode, settings, LABELS.get(name), edits_itself=module in EDIT_THEMSELVES)
