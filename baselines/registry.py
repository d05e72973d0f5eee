"""The decoders of this package by the names of their presets, and the methods of others that edit whole layers."""

from functools import partial

from llava_hh.attention.layer_edits import AddConsensus, ScaleScores, SuppressBlindHeads
from llava_hh.baselines import dola, halc, opera, pai, vcd
from llava_hh.decoding.registry import register_decoder, register_intervention

LABELS = {"vcd_paper": "VCD", "dola_repo": "DoLa", "opera": "OPERA", "halc_clean": "HALC", "pai": "PAI"}
EDIT_THEMSELVES = (vcd, halc, pai)  # decoders that run a row in several branches
PRESETS = {
    name: (module, settings) for module in (vcd, dola, opera, halc, pai) for name, settings in module.PRESETS.items()
}

for name, (module, settings) in PRESETS.items():
    register_decoder(name, module.decode, settings, LABELS.get(name), edits_itself=module in EDIT_THEMSELVES)

# layers of 32, both included; settings of their code for captions
register_intervention("devils", AddConsensus, "Devils", layers=(5, 18), alpha=0.5)
register_intervention("vaf", ScaleScores, "VAF", layers=(9, 14), image=1.15, before=0.95)
register_intervention(
    "vaf_unsigned", partial(ScaleScores, signed=False), "VAF, unsigned", layers=(9, 14), image=1.15, before=0.95
)
SPIN = {"make": SuppressBlindHeads, "layers": (0, 31), "rank_by": "scores"}
register_intervention("spin", label="SPIN", **SPIN, kept=0.95, factor=0.08)
register_intervention("spin_pope", label="SPIN, as for POPE", **SPIN, kept=0.8, factor=0.1)
