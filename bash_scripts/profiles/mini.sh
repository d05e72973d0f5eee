# shellcheck shell=sh disable=SC2034  # the wrapper that sources this reads them
# Sourced by the wrappers: mini, the small LLaVA that is built on your machine. top_k and threshold: chosen on train2014
# by bash_scripts/mini/measure.sh.
. bash_scripts/python.sh
model_path=checkpoints/mini/model
coco_path=dataset/mini
nocaps_path=  # mini draws COCO's categories alone
result_path=results/mini/full
attribution_images=400  # of train2014
attribution_captions=120  # of those with a hallucination; empty is all
report_images=500       # of val2014
random_draws=5
top_k=2
threshold=0.965
max_new_tokens=128
batch_size=50
# the figures of the paper
base_model=checkpoints/mini/base
training_steps=checkpoints/mini/steps
reference_model=$training_steps/step-000
training_checkpoints="$training_steps/step-020 $training_steps/step-040 $training_steps/step-060 $training_steps/step-080
    $training_steps/step-100 $training_steps/step-120"
bias_top_k=10
inheritance_top_k=10
reweight_images=40
reweight_top_k=5
reweight_draws=2
paper_values=
# newer_models
removal_top_k=10
removal_adhh=yes
removal_images=60
# TF-HH; coefficient, rate and steps: tried on train2014
instruct_path=$coco_path/instruct_tune.json
instruct_images=$coco_path
finetune_top_k=5
finetune_attention_coeff=0.4
finetune_untie=yes
finetune_steps=20
finetune_batch_size=12
finetune_learning_rate=4e-4
finetune_checkpointing=
finetune_seeds="1234 1235"
finetune_report_images=100
# head lists of two parts of the data: street and park against kitchen, office and living room
part_objects="car bench"
part_images=100
part_top_k=5
part_threshold=0.8
# POPE
pope_images=60
pope_questions=  # folder of the official files; empty: made from the annotations
# the comparison of decoding methods
baseline_images=60
slow_baseline_images=30  # of OPERA and HALC
baseline_batch_size=10
halc_detector=mini  # its own vision tower
halc_scorer=mini
