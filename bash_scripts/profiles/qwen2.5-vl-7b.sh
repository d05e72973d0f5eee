# shellcheck shell=sh disable=SC2034  # the wrapper that sources this reads them
# Sourced by the wrappers: Qwen2.5-VL-7B-Instruct; bash_scripts/attribute.sh finds its heads.
. bash_scripts/profiles/llava-v1.5-7b.sh
model_path=checkpoints/Qwen2.5-VL-7B-Instruct
result_path=results/coco/qwen2.5-vl-7b
batch_size=8
baseline_batch_size=8
# figures 4 and 5 need a base model and checkpoints of the tuning
base_model=
reference_model=
training_checkpoints=
paper_values=
