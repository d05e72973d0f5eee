# What every profile starts from: all names that a profile can set. docs/models_and_data.md says what each of them means.
# A profile is lines of name=value, no shell code. ? marks what a profile has to set; numbers may not be empty, others may.

# model and data
model_path=?
coco_path=dataset/coco
nocaps_path=dataset/nocaps
result_path=?
published_heads=
question=

# captions, attribution and decoding
draw_seed=42
attribution_images=3000
attribution_captions=
list_length=30
choice_images=150
choice_seed=1
report_images=500
random_draws=5
top_k=20
threshold=0.4
max_new_tokens=128
batch_size=8
reference_images=100

# figures of the paper
base_model=
reference_model=
training_steps=
training_checkpoints=
bias_top_k=20
inheritance_top_k=1
reweight_images=500
reweight_top_k=20
reweight_draws=5
paper_values=

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
pope_questions=

# the comparison of decoding methods
baseline_images=500
slow_baseline_images=500
baseline_batch_size=8
halc_detector=checkpoints/grounding-dino-tiny
halc_scorer=checkpoints/blip-itm-base-coco
