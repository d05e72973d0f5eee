# shellcheck shell=sh disable=SC2034  # the wrapper that sources this reads them
# Sourced by the wrappers: Chameleon 7B.
. bash_scripts/profiles/llava-v1.5-7b.sh
model_path=checkpoints/chameleon-7b
result_path=results/coco/chameleon-7b
batch_size=8
baseline_batch_size=8
published_heads=checkpoints/heads/chameleon-7b.json
# the paper asks with the image after the question; without <image> the image comes first
question="Please describe this image in detail.<image>"
# figures 4 and 5 need a base model and checkpoints of the tuning
base_model=
reference_model=
training_checkpoints=
paper_values=
