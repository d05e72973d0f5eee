# shellcheck shell=sh disable=SC2034  # the wrapper that sources this reads them
# Sourced by the wrappers: Llama-3.2-11B-Vision-Instruct; its cross-attention layers have no text for AD-HH to switch off.
. bash_scripts/profiles/llava-v1.5-7b.sh
model_path=checkpoints/Llama-3.2-11B-Vision-Instruct
result_path=results/coco/llama-3.2-11b
batch_size=8
baseline_batch_size=8
published_heads=checkpoints/heads/llama-3.2-11b-vision.json
removal_adhh=
# figures 4 and 5 need a base model and checkpoints of the tuning
base_model=
reference_model=
training_checkpoints=
paper_values=
