# mini, the small LLaVA that is built on your machine, on samples that take minutes; mini_full has docs/results.md's.
model_path=checkpoints/mini/model
coco_path=dataset/mini
nocaps_path=  # mini draws COCO's categories alone
result_path=results/mini/quick
random_draws=1
attribution_images=80
report_images=60
top_k=2  # as bash_scripts/choose_adhh.sh chose under mini_full, and threshold
threshold=0.95
batch_size=30
# figures of the paper
base_model=checkpoints/mini/base
reference_model=checkpoints/mini/steps/step-000
training_steps=checkpoints/mini/steps
training_checkpoints="step-140 step-280 step-420 step-560"
bias_top_k=10
inheritance_top_k=10
reweight_images=40
reweight_top_k=5
reweight_draws=2
# newer_models
removal_images=60
# TF-HH; coefficient, rate and steps: tried on train2014
instruct_path=dataset/mini/instruct_tune.json
instruct_images=dataset/mini
finetune_top_k=5
finetune_attention_coeff=0.4
finetune_untie=yes
finetune_steps=20
finetune_batch_size=12
finetune_learning_rate=4e-4
finetune_checkpointing=
finetune_seeds="1234 1235 1236"
finetune_report_images=100
# two parts of the data: street and park against kitchen, office and living room
part_objects="car, bench"
part_images=100
part_top_k=5
part_threshold=0.8
pope_images=60
# the comparison of decoding methods
baseline_images=60
slow_baseline_images=30
halc_detector=mini  # its own vision tower
halc_scorer=mini
