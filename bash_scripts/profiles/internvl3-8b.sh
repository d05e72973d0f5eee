# shellcheck shell=sh disable=SC2034  # the wrapper that sources this reads them
# Sourced by the wrappers: InternVL3-8B in the transformers layout; bash_scripts/attribute.sh finds its heads.
. bash_scripts/profiles/llava-v1.5-7b.sh
model_path=checkpoints/InternVL3-8B-hf
result_path=results/coco/internvl3-8b
batch_size=8
baseline_batch_size=8
# figures 4 and 5 need a base model and checkpoints of the tuning
base_model=
reference_model=
training_checkpoints=
paper_values=
