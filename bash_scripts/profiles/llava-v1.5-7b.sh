# shellcheck shell=sh disable=SC2034  # the wrapper that sources this reads them
# Sourced by the wrappers: LLaVA-1.5-7B as published (liuhaotian/llava-v1.5-7b), or else in the transformers layout
# (llava-hf/llava-1.5-7b-hf), COCO 2014 under dataset/coco, nocaps under dataset/nocaps.
# Needs, by estimate (weights in half precision, and a quarter of that to work in): 14 GB of files, 18 GB of GPU memory.
. bash_scripts/python.sh
model_path=checkpoints/llava-v1.5-7b
if [ ! -d "$model_path" ] && [ -d checkpoints/llava-1.5-7b-hf ]; then model_path=checkpoints/llava-1.5-7b-hf; fi
coco_path=dataset/coco
nocaps_path=dataset/nocaps
result_path=results/coco/llava-v1.5-7b
attribution_images=3000
attribution_captions=
report_images=500
random_draws=5
top_k=20
threshold=0.4
max_new_tokens=128
batch_size=8
# the figures of the paper
base_model=checkpoints/vicuna-7b-v1.5
reference_model=checkpoints/llava-v1.5-7b-pretrain
training_checkpoints=$(for step in 500 1000 1500 2000 2500 3000 3500 4000 4500 5000; do
    echo "checkpoints/llava-v1.5-7b-instruction-tuning/checkpoint-$step"
done)
bias_top_k=20
inheritance_top_k=20
reweight_images=500
reweight_top_k=20
reweight_draws=5
paper_values=yes
# newer_models
removal_top_k=10
removal_adhh=yes
removal_images=500
# TF-HH
instruct_path=dataset/llava_v1_5_mix665k.json
instruct_images=dataset
finetune_top_k=30
finetune_attention_coeff=2
finetune_untie=
finetune_steps=200
finetune_batch_size=16
finetune_learning_rate=2e-5
finetune_checkpointing=yes
finetune_seeds=1234
finetune_report_images=500
# head lists of two parts of the data: images that have one of these objects, and images that have none
part_objects=person
part_images=500
part_top_k=20
part_threshold=0.4
# POPE
pope_images=500
pope_questions=  # folder of the official files; empty: made from the annotations
# the comparison of decoding methods
baseline_images=500
slow_baseline_images=500  # of OPERA and HALC
baseline_batch_size=8
halc_detector=checkpoints/grounding-dino-tiny
halc_scorer=checkpoints/blip-itm-base-coco
